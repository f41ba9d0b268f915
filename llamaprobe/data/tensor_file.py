"""Safetensors files that are written in pieces, hashed while being written, and appear whole.

The header is known before the values, and is padded so that they begin at a multiple of 64 bytes.
The bytes go through write(2) to a temporary file, which is fsynced and renamed: a full disk is an
error, never a damaged file.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Error
from ..files.atomic import file_error, open_temporary
from .patience import retry

_ALIGNMENT = 64
SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1}

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype, shape."""


def n_bytes_of(tensor: Tensor) -> int:
    return SIZES[tensor[1]] * math.prod(tensor[2])


def header_of(tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file with these tensors, in this order."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, dtype, shape in tensors:
        end = at + n_bytes_of((name, dtype, shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


class TensorHash:
    """Computes the size and sha256 of a file without writing it."""

    def __init__(self, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> None:
        self._tensors = list(tensors)
        self._digest = hashlib.sha256()
        header = header_of(tensors, metadata)
        self.n_bytes = len(header) + sum(map(n_bytes_of, tensors))
        """Bytes of the complete file."""
        self._n_written = 0
        self._put(memoryview(header))

    def write(self, array: NDArray[Any]) -> None:
        """Add the next values, tensor after tensor. FileError."""
        self._put(memoryview(np.ascontiguousarray(array)).cast("B"))

    def entry(self) -> dict[str, Any]:
        """The sidecar's entry for the file, once everything is written."""
        if self._n_written != self.n_bytes:
            raise Error(f"{self._n_written} bytes of {self.n_bytes} were written")
        shapes = {name: [dtype, *shape] for name, dtype, shape in self._tensors}
        return {"bytes": self.n_bytes, "sha256": self._digest.hexdigest(), "tensors": shapes}

    def _put(self, data: memoryview) -> None:
        self._digest.update(data)
        self._n_written += len(data)

    def __enter__(self) -> "TensorHash":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def sync(self) -> None:
        """Make the bytes durable, under a temporary name. FileError."""

    def rename(self) -> None:
        """Give the file its name. FileError."""


class TensorFile(TensorHash):
    """Writes the file. Call `sync`, then `rename`; otherwise nothing is left behind."""

    def __init__(self, path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> None:
        """Creates the folder. FileError."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._temporary = open_temporary(path.parent)
        except OSError as error:
            raise file_error(error, path) from error
        try:
            super().__init__(tensors, metadata)
        except BaseException:
            self._discard()
            raise

    def _put(self, data: memoryview) -> None:
        super()._put(data)
        try:
            _write_all(self._file, data)
        except OSError as error:
            raise file_error(error, self.path) from error

    def sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise file_error(error, self.path) from error

    def rename(self) -> None:
        try:
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise file_error(error, self.path) from error
        self._file.close()

    def __exit__(self, *exc: object) -> None:
        if not self._file.closed:
            self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)
        self._file.close()


def write_tensors(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Write a file of arrays and return its entry. The folder is not synced. FileError."""
    tensors = [(name, _DTYPES[array.dtype.str], array.shape) for name, array in arrays.items()]
    with TensorFile(path, tensors, metadata) as file:
        for array in arrays.values():
            file.write(array)
        file.sync()
        entry = file.entry()
        file.rename()
    return entry


_DTYPES = {"<i8": "I64", "<i4": "I32", "|u1": "U8", "<f4": "F32"}


def _write_all(file: io.FileIO, data: memoryview) -> None:
    while len(data):
        data = data[retry(partial(file.write, data), _is_full) :]


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
