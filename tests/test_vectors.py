"""llamaprobe and its reference against recorded values of transformers in true float64; no torch.

tools/record_vectors.py made tests/data/vectors.npz and vectors.json and says how. The values are
float32, so the reference, which is float64, is one rounding away; a run is held to the same bar as
in test_truth.py, with the recorded errors of transformers in float32.
"""

import json
from pathlib import Path

import models
import numpy as np
import pytest
import stories260k
import truth

import llamaprobe as lp
from llamaprobe.config import read_config
from llamaprobe.reference import forward

DATA = Path(__file__).parent / "data"
ROUNDING = 2.0**-24


def recorded(model: str) -> tuple[truth.Values, dict[str, float]]:
    """The values of one model by point, and transformers' own errors."""
    own = json.loads((DATA / "vectors.json").read_text())["transformers_errors"][model]
    with np.load(DATA / "vectors.npz", allow_pickle=False) as file:
        return {point: file[f"{model}.{point}"] for point in own}, own


def hold_reference(folder: Path, token_ids: list[int], model: str) -> None:
    expected, _ = recorded(model)
    values = forward(read_config(folder), models.read_checkpoint(folder), token_ids)
    found = truth.errors(values, expected)
    assert {point: error for point, error in found.items() if not error <= ROUNDING} == {}


def hold_run(folder: Path, token_ids: list[int], model: str) -> None:
    expected, own = recorded(model)
    run = lp.load(folder).run(token_ids, points=list(expected))
    found = truth.errors({point: run[point] for point in expected}, expected)
    assert truth.over_the_bar(found, own) == []


@pytest.mark.parametrize("case", models.recorded_cases(), ids=lambda case: case.name)
def test_reference(case: models.Case, tmp_path: Path) -> None:
    hold_reference(*case.make(tmp_path), case.name)


@pytest.mark.parametrize("case", models.recorded_cases(), ids=lambda case: case.name)
def test_run(case: models.Case, tmp_path: Path) -> None:
    hold_run(*case.make(tmp_path), case.name)


def test_stories_reference(stories: Path) -> None:
    hold_reference(stories, stories260k.STORY[:12], "stories260k")


def test_stories_run(stories: Path) -> None:
    hold_run(stories, stories260k.STORY[:12], "stories260k")


def test_every_exposed_point_is_recorded() -> None:
    for case in models.recorded_cases():
        values, own = recorded(case.name)
        assert set(values) == set(truth.EXPOSED)
        assert all(0 <= error < 1e-5 for error in own.values())
        assert all(value.dtype == np.float32 for value in values.values())


def test_a_wrong_model_is_refused(tmp_path: Path) -> None:
    """The recorded values are of these very weights: another seed is far off."""
    case = models.recorded_cases()[0]
    config = models.make_config(**case.config)
    models.write_checkpoint(tmp_path, config, models.make_weights(config, seed=1))
    with pytest.raises(AssertionError):
        hold_reference(tmp_path, models.make_token_ids(config, case.n_tokens), case.name)
