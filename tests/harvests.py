"""What the tests of harvests share: a dataset, options that make several small shards, and every
byte of a folder."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import llamaprobe as lp

POINTS = ("x:1-2", "q:0", "logits")


def documents(n: int = 40, seed: int = 3) -> list[list[int]]:
    """Token ids, 1 to 90 of each document."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 960, rng.integers(1, 91)).tolist() for _ in range(n)]


def make_plan(
    out: Path | str, data: Any = None, model: lp.Model | None = None, **options: Any
) -> Any:
    model = model or lp.load("demo", threads=1)
    given = {"points": POINTS, "max_tokens": 40, "shard_rows": 200} | options
    return lp.plan_harvest(model, documents() if data is None else data, out, **given)


def finish(plan: Any, **how: Any) -> str:
    """Make what is missing; the root."""
    from llamaprobe.data.harvest import run_plan

    assert run_plan(plan, **how)
    return lp.read_harvest(plan.files.place).root


def hashes(folder: Path) -> dict[str, str]:
    """Of the files that the root covers."""
    paths = [folder / "plan.json", *folder.rglob("*.safetensors")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]
