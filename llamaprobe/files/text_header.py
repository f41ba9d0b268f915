"""The first line of a text file: `# shape=[2, 3]`, in hex files `// shape=[2, 3]`; and what a file
is that begins differently.

Spreadsheets rewrite the line, with a byte order mark before it, quotes around its cells, and commas
after it up to the length of the rows. These are skipped.
"""

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..errors import FormatError
from ..messages import printable, shown_path
from .hex import is_fixed_point
from .json_file import describe_wrong_content
from .npy import MAX_RANK, is_possible

_BOM = b"\xef\xbb\xbf"
_MAX_LINE = 4096
_LINE = re.compile(rb"(#|//)\s*shape=\[([0-9, ]*)\](?:\s+dtype=([A-Za-z0-9_.]+))?\s*")
_PADDING = b",;\t \r\n"
FLOATS = frozenset({"float32", "float16", "bfloat16"})  # read as float32, which holds them exactly
OTHERS = frozenset(
    {"float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
_NOT_TEXT = {
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"#\0": "UTF-16 text; save it as UTF-8",
    b"\0#": "UTF-16 text; save it as UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ\0": "compressed by xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"PK\x03\x04": "a zip archive, as workbooks (.xlsx) and .npz files are; save it as csv",
    b"\x93NUMPY": "an .npy file; its name must end in .npy, or give format='npy'",
}


@dataclass(frozen=True)
class FirstLine:
    """Where the numbers begin, their shape and dtype."""

    start: int
    """Byte at which the numbers begin."""
    line: int
    """Number of the line that begins there."""
    shape: tuple[int, ...]
    dtype: str


def refuse_other_files(head: bytes, path: str | os.PathLike[str]) -> None:
    """FormatError for a file whose first bytes show that it is not text; it says what it is."""
    for magic, kind in _NOT_TEXT.items():
        if head.startswith(magic):
            raise FormatError(f"{shown_path(path)}: is {kind}")
    if fact := describe_wrong_content(head):
        raise FormatError(f"{shown_path(path)}: {fact}")


def read_first_line(
    file: BinaryIO, path: str | os.PathLike[str], mark: str, given: FirstLine | None
) -> FirstLine:
    """Reads the first line of a file that is open at its start. `mark` is "#" or "//". `given` is
    the caller's word for a file that may lack the line; if it has one, the two must agree.
    FormatError."""
    line = file.readline(_MAX_LINE)
    refuse_other_files(line, path)
    start = len(_BOM) if line.startswith(_BOM) else 0
    text = line[start:].replace(b'"', b"").rstrip(_PADDING)
    match = _LINE.fullmatch(text)
    if not match or match[1] != mark.encode():
        if text.startswith(f"{mark} shape=[".encode()) and b";" in text:
            raise FormatError(
                f"{shown_path(path)}: line 1: its cells are separated by ';'; save it with ','"
                " between cells and '.' before decimals"
            )
        if given is None:
            raise FormatError(
                f"{shown_path(path)}: line 1, column 1: there is no '{mark} shape=[..]' line; give"
                " shape= to read a file without one"
            )
        return FirstLine(start, 1, given.shape, given.dtype)
    n_bytes = len(line)
    while line and not line.endswith(b"\n"):  # more padding than fits
        line = file.readline(_MAX_LINE)
        n_bytes += len(line)
        if line.replace(b'"', b"").strip(_PADDING):
            raise FormatError(f"{shown_path(path)}: line 1 is over {_MAX_LINE} bytes")
    return _checked(FirstLine(n_bytes, 2, *_parse(match, path, mark)), given, path)


def _parse(
    match: re.Match[bytes], path: str | os.PathLike[str], mark: str
) -> tuple[tuple[int, ...], str]:
    words = match[2].decode().replace(",", " ").split()
    if len(words) > MAX_RANK or any(len(word) > 15 for word in words):
        raise FormatError(
            f"{shown_path(path)}: line 1: the shape has too many axes or an axis too long"
        )
    dtype = (match[3] or b"float32").decode().removeprefix("torch.")
    if not is_known(dtype, mark):
        raise FormatError(f"{shown_path(path)}: line 1: dtype={printable(dtype, 60)} is unknown")
    shape = tuple(map(int, words))
    if not is_possible(shape, np.dtype(dtype).itemsize if dtype in OTHERS else 4):
        raise FormatError(
            f"{shown_path(path)}: line 1: shape={list(shape)} is larger than an array can be"
        )
    return shape, dtype


def is_known(dtype: str, mark: str) -> bool:
    """Whether text ("#") or hex ("//") of this dtype can be read."""
    return dtype in FLOATS | OTHERS or (mark == "//" and is_fixed_point(dtype))


def _checked(found: FirstLine, given: FirstLine | None, path: str | os.PathLike[str]) -> FirstLine:
    if given is not None and found.shape != given.shape:
        raise FormatError(
            f"{shown_path(path)}: line 1 says shape={list(found.shape)}, and shape="
            f"{list(given.shape)} was given"
        )
    if given is not None and given.dtype not in ("", found.dtype):
        raise FormatError(
            f"{shown_path(path)}: line 1 says dtype={found.dtype}, and dtype={given.dtype} was"
            " given"
        )
    return found
