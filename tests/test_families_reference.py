"""reference.py against transformers in true float64, for every family and every point to be seen."""

import json
import warnings
from dataclasses import fields
from pathlib import Path

import family_models
import family_truth
import models
import numpy as np
import pytest
import truth

from llamaprobe.config import Config, read_config
from llamaprobe.families.tensors import checkpoint_shapes
from llamaprobe.reference import forward

pytestmark = pytest.mark.skipif(
    not truth.available(), reason="torch or transformers is missing"
)

CLOSE = 1e-12
CASES = {case.name: case for case in family_models.family_cases()}
DRAWN = {case.name: case for case in family_models.drawn_cases(3)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def made(request, folders, tmp_path_factory) -> tuple[family_models.FamilyCase, Path]:
    case = (CASES | DRAWN)[request.param]
    if case.name not in folders:
        folders[case.name] = case.make(tmp_path_factory.mktemp(case.name))
    return case, folders[case.name]


def read(folder: Path) -> Config:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_config(folder)


def plain(config: Config) -> dict[str, object]:
    """What a run depends on, with tables as bytes."""
    layers = [
        (
            window,
            rope
            and (
                [table.tobytes() for table in rope.tables()],
                rope.attention_factor,
                rope.original_positions,
            ),
        )
        for window, rope in config.layers
    ]
    told = {"raw", "path", "sha256", "inv_freq", "rope_scaling", "dtype", "layers"}
    numbers = {
        f.name: getattr(config, f.name) for f in fields(config) if f.name not in told
    }
    return numbers | {"layers": layers}


@pytest.mark.parametrize("made", CASES | DRAWN, indirect=True)
def test_every_point(made: tuple[family_models.FamilyCase, Path]) -> None:
    case, folder = made
    hold_to_truth(folder, case.n_tokens)


@pytest.mark.parametrize("n_tokens", [1, 6, 7, 8])
@pytest.mark.parametrize("made", ["gemma3-cap", "gemma2"], indirect=True)
def test_prompts_about_as_long_as_a_window(
    made: tuple[family_models.FamilyCase, Path], n_tokens: int
) -> None:
    hold_to_truth(made[1], n_tokens)


def hold_to_truth(folder: Path, n_tokens: int) -> None:
    """Every point of the reference is what transformers computes in float64, or follows from it."""
    config = read(folder)
    weights = models.read_checkpoint(folder)
    ids = models.make_token_ids({"vocab_size": 97}, n_tokens)
    got = forward(config, weights, ids)
    expected = family_truth.observe_family(folder, config, ids)
    derived = {point for point in got if point.endswith(("_rms", "_unit"))}
    assert set(got) - derived == set(expected)
    errors = {
        point: truth.norm_error(got[point], expected[point]) for point in expected
    }
    assert {p: e for p, e in errors.items() if not e <= CLOSE} == {}
    for point, module in config.norms.items():
        gains = [
            weights[f"model.layers.{i}.{module}.weight"] for i in range(config.n_layers)
        ]
        hold_norm(
            config, got, point, np.stack(gains).astype(np.float64) + config.gain_offset
        )


def hold_norm(
    config: Config, got: dict[str, np.ndarray], point: str, gain: np.ndarray
) -> None:
    """The two halves that no module shows: unit is the norm without its gain, and rms its input
    without unit."""
    stem = point.removesuffix("_norm")
    takes = {
        "x": "x",
        "x_mid": "x_mid",
        "q": "q",
        "k": "k",
        "attn": "attn_out",
        "mlp": "mlp_out",
    }
    y, unit, x = (got[name] for name in (point, f"{stem}_unit", takes[stem]))
    if config.qk_norm_whole and stem in ("q", "k"):
        y, unit, x = (value.reshape(*value.shape[:2], -1) for value in (y, unit, x))
    gain = gain.reshape(len(gain), *[1] * (y.ndim - 2), -1)
    assert truth.norm_error(unit * gain, y) <= CLOSE, point
    assert truth.norm_error(unit * got[f"{stem}_rms"][..., None], x) <= CLOSE, point


@pytest.mark.parametrize("made", CASES | DRAWN, indirect=True)
def test_the_tensors_of_the_file(made: tuple[family_models.FamilyCase, Path]) -> None:
    _, folder = made
    weights = models.read_checkpoint(folder)
    shapes = {name: value.shape for name, value in weights.items()}
    assert dict(checkpoint_shapes(read(folder))) == shapes


@pytest.mark.parametrize("made", CASES | DRAWN, indirect=True)
def test_a_file_of_the_hub_is_the_same(
    made: tuple[family_models.FamilyCase, Path], tmp_path: Path
) -> None:
    case, folder = made
    (tmp_path / "config.json").write_text(json.dumps(case.hub_config(folder)))
    hub, v5 = read(tmp_path), read(folder)
    assert plain(hub) == plain(v5)
