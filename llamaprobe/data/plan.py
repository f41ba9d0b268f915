"""A plan: everything that decides the bytes of a harvest, fixed before the first value is computed.

plan.json is a function of the bytes of the model and the data and of the options, so that it is the
same on every machine; `sha256` is the hash of its bytes. It holds the sha256 of the token and
window files.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import whole
from ..errors import FileMissingError, FormatError, NewerFormatError
from ..files.json_file import parse_object
from ..messages import counted, printable, show_bytes, shown_path
from .file_hash import hash_unchanged
from .folder import Folder
from .layout import FORMAT_VERSION, MANIFEST, PLAN, ROWS, WINDOWS, done_name, shard_name
from .place import is_url, open_folder
from .positions import Positions, read_positions
from .tensor_file import SIZES, Tensor
from .token_files import Tokens, tensors_of
from .windows import NAMES, Windows

MAX_JSON = 1 << 30
_REQUESTS = 16  # concurrent requests to a store
DTYPES = {"float32": "F32", "bf16": "BF16", "f16": "F16"}
_FILE = re.compile(r"windows\.safetensors|tokens/part-[0-9]{5,9}\.safetensors")
_TARGET = re.compile(r"[a-z][a-z0-9_]{0,60}(\.[0-9]{1,5})?")
_COUNTS = ("n_documents", "n_tokens", "n_windows", "n_rows", "n_shards")


class Plan:
    """A plan in a folder, made by `plan_harvest` or `harvest`; `len(plan)` is its number of
    shards."""

    def __init__(
        self, path: str | os.PathLike[str] | Folder, *, cache: str | os.PathLike[str] | None = None
    ) -> None:
        """Open DIR or DIR/plan.json, or the URL of either. cache: a folder that keeps the files
        fetched from a URL; default: a temporary one. FileError, FormatError, ArgumentError."""
        self.files = open_folder(path, cache)
        """The folder of the harvest, local or on a store."""
        self.folder = self.files.path
        """The local folder of its files, or of their copies."""
        self.path = self.folder / PLAN
        """The path of plan.json, or of its local copy."""
        data = _read(self.files)
        self.sha256 = hashlib.sha256(data).hexdigest()
        name = self.files.at(PLAN)
        self.facts = parse_object(data, name, FormatError)
        """The contents of plan.json."""
        _check(self.facts, name)
        for name in _COUNTS:
            setattr(self, name, self.facts[name])
        self.targets: tuple[str, ...] = tuple(self.facts["targets"])
        """The folders of values: "x.10", "logits"."""
        self.positions: Positions = read_positions(self.options["positions"])

    n_documents: int
    n_tokens: int
    """Tokens of all documents, including parts that are cut off."""
    n_windows: int
    n_rows: int
    n_shards: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its path or URL."""
        return type(self), (self.files.place,)

    def __len__(self) -> int:
        return self.n_shards

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return (
            f"<Plan {self.files.shown()}: {counted(self.n_documents, 'document')},"
            f" {counted(self.n_rows, 'row')} of {', '.join(self.targets)},"
            f" {counted(self.n_shards, 'shard')}, {show_bytes(self.n_bytes)}>"
        )

    @property
    def options(self) -> dict[str, Any]:
        """The options of `plan_harvest` that it was made with: positions, dtype, max_tokens, ..."""
        return dict(self.facts["options"])

    @property
    def dtype(self) -> str:
        """The dtype of the files of values, as in safetensors: F32, BF16, F16."""
        return DTYPES[self.options["dtype"]]

    @property
    def n_bytes(self) -> int:
        """Bytes of all values and of the row index, without file headers."""
        return self.n_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row over all targets, including its entry in the row index."""
        return 24 + sum(SIZES[self.dtype] * _size(shape) for shape in self.shapes.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Target -> the shape of one row."""
        return {name: tuple(each["shape"]) for name, each in self.facts["targets"].items()}

    @cached_property
    def tokens(self) -> Tokens:
        """FileError, FormatError."""
        files = {name: each for name, each in self.facts["files"].items() if name != WINDOWS}
        tokens = Tokens(self.files.local(name, each["sha256"]) for name, each in files.items())
        if len(tokens) != self.n_documents:
            raise FormatError(
                f"{shown_path(self.folder)}: the token files hold {len(tokens)} documents, the plan"
                f" says {self.n_documents}"
            )
        return tokens

    @cached_property
    def windows(self) -> Windows:
        """FileError, FormatError."""
        sha256 = self.facts["files"].get(WINDOWS, {}).get("sha256")
        path = self.files.local(WINDOWS, sha256)
        if hash_unchanged(path) != sha256:
            raise FormatError(f"{shown_path(path)}: does not have the sha256 that {PLAN} names")
        windows = Windows(*tensors_of(path, dict.fromkeys(NAMES, "I64")))
        if fault := _fault(windows, self):
            raise FormatError(f"{shown_path(path)}: {fault}")
        return windows

    def rows_of(self, shard: int) -> range:
        """The rows of a shard. ArgumentError."""
        windows = self.windows
        first, stop = windows.shard[shard], windows.shard[shard + 1]
        return range(int(windows.row[first]), int(windows.row[stop]))

    def check_shard(self, shard: int) -> int:
        """The number of a shard, checked. ArgumentError."""
        way_out = f"a number of the plan, from 0 to {len(self) - 1}"
        return whole("shard", shard, 0, len(self), way_out)

    def tensors(self, shard: int) -> dict[str, list[Tensor]]:
        """Target, or "rows" -> the tensors in its file of a shard."""
        n = len(self.rows_of(shard))
        tensors: dict[str, list[Tensor]] = {ROWS: [(name, kind, (n,)) for name, kind in INDEX]}
        for name, row in self.shapes.items():
            tensors[name] = [(name, self.dtype, (n, *row))]
        return tensors

    def metadata(self, shard: int) -> dict[str, str]:
        """The safetensors metadata of a shard's files."""
        first = self.rows_of(shard).start
        return {"plan": self.sha256, "shard": str(shard), "row_first": str(first)}

    def names(self, shard: int) -> list[str]:
        """The names of a shard's files."""
        return [shard_name(target, shard) for target in (ROWS, *self.targets)]

    def missing(self) -> list[int]:
        """The numbers of the shards that are not complete in its folder. FileError."""
        shards = range(len(self))
        return [s for s, found in zip(shards, self.sidecars(shards), strict=True) if found is None]

    def is_done(self, shard: int) -> bool:
        """Whether a shard has its sidecar, and files of the sizes recorded there."""
        return self.sidecar(shard) is not None

    def sidecar(self, shard: int) -> dict[str, Any] | None:
        """The sidecar of a complete shard, else None. A sidecar that cannot be read counts as
        missing, so that the shard is made again."""
        from ..errors import Error

        try:
            name = done_name(shard)
            found = parse_object(self.files.read(name, MAX_JSON), self.folder / name, FormatError)
            files = found["files"]
            is_whole = found["plan"] == self.sha256 and list(files) == self.names(shard)
            is_whole &= all(map(is_entry, files.values()))
            for name in self.names(shard) if is_whole else ():
                is_whole &= self.files.size(name) == files[name]["bytes"]
        except (Error, OSError, KeyError, TypeError, AttributeError) as error:
            if self.files.is_remote and isinstance(error, OSError) and error.errno != errno.ENOENT:
                raise  # a store that is down does not mean a missing sidecar
            return None
        return found if is_whole else None

    def sidecars(self, shards: Iterable[int]) -> list[dict[str, Any] | None]:
        """`sidecar` of each shard; several requests at once on a store."""
        if not self.files.is_remote:
            return [self.sidecar(shard) for shard in shards]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(self.sidecar, shards))

    @property
    def has_manifest(self) -> bool:
        return self.files.has(MANIFEST)


