"""Makes a plan: every document is tokenised, cut into windows, and recorded in files."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .. import stderr
from ..arguments import choice, flag, refusal, whole
from ..errors import ArgumentError, FormatError
from ..files.atomic import atomic_open, hold_folder, sync_folder
from ..files.fingerprint import file_state
from ..messages import printable, shown_path
from ..model import Model
from ..origin import ARITHMETIC_VERSION
from ..points import Name
from ..views.methods import check_model
from .document import Column, Document, Fault, choose_column
from .file_hash import hash_unchanged
from .folder import Folder
from .json_out import write_json
from .layout import FORMAT_VERSION, MANIFEST, MODEL, PLAN, SKIPPED, TOKENS, WINDOWS
from .mixing import permutation
from .model_place import identity_of, place_of, weight_hashes
from .place import open_folder
from .plan import DTYPES, Plan, context_of
from .positions import read_positions
from .sources import Source, find_sources
from .targets import Target, find_targets
from .tensor_file import SIZES, write_tensors
from .token_files import TokenWriter
from .tokens import Encoder, bos_token_of, encoder_of
from .windows import Windows, cut

_SHARD_BYTES = 256 << 20  # of the file with the widest rows
_SHARD_ROWS = 1 << 17
_MAX_TOKENS = 512
_KINDS = ("empty", "bad", "long")


def plan_harvest(
    model: Model,
    data: object,
    out: str | os.PathLike[str],
    *,
    points: str | Iterable[Name],
    positions: str = "all",
    dtype: str = "float32",
    max_tokens: int | None = None,
    long: str = "split",
    stride: int = 0,
    bos: str = "auto",
    order: str = "data",
    shard_rows: int | None = None,
    limit_tokens: int | None = None,
    field: str | None = None,
    ids: str | None = None,
    chat: str | None = None,
    on_bad: str = "stop",
    new_plan: bool = False,
    progress: bool = False,
) -> Plan:
    """Tokenise a dataset, decide every row and shard of its harvest, and write the plan to `out`.

    data: a file (.jsonl, .txt, .csv, .tsv, .npy, .safetensors; .parquet and .arrow with pyarrow), a
        folder (a Hugging Face dataset on disk, or Parquet files), a list of Paths, or an iterable
        of texts, lists of token ids, chats and records (dicts).
    out: the folder, created if missing, or a URL such as s3://bucket/out (needs the extra
        `remote`).
    points: as for `Model.run`, and "x:10" or "hidden:4-6" for layers. Only points with one row per
        token.
    positions: "all", "last", "skip:N" (all but the first N of a window), "A-B", or "hash:F" (a
        fraction F of the tokens); positions count from the beginning of a window.
    dtype: of the files: "float32", or "bf16" or "f16", rounded to nearest even.
    max_tokens: the most tokens of a window, which is one sequence. Default: 512, or the model's
        max_position_embeddings if that is less.
    long: what to do with a longer document: "split" it into windows, "cut" it to the first window,
        or "refuse" it.
    stride: how many tokens of a window the next one repeats at its beginning, as context without
        rows.
    bos: "auto" adds the special tokens that the tokenizer puts around a text, "never" adds none.
        "always" makes every window begin with the model's BOS: it is prepended to a document that
        does not begin with it; in later windows it replaces the token before the window's first and
        gives no row.
    order: of the documents: "data" or "permuted:SEED".
    shard_rows: the most rows of a shard. Default: a power of two, at most 131,072, such that a file
        of values has at most 256 MiB.
    limit_tokens: stop after this many tokens; the last document is cut.
    field, ids, chat: the column of records that holds a text, token ids or chat messages. Default:
        the first of text, input_ids, messages and prompt that a record has.
    on_bad: "stop" at a document that cannot be read or tokenised, or "skip" it. Empty documents
        are always skipped. skipped.jsonl lists all of them.
    new_plan: replace a plan of another arithmetic version; its shards are then made again.
    progress: show a count of documents on stderr.

    If `out` already holds the same plan, it is returned without reading the data.

    Raises ArgumentError (also for a folder with another plan), PointError, FormatError (with file,
    line and number of a bad document), TokenizerError, FileError.
    """
    check_model(model)
    new_plan, progress = flag("new_plan", new_plan), flag("progress", progress)
    if max_tokens is None:
        max_tokens = min(_MAX_TOKENS, model.config.max_positions)
    options = {
        "positions": positions,
        "dtype": dtype,
        "max_tokens": max_tokens,
        "long": long,
        "stride": stride,
        "bos": bos,
        "order": order,
        "limit_tokens": limit_tokens,
        "on_bad": on_bad,
    }
    _check_options(options, model)
    column = choose_column(field, ids, chat)
    options["column"] = None if column is None else [column.kind, column.name]
    targets = find_targets(points, model.config)
    options["shard_rows"] = _shard_rows(shard_rows, targets, options)
    files, sources = open_folder(out), find_sources(data)
    request = _request(model, targets, options, sources)
    if files.has(PLAN):
        if not new_plan or Plan(files).facts["arithmetic_version"] == ARITHMETIC_VERSION:
            return _same_plan(files, request)
        files.remove(MANIFEST)
        files.remove(PLAN)
    with hold_folder(files.path) as folder:
        facts = _write(model, sources, column, folder, request, progress)
        if files.is_remote:
            files.commit([*facts["files"], SKIPPED, MODEL])
        files.write_json(PLAN, facts)
    plan = Plan(files)
    if plan.facts != json.loads(json.dumps(facts)):
        raise ArgumentError(f"{files.shown()}: got another plan from another process; try again")
    return plan


def _check_options(options: dict[str, Any], model: Model) -> None:
    """ArgumentError."""
    read_positions(options["positions"])
    _seed(options["order"])
    for name, known in (
        ("dtype", tuple(DTYPES)),
        ("long", ("split", "cut", "refuse")),
        ("bos", ("auto", "always", "never")),
        ("on_bad", ("stop", "skip")),
    ):
        choice(name, options[name], known)
    end = model.config.max_positions + 1
    options["max_tokens"] = whole("max_tokens", options["max_tokens"], 1, end)
    if options["bos"] == "always":
        options["bos_token"] = bos_token_of(model)
    end = options["max_tokens"] - ("bos_token" in options)
    options["stride"] = whole("stride", options["stride"], 0, end)
    if options["limit_tokens"] is not None:
        options["limit_tokens"] = whole("limit_tokens", options["limit_tokens"], 1, 1 << 60)


def _seed(order: str) -> int | None:
    """The seed of an order; None for the order of the data."""
    match = re.fullmatch("data|permuted:([0-9]{1,18})", order) if isinstance(order, str) else None
    if match is None:
        raise refusal("order", order, "data, or permuted:SEED with a number")
    return None if match[1] is None else int(match[1])


def _shard_rows(given: int | None, targets: list[Target], options: dict[str, Any]) -> int:
    """The rows of a shard: a function of the plan alone, not of a measured speed. ArgumentError."""
    max_tokens = options["max_tokens"]
    if given is not None:
        return whole("shard_rows", given, max_tokens, 1 << 40)
    row_bytes = SIZES[DTYPES[options["dtype"]]] * max(target.width for target in targets)
    rows = min(_SHARD_ROWS, max(1, _SHARD_BYTES // row_bytes))
    return max(1 << (rows.bit_length() - 1), 1 << (max_tokens - 1).bit_length())


def _request(
    model: Model, targets: list[Target], options: dict[str, Any], sources: list[Source]
) -> dict[str, Any]:
    """The entries that a plan must have to be the requested one. FileError."""
    return {
        "format": "llamaprobe harvest",
        "format_version": FORMAT_VERSION,
        "arithmetic_version": ARITHMETIC_VERSION,
        "model": identity_of(model),
        "targets": {
            target.name: {
                "point": target.point.name,
                "layer": target.layer,
                "shape": list(target.shape),
            }
            for target in targets
        },
        "options": options,
        "sources": [source.identity() for source in sources],
    }


def _same_plan(files: Folder, request: dict[str, Any]) -> Plan:
    """The plan in a folder, which must be the requested one. ArgumentError."""
    plan = Plan(files)
    there = json.loads(json.dumps(plan.facts))
    for file in (*there["model"].get("weights", ()), *there["sources"]):
        if isinstance(file, dict):
            file.pop("sha256", None)
    place = _difference(there, json.loads(json.dumps(request)), "")
    if place is not None:
        raise ArgumentError(f"{files.shown()}: holds another plan: {place}; choose another folder")
    return plan


def _difference(there: Any, here: Any, place: str) -> str | None:
    """The first difference between a plan and a request; None if they agree."""
    if isinstance(here, dict) and isinstance(there, dict):
        keys = list(here) if not place else [*here, *(key for key in there if key not in here)]
        for key in keys:
            inner = f"{place}.{printable(key, 60)}" if place else printable(key, 60)
            found = _difference(there.get(key, ...), here.get(key, ...), inner)
            if found:
                return found
        return None
    if there == here:
        return None
    shown = ["missing" if v is ... else printable(json.dumps(v), 60) for v in (there, here)]
    return f"{place} is {shown[0]} there and {shown[1]} here"


# ---- writing ----


@dataclass
class _Skipped:
    """Writes the documents that are left out to a file, and counts each kind."""

    file: IO[bytes]
    counts: dict[str, int]

    def add(self, kind: str, where: str, reason: str) -> None:
        self.counts[kind] += 1
        line = {"document": where, "kind": kind, "reason": reason}
        self.file.write(json.dumps(line).encode() + b"\n")


def _write(
    model: Model,
    sources: list[Source],
    column: Column | None,
    folder: Path,
    request: dict[str, Any],
    progress: bool,
) -> dict[str, Any]:
    """Write all files except plan.json; returns the contents for that."""
    options = request["options"]
    hashes = weight_hashes(model)
    _remove_token_files(folder)
    states = [file_state(source.path) if source.path else None for source in sources]
    writer = TokenWriter(folder)
    with atomic_open(folder / SKIPPED) as file:
        skipped = _Skipped(file, dict.fromkeys(_KINDS, 0))
        with encoder_of(model, options["bos"]) as encoder:
            documents = _counted(_numbered(sources, column), progress)
            _write_tokens(documents, encoder, options, writer, skipped)
    lengths = np.array(writer.lengths, np.int64)
    if not len(lengths):
        left_out = ", ".join(f"{n} {kind}" for kind, n in skipped.counts.items() if n)
        names = ", ".join(shown_path(source.path) for source in sources[:3] if source.path)
        place = f"{names}{' and others' if len(sources) > 3 else ''}: " if names else ""
        raise ArgumentError(
            f"{place}no document is left{f': {left_out}' if left_out else ' to run'}"
        )
    windows = _windows(lengths, options)
    if not len(windows.document):
        raise ArgumentError(f"positions={options['positions']!r} leaves no row of any document")
    entries = {**writer.entries, WINDOWS: write_tensors(folder / WINDOWS, windows.arrays(), {})}
    sync_folder(folder / TOKENS)
    facts = request | {
        "n_documents": len(lengths),
        "n_tokens": int(lengths.sum()),
        "n_windows": len(windows.document),
        "n_rows": int(windows.row[-1]),
        "n_shards": len(windows.shard) - 1,
        "skipped": skipped.counts,
        "files": {
            name: {"bytes": entry["bytes"], "sha256": entry["sha256"]}
            for name, entry in entries.items()
        },
    }
    for file_facts, sha256 in zip(facts["model"]["weights"], hashes, strict=True):
        file_facts["sha256"] = sha256
    for source, state, source_facts in zip(sources, states, facts["sources"], strict=True):
        if state is not None and source.path is not None and "bytes" in source_facts:
            source_facts["sha256"] = hash_unchanged(source.path, state)
    write_json(folder / MODEL, place_of(model))
    return facts


def _remove_token_files(folder: Path) -> None:
    """Remove the token files of a planning that was killed."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder / TOKENS):
            os.unlink(folder / TOKENS / name)


