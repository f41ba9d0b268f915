r"""NumPy's .npy files of numbers, read by rules of our own.

    \x93NUMPY, version 1.0, 2.0 or 3.0; length of the header, 2 or 4 bytes
    {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }     the header, up to 10,000 bytes
    the numbers

The header is matched, not evaluated, and its length is checked before it is read. Its three keys
may come in any order. The shape must match the bytes that follow before memory is taken for them.
Refused by name: objects, records, text, dates.
"""

import math
import os
import re
import sys
from collections.abc import Sequence
from io import BufferedReader

import numpy as np

from ..errors import FileChangedError, FormatError, OutOfMemory
from ..messages import printable, show_bytes, shown_path

MAX_RANK = 32  # axes of an array in a file
_MAX_HEADER = 10_000  # bytes, as NumPy itself has it
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # by version
_ENTRIES = {
    "descr": r"""(['"])(?P<descr>[^'"\\]{1,40})\1""",
    "fortran_order": r"(?P<fortran_order>True|False)",
    "shape": r"\(\s*(?P<shape>(?:[0-9]{1,19}L?\s*,\s*)*(?:[0-9]{1,19}L?\s*)?)\)",
}
_DESCR = re.compile(r"[|<>=]?(?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32))")


def is_possible(shape: Sequence[int], element_bytes: int) -> bool:
    """Whether NumPy can make an array of this shape, given the memory. An axis of length 0 counts
    as 1 there, so that an empty array can be too large."""
    return math.prod(n for n in shape if n) * element_bytes <= sys.maxsize


class _Unsound(Exception):
    """What is wrong with the file."""


def read_npy(file: BufferedReader, path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a regular file that is open at its start, in the file's own dtype. FormatError,
    FileChangedError, OutOfMemory, OSError."""
    try:
        shape, is_fortran, dtype = _read_header(file)
        n_bytes = math.prod(shape) * dtype.itemsize
        if (found := os.fstat(file.fileno()).st_size - file.tell()) != n_bytes:
            raise _Unsound(
                f"{found} bytes of data, and shape={list(shape)} of {dtype} needs {n_bytes}"
            )
    except _Unsound as fault:
        raise FormatError(f"{shown_path(path)}: not a sound .npy file: {fault}") from None
    try:
        array = np.empty(math.prod(shape), dtype)
    except MemoryError:
        raise OutOfMemory(
            f"{shown_path(path)}: {show_bytes(n_bytes)} do not fit the memory"
        ) from None
    if n_bytes and file.readinto(memoryview(array.view(np.uint8))) != n_bytes:
        raise FileChangedError(
            f"{shown_path(path)}: was cut short while it was read; read it again"
        )
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _read_header(file: BufferedReader) -> tuple[tuple[int, ...], bool, np.dtype]:
    if file.read(6) != b"\x93NUMPY":
        raise _Unsound("it does not begin as one")
    version = file.read(2)
    if version not in _LENGTH_BYTES:
        raise _Unsound(f"version {'.'.join(map(str, version))} of the format is unknown")
    length = file.read(_LENGTH_BYTES[version])
    n_bytes = int.from_bytes(length, "little")
    if n_bytes > _MAX_HEADER:
        raise _Unsound(f"its header has {n_bytes} bytes, over the {_MAX_HEADER} that one may have")
    header = file.read(n_bytes)
    if len(length) != _LENGTH_BYTES[version] or len(header) != n_bytes:
        raise _Unsound("it ends inside its header")
    return _parse_header(header.decode("latin1"))


def _parse_header(text: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    found = _entries(text)
    descr = found["descr"]
    if not _DESCR.fullmatch(descr):
        raise _Unsound(f"its dtype {printable(descr, 60)!r} is not a number")
    axes = [int(word) for word in re.findall("[0-9]+", found["shape"])]
    if found["shape"].strip() and len(axes) == 1 and "," not in found["shape"]:
        raise _Unsound(f"its shape ({axes[0]}) is a number; of one axis it is ({axes[0]},)")
    try:
        dtype = np.dtype(descr)
    except TypeError:  # a float of 96 bits on a system without
        raise _Unsound(f"{descr!r} is not a dtype of this system") from None
    if len(axes) > MAX_RANK or not is_possible(axes, dtype.itemsize):
        raise _Unsound("its shape is larger than an array can be")
    return tuple(axes), found["fortran_order"] == "True", dtype


def _entries(text: str) -> dict[str, str]:
    """The text of each of the three entries."""
    found: dict[str, str] = {}
    rest = re.sub(r"^\s*\{\s*", "", text)
    while entry := re.match(r"""(['"])(\w{1,20})\1\s*:\s*""", rest):
        key = entry[2]
        value = re.compile(_ENTRIES.get(key, "(?!)")).match(rest, entry.end())
        if not value or key in found:
            break
        found[key] = value[key]
        comma = re.compile(r"\s*(?:,\s*|(?=\}))").match(rest, value.end())
        rest = rest[comma.end() :] if comma else "?"
    is_dict = rest is not text and re.match(r"\s*\{", text) and re.fullmatch(r"\}\s*", rest)
    if not is_dict or found.keys() != _ENTRIES.keys():
        raise _Unsound(
            f"its header is not {{'descr': .., 'fortran_order': .., 'shape': ..}} of numbers:"
            f" {printable(text.strip(), 80)}"
        )
    return found
