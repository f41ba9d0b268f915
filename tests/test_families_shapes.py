"""Models of real shapes, made by tools/make_random_model.py: parameter counts, and runs."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp

TOOL = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "make_random_model.py"))
SHAPES, make = TOOL["SHAPES"], TOOL["make"]
IDS = [2, 100, 2000, 30000, 7, 99999, 50000, 11]


@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_parameters(name: str, tmp_path: Path, command) -> None:
    folder = make(name, tmp_path, filled=False)
    code, printed, _ = command("inspect", folder)
    assert code == 0 and "cannot be run" not in printed
    assert printed.splitlines()[-1] == f"{SHAPES[name].n_params:,} parameters"
    assert lp.load(folder).n_params == SHAPES[name].n_params


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-0.6b", "gemma3-1b"])
def test_eight_tokens(name: str, tmp_path: Path) -> None:
    model = lp.load(make(name, tmp_path))
    run = model.run(IDS, points=("x", "x_norm", "logits"))
    assert run["x"].shape == (model.config.n_layers, 8, model.config.d_model)
    assert run["logits"].shape == (8, model.config.vocab_size)
    for point in run.points:
        assert np.isfinite(run[point]).all() and run[point].std() > 0
    (tmp_path / "model.safetensors").unlink()  # gigabytes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phi4-mini", "olmo2-1b"])
def test_two_layers_of_zeros(name: str, tmp_path: Path) -> None:
    """What is larger is a hole in the file, which takes no space."""
    model = lp.load(make(name, tmp_path, filled=False), layers=2)
    run = model.run(IDS, points="all")
    assert run.points == tuple(point.name for point in model.points())
    assert not run["x_out"].any() and not run["mlp_out"].any()
