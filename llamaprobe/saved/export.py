"""Weights as files: one per tensor, named after it, and a manifest.json that maps every file back.

Any safetensors file or sharded folder will do, not only Llamas. What cannot be written exactly is
refused by name before the first file is made. An export that was killed goes on where it stopped
(ledger.py).
"""

import contextlib
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _core
from ..files.atomic import check_space, hold_folder, sync_folder
from ..config import MAX_BYTES
from ..errors import ArgumentError, ConfigError, Error, UnsupportedError
from .run_folder import MANIFEST, check_new
from ..files.json_file import read_object
from .journal import Ledger
from ..perf.machine import thread_count
from ..files.naming import path_entries, printable
from ..files.encode import SEPARATORS, Table, check_digits, check_format, check_header, way_out
from ..checkpoint.tensor_names import EMBEDDING, HEAD
from ..checkpoint.tensors import TableMaker, Tensor, model_tensors
from ..files.writer import Writer, Written

if TYPE_CHECKING:
    from ..model import Model

OneFilter = str | Callable[[str], bool]
Filter = OneFilter | Iterable[OneFilter]

DTYPES = ("float32", "raw")


@dataclass(frozen=True)
class Planned:
    """A file that an export would write. Its size is an estimate for csv and txt, else exact."""

    tensor: Tensor
    table: Table
    n_bytes: int
    exact: bool


def export_weights(
    model_or_path: "Model | str | os.PathLike[str]",
    out: str | os.PathLike[str],
    *,
    filter: Filter | None = None,
    exclude: Filter | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    dtype: str = "float32",
    header: bool = True,
    force: bool = False,
    progress: bool = True,
    threads: int | None = None,
    on_start: Callable[[list[Planned]], object] | None = None,
) -> list[Path]:
    """Write one file per tensor into the folder `out` and return the paths, the manifest last.

    `model_or_path` is a Model, "demo", a repo id, a folder or one .safetensors file. `filter` and
    `exclude` are a glob, a regular expression ("re:...", found anywhere in the name), a predicate
    on the name, or several of these. `format` is "csv", "txt", "npy", "hex" (words for Verilog) or
    "q<m>.<n>" (fixed point, rounded; the manifest counts saturated values); `digits` of csv and txt
    None (the shortest decimal that reads back to the same bits, a NaN to some NaN) or N for `%.Ne`.
    `dtype` "raw" (npy and hex) keeps 16-bit floats as their words and 8-bit floats as bytes (npy:
    uint16, uint8). Without `header` csv, txt and hex have no first line; the manifest has the
    shapes.
    Files that an earlier call has made whole are kept; others of these names are replaced only with
    `force`. `progress` shows a bar on stderr when that is a terminal; `on_start` is called with
    what is to be written.

    Of a Model what it opened is written, also after a chdir; of one that opened the first layers
    what their files hold.

    Raises ArgumentError (a filter that matches no tensor, a closed Model), UnsupportedError (a
    tensor that this format cannot hold exactly), FormatError, FileError (which names the file),
    FileChangedError (the files of a Model were replaced or written to since it was opened).
    """
    make = _table_maker(format, digits, dtype, header, threads)
    tensors = list(model_tensors(model_or_path, make.format))
    plan = _plan(choose(tensors, filter, exclude), make)
    entries = {p.tensor.file: _entry(p, make) for p in plan}
    with hold_folder(out) as folder:
        ledger = Ledger(folder, {tensor.weight_file for tensor in tensors}, force)
        if not isinstance(model_or_path, (str, os.PathLike)):  # the journal knows files by path
            model_or_path._origin.fingerprints.check_in_place()
        whole = ledger.whole_files(entries)
        todo = [p for p in plan if p.tensor.file not in whole]
        check_new(folder, [p.tensor.file for p in todo], force)
        check_space(folder, sum(p.n_bytes for p in todo), way_out(format))
        if on_start is not None:
            on_start(todo)
        with ledger.writing(), _bar(plan, todo, progress) as on_bytes:
            _write(folder, todo, lambda f: ledger.add(f, entries[f.path.name]), on_bytes)
        sync_folder(folder)
        ledger.close()
    return [folder / p.tensor.file for p in plan] + [folder / MANIFEST]


def _write(
    folder: Path,
    todo: list[Planned],
    on_whole: Callable[[Written], object],
    on_bytes: Callable[[int], object] | None,
) -> None:
    with Writer(folder, on_whole=on_whole, on_bytes=on_bytes) as writer:
        for planned in todo:
            writer.add(planned.tensor.file, planned.table)


def plan_weights(
    model_or_path: "Model | str | os.PathLike[str]",
    *,
    filter: Filter | None = None,
    exclude: Filter | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    dtype: str = "float32",
    header: bool = True,
    threads: int | None = None,
) -> list[Planned]:
    """What `export_weights` would write, in the order of the data. The same arguments and
    errors."""
    make = _table_maker(format, digits, dtype, header, threads)
    return _plan(choose(list(model_tensors(model_or_path, make.format)), filter, exclude), make)


