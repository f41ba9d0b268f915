"""Attribution of edited runs: what an edit moves in the residual stream is a row of its own."""

import math
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills."
    " So the heavy bell came back to H"
)
POINTS = ("x", "attn_out", "mlp_out", "x_out", "final_rms", "logits", "z", "hidden", "pattern", "v")
BY = ("layer", "head", "neuron", "source")


@pytest.fixture(scope="module")
def model() -> "lp.Model":
    return lp.load("demo")


def edited(model: "lp.Model", *point: "str | int", more: tuple[str, ...] = ()) -> "lp.Run":
    """A run in which a point is doubled at the last position."""
    edits = lp.Edits()
    edits[point if len(point) > 1 else point[0]][-1] *= 2
    before = f"{point[0]}.before"
    return model.run(STORY, points=(*POINTS, *more, before), edits=edits)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(
    "point",
    [
        *(("x", 0), ("x", 2), ("x_mid", 3), ("x_out", 1), ("attn_out", 2), ("mlp_out", 0)),
        *(("z", 1), ("hidden", 3), ("x_norm", 1), ("final_rms",)),
    ],
)
def test_the_sum_is_exact(model: "lp.Model", point: tuple, by: str):
    run = edited(model, *point, more=(point[0],) if point[0] not in POINTS else ())
    found = model.attribute(run, "o", against="e", by=by)
    assert math.fsum(share.value for share in found) == found.total
    assert abs(found.rounding) <= found.bound < 1e-3
    stream = {"x": "edit_embed" if point[-1] == 0 else "edit", "x_mid": "edit", "x_out": "edit"}
    within = {("attn_out", "head"), ("attn_out", "source"), ("mlp_out", "neuron"), ("z", "source")}
    kind = "edit" if (point[0], by) in within else stream.get(point[0])
    assert {k for k in found.parts if k.startswith("edit")} == ({kind} if kind else set())


def test_the_row_is_what_the_edit_moved(model: "lp.Model"):
    run = edited(model, "x", 2)
    found = model.attribute(run, "o", against="e")
    moved = run["x", 2][-1].astype(np.float64) - run["x.before", 2][-1]
    ids = [model.tokenizer.encode(text, add_special_tokens=False)[0] for text in "oe"]
    head = np.asarray(model.weights["model.embed_tokens.weight"], np.float64)
    gain = np.asarray(model.weights["model.norm.weight"], np.float64)
    d = gain * (head[ids[0]] - head[ids[1]]) / run["final_rms"][-1]
    assert found["edit", 1] == pytest.approx(d @ moved, rel=1e-12)
    assert not found.parts["edit"][[0, 2, 3]].any()


def test_what_is_missing_or_stands_behind(model: "lp.Model"):
    edits = lp.Edits()
    edits["x", 2][-1] *= 2
    with pytest.raises(lp.PointError, match="x.before of layer 2"):
        model.attribute(model.run(STORY, points=POINTS, edits=edits), 3)
    edits = lp.Edits()
    edits["logits"][-1, 3] = 2
    with pytest.raises(lp.ArgumentError, match="after the sum"):
        model.attribute(model.run(STORY, points=POINTS, edits=edits), 3)


def test_the_lens_of_an_edited_run_has_its_logits(model: "lp.Model"):
    run = edited(model, "x", 2)
    lens = model.lens(run, position=None)
    assert np.array_equal(lens.logits[-1].view(np.uint32), run["logits"].view(np.uint32))


# ---- generated runs ----


@pytest.fixture(scope="module", params=["plain", "edited"])
def generated(model: "lp.Model", request: pytest.FixtureRequest) -> "lp.GeneratedRun":
    edits = None
    if request.param == "edited":
        edits = lp.Edits()
        edits["x", 2][lp.NEW] *= 2
    points = (*POINTS, *(("x.before",) if edits else ()))
    sample = lp.Sample(0.8, seed=1)
    return model.generate(STORY, 5, sample=sample, points=points, edits=edits)


def test_the_lens_of_a_generated_run(model: "lp.Model", generated: "lp.GeneratedRun"):
    lens = model.lens(generated, position=None)
    assert np.array_equal(lens.logits[-1].view(np.uint32), generated["logits"].view(np.uint32))
    assert lens.tokens == generated.tokens and len(lens.positions) == generated.n_prompt + 5
    for i, logprob in enumerate(generated.logprobs.tolist()):
        at = generated.n_prompt + i
        assert lens.logprobs[-1, at - 1, generated.token_ids[at]] == pytest.approx(
            logprob, abs=1e-12
        )


@pytest.mark.parametrize("by", BY)
def test_shares_of_generated_tokens(model: "lp.Model", generated: "lp.GeneratedRun", by: str):
    """Each token at the position it was chosen at."""
    again = model.run(
        generated.token_ids, points=[p for p in generated.points], edits=generated.edits
    )
    for at in range(generated.n_prompt, len(generated)):
        token = int(generated.token_ids[at])
        found = model.attribute(generated, token, position=at - 1, by=by)
        assert found.total == generated["logits"][at - 1, token]
        assert math.fsum(share.value for share in found) == found.total
        assert abs(found.rounding) <= found.bound < 1e-3
        same = model.attribute(again, token, position=at - 1, by=by)
        assert [share.value for share in found] == [share.value for share in same]
    assert ("edit" in found.parts) == bool(generated.edits)


def test_a_generated_run_read_back(model: "lp.Model", generated: "lp.GeneratedRun", tmp_path: Path):
    generated.save(tmp_path / "run")
    back = lp.read_run(tmp_path / "run")
    found, same = (model.attribute(run, "o", by="head") for run in (generated, back))
    assert [share.value for share in found] == [share.value for share in same]
    assert ("edit" in same.parts) == bool(generated.edits)
    page = back.html(tmp_path / "page.html", model=model, heads=[(3, 1)])
    assert "Lens" in page.read_text("utf-8")
