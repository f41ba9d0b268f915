"""Runs windows through the model in batches of a few thousand tokens.

Batching never changes a bit. A batch that does not fit into memory is halved and run again; the
remaining windows then run in batches of that size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.folder import named
from ..errors import FormatError, OutOfMemory
from ..messages import counted
from ..model import Model
from .layout import PLAN
from .plan import Plan, positions_of
from .targets import Target, captures_of, find_targets, in_core_order

BATCH_TOKENS = 2048
_BATCH_BYTES = 512 << 20  # captured values per batch


@dataclass(frozen=True)
class Batch:
    """The rows of consecutive windows."""

    n_tokens: int
    values: dict[str, NDArray[np.float32]]
    """Target -> [n_rows, ...]."""


class Forward:
    """The forward passes of one plan."""

    def __init__(self, plan: Plan, model: Model, *, threads: int | None, batch_tokens: int) -> None:
        """Raises ArgumentError if the model is closed."""
        self._plan, self._model = plan, model
        self._core = model._open()
        self._n_threads = model._n_threads(threads)
        targets = _targets_of(plan, model)
        self._captures = captures_of(targets)
        self._order: list[list[Target]] = in_core_order(targets)
        value_bytes = 4 * sum(target.width for target in targets)
        self._limit = max(1, min(batch_tokens, _BATCH_BYTES // value_bytes))

    def run(self, windows: range, report: Callable[[int], object] | None = None) -> Iterator[Batch]:
        """The batches, in order. `report` is called with the number of tokens of each. OutOfMemory
        (a single window does not fit), FileChangedError."""
        at = windows.start
        while at < windows.stop:
            batch = self._next(at, windows.stop)
            try:
                found = self._batch(batch)
            except OutOfMemory as error:
                if len(batch) == 1:
                    self._refuse(batch.start, error)
                self._limit = max(1, self._n_tokens(batch) // 2)
                continue
            yield found
            del found  # free it before the next batch
            at = batch.stop
            if report is not None:
                report(self._n_tokens(batch))

    def _next(self, first: int, stop: int) -> range:
        """As many windows from `first` on as fit into the limit, at least one."""
        windows, last, n_tokens = self._plan.windows, first, 0
        while last < stop:
            n_tokens += int(windows.stop[last] - windows.start[last])
            if last > first and n_tokens > self._limit:
                break
            last += 1
        return range(first, last)

    def _n_tokens(self, batch: range) -> int:
        windows, part = self._plan.windows, slice(batch.start, batch.stop)
        return int((windows.stop[part] - windows.start[part]).sum())

    def _batch(self, batch: range) -> Batch:
        ids = [ids_of(self._plan, window) for window in batch]
        starts = [0, *np.cumsum([len(one) for one in ids]).tolist()]
        joined = np.concatenate(ids)
        with named(self._model.path):
            arrays = self._core.run(joined, starts, self._captures, n_threads=self._n_threads)
        rows = self._rows(batch, starts)
        values = {}
        for targets, array in zip(self._order, arrays, strict=True):
            for target, layer in zip(targets, array, strict=True):
                whole = layer.reshape(len(joined), *target.shape)
                values[target.name] = whole if rows is None else whole[rows]
        return Batch(len(joined), values)

    def _rows(self, batch: range, starts: list[int]) -> NDArray[np.int64] | None:
        """The tokens of the batch that give rows; None: all."""
        row = self._plan.windows.row
        if row[batch.stop] - row[batch.start] == starts[-1]:
            return None
        kept = [positions_of(self._plan, w) + s for w, s in zip(batch, starts, strict=False)]
        return np.concatenate(kept)

    def _refuse(self, window: int, error: OutOfMemory) -> None:
        windows = self._plan.windows
        n = int(windows.stop[window] - windows.start[window])
        document = int(windows.document[window])
        error.reword(
            f"document {document} alone, {counted(n, 'token')} from token"
            f" {int(windows.start[window])} on, does not fit: {error}"
        )
        raise error


def _targets_of(plan: Plan, model: Model) -> list[Target]:
    """The plan's targets. FormatError if their shapes are not the model's, PointError."""
    parts = [name.partition(".") for name in plan.targets]
    names = [(point, int(layer)) if layer else point for point, _, layer in parts]
    targets = find_targets(names, model.config)
    if {target.name: target.shape for target in targets} != plan.shapes:
        raise FormatError(
            f"{plan.files.shown(PLAN)}: its targets do not have the shapes of this model's points"
        )
    return targets


def ids_of(plan: Plan, window: int) -> NDArray[np.int32]:
    """The token ids of a window: in place, or a copy that begins with BOS for later windows under
    `bos="always"`."""
    windows, bos = plan.windows, plan.facts["options"].get("bos_token")
    start = int(windows.start[window])
    ids = plan.tokens.of(int(windows.document[window]))[start : int(windows.stop[window])]
    if start and bos is not None:
        ids = ids.copy()
        ids[0] = bos
    return ids
