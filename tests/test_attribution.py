"""Attribution: shares that sum to the logit, each against float64, within a bound."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe.config import Config
from llamaprobe.families.tensors import matrix
from llamaprobe.reference import forward

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills."
    " So the heavy bell came back to H"
)
POINTS = ("x", "attn_out", "mlp_out", "x_out", "final_rms", "logits", "z", "hidden", "pattern", "v")
DATA = Path(__file__).parent / "data"
BY = ("layer", "head", "neuron", "source")
CASES = {case.name: case for case in family_models.family_cases()}


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(STORY, points=POINTS)


def hold_sum(attribution: "lp.Attribution", total: float) -> None:
    assert math.fsum(share.value for share in attribution) == attribution.total == total
    assert abs(attribution.rounding) <= attribution.bound < 1e-2 * max(1, abs(total))


class Exact:
    """The shares of reference.py's float64 pass, by the formulas of docs/lens.md."""

    def __init__(self, config: Config, weights: dict[str, np.ndarray], ids: list[int]) -> None:
        self.config, self.w = config, weights
        self.at = forward(config, weights, ids)

    def logit(self, x: np.ndarray, token: int, against: int) -> float:
        """Of the residual stream x [D], the difference of two."""
        c = self.config
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        unit = x / np.sqrt(np.mean(x * x) + c.rms_norm_eps)
        rows = head[[token, against]].astype(np.float64)
        both = rows @ ((self.w["model.norm.weight"] + c.gain_offset) * unit) / c.logits_divisor
        both = c.logits_cap * np.tanh(both / c.logits_cap) if c.logits_cap else both
        return float(both[0] - both[1])

    def direction(self, token: int, against: int, t: int) -> np.ndarray:
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        row = head[token].astype(np.float64) - head[against]
        gain = self.w["model.norm.weight"] + self.config.gain_offset
        return gain * row / self.at["final_rms"][t] / self.config.logits_divisor

    def added(self, d: np.ndarray, stem: str, layer: int, t: int) -> tuple[float, np.ndarray]:
        """The share of attn or mlp, and what d becomes before their norm."""
        point = f"{stem}_norm" if f"{stem}_norm" in self.config.norms else f"{stem}_out"
        d = d * self.config.residual_scale
        share = d @ self.at[point][layer, t]
        if point.endswith("_norm"):
            gain = (
                self.w[f"model.layers.{layer}.{self.config.norms[point]}.weight"]
                + self.config.gain_offset
            )
            d = d * gain / self.at[f"{stem}_rms"][layer, t]
        return float(share), d

    def through(self, d: np.ndarray, point: str, layer: int) -> tuple[np.ndarray, float]:
        m = matrix(self.config, point)
        name = f"model.layers.{layer}.{m.module}"
        bias = d @ self.w[f"{name}.bias"] if m.has_bias else 0.0
        return d @ self.w[f"{name}.weight"].astype(np.float64), float(bias)

    def shares(self, by: str, token: int, against: int, t: int) -> Iterator[tuple[tuple, float]]:
        d, c, at = self.direction(token, against, t), self.config, self.at
        yield ("embed",), float(d @ at["x"][0, t])
        for i in range(c.n_layers):
            attn, attn_d = self.added(d, "attn", i, t)
            mlp, mlp_d = self.added(d, "mlp", i, t)
            if by in ("layer", "neuron"):
                yield ("attn", i), attn
            if by != "neuron":
                yield ("mlp", i), mlp
            if by == "neuron":
                e, bias = self.through(mlp_d, "mlp_out", i)
                for n in range(c.d_ff):
                    yield ("neuron", i, n), float(e[n] * at["hidden"][i, t, n])
            if by in ("head", "source"):
                e, bias = self.through(attn_d, "attn_out", i)
                for j, part in enumerate(e.reshape(c.n_heads, -1)):
                    if by == "head":
                        yield ("head", i, j), float(part @ at["z"][i, t, j])
                        continue
                    v = at["v"][i, :, j // (c.n_heads // c.n_kv_heads)] @ part
                    for k, share in enumerate(at["pattern"][i, j, t] * v):
                        yield ("source", i, j, k), float(share)
            if by != "layer" and bias:
                yield (f"{'mlp' if by == 'neuron' else 'attn'}_bias", i), bias


def hold_exact(model: lp.Model, run: lp.Run, token: int, against: int, t: int, by: str) -> None:
    found = model.attribute(run, token, against=against, position=t, by=by)
    raw = run["logits_raw" if model.config.logits_cap else "logits"][t].astype(np.float64)
    total = raw[token] - raw[against]
    if model.config.logits_cap:
        total /= model.config.logits_divisor
    hold_sum(found, total)
    capped = run["logits"][t].astype(np.float64)
    assert found.logit == capped[token] - capped[against]
    assert found.cap_effect == found.logit - found.total
    exact = Exact(model.config, models.read_checkpoint(model.path), run.token_ids.tolist())
    rows = dict(exact.shares(by, token, against, t))
    shares = {share.component: share.value for share in found}
    shares.pop(("rounding",))
    assert shares.keys() == rows.keys()
    size = max(map(abs, rows.values()))
    worst = max(rows, key=lambda row: abs(rows[row] - shares[row]))
    assert abs(rows[worst] - shares[worst]) < 3e-5 * size, worst


@pytest.mark.parametrize("by", BY)
def test_every_row_is_that_of_float64(model: lp.Model, run: lp.Run, by: str):
    hold_exact(model, run, 380, 17, len(run) - 1, by)
    hold_exact(model, run, 5, 900, 7, by)


@pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")
@pytest.mark.parametrize("name", CASES)
def test_every_family(name: str, tmp_path: Path):
    """Norms of outputs, scales, caps, biases, gains of 1 + w, fused matrices."""
    model = lp.load(CASES[name].make(tmp_path))
    ids = np.random.default_rng(5).integers(0, 97, 12).tolist()
    run = model.run(ids, points="all")
    for by in BY:
        hold_exact(model, run, 5, 9, 11, by)
        hold_exact(model, run, 90, 2, 4, by)


def test_smollm2(smollm2: Path):
    model = lp.load(smollm2)
    run = model.run("The capital of France is", points=POINTS)
    for by in BY:
        found = model.attribute(run, " Paris", against=" London", by=by)
        a, b = (model.tokenizer.encode(text)[0] for text in (" Paris", " London"))
        hold_sum(found, float(run["logits"][-1, a]) - float(run["logits"][-1, b]))
    hold_sum(model.attribute(run, " Paris"), float(run["logits"][-1, a]))


@pytest.mark.slow
def test_gemma3(gemma3: Path):
    """Norms of what is added, gains of 1 + w, an embedding with a scale; an edited run too."""
    model = lp.load(gemma3)
    norms = [f"{stem}_{part}" for stem in ("attn", "mlp") for part in ("norm", "rms")]
    e = lp.Edits()
    e["x", 5][1:] *= 1.5
    e["attn_norm", 9][-1] += 0.25
    a, b = (int(model.tokenizer.encode(text, add_special_tokens=False)[0]) for text in (" Paris", " London"))
    for edits in (None, e):
        points = (*POINTS, *norms, *(("x.before",) if edits else ()))
        run = model.run("The capital of France is", points=points, edits=edits)
        total = float(run["logits"][-1, a]) - float(run["logits"][-1, b])
        for by in BY:
            hold_sum(model.attribute(run, " Paris", against=" London", by=by), total)
        assert model.lens(run).logits[-1, 0].tobytes() == run["logits"][-1].tobytes()


def test_transformer_lens_has_the_same_numbers(smollm2: Path):
    """Recorded once; the file says with which versions."""
    theirs = json.loads((DATA / "transformer_lens_smollm2.json").read_text())
    model = lp.load(smollm2)
    run = model.run(theirs["token_ids"], points=POINTS)
    token, against = theirs["token"], theirs["against"]
    lens = model.lens(run, tokens=[token, against]).logits[:, 0]
    assert np.abs(lens - theirs["lens"]).max() < 2e-4
    layer = model.attribute(run, token, against=against)
    ours = [layer["embed"]]
    for i in range(model.config.n_layers):
        ours += [layer["attn", i], layer["mlp", i]]
    assert np.abs(np.subtract(ours, theirs["component"])).max() < 2e-5
    heads = model.attribute(run, token, against=against, by="head").parts["head"]
    assert np.abs(heads.ravel() - theirs["head"]).max() < 2e-5


@pytest.mark.parametrize("by", BY)
def test_many_positions_are_those_one_by_one(model: lp.Model, run: lp.Run, by: str):
    several = model.attribute(run, 3, position=[5, -1], by=by)
    assert [each.position for each in several] == [5, len(run) - 1]
    for found in several:
        alone = model.attribute(run, 3, position=found.position, by=by)
        for kind, part in found.parts.items():
            assert np.allclose(part, alone.parts[kind], rtol=1e-12, atol=1e-13), kind
        assert found.bound == pytest.approx(alone.bound, rel=1e-3)


def test_finer_rows_add_up_to_coarser_ones(model: lp.Model, run: lp.Run):
    layer, head, neuron, source = (model.attribute(run, 3, by=by) for by in BY)
    assert np.allclose(head.parts["head"].sum(axis=1), layer.parts["attn"], atol=1e-5)
    assert np.allclose(source.parts["source"].sum(axis=2), head.parts["head"], atol=1e-5)
    assert np.allclose(neuron.parts["neuron"].sum(axis=1), layer.parts["mlp"], atol=1e-5)


def test_runs_read_back(model: lp.Model, run: lp.Run, tmp_path: Path):
    """Fewer digits widen the bound, and only as far as they must."""
    run.save(tmp_path / "exact")
    again = model.attribute(lp.read_run(tmp_path / "exact"), 3, by="head")
    assert again.rounding == model.attribute(run, 3, by="head").rounding
    for by in BY:
        run.save(tmp_path / by, digits=4)
        found = model.attribute(lp.read_run(tmp_path / by), 3, by=by)
        assert abs(found.rounding) <= found.bound < 1e-2 and found.bound > 1e-4


def test_fixed_point_has_no_bound(model: lp.Model, run: lp.Run, tmp_path: Path):
    run.save(tmp_path / "fixed", format="q8.16")
    found = model.attribute(lp.read_run(tmp_path / "fixed"), 3)
    assert found.bound == math.inf and abs(found.rounding) < 1e-2
    assert "inf" in found._repr_html_()


def test_altered_values_and_other_weights_are_an_error(
    model: lp.Model, run: lp.Run, random_checkpoint
):
    other = model.run(STORY, points=POINTS)
    other["mlp_out", 2][-1, 0] += 0.05
    for by in ("layer", "head", "source"):
        with pytest.raises(lp.ArgumentError, match="rounding explains at most"):
            model.attribute(other, 3, by=by)
    model.attribute(other, 3, position=-2)
    first, second = (lp.load(random_checkpoint(seed=seed)) for seed in (1, 2))
    mine = first.run([1, 2, 3], points=POINTS)
    with pytest.raises(lp.ArgumentError, match="not those of the run"):
        second.attribute(mine, 3)


def test_the_head_that_copies_the_name(model: lp.Model, run: lp.Run):
    found = model.attribute(run, "o", against="e", by="head")
    assert found.top(1)[0].component == ("head", 3, 1) and found["head", 3, 1] > 3
    source = model.attribute(run, "o", against="e", by="source").top(1)[0]
    assert source.component == ("source", 3, 1, 11) and source.name == "source 3.1 <- 11"
    assert run.tokens is not None and run.tokens[11] == "o"


# ---- direct effect and head_out ----


def test_head_out(model: lp.Model, run: lp.Run):
    out = model.head_out(run, 2)
    weight = np.asarray(model.weights["model.layers.2.self_attn.o_proj.weight"], np.float64)
    for j in range(4):
        exact = run["z", 2][:, j].astype(np.float64) @ weight[:, 32 * j : 32 * (j + 1)].T
        assert np.array_equal(out[:, j], exact.astype(np.float32))
    assert truth.norm_error(out.sum(axis=1), run["attn_out", 2].astype(np.float64)) < 1e-6
    with pytest.raises(lp.PointError, match='points=\\("z",\\)'):
        model.head_out(model.run(STORY), -1)


def exact_logit(model: lp.Model, x: np.ndarray, token: int) -> float:
    gain = np.asarray(model.weights["model.norm.weight"], np.float64)
    row = np.asarray(model.weights["model.embed_tokens.weight"], np.float64)[token]
    return float((gain * x / np.sqrt(np.mean(x * x) + model.config.rms_norm_eps)) @ row)


def test_direct_effect(model: lp.Model, run: lp.Run):
    last = run["x_out", 3][-1].astype(np.float64)
    weight = np.asarray(model.weights["model.layers.1.mlp.down_proj.weight"], np.float64)
    removed = {
        ("embed",): run["x", 0][-1],
        ("attn", 1): run["attn_out", 1][-1],
        ("mlp", 3): run["mlp_out", 3][-1],
        ("head", 3, 1): model.head_out(run, 3)[-1, 1],
        ("neuron", 1, 40): weight[:, 40] * run["hidden", 1][-1, 40],
    }
    for component, vector in removed.items():
        effect = model.direct_effect(run, 3, component=component)
        exact = exact_logit(model, last, 3) - exact_logit(model, last - vector, 3)
        assert effect == pytest.approx(exact, abs=1e-6), component
    sources = [
        model.direct_effect(run, 3, component=("source", 3, 1, k), against=5) for k in range(28)
    ]
    assert max(map(abs, sources)) > 0.1
    assert model.direct_effect(run, 3, component="embed") == model.direct_effect(
        run, 3, component=("embed",)
    )
    little = model.run(STORY, points=("x_out", ("z", 3)))
    head = ("head", 3, 1)
    assert model.direct_effect(little, 3, component=head) == pytest.approx(
        model.direct_effect(run, 3, component=head)
    )
    with pytest.raises(
        lp.PointError, match=r'needs hidden of layer 1.*points=\("hidden", "x_out"\)'
    ):
        model.direct_effect(little, 3, component=("neuron", 1, 40))


@pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")
@pytest.mark.parametrize("name", ["gemma2", "granite", "olmo2", "phi3"])
def test_direct_effects_of_families(name: str, tmp_path: Path):
    """Sums of parts, by way of what each adds: a layer's heads and its bias remove all of attn."""
    model = lp.load(CASES[name].make(tmp_path))
    run = model.run(np.random.default_rng(5).integers(0, 97, 8).tolist(), points="all")
    c, at = model.config, Exact(model.config, models.read_checkpoint(model.path), run.token_ids)
    for stem in ("attn", "mlp"):
        point = f"{stem}_norm" if f"{stem}_norm" in c.norms else f"{stem}_out"
        x = at.at["x_out"][-1, -1]
        less = x - c.residual_scale * at.at[point][2, -1]
        exact = at.logit(x, 5, 9) - at.logit(less, 5, 9)
        effect = model.direct_effect(run, 5, against=9, component=(stem, 2))
        assert effect == pytest.approx(exact, rel=1e-3, abs=1e-4)
    n = model.direct_effect(run, 5, against=9, component=("neuron", 2, 7))
    share = model.attribute(run, 5, against=9, by="neuron")["neuron", 2, 7]
    assert (abs(n) > 1e-9) == (abs(share) > 1e-9)


@pytest.mark.parametrize(
    "component", ["attn", ("attn", 4), ("head", 1), ("head", 1, 4), ("x", 1), ("attn", "1")]
)
def test_unknown_components(model: lp.Model, run: lp.Run, component):
    with pytest.raises(lp.ArgumentError, match="component|has no number"):
        model.direct_effect(run, 3, component=component)


# ---- the result, and what is refused ----


def test_rows_by_name(model: lp.Model, run: lp.Run):
    found = model.attribute(run, 3, by="head")
    assert len(found) == len(list(found)) == 1 + 16 + 4 + 1
    assert found["embed"] == float(found.parts["embed"]) and found["rounding"] == found.rounding
    assert found["mlp", -1] == found["mlp", 3]
    largest = sorted((abs(s.value) for s in found if s.component != ("rounding",)), reverse=True)
    assert [abs(share.value) for share in found.top(6)] == largest[:6]
    assert {share.component[0] for share in found.top(5, kind="mlp")} == {"mlp"}
    for wrong in ("attn", ("head", 4, 0), ("head", 1), ("neuron", 1, 1)):
        with pytest.raises(lp.ArgumentError, match="there is no row"):
            found[wrong]
    with pytest.raises(lp.ArgumentError, match="kind is 'neuron'; give one of embed"):
        found.top(3, kind="neuron")


@pytest.mark.parametrize(
    ("how", "fact"),
    [
        ({"by": "heads"}, "layer, head, neuron, source"),
        ({"position": 28}, "no position 28"),
        ({"against": 3}, "both 3"),
        ({"token": "Hopoa who"}, "tokens, not one"),
        ({"token": 960}, "the vocabulary has 960"),
    ],
)
def test_arguments(model: lp.Model, run: lp.Run, how: dict, fact: str):
    token = how.pop("token", 3)
    with pytest.raises(lp.ArgumentError, match=fact):
        model.attribute(run, token, **how)


def test_what_the_run_lacks_is_named_with_the_call(model: lp.Model):
    run = model.run(STORY, points=("x", "attn_out", "mlp_out", "x_out", "final_rms", "logits"))
    model.attribute(run, 3)
    for by, point in (("head", "z"), ("neuron", "hidden"), ("source", "pattern")):
        with pytest.raises(lp.PointError, match=f"needs {point} of layer 0.*model.run") as error:
            model.attribute(run, 3, by=by)
        call = str(error.value).partition("points=")[2].rstrip(")")
        again = model.run(STORY, points=eval(f"{call})"))
        assert model.attribute(again, 3, by=by)
