"""A lens: the last norm and the head on the residual stream, with the bits of a run's own logits."""

import math
from pathlib import Path

import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe.reference import forward

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills."
    " So the heavy bell came back to H"
)
POINTS = ("x", "x_mid", "x_out", "logits")
CASES = {case.name: case for case in family_models.family_cases()}


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(STORY, points=POINTS)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def exact_logits(model: lp.Model, x: np.ndarray) -> np.ndarray:
    """The last norm and the head in float64."""
    c, weights = model.config, model.weights
    gain = np.asarray(weights["model.norm.weight"], np.float64) + c.gain_offset
    head = "model.embed_tokens.weight" if c.tied_head else "lm_head.weight"
    unit = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + c.rms_norm_eps)
    logits = (gain * unit) @ np.asarray(weights[head], np.float64).T / c.logits_divisor
    return c.logits_cap * np.tanh(logits / c.logits_cap) if c.logits_cap else logits


# ---- values ----


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kernels", ["generic", None])
def test_the_last_row_has_the_bits_of_the_logits(
    model: lp.Model, run: lp.Run, threads: int, kernels: str | None, monkeypatch
):
    if kernels:
        monkeypatch.setenv("LLAMAPROBE_KERNELS", kernels)
    for point in ("x", "x_mid", "x_out"):
        lens = model.lens(run, point=point, position=None, threads=threads)
        assert same_bits(lens.logits[-1], run["logits"])
        assert lens.rows[-1] == ("x_out", 3) and lens.labels[-1] == "output"
    assert [row for row, _ in model.lens(run).rows] == ["x"] * 4 + ["x_out"]
    assert len(model.lens(run, point="x_out").rows) == 4


@pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")
@pytest.mark.parametrize("name", CASES)
def test_every_family(name: str, tmp_path: Path):
    model = lp.load(CASES[name].make(tmp_path))
    ids = np.random.default_rng(3).integers(0, 97, 9).tolist()
    run = model.run(ids, points=POINTS)
    lens = model.lens(run, position=None)
    assert same_bits(lens.logits[-1], run["logits"])
    exact = exact_logits(model, run["x"].astype(np.float64))
    assert truth.norm_error(lens.logits[:-1], exact) < 1e-6
    values = forward(model.config, models.read_checkpoint(model.path), ids)
    assert truth.norm_error(lens.logits[:-1], exact_logits(model, values["x"])) < 3e-5


def test_smollm2(smollm2: Path):
    model = lp.load(smollm2)
    run = model.run("The capital of France is", points=("x", "x_out", "logits"))
    lens = model.lens(run)
    assert same_bits(lens.logits[-1, 0], run["logits"][-1])
    exact = exact_logits(model, run["x"][:, -1].astype(np.float64))
    assert truth.norm_error(lens.logits[:-1, 0], exact) < 1e-6


def test_rows_and_tokens_do_not_depend_on_others(model: lp.Model, run: lp.Run):
    whole = model.lens(run, position=None)
    some = model.lens(run, layers=[2, 0], position=[-1, 3], tokens=[7, 959, 7, "H"])
    h = model.tokenizer.encode("H", add_special_tokens=False)[0]
    assert some.rows == (("x", 2), ("x", 0)) and some.positions == (len(run) - 1, 3)
    assert some.token_ids is not None and some.token_ids.tolist() == [7, 959, 7, h]
    picked = whole.logits[[2, 0]][:, [-1, 3]][:, :, [7, 959, 7, h]]
    assert same_bits(some.logits, picked)


def test_logprobs_ranks_and_the_likeliest(model: lp.Model, run: lp.Run):
    lens = model.lens(run, position=slice(-3, None), top=4)
    logits = lens.logits.astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert lens.logprobs.dtype == np.float64 and np.allclose(lens.logprobs, expected, atol=1e-12)
    for row in range(len(lens.rows)):
        order = np.lexsort((np.arange(960), -logits[row, 1]))
        assert np.array_equal(np.argsort(lens.ranks[row, 1]), order)
        guesses = lens.top(row, 1)
        assert [guess.id for guess in guesses] == order[:4].tolist()
        assert [guess.logprob for guess in guesses] == lens.logprobs[row, 1][order[:4]].tolist()
        assert [guess.logit for guess in guesses] == logits[row, 1][order[:4]].tolist()
        assert [g.text for g in guesses] == model.tokenizer.pieces(order[:4])
    assert len(lens.table()) == 5 and len(lens.table(2)[0][0]) == 2


def test_equal_logits_go_by_id(model: lp.Model, run: lp.Run):
    lens = model.lens(run)
    lens.logits[:] = 0
    lens.logits[0, 0, [500, 3]] = 1
    assert [g.id for g in lens.top(0, 0)] == [3, 500, 0, 1, 2]
    assert lens.ranks[0, 0, [3, 500, 0, 959]].tolist() == [1, 2, 3, 960]


