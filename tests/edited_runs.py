"""Random runs with edits and new tokens, saved in random ways: `verify` must accuse none of them.

`python tests/edited_runs.py 100` tries 100 of each family.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import llamaprobe as lp
from llamaprobe.checks.verify import verify_run

_MAPS = ("scores", "scores_raw", "pattern")


def double(value: np.ndarray, at: Any) -> None:
    value *= 2


def add_positions(value: np.ndarray, at: Any) -> np.ndarray:
    """What it does to a row depends on the row alone."""
    rows = at.positions.reshape(-1, *(1,) * (value.ndim - 1)) if at.point not in _MAPS else 1
    return value + np.float32(0.01) * rows


def draw_edits(rng: np.random.Generator, run: lp.Run, n_prompt: int, *, new: bool) -> lp.Edits:
    """Of any points that the model has; `run`: one with all points."""
    e = lp.Edits()
    for _ in range(rng.integers(1, 6)):
        point = str(rng.choice(run.points))
        layers = run.layers_of(point)
        layer = int(rng.choice(layers)) - (rng.integers(2) * len(layers)) if layers else None
        shape = run[point].shape[bool(layers) :]
        rows = _rows(rng, n_prompt, new=new)
        index: tuple[Any, ...] = (slice(None), rows) if point in _MAPS else (rows,)
        if point in _MAPS and rng.integers(2):
            index = (int(rng.integers(shape[0])), rows)
        elif len(shape) > 1 and point not in _MAPS and rng.integers(2):
            index = (rows, int(rng.integers(shape[1])))
        place = (e[point] if layer is None else e[point, int(layer)])[index]
        how = rng.integers(6)
        value = np.float32(rng.normal())
        if how == 0 and not point.endswith("_rms"):
            place._assign("=", value)
        elif how == 1:
            place._assign("*=", 1 + abs(value))
        elif how == 2 and not point.endswith("_rms"):
            place._assign(str(rng.choice(["+=", "-="])), value)
        elif how == 3:
            place.map(double if rng.integers(2) else add_positions)
        elif how == 4 and point in ("scores", "logits"):
            place = e[point, int(layer)] if layer is not None else e[point]  # type: ignore[index]
            (place[:, 2:, 1] if point == "scores" else place[..., [1, 2]])._assign("=", -np.inf)
        elif point not in _MAPS and n_prompt == len(run):
            e += lp.like(run, point, None if layer is None else int(layer), np.s_[: n_prompt // 2])
        else:
            place._assign("*=", np.float32(1.5))
    return e


def _rows(rng: np.random.Generator, n: int, *, new: bool) -> Any:
    first = int(rng.integers(n))
    drawn = [first, slice(first, None), -1, slice(None), slice(-2, None), lp.PROMPT, lp.DECIDING]
    drawn += [[n - 1, 0] if n > 1 else 0, slice(0, n), *([lp.NEW, n + 1] if new else [])]
    return drawn[rng.integers(len(drawn))]


def draw_run(rng: np.random.Generator, model: lp.Model) -> lp.Run:
    """With edits, or new tokens, or both."""
    vocab = model.config.vocab_size
    ids = rng.integers(0, vocab, rng.integers(3, 14)).tolist()
    full = model.run(ids, points="all")
    some = rng.permutation(list(full.points))[: rng.integers(1, 8)].tolist()
    before = [f"{name}.before" for name in some if rng.integers(4) == 0]
    points: Any = [full.points, [*some, *before, "logits"]][rng.integers(2)]
    if rng.integers(2):
        return model.run(ids, points=points, edits=draw_edits(rng, full, len(ids), new=False))
    edits = draw_edits(rng, full, len(ids), new=True) if rng.integers(4) else None
    points = [points, ["x"], []][rng.integers(3)]
    sample = None
    if rng.integers(3):
        top_k, top_p = [None, 5][rng.integers(2)], [None, 0.9][rng.integers(2)]
        sample = lp.Sample(
            float(rng.uniform(0.1, 2)), top_k, top_p, seed=int(rng.integers(1 << 62))
        )
    n_tokens = int(rng.integers(2, 12))
    if rng.integers(3):
        stop = ("eos",) if rng.integers(2) else ()
        return model.generate(ids, n_tokens, sample=sample, points=points, edits=edits, stop=stop)
    session = model.start(ids, points=points, edits=edits)
    session.generate(n_tokens, sample=sample, stop=())
    session.rewind(int(rng.integers(1, len(session))))
    if rng.integers(2):
        session.extend(rng.integers(0, vocab, 3).tolist())
    if points and rng.integers(2):
        return session.run
    return session.generate(n_tokens, sample=sample, stop=())


def save(rng: np.random.Generator, run: lp.Run, out: Path) -> None:
    points: Any = None
    if rng.integers(2) and run.points:
        points = rng.permutation(list(run.points))[: rng.integers(1, 4)].tolist()
    format = str(rng.choice(["csv", "npy", "hex", "txt", "q8.8"]))
    digits = [None, None, 4][rng.integers(3)] if format == "csv" else None
    header = format == "npy" or bool(rng.integers(3))
    run.save(out, points=points, format=format, digits=digits, header=header, masks=False)
    if rng.integers(4) == 0:
        lp.read_run(out).save(out, force=True, header=header, masks=False, format=format)


def accused(model: lp.Model, seed: int, folder: Path) -> list[str]:
    """The faults that verify finds in one random run, with its model and without."""
    rng = np.random.default_rng(seed)
    try:
        run = draw_run(rng, model)
    except lp.ArgumentError:  # a drawn edit that cannot be made, or another table of LongRoPE
        return []
    save(rng, run, folder)
    checks = [*verify_run(folder, model), *verify_run(folder)]
    return [f"{seed}: {c.what}: {c.fault} ({c.roundings})" for c in checks if c.fault]


def all_accused(n: int, first: int = 0) -> Iterator[str]:
    import family_models  # needs transformers

    for case in family_models.family_cases():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = lp.load(case.make(Path(folder) / "model"))
            for seed in range(first, first + n):
                out = Path(folder) / f"run{seed}"
                yield from (f"{case.name} {line}" for line in accused(model, seed, out))


if __name__ == "__main__":
    for line in all_accused(*map(int, sys.argv[1:])):
        print(line, flush=True)
