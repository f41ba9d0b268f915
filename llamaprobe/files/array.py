"""One array in one file, and back: csv, txt, npy or hex.

Text begins with `# shape=[2, 3]`, and ` dtype=int64` for what is not float32; the numbers follow in
rows of equal length. The shape is that of the first line, whatever the length of the rows, so that
a [1, T, D] value may lie in T rows and a vector in one. Files of older scripts
(`dtype=torch.float32`, no spaces in the list, `%.16e`, Windows line ends) are read too.

A file is not trusted: it must have as many numbers as its shape before memory for them is taken,
and errors name line and column (a column is a character, counted from 1).
"""

import math
import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from ..arguments import refusal, shown
from ..errors import ArgumentError, FileChangedError, FormatError, OutOfMemory
from ..messages import printable, show_bytes, shown_path
from .atomic import atomic_open, open_regular
from .encode import (
    SEPARATORS,
    SUFFIXES,
    array_encoder,
    check_digits,
    check_format,
    check_header,
)
from .hex import read_hex
from .npy import MAX_RANK, is_possible, read_npy
from .paths import checked_path
from .text_header import FLOATS, OTHERS, FirstLine, is_known, read_first_line, refuse_other_files

_MAX_READ = 1 << 30  # bytes; macOS refuses a read of 2 GiB


def write(
    path: str | os.PathLike[str],
    array: Any,
    *,
    digits: int | str | None = None,
    format: str | None = None,
    header: bool = True,
) -> None:
    """Write one array to `path`, atomically: the file that was there is replaced by a whole one or
    not at all. A leading ~ of the path is expanded.

    `format` is "csv", "txt", "npy", "hex" or "q<m>.<n>" (default: what the name ends in). `digits`
    None or "shortest" writes the shortest decimal that reads back to the same bits (a NaN to some
    NaN: text has but one), N writes `%.Ne` (0 to 25). Arrays of two or more axes have shape[0]
    rows, a vector has one. float16 and bfloat16 become float32, which holds them exactly;
    integers and bool are written exactly, float64 as float64; fixed point rounds to nearest even
    and saturates. `header` False omits the first line of csv, txt and hex, `# shape=[..]`, for
    programs that cannot skip it; reading such a file takes `read(path, shape=..)`.

    Raises ArgumentError (format, digits, an array of complex numbers or objects, masked values) and
    FileError.
    """
    path = checked_path(path)
    style = check_format(format) if format is not None else format_of_path(path)
    check_header(header, style)
    encoder = array_encoder(
        array, style, digits=check_digits(digits), header=header, n_threads=_core.cores()
    )
    with atomic_open(path) as file:
        file.writelines(encoder.parts())


def read(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
) -> np.ndarray:
    """The array in a csv, txt, npy or hex file, in its original shape. A leading ~ of the path is
    expanded.

    Text gives float32, or the dtype of its first line (float16, bfloat16 and fixed point are read
    as float32); npy gives the dtype of the file. Text without a first line takes `shape`, and
    `dtype` if that is not float32 ("int64"; of hex also "bfloat16", "q4.12"); a first line must
    agree with both.

    Raises FileError (missing, not a regular file), FileChangedError (written to meanwhile),
    FormatError (no `# shape=` line, ragged rows, words, a count that is not the shape's: with line
    and column), OutOfMemory and ArgumentError (another ending of the name, an
    impossible shape or dtype). Ctrl-C stops it.
    """
    path = checked_path(path)
    style = check_format(format) if format is not None else format_of_path(path)
    mark = "#" if style in SEPARATORS else "//"
    given = _given(shape, dtype, mark)
    with open_regular(path) as file:
        try:
            if style == "npy":
                return _expected(_read_npy(file, path), given, path)
            return _read_text(file, path, SEPARATORS.get(style), given)
        except MemoryError as error:
            if isinstance(error, OutOfMemory):
                raise
            raise OutOfMemory(f"{shown_path(path)}: {error or 'does not fit the memory'}") from None


def _given(shape: Sequence[int] | None, dtype: Any, mark: str) -> FirstLine | None:
    """The arguments of `read` as a first line. ArgumentError."""
    if shape is None:
        if dtype is not None:
            raise ArgumentError("dtype= is for a file without a first line; give shape= too")
        return None
    if isinstance(dtype, bytes):
        raise refusal("dtype", dtype, "a name")
    try:
        axes = tuple(operator.index(n) for n in shape)
        kind = "" if dtype is None else dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except (TypeError, ValueError):
        fact = f"shape is {shown(shape)}, dtype {shown(dtype)}"
        raise ArgumentError(f"{fact}; give integers, and a name") from None
    if kind and not is_known(kind, mark):
        raise ArgumentError(f"dtype {printable(kind, 60)!r} cannot be stored in such a file")
    n_bytes = np.dtype(kind).itemsize if kind in OTHERS else 4
    if any(n < 0 for n in axes) or len(axes) > MAX_RANK or not is_possible(axes, n_bytes):
        raise refusal("shape", list(axes), "that of an array")
    return FirstLine(0, 1, axes, kind)