def _write_tokens(
    documents: Iterable[tuple[int, int, Document]],
    encoder: Encoder,
    options: dict[str, Any],
    writer: TokenWriter,
    skipped: _Skipped,
) -> None:
    """Write the token ids of every document, up to the limit. FormatError for a bad document."""
    left = options["limit_tokens"]
    most = options["max_tokens"] if options["long"] == "refuse" else None
    for source, number, document in documents:
        ids = encoder.encode(document.value)
        kind = "bad"
        if not isinstance(ids, Fault) and most is not None and len(ids) > most:
            kind, ids = "long", Fault(f"has {len(ids)} tokens, over max_tokens={most}")
        if isinstance(ids, Fault):
            if options["on_bad"] == "stop":
                place = document.where
                place += "" if place.startswith("document ") else f" (document {number})"
                raise FormatError(
                    f"{place}: {ids.reason}; on_bad='skip' (--on-bad skip) leaves such"
                    " documents out"
                )
            skipped.add(kind, document.where, ids.reason)
        elif not len(ids):
            skipped.add("empty", document.where, "is empty")
        else:
            writer.add(ids if left is None else ids[:left], source, number)
            left = None if left is None else left - len(ids)
            if left is not None and left <= 0:
                break
    writer.flush()


def _numbered(sources: list[Source], column: Column | None) -> Iterator[tuple[int, int, Document]]:
    """(number of the source, number of the document in it, document) of each document."""
    for number, source in enumerate(sources):
        for at, document in enumerate(source.read(column)):
            yield number, at, document


def _counted(
    documents: Iterable[tuple[int, int, Document]], shown: bool
) -> Iterable[tuple[int, int, Document]]:
    """The documents, with a progress count on stderr."""
    if not shown:
        return documents
    from tqdm import tqdm

    return tqdm(documents, "planning", unit=" documents", file=stderr.STREAM, leave=False)


def _windows(lengths: np.ndarray[Any, np.dtype[np.int64]], options: dict[str, Any]) -> Windows:
    seed = _seed(options["order"])
    n = len(lengths)
    return cut(
        lengths,
        np.arange(n) if seed is None else permutation(n, seed),
        max_tokens=options["max_tokens"],
        stride=context_of(options),
        is_cut=options["long"] == "cut",
        positions=read_positions(options["positions"]),
        shard_rows=options["shard_rows"],
    )


def skipped_of(plan: Plan) -> str:
    """ "2 empty, 1 bad", or ""."""
    counts = plan.facts["skipped"]
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
