"""Runs a dataset through the model and updates statistics in C while values are in memory; no
activation is kept."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from .. import _core, stderr
from ..arguments import choice, listed, refusal, whole
from ..checkpoint.folder import named
from ..checkpoint.quantization import quantization_entry
from ..data.batches import BATCH_TOKENS, ids_of
from ..data.model_place import numbers_of, weight_hashes
from ..data.plan import Plan
from ..data.planning import plan_harvest
from ..errors import ArgumentError, OutOfMemory
from ..messages import printable
from ..model import Model
from ..origin import ARITHMETIC_VERSION
from ..points import Layers, Name
from ..views.methods import check_model
from . import quantiles
from .chosen import Chosen, read_chosen
from .state import State, from_core
from .stats import Contexts, Stats, _used_windows
from .target import Observed, check_statistics, find_observed
from .tokens import By, Groups, Mask, data_sha256
from .turns import assistant_turns
from .writing import FORMAT_VERSION

POINTS = ("x_norm", "z", "x_mid_norm", "hidden")
_MAP_FLOATS = 1 << 26  # floats in the largest attention map of a batch


class DataOptions(TypedDict, total=False):
    """The options of `plan_harvest` that concern the data; see there."""

    positions: str
    max_tokens: int | None
    long: str
    stride: int
    bos: str
    order: str
    limit_tokens: int | None
    field: str | None
    ids: str | None
    chat: str | None
    on_bad: str


def collect(
    model: Model,
    data: object,
    *,
    stats: str | Iterable[str] = ("range", "moments", "histogram"),
    points: str | Iterable[Name] = POINTS,
    layers: Layers = None,
    mask: Mask = None,
    by: By = "first",
    exact: Iterable[float] = (),
    keys: int = 64,
    part: tuple[int, int] = (0, 1),
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
    **options: Unpack[DataOptions],
) -> Stats:
    """Statistics of capture points over a dataset; no activation is kept.

    data: as for `plan_harvest`, or a plan that it made, which several processes can share.
    stats: "range", "moments", "histogram", "gram", "top:K" (the K largest values of each channel
        and where they occurred), "firing:THETA" (how often a channel is above THETA). Counts of
        finite, zero, NaN and infinite values are always collected.
    points, layers: as for `Model.run`, and "x:10" or "hidden:4-6". Default: the inputs of the
        linear layers. Attention maps have channels [n_heads, keys]: the first `keys` keys of a
        window, with one value for each query that sees the key.
    mask: which tokens count: one bool per token for each document, a function of a document's token
        ids, or "assistant" for the assistant's turns in chats, including the token that ends each.
        `positions` (see `plan_harvest`) selects by position.
    by: groups of tokens with separate statistics: "first" (position 0 apart), "none", "position",
        "token" (for a small vocabulary), or a list of token ids; other tokens are then left out.
    exact: quantiles to find exactly, by running the data two more times. Needs "histogram".
    part: (i, n): collect only part i, counted from 0, of n parts with about as many windows each.
        `merge_stats` combines the parts, to the same bytes as one run.
    threads, batch_tokens: speed and memory; they change no bit. progress: show a bar on stderr.
    options: data options of `plan_harvest`: max_tokens, long, stride, bos, order, positions,
        limit_tokens, field, ids, chat, on_bad.

    Raises ArgumentError, PointError, the errors of `plan_harvest`, OutOfMemory, FileChangedError.
    """
    check_model(model)
    chosen = read_chosen(stats)
    keys = whole("keys", keys, 1, model.config.max_positions + 1)
    targets = find_observed(points, layers, model.config, keys)
    check_statistics(targets, chosen)
    wanted = quantiles.read_exact(exact, chosen)
    batch_tokens = whole("batch_tokens", batch_tokens, 1)
    with _planned(model, data, progress, options) as plan:
        if isinstance(mask, str):
            choice("mask", mask, ("assistant",))
            mask = assistant_turns(model.tokenizer)
        groups = Groups(plan, by, mask, model.config.vocab_size)
        windows = _part(part, len(plan.windows.document))
        run = _Run(plan, model, groups, windows, threads, batch_tokens, progress)
        if wanted:
            quantiles.check_tokens(run.n_planned)
        found = run.through(targets, chosen)
        if wanted:
            quantiles.find(found, wanted, run.add, targets)
        return run.stats(found, chosen, targets, wanted)


@contextlib.contextmanager
def _planned(model: Model, data: object, progress: bool, options: DataOptions) -> Iterator[Plan]:
    """The plan of a dataset; in a temporary folder unless `data` is a plan."""
    if isinstance(data, Plan):
        if options:
            raise ArgumentError(f"a plan has its options already; leave out {min(options)}")
        yield data
        return
    for name in options.keys() - DataOptions.__annotations__.keys():
        raise ArgumentError(f"{printable(name)} is not an option of statistics")
    with tempfile.TemporaryDirectory(prefix="llamaprobe-") as folder:
        path = os.path.join(folder, "plan")
        yield plan_harvest(model, data, path, points="x_rms:0", progress=progress, **options)


def _part(part: tuple[int, int], n_windows: int) -> range:
    """ArgumentError."""
    numbers = listed("part", part, "(i, n)")
    if len(numbers) != 2:
        raise refusal("part", part, "(i, n)")
    i, n = (whole("part", each, 0) for each in numbers)
    if not 0 <= i < n:
        raise ArgumentError(f"part is {(i, n)}; i is from 0 to n - 1")
    return range(i * n_windows // n, (i + 1) * n_windows // n)


class _Run:
    """Runs the windows of a plan through the model, once or several times."""

    def __init__(
        self,
        plan: Plan,
        model: Model,
        groups: Groups,
        windows: range,
        threads: int | None,
        batch_tokens: int,
        progress: bool,
    ) -> None:
        self._plan, self._model, self._groups, self._windows = plan, model, groups, windows
        self._core = model._open()
        self._n_threads = model._n_threads(threads)
        self._limit, self._progress = batch_tokens, progress
        self._has_maps = False
        self.n_tokens = [0] * len(groups.names)

    @property
    def n_planned(self) -> int:
        """Tokens of all windows."""
        return self._length(self._windows)

    def through(self, targets: list[Observed], chosen: Chosen) -> dict[str, State]:
        """Target name -> state. OutOfMemory, FileChangedError."""
        core = _core.Stats(
            tuple(each.for_core() for each in targets),
            len(self._groups.names),
            moments=chosen.moments,
            histogram=chosen.histogram,
            gram=chosen.gram,
            top=chosen.top,
            thetas=np.array(chosen.thetas, np.float32),
        )
        self._has_maps = any(each.keys for each in targets)
        for groups in self.add(core):
            counts = np.bincount(groups[groups >= 0], minlength=len(self.n_tokens))
            self.n_tokens = [a + b for a, b in zip(self.n_tokens, counts.tolist(), strict=True)]
        found = {}
        for number, each in enumerate(targets):
            parts = [core.arrays(number, g) for g in range(len(self.n_tokens))]
            found[each.name] = from_core(parts, chosen)
        return found

    def add(self, core: _core.Stats) -> Iterator[NDArray[np.int32]]:
        """Run all windows; yields the group of each token, batch by batch. OutOfMemory."""
        at, limit = self._windows.start, self._limit
        with self._bar() as report:
            while at < self._windows.stop:
                batch = self._next(at, limit)
                try:
                    groups = self._batch(core, batch)
                except OutOfMemory:
                    if len(batch) == 1 or not core.is_whole:
                        raise
                    limit = max(1, self._length(batch) // 2)
                    continue
                at = batch.stop
                report(len(groups))
                yield groups

    def _next(self, first: int, limit: int) -> range:
        """As many windows from `first` on as fit into the limit, at least one."""
        last, n_tokens, n_map = first, 0, 0
        while last < self._windows.stop:
            n = self._length(range(last, last + 1))
            n_tokens, n_map = n_tokens + n, n_map + n * n * self._model.config.n_heads
            if last > first and (n_tokens > limit or (self._has_maps and n_map > _MAP_FLOATS)):
                break
            last += 1
        return range(first, last)

    def _length(self, batch: range) -> int:
        windows, which = self._plan.windows, slice(batch.start, batch.stop)
        return int((windows.stop[which] - windows.start[which]).sum())

    def _batch(self, core: _core.Stats, batch: range) -> NDArray[np.int32]:
        windows, which = self._plan.windows, slice(batch.start, batch.stop)
        ids = [ids_of(self._plan, window) for window in batch]
        groups = np.concatenate([self._groups.of(window) for window in batch])
        starts = [0, *np.cumsum([len(one) for one in ids]).tolist()]
        place = windows.document[which], windows.start[which]
        if (groups >= 0).any():
            with named(self._model.path):
                self._core.run(
                    np.concatenate(ids),
                    starts,
                    [],
                    n_threads=self._n_threads,
                    observer=(core, groups, *place),
                )
        return groups

    @contextlib.contextmanager
    def _bar(self) -> Iterator[Any]:
        if not self._progress:
            yield lambda n: None
            return
        from tqdm import tqdm

        with tqdm(
            total=self.n_planned,
            unit=" tokens",
            leave=False,
            dynamic_ncols=True,
            file=stderr.STREAM,
        ) as bar:
            yield bar.update

    def stats(
        self, found: dict[str, State], chosen: Chosen, targets: list[Observed], wanted: list[float]
    ) -> Stats:
        plan, windows = self._plan, self._windows
        numbers = numbers_of(self._model)
        hashes = weight_hashes(self._model)
        weights = [
            {"name": each["name"], "bytes": each["bytes"], "sha256": sha256}
            for each, sha256 in zip(numbers["weights"], hashes, strict=True)
        ]
        facts = {
            "format_version": FORMAT_VERSION,
            "arithmetic_version": ARITHMETIC_VERSION,
            "model": {
                "config": numbers.pop("config"),
                "n_layers": numbers.pop("n_layers"),
                **numbers,  # how quantised weights are read
                "weights": weights,
                **quantization_entry(self._model.origin.quantization),
            },
            "data": {
                "sha256": data_sha256(plan),
                "n_documents": plan.n_documents,
                "n_windows": len(plan.windows.document),
                "max_tokens": plan.options["max_tokens"],
            },
            "positions": plan.options["positions"],
            "mask": self._groups.mask_sha256,
            "by": self._groups.by,
            "groups": self._groups.names,
            "tokens": self.n_tokens,
            "stats": chosen.names(),
            "exact": [repr(q) for q in wanted],
            "targets": {each.name: each.entry() for each in targets},
            "covers": [[windows.start, windows.stop]] if len(windows) else [],
        }
        contexts: Contexts = {}
        if chosen.top:
            contexts = {
                (int(plan.windows.document[w]), int(plan.windows.start[w])): ids_of(plan, w)
                for w in windows
            }
            contexts = {
                place: ids.copy() for place, ids in _used_windows(found.values(), contexts).items()
            }
        return Stats(facts, found, contexts)
