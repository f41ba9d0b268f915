"""verify recomputes every point of every family: it accuses no honest run and finds one altered
number of any point."""

import json
import warnings
from pathlib import Path

import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe.checks.verify import Check, verify_run

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

CASES = {case.name: case for case in family_models.family_cases() + family_models.drawn_cases(1)}
SEEDS = 2


@pytest.fixture(scope="module", params=CASES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[family_models.FamilyCase, lp.Model]:
    case = CASES[request.param]
    folder = case.make(tmp_path_factory.mktemp(case.name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return case, lp.load(folder)


def ids_of(case: family_models.FamilyCase, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, 97, case.n_tokens)


def checked(path: Path, model: lp.Model | None) -> list[Check]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(verify_run(path, model))


def test_honest_runs_are_not_accused(made, tmp_path) -> None:
    case, model = made
    rng = np.random.default_rng(7)
    run = model.run(ids_of(case, rng), points="all")
    points = list(run.points)
    drawn = [points, *(rng.permutation(points)[: rng.integers(1, 8)].tolist() for _ in range(5))]
    for i, some in enumerate(drawn):
        digits = [None, None, 2, 6][rng.integers(4)] if i else None
        run.save(tmp_path / str(i), points=some, digits=digits)
        with_model = checked(tmp_path / str(i), model)
        assert not [c for c in with_model + checked(tmp_path / str(i), None) if c.fault], some
        assert {c.what for c in with_model if c.roundings is not None} == set(some)


@pytest.mark.slow
def test_honest_runs_of_strange_weights_are_not_accused(made, tmp_path) -> None:
    """Each matrix and gain times a number of its own, from 1e-20 to 1e18, or one number throughout."""
    case, model = made
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        folder = strange(rng, Path(model.config.path).parent, tmp_path / f"model{seed}")
        run = lp.load(folder).run(ids_of(case, rng), points="all")
        n = rng.choice([1, 2, 5, len(run.points)])
        some = rng.permutation(list(run.points))[:n].tolist()
        digits = [None, None, 0, 2, 6][rng.integers(5)]
        run.save(tmp_path / f"run{seed}", points=some, digits=digits)
        for opened in (lp.load(folder), None):
            faults = [c for c in checked(tmp_path / f"run{seed}", opened) if c.fault]
            assert not faults, (seed, some, digits)


def strange(rng: np.random.Generator, folder: Path, out: Path) -> Path:
    weights, power = models.read_checkpoint(folder), rng.choice([0.5, 3, 20])
    with np.errstate(over="ignore", under="ignore"):
        for name, w in weights.items():
            if rng.integers(3) == 0:
                w = w * np.float32(10.0 ** rng.uniform(-power, min(power, 18)))
            if rng.integers(8) == 0:
                w = np.full_like(w, rng.choice([0.1, 1.0, -0.3, 0.0, -1.0]))
            weights[name] = np.clip(w, -3e38, 3e38).astype(np.float32)
    config = json.loads((folder / "config.json").read_text())
    return models.write_checkpoint(out, config, weights, "F32")


def test_an_altered_number_of_any_point_is_found(made, tmp_path) -> None:
    """By the formulas alone: each point no longer follows from those before it."""
    case, model = made
    rng = np.random.default_rng(8)
    run = model.run(ids_of(case, rng), points="all")
    run.save(tmp_path / "run", format="npy")
    for point in run.points:
        stem = {"x_norm": "xnorm"}.get(point, point)
        path = next(
            p for p in (f"{stem}_layer1.npy", f"{stem}.npy") if (tmp_path / "run" / p).exists()
        )
        values = np.load(tmp_path / "run" / path)
        at = rng.choice(np.flatnonzero(np.isfinite(values) & (values != 0)))
        values.flat[at] += np.float32(3e-5 * np.abs(values[np.isfinite(values)]).max())
        np.save(tmp_path / "run" / path, values)
    found = {
        c.what for c in checked(tmp_path / "run", model) if c.fault and c.roundings is not None
    }
    assert found == set(run.points)


@pytest.mark.parametrize("made", ["gemma2", "olmo3", "phi3-long", "granite"], indirect=True)
def test_one_altered_number_accuses_no_point_before_it(made, tmp_path) -> None:
    case, model = made
    run = model.run(ids_of(case, np.random.default_rng(9)), points="all")
    points = list(run.points)
    run.save(tmp_path / "run", format="npy")
    for point in ("q", "q_unit", "q_norm", "k_rope", "scores_raw", "attn_norm", "logits_raw"):
        if point not in points:
            continue
        layer = "" if point == "logits_raw" else "_layer2"
        path = tmp_path / "run" / f"{point}{layer}.npy"
        honest = path.read_bytes()
        values = np.load(path)
        values.flat[0] += 1
        np.save(path, values)
        found = [c.what for c in checked(tmp_path / "run", model) if c.fault and c.roundings]
        path.write_bytes(honest)
        assert found[0] == point and all(points.index(p) >= points.index(point) for p in found)
