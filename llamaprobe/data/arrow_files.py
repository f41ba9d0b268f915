"""Documents in Parquet and Arrow files, and in datasets written by Hugging Face's `save_to_disk`.
Needs pyarrow (the extra `data`)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FormatError
from ..files.atomic import no_such, open_regular
from ..files.json_file import read_object
from ..messages import printable, shown_path
from .document import DEFAULT_COLUMNS, Column, Document, Fault, document_of
from .pyarrow import need_pyarrow

_BATCH = 1024  # rows
_MAX_STATE = 16 << 20  # bytes


def read_parquet(path: Path, column: Column | None) -> Iterator[Document]:
    """One document per row. FormatError, FileError; ArgumentError without pyarrow."""
    pyarrow = _pyarrow(path, "parquet")
    with open_regular(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            columns = _needed(table.schema_arrow.names, column)
            yield from _rows(table.iter_batches(_BATCH, columns=columns), path, column)
        except pyarrow.ArrowException as error:
            raise _damaged(path, "Parquet", error) from None


def read_arrow(path: Path, column: Column | None) -> Iterator[Document]:
    """An Arrow IPC file or IPC stream, one document per row. FormatError, FileError,
    ArgumentError."""
    pyarrow = _pyarrow(path, "ipc")
    with open_regular(path) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        try:
            if is_file:
                table = pyarrow.ipc.open_file(file)
                batches = (table.get_batch(i) for i in range(table.num_record_batches))
            else:
                batches = iter(pyarrow.ipc.open_stream(file))
            yield from _rows(batches, path, column)
        except pyarrow.ArrowException as error:
            raise _damaged(path, "Arrow", error) from None


def dataset_files(folder: Path) -> list[Path]:
    """The files of a dataset on disk, in order: those listed in its state.json, or all Parquet
    files in the folder. FileError, FormatError, ArgumentError."""
    shown = shown_path(folder)
    if os.path.isfile(folder / "dataset_dict.json"):
        splits = read_object(folder / "dataset_dict.json", _MAX_STATE, FormatError).get("splits")
        named = ", ".join(printable(str(name), 40) for name in splits or ())
        raise ArgumentError(f"{shown}: holds several datasets; give one of its folders: {named}")
    if os.path.isfile(folder / "state.json"):
        files = read_object(folder / "state.json", _MAX_STATE, FormatError).get("_data_files")
        found = [each.get("filename") for each in files or () if isinstance(each, dict)]
        if not found or not all(map(_is_name, found)):
            raise FormatError(f"{shown_path(folder / 'state.json')}: names no data files")
        return [folder / str(name) for name in found]
    names = sorted(name for name in os.listdir(folder) if name.endswith(".parquet"))
    if not names:
        raise no_such(
            folder, "is a folder without state.json (of a dataset on disk) and without .parquet"
        )
    return [folder / name for name in names]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name


def _needed(names: list[str], column: Column | None) -> list[str] | None:
    """The columns to read; None reads all, so that the message about a missing one can list
    them."""
    wanted = [column.name] if column else [name for name in DEFAULT_COLUMNS if name in names][:1]
    mask = [name for name in ("attention_mask",) if name in names]
    return wanted + mask if wanted and set(wanted) <= set(names) else None


def _rows(batches: Any, path: Path, column: Column | None) -> Iterator[Document]:
    number, shown = 0, shown_path(path)
    for batch in batches:
        for record in batch.to_pylist():
            value = document_of(record, column)
            if isinstance(value, (bytes, bytearray)):
                value = Fault("is bytes, not text")
            yield Document(f"{shown}: row {number}", value)
            number += 1


def _pyarrow(path: Path, part: str) -> Any:
    return need_pyarrow(part, shown_path(path))


def _damaged(path: Path, kind: str, error: Exception) -> FormatError:
    reason = printable(" ".join(str(error).split()), 160)
    return FormatError(f"{shown_path(path)}: is not a whole {kind} file: {reason}")
