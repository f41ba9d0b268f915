"""A harvest on a Ray cluster (the extra `ray`).

    import llamaprobe as lp

    plan = lp.plan_harvest(model, data, out, points="x:10")    # out: a shared folder, or a URL
    h = lp.ray.harvest(plan, num_cpus=4)

Ray carries the number of a shard there and its sha256 back. Weights, plan and values go between the
workers and the disk, never through Ray's object store, and the sidecars of the harvest are its only
checkpoint: when a worker, an actor or the driver dies, any other launcher can finish the folder.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .arguments import function, whole
from .data.batches import BATCH_TOKENS
from .data.manifest import write_manifest
from .data.place import is_url
from .data.plan import Plan, open_plan
from .data.reading import Harvest
from .data.shard import ShardInfo, harvest_shard
from .errors import ArgumentError
from .files.paths import checked_path

__all__ = ["Worker", "harvest"]


class Worker:
    """Makes shards of one plan: an actor, or the class for `ray.data.Dataset.map_batches` over a
    dataset with the column `id`. It holds no state, so it may be restarted at any time."""

    def __init__(
        self,
        plan: str | os.PathLike[str],
        threads: int = 1,
        batch_tokens: int = BATCH_TOKENS,
        model: str | None = None,
    ) -> None:
        """`plan`: its path or URL; the rest as for `harvest_shard`."""
        self._plan = str(plan) if is_url(plan) else os.fspath(checked_path(plan))
        self._how: dict[str, Any] = {"threads": threads, "batch_tokens": batch_tokens}
        self._how["model"] = model

    def make(self, shard: int) -> ShardInfo:
        """The errors of `harvest_shard`."""
        return harvest_shard(self._plan, shard, **self._how)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        made = [self.make(int(number)) for number in batch["id"]]
        return {
            "shard": [each.shard for each in made],
            "n_rows": [each.n_rows for each in made],
            "sha256": [each.sha256 for each in made],
        }


def harvest(
    plan: Plan | str | os.PathLike[str],
    *,
    num_cpus: int = 1,
    batch_tokens: int = BATCH_TOKENS,
    model: str | None = None,
    retries: int = 10,
    on_shard: Callable[[ShardInfo], object] | None = None,
) -> Harvest:
    """Make the missing shards of a plan as tasks of Ray, and write the manifest.

    num_cpus: of a task, and its threads. model: where the workers find the model, if not where it
    was at planning. retries: of a shard whose worker died. on_shard: called with each ShardInfo.

    Raises the errors of `harvest_shard` (Ray's RayTaskError is also of their class) at the first
    shard that fails, RayError, and ArgumentError without Ray.
    """
    ray, plan, on_shard = _ray(), open_plan(plan), function("on_shard", on_shard)
    num_cpus, retries = whole("num_cpus", num_cpus, 1), whole("retries", retries, -1)
    worker = Worker(plan.files.place, num_cpus, batch_tokens, model)
    task = ray.remote(num_cpus=num_cpus, max_retries=retries)(_make)
    waiting = [task.remote(worker, shard) for shard in plan.missing()]
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            for each in done:
                info = ray.get(each)
                if on_shard is not None:
                    on_shard(info)
    finally:
        for each in waiting:
            ray.cancel(each)
    write_manifest(plan)
    return Harvest(plan)


def _make(worker: Worker, shard: int) -> ShardInfo:
    return worker.make(shard)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ArgumentError("llamaprobe.ray needs Ray: pip install 'llamaprobe[ray]'") from None
