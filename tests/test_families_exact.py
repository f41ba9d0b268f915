"""Models of every family have recorded bits on every kernel variant, and are near the reference; no torch.

The digests are those of arithmetic version 1 (docs/arithmetic.md), of all points of two prompts. The
models are made from a seed alone.
"""

import hashlib
import warnings
from pathlib import Path

import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.config import parse_config
from llamaprobe.families.table import FAMILIES
from llamaprobe.families.tensors import checkpoint_shapes
from llamaprobe.reference import forward

CASES = {case.name: case for case in family_models.family_cases()}
CLOSE = 1e-5
RECORDED = {
    "qwen2": "4c60666d294fd6eb",
    "qwen2-window": "1bc4f6639d9a202c",
    "qwen3-yarn": "30c369924bb15889",
    "qwen3-mscale": "72901c69c023d6f7",
    "qwen3-dynamic": "d36fca2f66598740",
    "mistral-window": "d8f0b72cc5b6c142",
    "mistral": "0064e4eec11de6cf",
    "ministral": "85ab44e84435ee75",
    "gemma": "2a0035d9e62ae728",
    "gemma2": "81705a753da6772a",
    "gemma2-no-caps": "4bd987d98883384c",
    "gemma3": "3cba66aae3d778c5",
    "gemma3-cap": "d2b571fa74b115e2",
    "phi3": "6fd48e257b3beae6",
    "phi3-window": "862e513302ee9edb",
    "phi3-short": "2f0c02f5df5d5d55",
    "phi3-long": "0a16d0d5b9de636a",
    "smollm3": "1f48f45a3d7128d3",
    "smollm3-interval": "009b3d5114bfe728",
    "olmo2": "b1b99d1d6328b033",
    "olmo3": "abd0515d43950ee6",
    "granite": "de73b63ecb984413",
    "granite4": "e071878708866365",
    "granite4-nope": "f8fe7b16fa60c484",
    "exaone4": "3dac039adc33b4ed",
    "exaone4-full": "1f5509b24b9c2d21",
    "helium": "e9986d835a30b8e5",
}


def make(case: family_models.FamilyCase, folder: Path) -> tuple[lp.Model, dict[str, np.ndarray]]:
    config = {"model_type": case.model_type} | case.hub_keys()
    shapes = dict(checkpoint_shapes(parse_config(config, "config")))
    weights = models.make_weights(config, seed=len(case.name), shapes=shapes)
    return lp.load(models.write_checkpoint(folder, config, weights)), weights


def digest(runs: list[lp.Run]) -> str:
    h = hashlib.sha256()
    for run in runs:
        for point in run.points:
            values = np.ascontiguousarray(run[point])
            assert not np.isnan(values).any(), point
            h.update(values.tobytes())
    return h.hexdigest()[:16]


def prompts(case: family_models.FamilyCase) -> list[list[int]]:
    return [models.make_token_ids({"vocab_size": 97}, n) for n in (case.n_tokens, 50)]


def test_every_family_is_recorded() -> None:
    assert RECORDED.keys() == CASES.keys()
    assert {case.model_type for case in CASES.values()} == FAMILIES.keys() - {"llama"}


@pytest.mark.parametrize("name", CASES)
def test_the_recorded_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, weights = make(case, tmp_path)
    runs = model.run(prompts(case), points="all", threads=1)
    for run in runs:
        exact = forward(model.config, weights, run.token_ids)
        assert run.points == tuple(point.name for point in model.points())
        for point in run.points:
            assert truth.norm_error(run[point], exact[point]) <= CLOSE, point
    assert digest(runs) == RECORDED[name]
    for variant, can_run in _core.kernels():
        if can_run:
            monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
            assert digest(model.run(prompts(case), points="all", threads=3)) == RECORDED[name]


@pytest.mark.parametrize("name", ["olmo2", "gemma2"])
def test_what_is_kept_without_a_request(name: str, tmp_path: Path, command) -> None:
    """x, and x_norm of a model that has it."""
    model, _ = make(CASES[name], tmp_path / "model")
    kept = ("x",) if name == "olmo2" else ("x", "x_norm")
    assert model.run([1, 2]).points == kept
    assert model.plan(2).value_bytes and model.profile([1, 2]).seconds > 0
    (tmp_path / "ids").write_text("1 2")
    (tmp_path / "prompts.jsonl").write_text('{"input_ids": [1, 2]}')
    run = ["run", model.path, "--ids", tmp_path / "ids"]
    many = ["run", model.path, "--prompts", tmp_path / "prompts.jsonl", "--out", tmp_path / "many"]
    for arguments in (run, [*run, "--out", tmp_path / "one"], many):
        assert command(*arguments)[0] == 0
    assert lp.read_run(tmp_path / "one").points == kept
    assert command("bench", model.path, "--plan", "--tokens", 2)[0] == 0
    if name == "olmo2":
        with pytest.raises(lp.PointError, match="'x_norm': attention reads x itself"):
            model.run([1, 2], points=("x", "x_norm"))