def _expected(
    array: np.ndarray, given: FirstLine | None, path: str | os.PathLike[str]
) -> np.ndarray:
    if given is not None and (
        array.shape != given.shape or given.dtype not in ("", array.dtype.name)
    ):
        raise FormatError(
            f"{shown_path(path)}: holds {array.dtype} {list(array.shape)}, and"
            f" {given.dtype} {list(given.shape)} was given"
        )
    return array


def format_of_path(path: Path) -> str:
    """The format that its name ends in. ArgumentError."""
    for format, suffix in SUFFIXES.items():
        if path.suffix.lower() == suffix:
            return format
    raise ArgumentError(
        f"{shown_path(path)}: the name does not end in {', '.join(SUFFIXES.values())}; give format="
    )


def _read_npy(file: Any, path: str | os.PathLike[str]) -> np.ndarray:
    head = file.read(32)
    file.seek(0)
    if not head.startswith(b"\x93NUMPY"):
        refuse_other_files(head, path)
    return read_npy(file, path)


# ---- text ----


def _read_text(
    file: Any, path: str | os.PathLike[str], sep: str | None, given: FirstLine | None
) -> np.ndarray:
    """`sep` None: hexadecimal words."""
    first = read_first_line(file, path, "//" if sep is None else "#", given)
    data, kind = FileBytes(file.fileno(), path), first.dtype or "float32"
    if sep is None:
        return read_hex(data, first.start, first.line, first.shape, kind, shown_path(path))
    if kind in FLOATS:
        return _read_floats(data, first, sep, path)
    return _read_others(data[first.start :], np.dtype(kind), first, sep, path)


def _read_floats(
    file: "FileBytes", first: FirstLine, sep: str, path: str | os.PathLike[str]
) -> np.ndarray:
    shape, start = first.shape, first.start
    count, room = math.prod(shape), (len(file) - start + 1) // 2  # a digit and a separator each
    values = np.empty(count if count <= room else 0, np.float32)  # no more than fits
    text = (file.fd, len(file))
    fault: Any = _core.parse_floats(values, text, start, sep, _core.cores())
    if values.size == count and (
        fault is None
        or (sep == "," and _core.parse_floats(values, text, start, sep, 1, True) is None)
    ):
        return values.reshape(shape)
    fault = fault or {"problem": "count", "n_numbers": 0}
    if fault["problem"] == "changed":
        raise FileChangedError(
            f"{shown_path(path)}: was cut short while it was read; read it again"
        )
    if fault["problem"] == "memory":
        raise OutOfMemory(f"{shown_path(path)}: a line of the text does not fit the memory")
    if fault["problem"] == "count":
        raise FormatError(_count_message(path, shape, fault["n_numbers"]))
    where = f"{shown_path(path)}: line {fault['line'] + first.line - 1}, column {fault['column']}"
    if fault["problem"] == "word":
        offset = fault["offset"]
        word = bytes(file[offset : offset + min(fault["n_bytes"], 80)])
        raise FormatError(f"{where}: {_shown(word)} is not a number")
    found = (
        f"only {fault['n_found']}" if fault["problem"] == "few" else f"more than {fault['n_cols']}"
    )
    raise FormatError(
        f"{where}: the row has {found} numbers, and the first row has {fault['n_cols']}"
    )


_PADDING = re.compile(rb"(?<![,\t ])[,\t ]++(?=\r?\n|\r?\Z)")


def _unpadded(data: memoryview | bytes, sep: str) -> bytes:
    """The text without quotes and empty cells at the ends of lines, which a spreadsheet adds when
    the first line has more cells than the rows; empty for txt."""
    if sep != ",":
        return b""
    return _PADDING.sub(b"", bytes(data).replace(b'"', b""))


def _count_message(path: str | os.PathLike[str], shape: tuple[int, ...], found: int) -> str:
    return (
        f"{shown_path(path)}: line 1, column 1: shape={list(shape)} needs {math.prod(shape)} "
        f"numbers, and the rows below hold {found}"
    )


def _shown(word: bytes) -> str:
    return repr(printable(word.decode("utf-8", "backslashreplace"), 40))


def _read_others(
    data: memoryview, dtype: np.dtype, first: FirstLine, sep: str, path: str | os.PathLike[str]
) -> np.ndarray:
    """Integers, bool and float64, by the rules of the float32 reader (csrc/text/parse.h): blanks
    around numbers, blank lines and comments are skipped."""
    text = bytes(data)
    try:
        values = _parse_others(text, dtype, first.line, sep)
    except _Fault as fault:
        try:  # again, without the cells that a spreadsheet adds
            values = _parse_others(_unpadded(text, sep), dtype, first.line, sep)
        except _Fault:
            values = []
        if not values or len(values) != math.prod(first.shape):
            raise FormatError(f"{shown_path(path)}: {fault}") from None
    if len(values) != math.prod(first.shape):
        raise FormatError(_count_message(path, first.shape, len(values)))
    return np.array(values, dtype).reshape(first.shape)


