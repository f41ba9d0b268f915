"""Datasets as given by a user -> documents, in order.

A str or a Path is a file or a folder, read by its suffix; a list of Paths is several; "-" is stdin.
Any other iterable gives documents: texts, token ids, chats, or records (dicts).
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ..arguments import is_iterable
from ..errors import ArgumentError, FileError
from ..files.atomic import no_such, open_regular
from ..files.fingerprint import fingerprint
from ..files.paths import checked_path
from ..messages import printable, shown_path
from .arrow_files import dataset_files, read_arrow, read_parquet
from .document import Column, Document, Fault, document_of, kind_of
from .id_files import read_npy, read_safetensors
from .line_files import Lines, read_csv, read_jsonl, read_lines, read_txt

STDIN = Path("-")

_Lines = Callable[[Lines, str, Column | None], Iterator[Document]]
_LINES: dict[str, _Lines] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".txt": lambda file, name, column: read_txt(file, name),
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
}
_OTHERS: dict[str, Callable[[Path, Column | None], Iterator[Document]]] = {
    ".npy": lambda path, column: read_npy(path),
    ".safetensors": lambda path, column: read_safetensors(path, column.name if column else None),
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
SUFFIXES = (*_LINES, *_OTHERS)


@dataclass(frozen=True)
class Source:
    """One file, stdin, or the documents of an iterable."""

    path: Path | None
    documents: Iterable[object] = ()
    """The documents, if there is no path."""

    def identity(self) -> dict[str, Any]:
        """What identifies this source: for a file, its name, size and fingerprint. FileError."""
        if self.path is None:
            return {"name": None}
        if self.path == STDIN:
            return {"name": "-"}
        size = _size(self.path)
        return {"name": self.path.name, "bytes": size, "fingerprint": fingerprint(self.path)}

    def read(self, column: Column | None) -> Iterator[Document]:
        """The documents. FileError, FormatError, ArgumentError."""
        if self.path is None:
            return _items(self.documents, column)
        if self.path == STDIN:
            return read_lines(_stdin(), "stdin", column)
        suffix = self.path.suffix.lower()
        if suffix in _OTHERS:
            return _OTHERS[suffix](self.path, column)
        return _read_lines(self.path, _LINES[suffix], column)


def find_sources(data: object) -> list[Source]:
    """The sources of a user's argument, all of which must exist. FileError, ArgumentError."""
    if isinstance(data, (str, os.PathLike)):
        return _at(checked_path(data))
    is_other = isinstance(data, (bytes, bytearray, memoryview, Mapping)) or not is_iterable(data)
    if is_other or not isinstance(data, Iterable):
        raise ArgumentError(
            f"data is {printable(type(data).__name__)}; give a file, a folder, a list of Paths, or"
            " an iterable of documents (texts, token ids, chats, records)"
        )
    if not isinstance(data, (list, tuple)):
        return [Source(None, data)]
    paths = [isinstance(each, os.PathLike) for each in data]
    if any(paths) and not all(paths):
        raise ArgumentError("data mixes Paths with documents; give one or the other")
    if data and all(paths):
        return list(itertools.chain.from_iterable(_at(checked_path(each)) for each in data))
    return [Source(None, data)]


def _at(path: Path) -> list[Source]:
    if path == STDIN:
        return [Source(path)]
    if os.path.isdir(path):
        return [Source(each) for each in dataset_files(path) if _size(each) is not None]
    if path.suffix.lower() not in SUFFIXES:
        if not os.path.lexists(path):
            raise no_such(path, "no such file or folder")
        known = ", ".join(SUFFIXES)
        raise ArgumentError(f"{shown_path(path)}: is not of a kind that can be read: {known}")
    _size(path)
    return [Source(path)]


def _size(path: Path) -> int:
    with open_regular(path) as file:
        return os.fstat(file.fileno()).st_size


def _read_lines(path: Path, read: _Lines, column: Column | None) -> Iterator[Document]:
    with open_regular(path) as file:
        yield from read(file, shown_path(path), column)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise FileError("stdin is closed")
    return sys.stdin.buffer


def _items(documents: Iterable[object], column: Column | None) -> Iterator[Document]:
    for number, item in enumerate(documents):
        yield Document(f"document {number}", _item(item, column))


def _item(item: object, column: Column | None) -> object:
    if isinstance(item, Mapping):
        return document_of(item, column)
    if isinstance(item, range):
        return list(item)
    if hasattr(item, "__array__") and not isinstance(item, (str, list, tuple)):
        import numpy as np

        return np.asarray(item)
    if kind_of(item) is None:
        return Fault(f"is {printable(type(item).__name__)}, not text, token ids or messages")
    return item
