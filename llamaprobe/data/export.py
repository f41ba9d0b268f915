"""Exports a complete harvest as Parquet, Arrow or .npy files.

An export is not part of the harvest, and the root does not cover it. The root of its harvest is in
the metadata of the files; for .npy files, in export.json.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, FileError
from ..files.atomic import atomic_open, check_space, hold_folder
from ..files.paths import checked_path
from ..messages import printable
from ..points import Name
from .json_out import write_json
from .layout import MANIFEST
from .plan import INDEX
from .pyarrow import need_pyarrow
from .reading import Harvest, read_harvest

_GROUP = 8192  # rows
_SUFFIXES = {"parquet": ".parquet", "arrow": ".arrow"}


def export_harvest(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "parquet",
    points: Iterable[Name] | None = None,
) -> list[Path]:
    """Write one file per shard into `out` and return the paths. The columns are `row`, `document`,
    `start`, `position`, `token_id`, and for each of `points` (default: all; an empty list exports
    only the index) the values as a list of float32. With format="npy", each column is one array
    over all rows, in a separate file.

    Existing files are replaced. Raises ArgumentError (no pyarrow, an unknown format), PointError,
    FileError (no manifest).
    """
    if format not in (*_SUFFIXES, "npy"):
        known = ", ".join((*_SUFFIXES, "npy"))
        raise ArgumentError(f"format is {printable(repr(format), 40)}; give {known}")
    h = read_harvest(folder)
    if h.root is None:
        raise FileError(f"{h.plan.files.shown()}: has no {MANIFEST}; finish the harvest first")
    names = list(h.points if points is None else (h.name_of(point) for point in points))
    if format == "npy":
        return _export_npy(h, names, out)
    pyarrow = need_pyarrow("parquet" if format == "parquet" else "ipc", f"--format {format}")
    schema = _schema(pyarrow, h, names)
    n_bytes = h.n_rows * (32 + 4 * sum(_width(h, name) for name in names))
    paths = []
    with hold_folder(checked_path(out)) as target:
        check_space(target, n_bytes, "make room, or export fewer points")
        for shard in range(len(h.plan)):
            paths.append(target / f"shard-{shard:05d}{_SUFFIXES[format]}")
            with atomic_open(paths[-1]) as file:
                with _writer(pyarrow, format, file, schema) as writer:
                    for table in _tables(pyarrow, h, names, schema, h.plan.rows_of(shard)):
                        writer.write_table(table)
    return paths


def _export_npy(h: Harvest, names: list[str], out: str | os.PathLike[str]) -> list[Path]:
    arrays = {name: getattr(h.rows, name) for name, _ in INDEX} | {name: h[name] for name in names}
    n_bytes = h.n_rows * (24 + 4 * sum(_width(h, name) for name in names))
    paths = []
    with hold_folder(checked_path(out)) as target:
        check_space(target, n_bytes, "make room, or export fewer points")
        for name, rows in arrays.items():
            paths.append(target / f"{name}.npy")
            with atomic_open(paths[-1]) as file:
                head = {"descr": rows[:0].dtype.str, "fortran_order": False, "shape": rows.shape}
                np.lib.format.write_array_header_1_0(file, head)
                for first in range(0, len(rows), _GROUP):
                    file.write(rows[first : first + _GROUP].tobytes())
        write_json(target / "export.json", {"root": h.root, "plan": h.plan.sha256})
    return paths


def _schema(pyarrow: Any, h: Harvest, names: list[str]) -> Any:
    fields = [("row", pyarrow.int64())]
    for name, dtype in INDEX:
        fields.append((name, pyarrow.int64() if dtype == "I64" else pyarrow.int32()))
    for name in names:
        fields.append((name, pyarrow.list_(pyarrow.float32(), _width(h, name))))
    return pyarrow.schema(fields, {"llamaprobe_root": h.root, "llamaprobe_plan": h.plan.sha256})


def _width(h: Harvest, name: str) -> int:
    return int(np.prod(h[name].shape[1:], dtype=np.int64))


def _tables(pyarrow: Any, h: Harvest, names: list[str], schema: Any, rows: range) -> Iterator[Any]:
    for first in range(rows.start, rows.stop, _GROUP):
        part = range(first, min(first + _GROUP, rows.stop))
        columns = [pyarrow.array(np.arange(part.start, part.stop))]
        columns += [pyarrow.array(getattr(h.rows, name)[part]) for name, _ in INDEX]
        for name in names:
            values = pyarrow.array(h[name][part].reshape(-1))
            columns.append(pyarrow.FixedSizeListArray.from_arrays(values, _width(h, name)))
        yield pyarrow.table(columns, schema=schema)


def _writer(pyarrow: Any, format: str, file: Any, schema: Any) -> Any:
    if format == "parquet":
        return pyarrow.parquet.ParquetWriter(file, schema)
    return pyarrow.ipc.new_stream(file, schema)  # as `datasets` writes; Polars and pyarrow map it
