"""The cost of a harvest: files, bytes, and hours on this machine."""

import time
from typing import Any

from ..messages import counted, show_bytes
from ..model import Model
from .batches import BATCH_TOKENS, Forward
from .plan import Plan
from .planning import skipped_of
from .tensor_file import TensorHash

_SAMPLE_TOKENS = 8192  # the sample ends at whichever limit comes first
_SAMPLE_SECONDS = 3.0


def estimate(
    plan: Plan, model: Model, *, threads: int | None = None, batch_tokens: int = BATCH_TOKENS
) -> dict[str, Any]:
    """The sizes of a plan, and the speed of its first batches on this machine. Raises as
    `harvest_shard`."""
    windows = plan.windows
    forward = Forward(plan, model, threads=threads, batch_tokens=batch_tokens)
    began, n_tokens = time.perf_counter(), 0
    for batch in forward.run(range(plan.n_windows)):
        n_tokens += batch.n_tokens
        if n_tokens >= _SAMPLE_TOKENS or time.perf_counter() - began > _SAMPLE_SECONDS:
            break
    speed = n_tokens / (time.perf_counter() - began)
    total = int((windows.stop - windows.start).sum())
    n_bytes = sum(
        TensorHash(tensors, plan.metadata(shard)).n_bytes
        for shard in range(len(plan))
        for tensors in plan.tensors(shard).values()
    )
    return {
        "documents": plan.n_documents,
        "skipped": plan.facts["skipped"],
        "tokens": total,
        "windows": plan.n_windows,
        "rows": plan.n_rows,
        "shards": len(plan),
        "files": len(plan) * (1 + len(plan.targets)),
        "bytes": n_bytes,
        "tokens_per_second": round(speed, 1),
        "hours": round(total / speed / 3600, 4),
    }


def lines_of(found: dict[str, Any], plan: Plan) -> list[str]:
    """The estimate as lines of text."""
    skipped = skipped_of(plan)
    return [
        f"{counted(found['documents'], 'document')}, {counted(found['tokens'], 'token')} to run"
        + (f"; left out: {skipped}" if skipped else ""),
        f"{counted(found['rows'], 'row')} of {', '.join(plan.targets)}",
        f"{counted(found['shards'], 'shard')}, {counted(found['files'], 'file')},"
        f" {show_bytes(found['bytes'])}",
        f"{found['hours']:.2f} hours here, at {found['tokens_per_second']:.0f} tokens a second",
    ]
