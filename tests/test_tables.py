"""Data frames and arrays with names: the same numbers under the names of their axes."""

import numpy as np
import pytest

import llamaprobe as lp

STORY = "Once upon a time there was a miller"


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(STORY, points="all", layers=[3, 1])


@pytest.fixture(scope="module")
def whole(model: lp.Model) -> lp.Run:
    return model.run(STORY, points="all")


def test_dims(run: lp.Run):
    assert run.dims("pattern") == ("layer", "head", "token", "key")
    assert run.dims("k_rope") == ("layer", "token", "kv_head", "dim")
    assert run.dims("hidden") == ("layer", "token", "neuron")
    assert run.dims("logits") == ("token", "id") and run.dims("final_rms") == ("token",)
    assert run.dims("hook_resid_pre") == ("layer", "token", "channel")
    for point in run.points:
        assert len(run.dims(point)) == run[point].ndim, point
    with pytest.raises(lp.PointError):
        run.dims("xx")


def test_pandas(run: lp.Run):
    pytest.importorskip("pandas")
    frame = run.to_pandas("pattern")
    assert list(frame.columns) == ["layer", "head", "token", "key", "text", "value"]
    one = frame[(frame.layer == 1) & (frame["head"] == 2) & (frame.token == 4) & (frame.key == 3)]
    assert one.value.item() == run["pattern", 1][2, 4, 3] and one.text.item() == " time"
    assert frame.value.dtype == np.float32 and len(frame) == run["pattern"].size
    tokens = run.to_pandas()
    assert tokens.token.tolist() == run.tokens and tokens.id.tolist() == run.token_ids.tolist()
    assert np.allclose(tokens.x_rms_3, run["x_rms", 3], rtol=1e-5)


def test_xarray(run: lp.Run):
    pytest.importorskip("xarray")
    data = run.to_xarray()
    assert set(data.data_vars) == set(run.points)
    assert np.array_equal(data.x.sel(layer=1), run["x", 1])
    assert data.token_text.values.tolist() == run.tokens
    assert data.pattern.dims == run.dims("pattern") and data.attrs["model"] == "demo"
    assert np.shares_memory(data.x.values, run["x"])


def test_layers_that_differ_between_points(model: lp.Model):
    pytest.importorskip("xarray")
    run = model.run(STORY, points=["x", ("z", 2)])
    data = run.to_xarray()
    assert np.array_equal(data.z.sel(layer=2), run["z", 2])
    assert np.array_equal(data.x.sel(layer=3), run["x", 3])


def test_a_run_read_back(model: lp.Model, tmp_path):
    pytest.importorskip("pandas")
    run = model.run(STORY)
    run.save(tmp_path / "run")
    back = lp.read_run(tmp_path / "run")
    assert back.to_pandas().equals(run.to_pandas())
    assert back.to_pandas("x").equals(run.to_pandas("x"))


def test_lens(model: lp.Model, whole: lp.Run):
    pytest.importorskip("pandas")
    lens = model.lens(whole, position=[-2, -1], top=3)
    frame = lens.to_pandas()
    assert len(frame) == 5 * 2 * 3 and frame["rank"].tolist() == [1, 2, 3] * 10
    last = frame.iloc[-3:]
    assert last.next_id.tolist() == [guess.id for guess in lens.top()]
    assert last.row.tolist() == ["output"] * 3 and last.layer.tolist() == [3] * 3
    assert model.lens(whole, tokens=[3]).to_pandas().logprob.isna().all()
    pytest.importorskip("xarray")
    array = lens.to_xarray()
    assert array.dims == ("layer", "token", "id")
    assert np.array_equal(array.sel(layer="output", token=len(whole) - 1), lens.logits[-1, -1])
    assert model.lens(whole, tokens=[3, 9]).to_xarray().id.values.tolist() == [3, 9]


@pytest.mark.parametrize("by", ["layer", "head", "neuron", "source"])
def test_attribution(model: lp.Model, whole: lp.Run, by: str):
    pytest.importorskip("pandas")
    found = model.attribute(whole, 3, by=by)
    frame = found.to_pandas()
    assert len(frame) == len(found) and frame.kind.iloc[-1] == "rounding"
    assert frame.value.tolist() == [share.value for share in found]
    if by == "source":
        line = frame[(frame.layer == 2) & (frame["head"] == 1) & (frame.token == 4)]
        assert line.value.item() == found["source", 2, 1, 4] and line.text.item() == " time"
    pytest.importorskip("xarray")
    data = found.to_xarray()
    total = sum(float(data[kind].sum()) for kind in (*found.parts, "rounding"))
    assert total == pytest.approx(found.total) == float(data.total)


