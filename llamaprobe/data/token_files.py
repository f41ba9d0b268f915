"""The token ids of all documents of a harvest, in files of a few million tokens."""

import hashlib
import itertools
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import FormatError
from ..messages import shown_path
from .layout import part_name
from .tensor_file import write_tensors

_PART_TOKENS = 1 << 22
_PART_DOCUMENTS = 1 << 18


class TokenWriter:
    """Writes documents one after the other; `entries` describes the files so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entries: dict[str, dict[str, Any]] = {}
        self.lengths = array("q")
        """The length of every document, in tokens."""
        self._ids: list[NDArray[np.int32]] = []
        self._places: list[tuple[int, int]] = []
        self._n_tokens = 0

    def add(self, ids: NDArray[np.int32], source: int, number: int) -> None:
        """Add a document: its token ids, the number of its source, its number there. FileError."""
        self._ids.append(ids)
        self._places.append((source, number))
        self.lengths.append(len(ids))
        self._n_tokens += len(ids)
        if self._n_tokens >= _PART_TOKENS or len(self._ids) >= _PART_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        """Write the remaining documents. FileError."""
        if not self._ids:
            return
        name = part_name(len(self.entries))
        keys = b"".join(hashlib.sha256(memoryview(ids)).digest()[:16] for ids in self._ids)
        starts = [0, *itertools.accumulate(map(len, self._ids))]
        places = np.array(self._places, np.int64)
        arrays: dict[str, NDArray[Any]] = {
            "doc_start": np.array(starts, np.int64),
            "source_row": np.ascontiguousarray(places[:, 1]),
            "source": places[:, 0].astype(np.int32),
            "token_id": np.concatenate(self._ids),
            "doc_key": np.frombuffer(keys, np.uint8).reshape(-1, 16),
        }
        self.entries[name] = write_tensors(self._folder / name, arrays, {})
        self._ids, self._places, self._n_tokens = [], [], 0


class Tokens:
    """The token ids of a plan's documents, in the mapped files."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """FileError, FormatError."""
        self._parts = [_part(path) for path in paths]
        sizes = [len(starts) - 1 for starts, *_ in self._parts]
        self._firsts = np.array([0, *itertools.accumulate(sizes)], np.int64)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def lengths(self) -> NDArray[np.int64]:
        """The length of every document, in tokens."""
        parts = [np.diff(starts) for starts, *_ in self._parts]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def of(self, document: int) -> NDArray[np.int32]:
        """The ids of a document, in place."""
        (starts, ids, *_), at = self._find(document)
        return ids[starts[at] : starts[at + 1]]

    def place(self, document: int) -> tuple[int, int]:
        """The number of its source, and its number in that source."""
        (_, _, sources, numbers), at = self._find(document)
        return int(sources[at]), int(numbers[at])

    def _find(self, document: int) -> tuple[Any, int]:
        part = int(np.searchsorted(self._firsts, document, "right")) - 1
        return self._parts[part], document - int(self._firsts[part])


def _part(path: Path) -> tuple[NDArray[Any], ...]:
    starts, ids, sources, numbers = tensors_of(
        path, {"doc_start": "I64", "token_id": "I32", "source": "I32", "source_row": "I64"}
    )
    n = len(starts) - 1
    is_whole = n >= 0 and len(sources) == len(numbers) == n and starts[0] == 0
    if not is_whole or starts[-1] != len(ids) or np.any(np.diff(starts) < 0):
        raise FormatError(f"{shown_path(path)}: its documents do not add up to its token ids")
    return starts, ids, sources, numbers


def tensors_of(path: Path, wanted: dict[str, str]) -> list[NDArray[Any]]:
    """1-D tensors, given as name -> dtype, in place. FileError, FormatError."""
    file = _core.Safetensors(path)
    found = {name: (dtype, shape) for name, dtype, shape, _, _ in file.tensors()}
    numpy = {"I64": "<i8", "I32": "<i4"}
    arrays = []
    for name, dtype in wanted.items():
        if name not in found or found[name][0] != dtype or len(found[name][1]) != 1:
            raise FormatError(f"{shown_path(path)}: has no {name} of type {dtype}")
        arrays.append(file.raw(name).view(numpy[dtype]))
    return arrays