def test_a_nan_is_shown_as_one(model: lp.Model, run: lp.Run):
    lens = model.lens(run)
    lens.logits[0, 0, 17] = np.nan
    assert math.isnan(lens.top(0, 0)[0].logprob or 0) and "nan" in repr(lens)


def test_a_run_read_back(model: lp.Model, run: lp.Run, tmp_path: Path):
    run.save(tmp_path / "exact")
    back = lp.read_run(tmp_path / "exact")
    assert same_bits(model.lens(back).logits, model.lens(run).logits)
    run.save(tmp_path / "digits", digits=3)
    rounded = model.lens(lp.read_run(tmp_path / "digits")).logits
    assert truth.norm_error(rounded, model.lens(run).logits.astype(np.float64)) < 1e-2


# ---- what it refuses ----


def refused(call, *facts: str) -> None:
    with pytest.raises(lp.ArgumentError) as error:
        call()
    for fact in facts:
        assert fact in str(error.value)


def test_points_that_are_not_the_residual_stream(model: lp.Model, run: lp.Run):
    refused(lambda: model.lens(run, point="final_norm"), "normed already")
    refused(lambda: model.lens(run, point="attn_out"), "not the residual stream", "attribute")
    refused(lambda: model.lens(run, point="xx"), "there is no point")
    assert model.lens(run, point="resid_mid").point == "resid_mid"


def test_what_the_run_lacks_is_named_with_the_call(model: lp.Model):
    run = model.run(STORY)
    refused(lambda: model.lens(run), "x_out of layer 3", 'points=("x", "x_out")')
    assert len(model.lens(run, layers=slice(None)).rows) == 4
    part = model.run(STORY, points="x", layers=[1, 2])
    refused(lambda: model.lens(part, layers=0), "x of layer 0")


@pytest.mark.parametrize(
    ("how", "fact"),
    [
        ({"position": 99}, "there is no position 99: the run has 28 tokens"),
        ({"position": -29}, "no position -29"),
        ({"position": slice(5, 5)}, "none of 28 positions"),
        ({"position": "x"}, "position is 'x'; give a number"),
        ({"position": 1.5}, "position is 1.5; give a number"),
        ({"tokens": [960]}, "the vocabulary has 960"),
        ({"tokens": [-1]}, "out of range"),
        ({"tokens": ["once upon"]}, "tokens, not one"),
        ({"tokens": [1.5]}, "an id or text"),
        ({"top": 0}, "top is 0"),
        ({"layers": 9}, "no layer 9"),
    ],
)
def test_arguments(model: lp.Model, run: lp.Run, how: dict, fact: str):
    refused(lambda: model.lens(run, **how), fact)


def test_numbers_over_the_whole_vocabulary_need_it(model: lp.Model, run: lp.Run):
    lens = model.lens(run, tokens=[3, 5])
    refused(lambda: lens.logprobs, "without tokens=")
    refused(lambda: lens.ranks, "without tokens=")
    assert [guess.logprob for guess in lens.top(0, 0)] == [None, None]


def test_another_model(run: lp.Run, random_checkpoint):
    refused(lambda: lp.load(random_checkpoint()).lens(run), "d_model is 128", "made the run")


def test_a_closed_model(run: lp.Run):
    model = lp.load("demo")
    model.close()
    refused(lambda: model.lens(run), "closed")


# ---- the core ----


def test_the_core_checks_what_it_is_given(model: lp.Model):
    core, x = model._core, np.zeros((2, 128), np.float32)
    for ids in ([960], [-1]):
        with pytest.raises(lp.ArgumentError, match="out of range"):
            core.head(x, np.array(ids, np.int32), n_threads=1)
    with pytest.raises(lp.ArgumentError, match="rows have 127 numbers, d_model is 128"):
        core.head(x[:, 1:], None, n_threads=1)
    with pytest.raises(lp.ArgumentError, match="n_threads"):
        core.head(x, None, n_threads=0)
    with pytest.raises(ValueError):
        core.head(x[0], None, n_threads=1)
    with pytest.raises((TypeError, ValueError)):
        core.head(x, "ids", n_threads=1)
    assert core.head(x[:0], None, n_threads=3).shape == (0, 960)
    assert core.head(x, np.zeros(0, np.int32), n_threads=3).shape == (2, 0)


def test_memory_is_checked_first(model: lp.Model):
    x, ids = np.zeros((100_000, 128), np.float32), np.zeros(10_000_000, np.int32)
    with pytest.raises(lp.OutOfMemory, match="request fewer layers, positions or tokens"):
        model._core.head(x, ids, n_threads=1)
