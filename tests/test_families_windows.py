"""Sliding windows, caps, gelu_tanh and gains of 1 + w: exact values around the window's length, where
windows end inside tiles of queries and blocks of keys, and the same bits however they are run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import family_models
import family_truth
import models
import numpy as np
import pytest
import truth
from family_bits import check_same_bits

import llamaprobe as lp
from llamaprobe.reference import forward

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

BASES = {
    case.name: case
    for case in family_models.family_cases()
    if case.name in ("mistral-window", "gemma", "gemma2", "gemma3-cap")
}
CLOSE = 3e-5
WORSE = 1.5
MOST = 220  # tokens
Open = Callable[[str, int], tuple[Path, lp.Model]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A family with a window of so many keys: its folder and model."""
    made: dict[tuple[str, int], tuple[Path, lp.Model]] = {}

    def open_one(name: str, window: int) -> tuple[Path, lp.Model]:
        if (name, window) not in made:
            base = BASES[name]
            keys = base.keys | {"max_position_embeddings": 2 * MOST}
            if "sliding_window" in keys:
                keys["sliding_window"] = window
            folder = replace(base, keys=keys).make(tmp_path_factory.mktemp(name))
            made[name, window] = folder, lp.load(folder)
        return made[name, window]

    return open_one


def ids_of(n: int) -> list[int]:
    return np.random.default_rng(n).integers(0, 97, n).tolist()


@pytest.mark.parametrize("window", [1, 2, 7, 63, 64, 65, 100])
@pytest.mark.parametrize("name", BASES)
def test_every_value_around_the_window(opened: Open, name: str, window: int) -> None:
    folder, model = opened(name, window)
    assert any(layer.window == window for layer in model.config.layers) or name == "gemma"
    weights = models.read_checkpoint(folder)
    for n in {1, max(window - 1, 1), window, window + 1, 2 * window + 3}:
        run, exact = model.run(ids_of(n), points="all"), forward(model.config, weights, ids_of(n))
        assert set(run.points) == set(exact)
        for point in run.points:
            assert truth.norm_error(run[point], exact[point]) <= CLOSE, (point, n)
        for number, layer in enumerate(model.config.layers):
            ages = np.subtract.outer(np.arange(n), np.arange(n))
            hidden = (ages < 0) | (ages >= (layer.window or n))
            assert np.all(run["scores", number][:, hidden] == -np.inf)
            assert not run["pattern", number][:, hidden].view(np.uint32).any()


@pytest.mark.parametrize("name", BASES)
def test_as_exact_as_transformers(opened: Open, name: str) -> None:
    """On the geometric mean of points and prompts."""
    folder, model = opened(name, 65)
    weights, ratios = models.read_checkpoint(folder), []
    for n in (64, 66, 140):
        run, exact = model.run(ids_of(n), points="all"), forward(model.config, weights, ids_of(n))
        own = family_truth.observe_family(folder, model.config, ids_of(n), in_float64=False)
        for point, value in own.items():
            error, its = (truth.norm_error(x, exact[point]) for x in (run[point], value))
            ratios.append(max(error, truth.FLOOR) / max(its, truth.FLOOR))
    assert np.exp(np.mean(np.log(ratios))) <= WORSE


@pytest.mark.parametrize("window", [7, 64, 100])
@pytest.mark.parametrize("name", BASES)
def test_bits_depend_on_nothing_but_model_and_prompt(
    opened: Open, name: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids, other = opened(name, window)[1], ids_of(MOST), ids_of(33)
    check_same_bits(model, ids, other, monkeypatch)
