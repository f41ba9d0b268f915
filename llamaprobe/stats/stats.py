"""Statistics of a dataset: `lp.collect` makes them, `lp.read_stats` reads them back.

`stats["x", 10]` selects a point in a layer. `a + b` merges two parts of one dataset; the result has
the same bytes for any parts in any order, so that `sha256` identifies it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ..arguments import choice, flag, instance, listed, refusal
from ..errors import ArgumentError
from ..files.json_file import is_text
from ..files.new_file import new_file
from ..messages import counted, printable
from . import reports
from .channels import Channels
from .chosen import read_chosen
from .state import State, merge

Contexts = dict[tuple[int, int], NDArray[np.int32]]


class Stats:
    """Statistics of capture points over a dataset, or over a part of it."""

    def __init__(
        self, facts: Mapping[str, Any], states: dict[str, State], contexts: Contexts
    ) -> None:
        self.facts: dict[str, Any] = dict(facts)
        """The header of the file: model, data, options, targets, groups, and the windows
        covered."""
        self._states = {name: states[name] for name in sorted(states, key=self._order)}
        self._contexts = contexts
        self.chosen = read_chosen(facts["stats"])
        """The statistics collected, with their parameters (K of top, THETA of firing)."""
        self.groups: tuple[str, ...] = tuple(facts["groups"])
        """Names of the groups of tokens: "first" and "rest", or as chosen by `by`."""

    def _order(self, name: str) -> tuple[str, int]:
        entry = self.facts["targets"][name]
        return entry["point"], entry["layer"] or 0

    @property
    def targets(self) -> tuple[str, ...]:
        """ "x.10", "logits"."""
        return tuple(self._states)

    @property
    def tokens(self) -> dict[str, int]:
        """Group -> number of tokens."""
        return dict(zip(self.groups, self.facts["tokens"], strict=True))

    @property
    def is_complete(self) -> bool:
        """Whether every window of the dataset is covered."""
        return self.facts["covers"] == [[0, self.facts["data"]["n_windows"]]]

    def __getitem__(self, key: str | tuple[str, SupportsIndex]) -> Channels:
        """The statistics of a target: ("x", 10), "x.10", "logits". With position 0 apart (the
        default), those of the other positions; `.of("first")` is position 0 and `.all` both.
        ArgumentError."""
        name = ".".join(map(str, key)) if isinstance(key, (tuple, list)) else key
        return self.channels(name, "rest" if self.facts["by"] == "first" else "all")

    def channels(self, name: str, group: str) -> Channels:
        """The statistics of a target for a group, or for "all". ArgumentError."""
        choice("the target", name, self.targets)
        choice("group", group, ("all", *self.groups))
        shape = tuple(self.facts["targets"][name]["shape"])
        quantiles = tuple(map(float, self.facts["exact"]))
        return Channels(
            name,
            self._states[name],
            self.chosen,
            shape,
            self.groups,
            group,
            self._contexts,
            quantiles,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        n = sum(self.facts["tokens"])
        part = "" if self.is_complete else " (a part)"
        return (
            f"<Stats of {counted(n, 'token')}{part}: {', '.join(self.facts['stats'])} of"
            f" {counted(len(self), 'target')}>"
        )

    def __add__(self, other: object) -> "Stats":
        return merge_stats([self, other]) if isinstance(other, Stats) else NotImplemented

    # ---- files ----

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the contents that `save` writes: equal statistics have equal bytes."""
        from .writing import sha256_of

        return sha256_of(self)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> str:
        """Write one safetensors file and return its sha256. An existing file is an error unless
        `force`. FileError."""
        from .writing import write

        return write(self, new_file(path, flag("force", force)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Name -> tensor of the file."""
        found = {
            f"{target}/{name}": array
            for target, state in self._states.items()
            for name, array in sorted(state.items())
        }
        if self.chosen.top:
            found |= _window_arrays(_used_windows(self._states.values(), self._contexts))
        return dict(sorted(found.items()))

    # ---- tables ----

    def to_pandas(self) -> Any:
        """A DataFrame with one row per channel, group and target. Needs pandas."""
        from ..views.result_tables import stats_frame

        return stats_frame(self)

    def to_xarray(self) -> Any:
        """A Dataset with one variable per point and statistic, such as x_mean [layer, group,
        channel]. Needs xarray."""
        from ..views.result_tables import stats_dataset

        return stats_dataset(self)

    # ---- definitions of others ----

    def sinks(self, threshold: float = 0.3, *, seen: float = 0.5) -> list[reports.Sink]:
        """Attention sinks (Gu et al. 2025), per head: keys whose mean attention, over the queries
        that see them, is above the threshold. Only keys that at least a fraction `seen` of all
        queries see. Needs "moments" of pattern."""
        return reports.sinks(self, threshold, seen)

    def massive(self, above: float = 100.0, times: float = 1000.0) -> list[reports.Massive]:
        """Massive activations (Sun et al. 2024): channels whose largest |x| is above `above` and
        above `times` the median of |x| in the layer. Needs "range" and "histogram"."""
        return reports.massive(self, above, times)

    def outliers(
        self,
        point: str = "x_norm",
        *,
        above: float = 6.0,
        layers: float = 0.25,
        tokens: float = 0.06,
    ) -> NDArray[np.int64]:
        """Outlier features (LLM.int8(), 2022): channels with |x| >= 6 in at least 6 % of the
        tokens, in at least 25 % of the layers. Needs "histogram"."""
        return reports.outliers(self, point, above, layers, tokens)

    def write_imatrix(
        self, path: str | os.PathLike[str], *, dataset: str = "", force: bool = False
    ) -> None:
        """Write llama.cpp's importance matrix (GGUF). Needs "moments" of the inputs of the linear
        layers, and the gguf package. An existing file is an error unless `force`. ArgumentError,
        FileError."""
        from .exports import write_imatrix

        if not is_text(instance("dataset", dataset, str, "a text")):
            raise refusal("dataset", dataset, "a text of whole characters")
        write_imatrix(self, new_file(path, flag("force", force)), dataset)

    def write_act_scales(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write SmoothQuant's activation scales as safetensors: module path -> float32 [in], the
        largest |x| of each input channel of the linear layer. Needs "range". An existing file is an
        error unless `force`. ArgumentError, FileError."""
        from .exports import write_act_scales

        write_act_scales(self, new_file(path, flag("force", force)))

    def write_npz(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write all statistics as floats for readers without llamaprobe: "x.10/rest/mean" and so
        on. An existing file is an error unless `force`. FileError."""
        from .exports import write_npz

        write_npz(self, new_file(path, flag("force", force)))


_SAME = (
    *("model", "data", "mask", "by", "groups", "stats", "targets", "positions"),
    *("arithmetic_version", "format_version"),
)


def merge_stats(parts: Iterable[Stats]) -> Stats:
    """Merge the statistics of several parts of one dataset. Exact quantiles cannot be merged and
    are left out if there is more than one part.

    Raises ArgumentError for parts that overlap or differ in model, data or options.
    """
    if isinstance(parts, Stats):
        parts = [parts]
    parts = listed("parts", parts, "a list of Stats")
    if not parts:
        raise ArgumentError("parts is empty; give at least one Stats")
    for number, part in enumerate(parts):
        instance(f"item {number} of parts", part, Stats, "a Stats")
    whole = parts[0]
    for part in parts[1:]:
        whole = _merged(whole, part)
    return whole


def _merged(a: Stats, b: Stats) -> Stats:
    for key in _SAME:
        if a.facts[key] != b.facts[key]:
            what, *values = _difference(key, a.facts[key], b.facts[key])
            shown = [printable(json.dumps(value), 60) for value in values]
            raise ArgumentError(f"these statistics differ in {what}: {shown[0]} and {shown[1]}")
    facts = a.facts | {
        "covers": _covers(a.facts["covers"], b.facts["covers"]),
        "tokens": [x + y for x, y in zip(a.facts["tokens"], b.facts["tokens"], strict=True)],
        "exact": [],
    }
    contexts = {**a._contexts, **b._contexts}
    states = {name: merge(state, b._states[name]) for name, state in a._states.items()}
    return Stats(facts, states, _used_windows(states.values(), contexts))


def _difference(what: str, a: Any, b: Any) -> tuple[str, Any, Any]:
    """The path of the first entry that differs in two facts, and both values."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return what, a, b
    key = next(key for key in a | b if key not in a or key not in b or a[key] != b[key])
    return _difference(f"{what}.{key}", a.get(key), b.get(key))


def _covers(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    """The union of ranges of windows. ArgumentError if they overlap."""
    found: list[list[int]] = []
    for first, stop in sorted([*a, *b]):
        if found and first < found[-1][1]:
            last = min(stop, found[-1][1]) - 1
            raise ArgumentError(f"both statistics cover the windows {first} to {last}")
        if found and first == found[-1][1]:
            found[-1] = [found[-1][0], stop]
        else:
            found.append([first, stop])
    return found


def _used_windows(states: Iterable[State], contexts: Contexts) -> Contexts:
    """The windows that hold some largest value, in order."""
    used: set[tuple[int, int]] = set()
    for state in states:
        if "top.document" in state:
            pairs = np.stack([state["top.document"].reshape(-1), state["top.start"].reshape(-1)], 1)
            used.update(map(tuple, np.unique(pairs, axis=0).tolist()))
    return {window: contexts[window] for window in sorted(used) if window[0] >= 0}


def _window_arrays(contexts: Contexts) -> dict[str, NDArray[Any]]:
    ids = [np.asarray(each, np.int32) for each in contexts.values()]
    places = np.array(list(contexts), np.int64).reshape(-1, 2)
    return {
        "windows/document": np.ascontiguousarray(places[:, 0]),
        "windows/start": np.ascontiguousarray(places[:, 1]),
        "windows/first": np.array([0, *np.cumsum([len(each) for each in ids])], np.int64),
        "windows/token_id": np.concatenate([np.zeros(0, np.int32), *ids]),
    }
