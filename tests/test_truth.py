"""llamaprobe against transformers, live: no value may be further from float64 than the bar allows.

The bar, for each point, norm-wise over finite entries, in the worst layer: 1.5 times the error that
transformers itself has in float32, or 1e-7 if that is more. The halves of a norm, which
transformers does not show, must follow from the x that they belong to. Needs torch and
transformers.
"""

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import models
import numpy as np
import pytest
import stories260k
import truth

import llamaprobe as lp

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")


def hold_to_the_bar(folder: Path, token_ids: Sequence[int], factor: float = 1.5) -> None:
    expected, own = truth.observe(folder, token_ids)
    model = lp.load(folder)
    run = model.run(list(token_ids), points=list(expected))
    values = {point: run[point] for point in expected}
    found, allowed = truth.errors(values, expected), truth.errors(own, expected)
    assert truth.over_the_bar(found, allowed, factor) == []
    assert truth.off_the_formula(values, model.config.rms_norm_eps) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", models.cases(), ids=lambda case: case.name)
def test_random_models(case: models.Case, tmp_path: Path) -> None:
    hold_to_the_bar(*case.make(tmp_path))


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 5])
def test_very_short_prompts(n_tokens: int, tmp_path: Path) -> None:
    """For a few rows torch's matrix product sums in lanes, which is more exact than in order (seen:
    up to 1.7 times); and with so few numbers chance weighs more. So the factor is 2 here."""
    folder, _ = models.cases()[0].make(tmp_path)
    hold_to_the_bar(folder, models.make_token_ids(models.make_config(), n_tokens), factor=2)


@pytest.fixture(scope="module")
def ratios(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[float]]]:
    """Number of tokens -> point -> our error by that of transformers, for models of real widths."""
    found: dict[int, dict[str, list[float]]] = {n: {} for n in (1, 2, 8, 60, 300)}
    for width in (512, 1024, 2048, 4096):
        folder = tmp_path_factory.mktemp("wide")
        config = truth.wide_config(width, n_layers=1)
        models.write_checkpoint(folder, config, models.make_weights(config))
        for n, of_point in found.items():
            for point, ratio in truth.ratios(folder, models.make_token_ids(config, n)).items():
                of_point.setdefault(point, []).append(ratio)
        shutil.rmtree(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("n_tokens", [1, 2, 8, 60, 300])
def test_real_widths(ratios: dict[int, dict[str, list[float]]], n_tokens: int) -> None:
    """Sums in blocks of 64 are at least as exact as those of torch, which go through lanes. A point
    at which transformers is within FLOOR of float64 is left out. Scores and pattern of one or two
    tokens are up to three numbers for each head, whose error is chance: they count in the median.
    Of one or two tokens a point may have 1.75 times the error: at 512 columns torch's products of
    two rows, where AVX-512 adds 16 lanes, are within 1.1e-7 of float64 (seen: up to 1.55)."""
    found = ratios[n_tokens]
    assert statistics.median(r for of_point in found.values() for r in of_point) <= 1.0
    few = ("scores", "pattern") if n_tokens <= 2 else ()
    found = {point: of_point for point, of_point in found.items() if point not in few}
    assert {p: r for p, r in found.items() if statistics.median(r) > 1.1} == {}
    assert {p: r for p, r in found.items() if max(r) > (1.5 if n_tokens > 2 else 1.75)} == {}


@pytest.mark.slow
def test_stories(stories: Path) -> None:
    hold_to_the_bar(stories, stories260k.STORY)


@pytest.mark.slow
def test_smollm2(smollm2: Path) -> None:
    hold_to_the_bar(smollm2, models.CAPITAL_OF_FRANCE)


@pytest.mark.slow
def test_smollm2_long(smollm2: Path) -> None:
    hold_to_the_bar(smollm2, models.make_token_ids({"vocab_size": 49152}, 128))


@pytest.mark.parametrize("prompt", ["Once upon a time", "The a b 1 2 3\n\nEnd of all, said "])
def test_demo(demo_folder: Path, prompt: str) -> None:
    run = lp.load(demo_folder).run(prompt, points="x")
    hold_to_the_bar(demo_folder, np.asarray(run.token_ids).tolist())


def test_a_head_in_the_file_wins_over_the_flag(tmp_path: Path) -> None:
    """As in transformers 5: what a checkpoint has twice, with different values, is not tied."""
    config = models.make_config()
    weights = models.make_weights(config)
    models.write_checkpoint(tmp_path, config | {"tie_word_embeddings": True}, weights)
    hold_to_the_bar(tmp_path, models.make_token_ids(config, 7))


def test_the_bar_can_be_missed(tmp_path: Path) -> None:
    """The same comparisons refuse a result that is off by 2e-6 in one layer of one point."""
    folder, ids = models.cases()[0].make(tmp_path)
    expected, own = truth.observe(folder, ids)
    own_errors = truth.errors(own, expected)
    assert truth.over_the_bar(own_errors, own_errors) == []
    for point in [*truth.EXPOSED, *truth.DERIVED]:
        off = {name: value.copy() for name, value in own.items()}
        off[point][-1] *= np.float32(1 + 4e-6)
        lines = truth.over_the_bar(truth.errors(off, expected), own_errors)
        lines += truth.off_the_formula(off, 1e-5)
        assert point in [line.partition(":")[0] for line in lines]