INDEX = (("document", "I64"), ("start", "I64"), ("position", "I32"), ("token_id", "I32"))
"""Tensors of the row index: number of the document, start of the window in it, position in the
window, token id."""


_OPENED: dict[str, Plan] = {}  # the plan last opened by URL


def open_plan(plan: Plan | str | os.PathLike[str]) -> Plan:
    """A plan as given, or opened from a path or URL. The last one opened by URL is cached, so that
    an engine that makes one shard after the other fetches its files once. Raises as Plan."""
    if isinstance(plan, Plan):
        return plan
    if not is_url(plan):
        return Plan(plan)
    found = _OPENED.get(str(plan))
    if found is None or hashlib.sha256(_read(found.files)).hexdigest() != found.sha256:
        _OPENED.clear()
        found = _OPENED[str(plan)] = Plan(plan)
    return found


def _read(files: Folder) -> bytes:
    try:
        return files.read(PLAN, MAX_JSON)
    except FileNotFoundError:
        fact = "no such plan; `llamaprobe harvest plan` or `run` makes one"
        raise FileMissingError(f"{files.shown(PLAN)}: {fact}", errno.ENOENT) from None


def _check(facts: dict[str, Any], path: str) -> None:
    """FormatError unless these are the facts of a plan."""
    version = facts.get("format_version")
    if facts.get("format") != "llamaprobe harvest" or not isinstance(version, int):
        raise FormatError(f"{shown_path(path)}: is not the plan of a harvest")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{shown_path(path)}: has format version {version}; this llamaprobe knows"
            f" {FORMAT_VERSION}"
        )
    kinds: dict[str, type] = {
        "model": dict,
        "targets": dict,
        "options": dict,
        "sources": list,
        "files": dict,
    }
    kinds |= dict.fromkeys(_COUNTS, int) | {"arithmetic_version": int, "skipped": dict}
    for key, kind in kinds.items():
        if type(facts.get(key)) is not kind:
            raise FormatError(f"{shown_path(path)}: {key} is missing or invalid")
    fault = next((fault for fault in _faults(facts) if fault), None)
    if fault:
        raise FormatError(f"{shown_path(path)}: {fault}")