def test_sweep(model: lp.Model):
    pandas = pytest.importorskip("pandas")
    clean, corrupted = STORY, STORY.replace("miller", "weaver")
    how = {"metric": lp.logit_diff(3, 5), "layers": [3, 1], "positions": [-1, 6]}
    patches = model.patch_map(clean, corrupted, point="z", heads=True, **how)
    frame = patches.to_pandas()
    assert list(frame) == ["layer", "position", "head", "text", "value", "normalized"]
    assert len(frame) == 2 * 2 * 4 and frame.value.tolist() == patches.values.ravel().tolist()
    last = patches.positions[0]
    line = frame[(frame.layer == 1) & (frame.position == last) & (frame["head"] == 2)]
    assert line.value.item() == patches.values[1, 0, 2] and line.text.item() == patches.tokens[0]
    assert line.normalized.item() == patches.normalized[1, 0, 2]
    plain = model.sweep(clean, [lp.Edits(), lp.Edits()], lp.logprob(3))
    assert plain.to_pandas().equals(pandas.DataFrame({"cell": [0, 1], "value": plain.values}))
    pytest.importorskip("xarray")
    array = patches.to_xarray()
    assert array.dims == ("layer", "token", "head") and array.attrs["base"] == patches.base
    assert float(array.sel(layer=1, token=6)[2]) == patches.values[1, 1, 2]
    assert array.token_text.values.tolist() == patches.tokens
    assert plain.to_xarray().dims == ("cell",)


def test_diff(model: lp.Model, whole: lp.Run):
    pytest.importorskip("pandas")
    edits = lp.Edits()
    edits["z", 2][4:] *= 2
    found = lp.diff(whole, model.run(STORY, points=["x", ("z", 2), "logits"], edits=edits))
    frame = found.to_pandas()
    assert frame.point.tolist() == [one.point for one in found.values]
    assert frame.largest.tolist() == [one.largest for one in found.values]
    line = frame[frame.point == "z"]
    assert line.layer.item() == 2 and line.first_token.item() == 4
    assert line.n_tokens.item() == len(whole) - 4
    assert frame[frame.point == "logits"].layer.isna().all()
    pytest.importorskip("xarray")
    data = found.to_xarray()
    assert float(data.n_different.sel(point="z", layer=2)) == line.n_different.item()
    assert np.isnan(data.largest.sel(point="z", layer=1)) and data.point.values.tolist() == [
        "x",
        "z",
    ]


@pytest.fixture(scope="module")
def stats(model: lp.Model) -> "lp.stats.stats.Stats":
    return lp.collect(
        model,
        [model.tokenizer.encode(STORY), [1, 2, 3]],
        points=("x:1", "x:3", "k_rope:2", "pattern:3", "logits"),
        stats=("range", "moments", "histogram", "firing:0.5"),
    )


def test_stats(stats):
    pytest.importorskip("pandas")
    keys = stats["k_rope", 2]
    assert keys.dims == ("kv_head", "dim") and stats["pattern", 3].dims == ("head", "key")
    assert stats["logits"].dims == ("id",) and stats["x", 1].dims == ("channel",)
    frame = keys.to_pandas()
    line = frame[(frame.kv_head == 1) & (frame["dim"] == 5)]
    for name, values in keys.columns().items():
        assert line[name].item() == values[1, 5] or np.isnan(values[1, 5]), name
    assert {"count", "min", "mean", "fires_0.5"} < set(frame)
    whole = stats.to_pandas()
    n = sum(np.prod(stats[target].shape) for target in stats)
    assert len(whole) == len(stats.groups) * n and list(whole)[:3] == ["point", "layer", "group"]
    found = whole[(whole.point == "x") & (whole.layer == 3) & (whole.group == "rest")]
    assert found["mean"].tolist() == stats["x", 3].mean.tolist()
    assert found.channel.tolist() == list(range(128)) and found["head"].isna().all()


def test_stats_in_xarray(stats):
    pytest.importorskip("xarray")
    data = stats.to_xarray()
    assert data.x_mean.dims == ("layer", "group", "channel")
    assert np.array_equal(data.x_max.sel(layer=3, group="first"), stats["x", 3].of("first").max)
    assert data.logits_count.dims == ("group", "id")
    assert np.array_equal(
        data.pattern_mean.sel(layer=3, group="rest")[2], stats["pattern", 3].mean[2], True
    )
    one = stats["k_rope", 2].to_xarray()
    assert one.absmax.dims == ("kv_head", "dim") and one.attrs["group"] == "rest"
    assert np.array_equal(one["var"], stats["k_rope", 2].var())


def test_what_is_missing_is_named(run: lp.Run, monkeypatch):
    import llamaprobe.views.tables as tables

    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(tables, "import_module", missing)
    with pytest.raises(lp.ArgumentError, match="pip install pandas"):
        run.to_pandas()
    with pytest.raises(lp.ArgumentError, match="pip install xarray"):
        run.to_xarray()
