"""Makes one shard: a pure function of weights, plan and shard number.

The files of a shard are written under temporary names, fsynced and renamed; then its sidecar marks
it as complete. A kill loses only the shard in progress. Two writers of one shard write the same
bytes, so that no lock is needed.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import function, refusal, whole
from ..files.atomic import remove_leftovers
from ..model import Model
from ..perf import machine
from .batches import BATCH_TOKENS, Forward, ids_of
from .layout import DONE, ROWS, done_name, root_of, shard_name
from .manifest import check_expected
from .model_place import check_arithmetic, check_model, model_of
from .plan import Plan, open_plan, positions_of
from .rounding import encode
from .tensor_file import TensorFile, TensorHash


@dataclass(frozen=True)
class ShardInfo:
    """A complete shard."""

    shard: int
    """Its number, from 0."""
    n_rows: int
    """Rows of every point in it."""
    sha256: str
    """The sha256 over the names and hashes of its files: equal for equal shards."""
    is_new: bool
    """Whether this call made it."""
    seconds: float
    """The time that this call took."""


def harvest_shard(
    plan: Plan | str | os.PathLike[str],
    shard: int,
    *,
    model: Model | str | None = None,
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    report: Callable[[int], object] | None = None,
) -> ShardInfo:
    """Make shard number `shard` of a plan, unless it is already complete. An engine for many
    machines needs only this call: any number of processes may make any shards, in any order, even
    the same one twice; the bytes are always the same.

    plan: a Plan, or the path or URL of one.
    model: an open model, or what `load` takes. Default: the model that the plan was made with, at
        its recorded place.
    threads, batch_tokens: speed and memory; they change no bit.
    report: called with the number of tokens of each batch.

    Raises ArgumentError (no such shard, another model or arithmetic version), FileError (a full
    disk; finished shards are kept), OutOfMemory (which names the document), FileChangedError.
    """
    began = time.perf_counter()
    batch_tokens, report = whole("batch_tokens", batch_tokens, 1), function("report", report)
    plan = open_plan(plan)
    shard = plan.check_shard(shard)
    if found := plan.sidecar(shard):
        return _info(plan, shard, found["files"], False, began)
    opened = opened_model(plan, model)
    remove_killed(plan)
    with contextlib.ExitStack() as stack:
        files: dict[str, TensorHash] = {}
        for target, tensors in plan.tensors(shard).items():
            path = plan.folder / shard_name(target, shard)
            file = TensorFile(path, tensors, plan.metadata(shard))
            files[target] = stack.enter_context(file)
        entries = write_values(
            plan, shard, opened, files, threads=threads, batch_tokens=batch_tokens, report=report
        )
        check_expected(plan, entries)
        for each in files.values():
            each.sync()
        for each in files.values():
            each.rename()
    _commit(plan, shard, entries, time.perf_counter() - began)
    return _info(plan, shard, entries, True, began)


def opened_model(plan: Plan, model: Model | str | None) -> Model:
    """The argument `model` of `harvest_shard` as an open model. ArgumentError for another model."""
    check_arithmetic(plan)
    if model is not None and not isinstance(model, (Model, str, os.PathLike)):
        raise refusal("model", model, "what lp.load(...) returned, or takes")
    if not isinstance(model, Model):
        return model_of(plan, model)
    check_model(model, plan)
    return model


def write_values(
    plan: Plan,
    shard: int,
    model: Model,
    files: Mapping[str, TensorHash],
    *,
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    report: Callable[[int], object] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute a shard into `files` (target -> file); returns name -> sidecar entry."""
    windows = range(int(plan.windows.shard[shard]), int(plan.windows.shard[shard + 1]))
    for array in index_of(plan, windows):
        files[ROWS].write(array)
    counts = {target: NonFinite() for target in plan.targets}
    forward = Forward(plan, model, threads=threads, batch_tokens=batch_tokens)
    for batch in forward.run(windows, report):
        while batch.values:  # free each value before the next batch is computed
            target, values = batch.values.popitem()
            has_nan = counts[target].add(values)
            files[target].write(encode(values, plan.dtype, has_nan))
            del values
    return {
        shard_name(target, shard): {
            **file.entry(),
            **(counts[target].facts() if target in counts else {}),
        }
        for target, file in files.items()
    }


def index_of(plan: Plan, windows: range) -> list[NDArray[Any]]:
    """The tensors of INDEX for the rows of these windows."""
    table = plan.windows
    positions = [positions_of(plan, window) for window in windows]
    counts = [len(each) for each in positions]
    part = slice(windows.start, windows.stop)
    return [
        np.repeat(table.document[part], counts),
        np.repeat(table.start[part], counts),
        np.concatenate(positions).astype(np.int32),
        np.concatenate([ids_of(plan, w)[kept] for w, kept in zip(windows, positions, strict=True)]),
    ]


class NonFinite:
    """Counts NaN and infinities of a target, per channel."""

    def __init__(self) -> None:
        self._nan: Counter[int] = Counter()
        self._inf: Counter[int] = Counter()

    def add(self, values: NDArray[np.float32]) -> bool:
        """Count values [n_rows, ...]; returns whether one is NaN."""
        with np.errstate(invalid="ignore", over="ignore"):
            if np.isfinite(np.sum(values)) or np.all(np.isfinite(values)):
                return False
        rows = values.reshape(len(values), -1)
        for found, counter in ((np.isnan(rows), self._nan), (np.isinf(rows), self._inf)):
            per_channel = found.sum(axis=0)
            counter.update({int(c): int(per_channel[c]) for c in np.flatnonzero(per_channel)})
        return bool(self._nan)

    def facts(self) -> dict[str, Any]:
        """The entries for the sidecar; empty if all values are finite."""
        if not self._nan and not self._inf:
            return {}
        channels = sorted({*self._nan, *self._inf})
        return {
            "nan": self._nan.total(),
            "inf": self._inf.total(),
            "channels": {str(c): [self._nan[c], self._inf[c]] for c in channels},
        }


def _commit(plan: Plan, shard: int, entries: dict[str, Any], seconds: float) -> None:
    """Make the files durable in the harvest's place, then write the sidecar. FileError."""
    try:
        plan.files.commit(entries)
    finally:
        plan.files.release(entries)
    kernels = next(each.name for each in machine.kernels() if each.in_use)
    made = {"kernels": kernels, "cpu": machine.cpu_name(), "seconds": round(seconds, 3)}
    sidecar = {"plan": plan.sha256, "shard": shard, "files": entries, "made": made}
    plan.files.write_json(done_name(shard), sidecar)


def remove_killed(plan: Plan) -> None:
    """Remove the temporary files of killed writers."""
    for name in (".", ROWS, DONE, *plan.targets):
        with contextlib.suppress(OSError):
            remove_leftovers(plan.folder / name)


def _info(
    plan: Plan, shard: int, entries: Mapping[str, Any], is_new: bool, began: float
) -> ShardInfo:
    return ShardInfo(
        shard=shard,
        n_rows=len(plan.rows_of(shard)),
        sha256=root_of({name: entry["sha256"] for name, entry in entries.items()}),
        is_new=is_new,
        seconds=time.perf_counter() - began,
    )