def _faults(facts: dict[str, Any]) -> Iterator[str | None]:
    """What is wrong with each part of a plan, or None; no path may lead out of its folder."""
    for name, entry in facts["files"].items():
        if not _FILE.fullmatch(name) or not is_entry(entry):
            yield f"files: {printable(name)} is invalid"
    if WINDOWS not in facts["files"]:
        yield f"files: there is no {WINDOWS}"
    for name, target in facts["targets"].items():
        shape = target.get("shape") if isinstance(target, dict) else None
        is_shape = isinstance(shape, list) and all(
            type(n) is int and 0 < n < 1 << 32 for n in shape
        )
        if not _TARGET.fullmatch(name) or not is_shape:
            yield f"targets: {printable(name)} is invalid"
    if not facts["targets"]:
        yield "targets is empty"
    for key in _COUNTS:
        if not 0 < facts[key] < 1 << 62:
            yield f"{key} is {facts[key]}"
    options = facts["options"]
    if options.get("dtype") not in DTYPES or not isinstance(options.get("positions"), str):
        yield "options: dtype or positions is invalid"
    for key, value in (
        ("stride", options.get("stride")),
        ("bos_token", options.get("bos_token", 0)),
    ):
        if type(value) is not int or not 0 <= value < 1 << 31:
            yield f"options: {key} is invalid"
    weights = facts["model"].get("weights")
    if not isinstance(weights, list) or not all(isinstance(each, dict) for each in weights):
        yield "model: weights is not a list of files"


def is_entry(entry: object) -> bool:
    """Whether this is the JSON entry of a file, with its bytes and sha256."""
    return (
        isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
    )


def _fault(windows: Windows, plan: Plan) -> str | None:
    """What is wrong with the windows of a plan; None if nothing."""
    n = len(windows.document)
    if n != plan.n_windows or not len(windows.start) == len(windows.stop) == n:
        return f"holds {n} windows, the plan says {plan.n_windows}"
    if len(windows.row) != n + 1 or len(windows.shard) != plan.n_shards + 1:
        return "its rows or shards do not belong to its windows"
    for name, ends, last in (("row", windows.row, plan.n_rows), ("shard", windows.shard, n)):
        if ends[0] != 0 or ends[-1] != last or np.any(np.diff(ends) <= 0):
            return f"{name} does not rise from 0 to {last}"
    documents = windows.document
    if np.any((documents < 0) | (documents >= plan.n_documents)):
        return "refers to documents that do not exist"
    lengths = plan.tokens.lengths()[documents]
    if np.any((windows.start < 0) | (windows.start >= windows.stop) | (windows.stop > lengths)):
        return "has a window outside of its document"
    return None


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def context_of(options: dict[str, Any]) -> int:
    """The number of tokens at the beginning of a later window that give no row."""
    return int(options["stride"]) + ("bos_token" in options)


def positions_of(plan: Plan, window: int) -> NDArray[np.int64]:
    """The positions of a window that give rows."""
    windows = plan.windows
    start, stop = int(windows.start[window]), int(windows.stop[window])
    context = context_of(plan.options) if start else 0
    return plan.positions.of(int(windows.document[window]), start, stop, context)
