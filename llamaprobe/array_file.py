"""One array in one file, and back: csv, txt, npy or hex.

Text begins with `# shape=[2, 3]`, with ` dtype=int64` behind it for what is not float32; the
numbers follow in rows that all have the same length. Reading takes the shape from that line,
whatever the length of the rows, so that a [1, T, D] value may lie in T rows and a vector in one.
Files of older scripts (`dtype=torch.float32`, no spaces in the list, `%.16e`, Windows line ends)
are read too.

A file that was made by a stranger, or by hand, is not trusted: its shape must be what its numbers
are, before memory for them is taken, and what is wrong is told with its line and column (a column
is a character, counted from 1).
"""

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import _core
from .atomic import atomic_open, checked_path, file_error
from .errors import ArgumentError, FileChangedError, FileError, FormatError
from .file_bytes import FileBytes
from .hex_words import is_fixed_point, read_hex
from .names import printable
from .shape import is_possible
from .tables import (
    BLOCK,
    SEPARATORS,
    SUFFIXES,
    array_table,
    check_digits,
    check_format,
    scratch_bytes,
)
from .text_floats import read_rows

_MAX_HEADER = 4096
_MAX_RANK = 32
_HEADER = re.compile(rb"(#|//)\s*shape=\[([0-9, ]*)\](?:\s+dtype=([A-Za-z0-9_.]+))?\s*")
_FLOATS = {
    "",
    "float32",
    "float16",
    "bfloat16",
}  # all of these are read as float32, which holds them exactly
_OTHERS = {
    "float64",
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


def write(
    path: str | os.PathLike[str],
    array: Any,
    *,
    digits: int | str | None = None,
    format: str | None = None,
) -> None:
    """Write one array to `path`, atomically: what was there before is replaced by a whole file or
    not at all.

    `format` is "csv", "txt", "npy", "hex" or "q<m>.<n>" (default: what the name ends in). `digits`
    None or "shortest" writes the shortest decimal that reads back to the same bits (a NaN to some
    NaN: text has but one), N writes `%.Ne` (0 to 25). Arrays of two or more axes have shape[0]
    rows, a vector is one row. float16 and bfloat16 become float32, which holds them exactly;
    integers and bool are written exactly, float64 as float64; fixed point rounds to nearest even
    and saturates.

    Raises ArgumentError (format, digits, an array of complex numbers or objects) and FileError.
    """
    style = check_format(format) if format is not None else _format_of(path)
    table = array_table(
        np.asarray(array), style, digits=check_digits(digits), n_threads=_core.cores()
    )
    scratch = bytearray(scratch_bytes())
    with atomic_open(path) as file:
        file.write(table.header)
        for first in range(0, table.n_elements, BLOCK):
            file.writelines(table.encode(scratch, first, min(BLOCK, table.n_elements - first)))


def read(path: str | os.PathLike[str], *, format: str | None = None) -> np.ndarray:
    """The array that is in a csv, txt, npy or hex file, in its original shape.

    Text gives float32, or the dtype that its first line names (float16, bfloat16 and fixed point
    are read as float32). npy gives the dtype of the file.

    Raises FileError (missing, not a regular file), FileChangedError (written to meanwhile),
    FormatError (no `# shape=` line, ragged rows, words, other numbers than the shape says: with
    line and column), OutOfMemory (text is read whole) and ArgumentError (a name that ends in none
    of the four). Ctrl-C stops it.
    """
    style = check_format(format) if format is not None else _format_of(path)
    path = checked_path(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileError(f"{os.fspath(path)}: not a regular file")
            if style == "npy":
                return _read_npy(file, path)
            return _read_text(file, path, SEPARATORS.get(style))
    except FileError:
        raise
    except OSError as error:
        raise file_error(error, path) from error


def _format_of(path: str | os.PathLike[str]) -> str:
    for format, suffix in SUFFIXES.items():
        if Path(os.fsdecode(path)).suffix.lower() == suffix:
            return format
    raise ArgumentError(
        f"{os.fsdecode(path)}: the name ends in none of {', '.join(SUFFIXES.values())}; give format="
    )


# ---- text ----


def _read_text(file: Any, path: str | os.PathLike[str], sep: str | None) -> np.ndarray:
    """`sep` None: the lines are hexadecimal words."""
    line = file.readline(_MAX_HEADER)
    shape, dtype = _parse_header(line, path, "//" if sep is None else "#")
    data = FileBytes(file.fileno(), path)
    if sep is None:
        return read_hex(data, len(line), shape, dtype, os.fspath(path))
    if dtype in _FLOATS:
        return _read_floats(data, len(line), shape, sep, path)
    return _read_others(bytes(data[len(line) :]), np.dtype(dtype), shape, sep, path)


def _parse_header(
    line: bytes, path: str | os.PathLike[str], mark: str
) -> tuple[tuple[int, ...], str]:
    match = _HEADER.fullmatch(line)
    if not match or match[1] != mark.encode():
        raise FormatError(
            f"{os.fspath(path)}: line 1, column 1: there is no '{mark} shape=[..]' line"
        )
    words = match[2].decode().replace(",", " ").split()
    if len(words) > _MAX_RANK or any(len(word) > 15 for word in words):
        raise FormatError(
            f"{os.fspath(path)}: line 1: the shape has too many axes or an axis too long"
        )
    dtype = (match[3] or b"").decode().removeprefix("torch.")
    if dtype not in _FLOATS | _OTHERS and not (mark == "//" and is_fixed_point(dtype)):
        raise FormatError(f"{os.fspath(path)}: line 1: dtype={dtype} is unknown")
    shape = tuple(map(int, words))
    if not is_possible(shape, np.dtype(dtype).itemsize if dtype in _OTHERS else 4):
        raise FormatError(
            f"{os.fspath(path)}: line 1: shape={list(shape)} is larger than an array can be"
        )
    return shape, dtype


def _read_floats(
    file: FileBytes, start: int, shape: tuple[int, ...], sep: str, path: str | os.PathLike[str]
) -> np.ndarray:
    count, room = math.prod(shape), (len(file) - start + 1) // 2  # a digit and a separator each
    values = np.empty(
        count if count <= room else 0, np.float32
    )  # no memory for what cannot be there
    if values.size == count and read_rows(file, start, values, sep):
        return values.reshape(shape)
    data = file[start:]
    fault: Any = _core.parse_floats(values, data, 0, sep, _core.cores())
    if fault is None and values.size == count:
        return values.reshape(shape)
    fault = fault or {"problem": "count", "n_numbers": 0}
    if fault["problem"] == "changed":
        raise FileChangedError(
            f"{os.fspath(path)}: written to while it was read; read it again when it is whole"
        )
    if fault["problem"] == "count":
        raise FormatError(_count_message(path, shape, fault["n_numbers"]))
    # the line of the shape is line 1
    where = f"{os.fspath(path)}: line {fault['line'] + 1}, column {fault['column']}"
    if fault["problem"] == "word":
        word = bytes(data[fault["offset"] :][: min(fault["n_bytes"], 80)])
        word = word.decode("utf-8", "backslashreplace")
        raise FormatError(f"{where}: {printable(word, 40)!r} is not a number")
    found = (
        f"only {fault['n_found']}" if fault["problem"] == "few" else f"more than {fault['n_cols']}"
    )
    raise FormatError(
        f"{where}: the row has {found} numbers, and the first row has {fault['n_cols']}"
    )


def _count_message(path: str | os.PathLike[str], shape: tuple[int, ...], found: int) -> str:
    return (
        f"{os.fspath(path)}: line 1, column 1: shape={list(shape)} needs {math.prod(shape)} "
        f"numbers, and the rows below hold {found}"
    )


def _read_others(
    text: bytes, dtype: np.dtype, shape: tuple[int, ...], sep: str, path: str | os.PathLike[str]
) -> np.ndarray:
    values: list[int | float] = []
    n_cols = None
    for number, line in enumerate(_lines(text), start=2):
        words, column = line.split(sep), 1
        for word in words:
            try:
                values.append(_number(word, dtype))
            except (ValueError, OverflowError):
                where = f"{os.fspath(path)}: line {number}, column {column}"
                raise FormatError(
                    f"{where}: {printable(word, 40)!r} is no {dtype} number"
                ) from None
            column += len(word) + 1
        n_cols = n_cols or len(words)
        if len(words) != n_cols:
            where = f"{os.fspath(path)}: line {number}, column {column}"
            raise FormatError(
                f"{where}: the row has {len(words)} numbers, and the first row has {n_cols}"
            )
    if len(values) != math.prod(shape):
        raise FormatError(_count_message(path, shape, len(values)))
    return np.array(values, dtype).reshape(shape)


def _lines(text: bytes) -> Iterator[str]:
    lines = text.decode("ascii", "backslashreplace").replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return iter(lines)


def _number(word: str, dtype: np.dtype) -> int | float:
    if not re.fullmatch(
        r"[-+]?[0-9.]{1,400}([eE][-+]?[0-9]{1,6})?|[-+]?nan|[-+]?inf", word.strip()
    ):
        raise ValueError(word)
    if dtype.kind == "f":
        return float(word)
    value = int(word)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not low <= value <= high:
        raise OverflowError(word)
    return value


# ---- npy ----


def _read_npy(file: Any, path: str | os.PathLike[str]) -> np.ndarray:
    """Through NumPy's own reader, after its header was compared with the size of the file."""
    lib = np.lib.format
    try:
        version = lib.read_magic(file)
        header = {(1, 0): lib.read_array_header_1_0, (2, 0): lib.read_array_header_2_0}.get(version)
        if header is None:
            raise ValueError(f"version {version} of the npy format is unknown")
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded")
        found, wanted = (
            os.fstat(file.fileno()).st_size - file.tell(),
            math.prod(shape) * dtype.itemsize,
        )
        if found != wanted:
            raise ValueError(
                f"{found} bytes of data, and shape={list(shape)} of {dtype} needs {wanted}"
            )
        file.seek(0)
        return lib.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, UnicodeDecodeError, TypeError) as error:
        told = printable(" ".join(str(error).split()))
        raise FormatError(f"{os.fspath(path)}: not a sound .npy file: {told}") from error
