"""Reading a file of statistics. The file is not trusted: what is accepted could have come from some
dataset."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import ArgumentError, FormatError, NewerFormatError
from ..files.json_file import parse_object
from ..files.paths import checked_path
from ..messages import printable, shown_path
from .chosen import read_chosen
from .state import State, fault_of, shapes
from .stats import Contexts, Stats
from .writing import DTYPES, FORMAT, FORMAT_VERSION, content_sha256

_WINDOWS = {"document": "<i8", "start": "<i8", "first": "<i8", "token_id": "<i4"}
_TARGET = re.compile(r"[a-z][a-z0-9_]{0,60}(\.[0-9]{1,5})?")


def read_stats(path: str | os.PathLike[str]) -> Stats:
    """The statistics in a file that `Stats.save` or `llamaprobe stats` wrote.

    Raises FileError, and FormatError for a damaged file or one of another kind.
    """
    path = checked_path(path)
    file = _core.Safetensors(path)
    facts = _facts(file.metadata, path)
    chosen = read_chosen(facts["stats"])
    tensors = {name: (dtype, tuple(shape)) for name, dtype, shape, *_ in file.tensors()}
    states = {}
    for target, entry in facts["targets"].items():
        n_channels = int(np.prod(entry["shape"], dtype=np.int64))
        expected = shapes(chosen, len(facts["groups"]), n_channels)
        if facts["exact"]:
            rows = len(facts["groups"]), n_channels
            expected["quantile"] = "<f4", (*rows, len(facts["exact"]))
        states[target] = {
            name: _tensor(file, tensors, f"{target}/{name}", dtype, shape, path)
            for name, (dtype, shape) in expected.items()
        }
    windows = {}
    if chosen.top:
        windows = {
            name: _tensor(file, tensors, f"windows/{name}", dtype, (-1,), path)
            for name, dtype in _WINDOWS.items()
        }
    if tensors:
        raise FormatError(
            f"{shown_path(path)}: has {printable(min(tensors))}, which does not belong in it"
        )
    for target, state in states.items():
        if fault := fault_of(state, chosen) or _count_fault(state, facts, target):
            raise FormatError(f"{shown_path(path)}: {target}: {fault}")
    contexts = _contexts(windows, states, path) if chosen.top else {}
    parts = (file.raw(name) for name, *_ in file.tensors())
    if content_sha256(file.metadata["statistics"], parts) != file.metadata.get("sha256"):
        raise FormatError(f"{shown_path(path)}: its values do not have the sha256 in its header")
    return Stats(facts, states, contexts)


def _tensor(
    file: Any,
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    path: Path,
) -> NDArray[Any]:
    """A copy of a tensor, which is removed from `tensors`. FormatError."""
    found = tensors.pop(name, None)
    free = shape[0] == -1
    if found is None or found[0] != DTYPES[dtype] or len(found[1]) != len(shape):
        raise FormatError(f"{shown_path(path)}: has no {name} of {DTYPES[dtype]}")
    if found[1][free:] != shape[free:]:
        raise FormatError(f"{shown_path(path)}: {name} is {list(found[1])}, not {list(shape)}")
    return np.array(file.raw(name).view(dtype).reshape(found[1]))


# ---- the head ----


def _facts(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """FormatError."""
    text = metadata.get("statistics")
    if text is None:
        raise FormatError(f"{shown_path(path)}: is not a file of statistics")
    facts = parse_object(text.encode(), path, FormatError)
    version = facts.get("format_version")
    if facts.pop("format", None) != FORMAT or type(version) is not int:
        raise FormatError(f"{shown_path(path)}: is not a file of statistics")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{shown_path(path)}: has format version {version}; this llamaprobe knows"
            f" {FORMAT_VERSION}"
        )
    for key, kinds in _KINDS.items():
        if not isinstance(facts.get(key), kinds) or isinstance(facts.get(key), bool):
            raise FormatError(f"{shown_path(path)}: {key} is missing or invalid")
    if fault := _head_fault(facts):
        raise FormatError(f"{shown_path(path)}: {fault}")
    return facts


_KINDS: dict[str, Any] = {
    "arithmetic_version": int,
    "model": dict,
    "data": dict,
    "mask": (str, type(None)),
    "positions": str,
    "by": str,
    "groups": list,
    "tokens": list,
    "stats": list,
    "exact": list,
    "targets": dict,
    "covers": list,
}


def _head_fault(facts: dict[str, Any]) -> str | None:
    n_windows = facts["data"].get("n_windows")
    groups, tokens, covers = facts["groups"], facts["tokens"], facts["covers"]
    max_tokens = facts["data"].get("max_tokens")
    if {type(n_windows), type(max_tokens)} != {int} or not isinstance(
        facts["data"].get("sha256"), str
    ):
        return "data has no n_windows, max_tokens or sha256"
    if not groups or not all(isinstance(g, str) and g != "all" for g in groups):
        return "groups are not names"
    if len(set(groups)) < len(groups) or (facts["by"] == "first" and groups != ["first", "rest"]):
        return "groups are not those of its by"
    if len(tokens) != len(groups) or not all(type(n) is int and 0 <= n < 1 << 62 for n in tokens):
        return "tokens is not a number for each group"
    try:
        if read_chosen(facts["stats"]).names() != facts["stats"]:
            return "stats is not in its order"
        exact = [float(q) for q in facts["exact"]]
    except (ArgumentError, ValueError, TypeError):
        return "stats or exact is not what statistics have"
    if not all(0 <= q <= 1 for q in exact) or exact != sorted(set(exact)):
        return "exact is not a list of fractions"
    ends = list(itertools.chain.from_iterable(c if isinstance(c, list) else [None] for c in covers))
    if not all(isinstance(c, list) and len(c) == 2 for c in covers) or not all(
        type(end) is int for end in ends
    ):
        return "covers is not a list of ranges"
    if any(a >= b for a, b in itertools.pairwise([-1, *ends])) or (ends and ends[-1] > n_windows):
        return "covers does not rise within the windows"
    return next((fault for fault in map(_target_fault, facts["targets"].items()) if fault), None)


def _target_fault(item: tuple[str, Any]) -> str | None:
    name, entry = item
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not 0 < len(shape) < 4:
        return f"targets: {printable(name)} has no shape"
    if not all(type(n) is int and 0 < n < 1 << 24 for n in shape):
        return f"targets: {printable(name)} has no shape"
    point, layer, keys = entry.get("point"), entry.get("layer"), entry.get("keys", 0)
    is_layer = layer is None or type(layer) is int
    is_named = name == (point if layer is None else f"{point}.{layer}")
    if not _TARGET.fullmatch(name) or not is_layer or not is_named or type(keys) is not int:
        return f"targets: {printable(name)} is not a target"
    if np.prod(shape, dtype=np.float64) >= 1 << 31:
        return f"targets: {printable(name)} has too many channels"
    return None


def _count_fault(state: State, facts: dict[str, Any], target: str) -> str | None:
    """For points with one row per token, counts must equal the numbers of tokens."""
    if facts["targets"][target].get("keys"):
        return None
    n = state["count"][..., 0] + state["count"][..., 2] + state["count"][..., 3]
    if (n != np.array(facts["tokens"], np.int64)[:, None]).any():
        return "count is not the number of tokens"
    return None


def _contexts(windows: dict[str, NDArray[Any]], states: dict[str, State], path: Path) -> Contexts:
    """FormatError."""
    first, ids = windows["first"], windows["token_id"]
    n = len(windows["document"])
    is_whole = len(windows["start"]) == n == len(first) - 1 and first[0] == 0
    if not is_whole or first[-1] != len(ids) or (np.diff(first) <= 0).any():
        raise FormatError(f"{shown_path(path)}: its windows do not add up")
    places = zip(windows["document"].tolist(), windows["start"].tolist(), strict=True)
    contexts = {
        place: ids[a:b] for place, (a, b) in zip(places, itertools.pairwise(first), strict=True)
    }
    for target, state in states.items():
        found = np.stack(
            [state[f"top.{name}"].reshape(-1) for name in ("document", "start", "position")], 1
        )
        for document, start, position in np.unique(found, axis=0).tolist():
            if document >= 0 and position >= len(contexts.get((document, start), ())):
                raise FormatError(f"{shown_path(path)}: {target}: a largest value is in no window")
    if list(contexts) != sorted(contexts) or len(contexts) != n or (ids < 0).any():
        raise FormatError(f"{shown_path(path)}: its windows are not in order")
    return contexts