class _Fault(Exception):
    """A fault, with line and column."""


def _parse_others(text: bytes, dtype: np.dtype, first_line: int, sep: str) -> list[int | float]:
    values: list[int | float] = []
    n_cols = 0
    field = re.compile(rb"[^,]+|(?<=,)(?=,|\Z)|\A(?=,)" if sep == "," else rb"[^ \t]+")
    for number, line in enumerate(text.split(b"\n"), start=first_line):
        line = line.removesuffix(b"\r").rstrip(b" \t")
        if not line or line.lstrip(b" \t").startswith(b"#"):
            continue
        plain = _plain_row(line, dtype, sep)
        values += plain or []
        n_found = len(plain or [])
        for match in field.finditer(b"" if plain else line):
            word = match[0].strip(b" \t")
            where = f"line {number}, column {match.start() + 1}"
            try:
                values.append(_number(word, dtype))
            except (ValueError, OverflowError):
                article = "an" if dtype.kind == "i" else "a"
                raise _Fault(f"{where}: {_shown(word)} is not {article} {dtype} number") from None
            n_found += 1
        n_cols = n_cols or n_found
        if n_found != n_cols:
            raise _Fault(
                f"line {number}, column {len(line) + 1}: the row has {n_found} numbers, and the"
                f" first row has {n_cols}"
            )
    return values


def _plain_row(line: bytes, dtype: np.dtype, sep: str) -> Sequence[int | float] | None:
    """The numbers of a row as we write it, five times as fast as word by word; None for any other
    row."""
    try:
        if dtype.kind == "f":
            return [*map(float, line.split(sep.encode()))] if _REALS.fullmatch(line) else None
        if not _INTEGERS.fullmatch(line):
            return None
        found = [*map(int, line.split(sep.encode()))]
    except ValueError:  # an empty cell, two signs
        return None
    low, high = _limits(dtype)
    return found if low <= min(found) and max(found) <= high else None


def _limits(dtype: np.dtype) -> tuple[int, int]:
    return (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


_INTEGERS = re.compile(rb"(?:-?[0-9]{1,20}+(?:[, ]|\Z))++")
_REALS = re.compile(rb"(?:[-+.0-9einfa]{1,40}+(?:[, ]|\Z))++")
_MAX_WORD = 2000  # characters: no float64 has so many digits
_INTEGER = re.compile(rb"[-+]?[0-9]{1,40}")
_REAL = re.compile(rb"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]{1,6})?")
_NOT_FINITE = re.compile(rb"([-+]?)(?:(nan)(?:\([0-9a-z_]*\))?|(inf)(?:inity)?)", re.IGNORECASE)


def _number(word: bytes, dtype: np.dtype) -> int | float:
    if dtype.kind == "f":
        if special := _NOT_FINITE.fullmatch(word):
            return float(special[1] + (b"nan" if special[2] else b"inf"))
        if len(word) > _MAX_WORD or not _REAL.fullmatch(word):
            raise ValueError(word)
        return float(word)
    if not _INTEGER.fullmatch(word):
        raise ValueError(word)
    value = int(word)
    low, high = _limits(dtype)
    if not low <= value <= high:
        raise OverflowError(word)
    return value


class FileBytes:
    """The bytes of an open file, read on request and never mapped: a file truncated meanwhile is an
    error, while touching a map of it would end the process by SIGBUS. `len` is its size when it was
    opened, a slice (step 1) is a memoryview of its own. `fd` stays the caller's; `path` is for
    messages.

    A slice raises FileChangedError when the file has become shorter, OutOfMemory, OSError.
    """

    def __init__(self, fd: int, path: str | os.PathLike[str]) -> None:
        self.fd, self.path = fd, shown_path(path)
        self._size = os.fstat(fd).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> memoryview:
        start, stop, _ = part.indices(self._size)
        try:
            data = memoryview(np.empty(max(0, stop - start), np.uint8))
        except MemoryError:
            raise OutOfMemory(
                f"{self.path}: {show_bytes(stop - start)} do not fit the memory"
            ) from None
        done = 0
        while done < len(data):
            n = _read_into(self.fd, data[done : done + _MAX_READ], start + done)
            if n == 0:
                raise FileChangedError(
                    f"{self.path}: was cut short while it was read; read it again"
                )
            done += n
        return data


def _read_into(fd: int, data: memoryview, start: int) -> int:
    """Reads bytes from `start` on into `data`; returns how many. Raises OSError."""
    if hasattr(os, "preadv"):  # not in every build of Python for macOS
        return os.preadv(fd, [data], start)
    part = os.pread(fd, min(len(data), 1 << 24), start)
    data[: len(part)] = part
    return len(part)