def _table_maker(
    format: str, digits: int | str | None, dtype: str, header: bool, threads: int | None
) -> TableMaker:
    """ArgumentError for what does not go together."""
    style, n_digits = check_format(format), check_digits(digits)
    check_header(header, style)
    if dtype not in DTYPES:
        raise ArgumentError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if dtype == "raw" and style not in ("npy", "hex"):
        raise ArgumentError(f"dtype 'raw' is for format 'npy' or 'hex'; {style} holds numbers")
    return TableMaker(
        style, n_digits, dtype, header, _core.cores() if threads is None else thread_count(threads)
    )


def _plan(chosen: list[Tensor], make: TableMaker) -> list[Planned]:
    """UnsupportedError for tensors that the format cannot hold exactly."""
    refused = [f"{printable(t.name)} ({t.dtype})" for t in chosen if not make.can(t)]
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise UnsupportedError(
            f"{', '.join(refused[:3])}{more}: cannot be written exactly as {make.format}; "
            "leave out with --exclude, or take --format npy --dtype raw for 8-bit floats"
        )
    tables = [(tensor, make(tensor)) for tensor in chosen]
    return [Planned(tensor, table, table.n_bytes(), table.exact) for tensor, table in tables]


def choose(tensors: list[Tensor], filter: Filter | None, exclude: Filter | None) -> list[Tensor]:
    """The tensors that some filter keeps and no exclude drops. ArgumentError when a filter keeps
    none, or all go."""
    keep, drop = _predicates(filter), _predicates(exclude)
    for told, test in keep:
        if not any(test(tensor.name) for tensor in tensors):
            example = printable(tensors[0].name) if tensors else "no tensor at all"
            raise ArgumentError(
                f"filter {told} matches none of {len(tensors)} tensors"
                + (_tied_head(tensors, test) or f"; the first is {example}")
            )
    chosen = [
        tensor
        for tensor in tensors
        if (not keep or any(test(tensor.name) for _, test in keep))
        and not any(test(tensor.name) for _, test in drop)
    ]
    if not chosen:
        raise ArgumentError(f"no tensor of {len(tensors)} is left by --filter and --exclude")
    return chosen


def _tied_head(tensors: list[Tensor], test: Callable[[str], bool]) -> str:
    """Where the head is, for a filter that looks for it in a file that has none; else ""."""
    if not any(tensor.name == EMBEDDING for tensor in tensors) or not test(HEAD):
        return ""
    try:
        config = read_object(
            os.path.join(os.path.dirname(tensors[0].weight_file), "config.json"),
            MAX_BYTES,
            ConfigError,
        )
    except Error:  # weights alone do not say
        return f"; if the head is tied, it is {EMBEDDING}"
    return f"; the head is tied: {EMBEDDING}" if config.get("tie_word_embeddings") is True else ""


def _predicates(filters: Filter | None) -> list[tuple[str, Callable[[str], bool]]]:
    """Each filter as (what it is in a message, test)."""
    if filters is None:
        return []
    if isinstance(filters, str) or callable(filters):
        filters = [filters]
    if not isinstance(filters, Iterable):
        raise ArgumentError(
            f"filter {printable(repr(filters), 60)} is neither a string nor a predicate"
        )
    return [(_told(each), _predicate(each)) for each in filters]


def _told(filter: OneFilter) -> str:
    return repr(filter) if isinstance(filter, str) else getattr(filter, "__name__", "predicate")


def _predicate(filter: OneFilter) -> Callable[[str], bool]:
    if callable(filter):
        return filter
    if not isinstance(filter, str):
        raise ArgumentError(f"filter {filter!r} is neither a string nor a predicate")
    if not filter.startswith("re:"):
        return lambda name: fnmatch.fnmatchcase(name, filter)
    try:
        pattern = re.compile(filter[3:])
    except (re.error, RecursionError, OverflowError) as error:
        raise ArgumentError(f"filter {filter!r} is not a regular expression: {error}") from error
    return lambda name: pattern.search(name) is not None


@contextlib.contextmanager
def _bar(
    plan: list[Planned], todo: list[Planned], wanted: bool
) -> Iterator[Callable[[int], object] | None]:
    """What is called with every number of bytes written. The total of text is an estimate."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    from ..cli.stderr import STREAM

    total, left = sum(p.n_bytes for p in plan), sum(p.n_bytes for p in todo)
    with tqdm(
        total=total,
        initial=total - left,
        unit="B",
        unit_scale=True,
        disable=None,
        leave=False,
        file=STREAM,
        dynamic_ncols=True,
    ) as bar:
        yield bar.update


def _entry(planned: Planned, make: TableMaker) -> dict[str, Any]:
    """What decides the bytes of a file, beside the weights: part of its line in the journal and the
    manifest."""
    tensor, table = planned.tensor, planned.table
    return {
        "tensor": tensor.name,
        "shape": list(table.shape),
        "dtype": table.dtype,
        "source_dtype": tensor.dtype,
        **path_entries("weight_file", os.path.basename(tensor.weight_file)),
        "digits": make.digits if make.format in SEPARATORS and make.digits >= 0 else None,
        **({} if make.header else {"header": False}),
    }
