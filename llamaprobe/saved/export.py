"""Weights as files: one per tensor, named after it, and a manifest.json that maps every file back.

Any safetensors file or sharded folder will do, not only Llamas. What cannot be written exactly is
refused by name before the first file is made. An export that was killed is continued (journal.py).
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
from ..arguments import choice, flag, function, is_iterable, shown
from ..checkpoint.layouts import BLOCKS
from ..checkpoint.tensor_names import EMBEDDING, HEAD
from ..checkpoint.tensors import PARTS, EncoderMaker, Tensor
from ..config import MAX_BYTES
from ..errors import ArgumentError, ConfigError, Error, UnsupportedError
from ..files.atomic import check_space, hold_folder, sync_folder
from ..files.encode import SEPARATORS, Encoder, check_digits, check_format, check_header, way_out
from ..files.json_file import read_object
from ..files.paths import path_entries
from ..files.writer import Writer
from ..messages import printable
from ..perf.machine import thread_count
from ..source import model_tensors
from .journal import ExportJournal
from .manifest import MANIFEST, check_new

if TYPE_CHECKING:
    from ..model import Model

OneFilter = str | Callable[[str], bool]
Filter = OneFilter | Iterable[OneFilter]

DTYPES = ("float32", "raw")


@dataclass(frozen=True)
class PlannedFile:
    """A file of an export. Its size is an estimate for csv and txt, else exact."""

    tensor: Tensor
    encoder: Encoder
    n_bytes: int
    exact: bool


@dataclass(frozen=True)
class WeightPlan:
    """The files of an export, in the order of the data; made by `plan_weights`."""

    files: list[PlannedFile]
    model: "Model | None"
    """Where the tensors come from an open one."""
    weight_files: frozenset[str]
    make: EncoderMaker

    def write(
        self,
        out: str | os.PathLike[str],
        *,
        force: bool = False,
        progress: bool = True,
        on_start: Callable[[list[PlannedFile]], object] | None = None,
    ) -> list[Path]:
        """Writes what is not there yet and returns all paths, the manifest last. Arguments and
        errors as of `export_weights`."""
        on_start = function("on_start", on_start)
        force, progress = flag("force", force), flag("progress", progress)
        entries = {file.tensor.file: _entry(file, self.make) for file in self.files}
        with hold_folder(out) as folder:
            journal = ExportJournal(folder, self.weight_files, force)
            if self.model is not None:  # the journal knows files by path
                self.model.fingerprints.check_in_place()
            whole = journal.whole_files(entries)
            todo = [file for file in self.files if file.tensor.file not in whole]
            check_new(folder, [file.tensor.file for file in todo], force)
            check_space(folder, sum(file.n_bytes for file in todo), way_out(self.make.format))
            if on_start is not None:
                on_start(todo)
            with (
                journal.writing(),
                _bar(self.files, todo, progress) as on_bytes,
                Writer(
                    folder,
                    on_whole=lambda file: journal.add(file, entries[file.path.name]),
                    on_bytes=on_bytes,
                ) as writer,
            ):
                for file in todo:
                    writer.add(file.tensor.file, file.encoder)
            sync_folder(folder)
            journal.close()
        return [folder / file.tensor.file for file in self.files] + [folder / MANIFEST]


def export_weights(
    model_or_path: "Model | str | os.PathLike[str]",
    out: str | os.PathLike[str],
    *,
    filter: Filter | None = None,
    exclude: Filter | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    dtype: str = "float32",
    part: str = "values",
    file: str | None = None,
    header: bool = True,
    force: bool = False,
    progress: bool = True,
    threads: int | None = None,
    on_start: Callable[[list[PlannedFile]], object] | None = None,
) -> list[Path]:
    """Write one file per tensor into the folder `out` and return the paths, the manifest last.

    `model_or_path` is a Model, "demo", a repo id, a folder or one .safetensors or .gguf file; `file`
    as of `load`. `filter` and
    `exclude` are a glob, a regular expression ("re:...", found anywhere in the name), a predicate
    on the name, or several of these. `format` is "csv", "txt", "npy", "hex" (words for Verilog) or
    "q<m>.<n>" (fixed point, rounded; the manifest counts saturated values); `digits` of csv and txt
    None (the shortest decimal that reads back to the same bits, a NaN to some NaN) or N for `%.Ne`.
    `dtype` "raw" (npy and hex) keeps 16-bit floats as their words and 8-bit floats as bytes (npy:
    uint16, uint8); of a quantised model it takes the stored tensors, under their own names. `part`
    of a quantised model: "values", every tensor under its name in the original, as float32; or of
    the quantised ones alone "codes", integers in `NAME.codes`, or "scales", in `NAME.scales`,
    `NAME.zeros`, `NAME.offsets` ... (docs/quantised.md). Without `header` csv, txt and hex have no
    first line; the manifest has the shapes.
    Whole files of an earlier call are kept; others of these names are replaced only with `force`.
    `progress` shows a bar on stderr when that is a terminal; `on_start` is called with what is
    about to be written.

    For a Model the files that it opened are written, even after a chdir; for one opened with
    layers= all that the files of those layers hold.

    Raises ArgumentError (a filter that matches no tensor, a closed Model), UnsupportedError (a
    tensor that this format cannot hold exactly), FormatError, FileError (which names the file),
    FileChangedError (the files of a Model were replaced or written to since it was opened).
    """
    plan = plan_weights(
        model_or_path,
        filter=filter,
        exclude=exclude,
        format=format,
        digits=digits,
        dtype=dtype,
        part=part,
        file=file,
        header=header,
        threads=threads,
    )
    return plan.write(out, force=force, progress=progress, on_start=on_start)


def plan_weights(
    model_or_path: "Model | str | os.PathLike[str]",
    *,
    filter: Filter | None = None,
    exclude: Filter | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    dtype: str = "float32",
    part: str = "values",
    file: str | None = None,
    header: bool = True,
    threads: int | None = None,
) -> WeightPlan:
    """What `export_weights` writes, by its arguments. ArgumentError, UnsupportedError, FormatError,
    FileError."""
    make = _encoder_maker(format, digits, dtype, header, threads)
    _check_part(part, dtype)
    tensors = list(model_tensors(model_or_path, make.format, "stored" if make.raw else part, file))
    if not tensors and part != "values":
        raise ArgumentError(f"there are no quantised weights, which alone have {part}")
    chosen = choose(tensors, filter, exclude)
    _check_exact(chosen, make)
    encoders = [(tensor, make(tensor)) for tensor in chosen]
    return WeightPlan(
        [PlannedFile(tensor, each, each.n_bytes(), each.exact) for tensor, each in encoders],
        None if isinstance(model_or_path, (str, os.PathLike)) else model_or_path,
        frozenset(tensor.weight_file for tensor in tensors),
        make,
    )


def _encoder_maker(
    format: str, digits: int | str | None, dtype: str, header: bool, threads: int | None
) -> EncoderMaker:
    """ArgumentError for what does not go together."""
    style, n_digits = check_format(format), check_digits(digits)
    check_header(header, style)
    choice("dtype", dtype, DTYPES)
    if dtype == "raw" and style not in ("npy", "hex"):
        raise ArgumentError(f"dtype 'raw' is for format 'npy' or 'hex'; {style} holds numbers")
    return EncoderMaker(
        style, n_digits, dtype, header, _core.cores() if threads is None else thread_count(threads)
    )


def _check_part(part: str, dtype: str) -> None:
    choice("part", part, PARTS)
    if part != "values" and dtype == "raw":
        raise ArgumentError(f"dtype 'raw' is of stored floats; {part} have their own dtypes")


def _check_exact(chosen: list[Tensor], make: EncoderMaker) -> None:
    """UnsupportedError for tensors that the format cannot hold exactly."""
    refused = [t for t in chosen if not make.can(t)]
    if refused:
        named = ", ".join(f"{printable(t.name)} ({t.dtype})" for t in refused[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        way_out = "--format npy --dtype raw for 8-bit floats"
        if any(t.dtype.lower() in BLOCKS for t in refused):
            way_out = "--part codes and --part scales, without --dtype raw, for blocks of GGUF"
        raise UnsupportedError(
            f"{named}{more}: cannot be written exactly as {make.format}; leave out with --exclude, or"
            f" take {way_out}"
        )


def choose(tensors: list[Tensor], filter: Filter | None, exclude: Filter | None) -> list[Tensor]:
    """The tensors that some filter keeps and no exclude drops. ArgumentError when a filter matches
    none, or nothing is left."""
    keep, drop = _predicates(filter), _predicates(exclude)
    for name, test in keep:
        if not any(test(tensor.name) for tensor in tensors):
            example = printable(tensors[0].name) if tensors else "no tensor at all"
            raise ArgumentError(
                f"filter {name} matches none of {len(tensors)} tensors"
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
    """Where the head is, for a filter that looks for it in a file without one; else ""."""
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
    """Each filter as (its name in a message, test)."""
    if filters is None:
        return []
    if isinstance(filters, str) or callable(filters):
        filters = [filters]
    given: Any = filters if is_iterable(filters) else [filters]
    return [(_name(each), _predicate(each)) for each in given]


def _name(filter: OneFilter) -> str:
    return (
        shown(filter, 200) if isinstance(filter, str) else getattr(filter, "__name__", "predicate")
    )


def _predicate(filter: OneFilter) -> Callable[[str], bool]:
    if callable(filter):
        return filter
    if not isinstance(filter, str):
        raise ArgumentError(f"filter {shown(filter)} is neither a string nor a predicate")
    if not filter.startswith("re:"):
        return lambda name: fnmatch.fnmatchcase(name, filter)
    try:
        pattern = re.compile(filter[3:])
    except (re.error, RecursionError, OverflowError) as error:
        raise ArgumentError(
            f"filter {shown(filter)} is not a regular expression: {error}"
        ) from error
    return lambda name: pattern.search(name) is not None


@contextlib.contextmanager
def _bar(
    files: list[PlannedFile], todo: list[PlannedFile], wanted: bool
) -> Iterator[Callable[[int], object] | None]:
    """A progress bar: yields the function to call with the number of bytes just written. The total
    is an estimate for text."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    from ..stderr import STREAM

    total, left = sum(f.n_bytes for f in files), sum(f.n_bytes for f in todo)
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


def _entry(planned: PlannedFile, make: EncoderMaker) -> dict[str, Any]:
    """What the bytes of a file depend on besides the weights: part of its entry in the journal and
    the manifest."""
    tensor, encoder = planned.tensor, planned.encoder
    return {
        "tensor": tensor.name,
        "shape": list(encoder.shape),
        "dtype": encoder.dtype,
        "source_dtype": tensor.dtype,
        **path_entries("weight_file", os.path.basename(tensor.weight_file)),
        "digits": make.digits if make.format in SEPARATORS and make.digits >= 0 else None,
        **({} if make.header else {"header": False}),
        **tensor.facts,
    }
