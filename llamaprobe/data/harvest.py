"""Makes all shards of a plan, or a part of them, and the manifest once none is missing."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict, Unpack

from .. import stderr
from ..arguments import function, whole
from ..errors import ArgumentError
from ..files.atomic import check_space
from ..messages import counted, printable
from ..model import Model
from ..points import Name
from .batches import BATCH_TOKENS
from .manifest import write_manifest
from .plan import Plan
from .planning import plan_harvest
from .reading import Harvest
from .shard import ShardInfo, harvest_shard, opened_model, remove_killed


class PlanOptions(TypedDict, total=False):
    """The options of `plan_harvest`; see there."""

    points: str | Iterable[Name]
    positions: str
    dtype: str
    max_tokens: int | None
    long: str
    stride: int
    bos: str
    order: str
    shard_rows: int | None
    limit_tokens: int | None
    field: str | None
    ids: str | None
    chat: str | None
    on_bad: str
    new_plan: bool


def harvest(
    model: Model,
    data: object,
    out: str | os.PathLike[str],
    *,
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
    on_shard: Callable[[ShardInfo], object] | None = None,
    **options: Unpack[PlanOptions],
) -> Harvest:
    """Run a dataset through a model and store values of every token in `out`, exactly once. After a
    kill or an error, the same call resumes.

    data, out and options (`points` is required): see `plan_harvest`. An iterable is read before
    anything is computed, and not again when the harvest resumes. threads, batch_tokens: speed and
    memory; they change no bit. progress: show a bar on stderr. on_shard: called with each
    ShardInfo.

    Raises the errors of `plan_harvest` and `harvest_shard`.
    """
    batch_tokens, on_shard = whole("batch_tokens", batch_tokens, 1), function("on_shard", on_shard)
    plan = plan_harvest(model, data, out, progress=progress, **options)  # type: ignore[misc]
    run_plan(
        plan,
        model,
        threads=threads,
        batch_tokens=batch_tokens,
        progress=progress,
        on_shard=on_shard,
    )
    return Harvest(plan)


def run_plan(
    plan: Plan,
    model: Model | str | None = None,
    *,
    part: tuple[int, int] | None = None,
    shards: Iterable[int] | None = None,
    threads: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = False,
    on_shard: Callable[[ShardInfo], object] | None = None,
) -> bool:
    """Make the missing shards of a plan, and the manifest once all are there; returns whether they
    are.

    part: (i, n) makes the shards i, i + n, i + 2n, ..., with i from 0. shards: only these.
    Raises as `harvest_shard`, and FileError if the disk lacks space.
    """
    remove_killed(plan)
    chosen = list(_chosen(plan, part, shards))
    found = zip(chosen, plan.sidecars(chosen), strict=True)
    todo = [shard for shard, sidecar in found if sidecar is None]
    if todo:
        sizes = [len(plan.rows_of(shard)) for shard in todo]
        n_rows = max(sizes) if plan.files.is_remote else sum(sizes)
        check_space(plan.folder, n_rows * plan.row_bytes, "make room, or harvest a part of it")
        opened = opened_model(plan, model)
        with _bar(plan, todo, progress) as report:
            for shard in todo:
                info = harvest_shard(
                    plan,
                    shard,
                    model=opened,
                    threads=threads,
                    batch_tokens=batch_tokens,
                    report=report,
                )
                if on_shard is not None:
                    on_shard(info)
    sidecars = plan.sidecars(range(len(plan)))
    if None in sidecars:
        return False
    write_manifest(plan, sidecars)
    return True


def _chosen(
    plan: Plan, part: tuple[int, int] | None, shards: Iterable[int] | None
) -> Iterable[int]:
    """ArgumentError."""
    if shards is not None:
        return [plan.check_shard(shard) for shard in shards]
    if part is None:
        return range(len(plan))
    number, n_parts = part
    if n_parts < 1 or not 0 <= number < n_parts:
        raise ArgumentError(
            f"part is {printable(repr(part), 40)}; give (i, n) with i from 0 to n - 1"
        )
    return range(number, len(plan), n_parts)


@contextlib.contextmanager
def _bar(plan: Plan, shards: list[int], shown: bool) -> Iterator[Callable[[int], Any] | None]:
    """A bar of tokens done, tokens per second and the time left."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    what = f"{counted(len(shards), 'shard')} of {len(plan)}"
    total = sum(n_tokens_of(plan, shard) for shard in shards)
    options = {"unit": "tokens", "unit_scale": True, "leave": False, "desc": what}
    with tqdm(total=total, file=stderr.STREAM, **options) as bar:
        yield bar.update


def n_tokens_of(plan: Plan, shard: int) -> int:
    """The number of tokens that are run for a shard."""
    windows = plan.windows
    part = slice(int(windows.shard[shard]), int(windows.shard[shard + 1]))
    return int((windows.stop[part] - windows.start[part]).sum())
