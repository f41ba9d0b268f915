"""Pictures, by what is in them: axes, labels, images, bars; hostile tokens; many tokens."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.views.run import Tokens

matplotlib = pytest.importorskip("matplotlib")
from llamaprobe.plot import figures  # noqa: E402 - needs matplotlib

STORY = (
    "Once upon a time there was a miller named Hopoa who lived behind the hills."
    " So the heavy bell came back to H"
)


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo")


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(STORY, points="all")


def labels(axis) -> list[str]:
    return [tick.get_text() for tick in axis.get_ticklabels()]


def texts_of(figure) -> list:
    return figure.findobj(matplotlib.text.Text)


def drawn(figure) -> bytes:
    """Draws it, so that nothing only breaks later; the bytes of the PNG."""
    data = figure._repr_png_()
    assert data.startswith(b"\x89PNG")
    for text in texts_of(figure):
        ours = "$" in text.get_text() and "mathdefault" not in text.get_text()
        assert not ours or not text.get_parse_math()
    return data


def test_pattern_of_a_head(run: lp.Run):
    figure = lp.plot.pattern(run, 3, 1)
    ax, bar = figure.axes
    assert np.array_equal(ax.images[0].get_array(), run["pattern", 3][1])
    assert ax.images[0].get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel(), bar.get_ylabel()) == ("key", "query", "pattern")
    assert ax.get_title() == "layer 3, head 1"
    assert labels(ax.yaxis)[1:3] == ["Once", "\u2423upon"] and len(labels(ax.xaxis)) == len(run)
    drawn(figure)


def test_pattern_of_all_heads(run: lp.Run):
    figure = lp.plot.pattern(run, -1)
    maps = [ax for ax in figure.axes if ax.images]
    assert len(maps) == 4 and figure.get_supxlabel() == "key" and figure.get_supylabel() == "query"
    for head, ax in enumerate(maps):
        assert np.array_equal(ax.images[0].get_array(), run["pattern", 3][head])
        assert ax.get_title() == f"layer 3, head {head}"
    drawn(figure)


def test_lens(model: lp.Model, run: lp.Run):
    lens = model.lens(run, position=None)
    figure = lp.plot.lens(lens)
    ax = figure.axes[0]
    assert ax.images[0].get_array().shape == (5, len(run))
    assert labels(ax.yaxis) == ["x 0", "x 1", "x 2", "x 3", "output"]
    cells = [text.get_text() for text in ax.texts]
    assert len(cells) == 5 * len(run) and cells[-1] == "o"
    best = lens.logprobs[-1, -1].max()
    assert ax.images[0].get_array()[-1, -1] == pytest.approx(np.exp(best))
    drawn(figure)
    with pytest.raises(lp.ArgumentError, match="without tokens="):
        lp.plot.lens(model.lens(run, tokens=[3]))


def test_norms_and_channels(run: lp.Run):
    figure = lp.plot.norms(run)
    values = figure.axes[0].images[0].get_array()
    assert np.allclose(10**values, np.linalg.norm(run["x"], axis=-1), rtol=1e-5)
    assert labels(figure.axes[0].yaxis) == ["0", "1", "2", "3"]
    drawn(figure)
    figure = lp.plot.channels(run, "mlp_out", n=3)
    ax, sizes = figure.axes[0], np.abs(run["mlp_out"]).max(axis=1)
    assert np.allclose(10 ** ax.images[0].get_array(), sizes, rtol=1e-5)
    outliers = np.argsort(-sizes.max(axis=0), kind="stable")[:3]
    assert [text.get_text() for text in ax.texts] == [str(i) for i in outliers]
    drawn(figure)
    drawn(lp.plot.norms(run, "z"))
    for wrong in ("logits", "pattern", "x_rms"):
        with pytest.raises(lp.ArgumentError, match="need"):
            lp.plot.norms(run, wrong)


def test_attribution(model: lp.Model, run: lp.Run):
    found = model.attribute(run, "o", against="e", by="head")
    figure = lp.plot.attribution(found, n=6)
    ax = figure.axes[0]
    assert [bar.get_width() for bar in ax.patches] == [
        *(share.value for share in found.top(6)),
        found.rounding,
    ]
    assert labels(ax.yaxis) == [*(share.name for share in found.top(6)), "rounding"]
    drawn(figure)


def test_patch_maps(model: lp.Model):
    values = np.linspace(-2, 1, 4 * 5).reshape(4, -1)
    figure = lp.plot.patch_map(values, tokens=list("abcde"))
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-2, 2), "zero is in the middle"
    assert np.array_equal(image.get_array(), values)
    assert labels(figure.axes[0].xaxis) == list("abcde")
    how = {"metric": lp.logit_diff("o", "e"), "layers": [1, 3], "positions": [11, 27]}
    other = STORY.replace("Hopoa", "Hepoa")
    sweep = model.patch_map(STORY, other, **how)
    figure = lp.plot.patch_map(sweep)
    ax, bar = figure.axes
    assert np.array_equal(ax.images[0].get_array(), sweep.normalized)
    assert labels(ax.xaxis) == ["e", "\u2423H"] and labels(ax.yaxis) == ["1", "3"]
    assert bar.get_ylabel() == "effect, normalized"
    drawn(figure)
    sweep = model.patch_map(STORY, other, point="z", heads=True, **how)
    figure = lp.plot.patch_map(sweep, head=2)
    assert np.array_equal(figure.axes[0].images[0].get_array(), sweep.normalized[:, :, 2])
    figure = lp.plot.patch_map(sweep, position=27)
    assert np.array_equal(figure.axes[0].images[0].get_array(), sweep.normalized[:, 1])
    assert labels(figure.axes[0].xaxis) == list("0123") and figure.axes[0].get_xlabel() == "head"
    drawn(figure)
    same = dataclasses.replace(sweep, values=sweep.values[..., 0], clean=sweep.base)
    figure = lp.plot.patch_map(same)
    assert figure.axes[1].get_ylabel() == "change of the metric"
    for wrong, more, fact in (
        (np.zeros(3), {}, "shape"),
        (model.sweep(STORY, [lp.Edits()], lp.logprob(3)), {}, "shape"),
        (sweep, {}, "either head= or position="),
        (sweep, {"head": 1, "position": 27}, "either head= or position="),
        (sweep, {"head": 4}, "head 4 is not"),
        (sweep, {"position": 12}, "position 12 is not"),
    ):
        with pytest.raises(lp.ArgumentError, match=fact):
            lp.plot.patch_map(wrong, **more)


def test_stats_of_arrays(run: lp.Run):
    figure = lp.plot.stats({"x": run["x"], "$z$": run["z"]}, name="activation")
    assert len(figure.axes[0].patches) == 2 and figure.axes[0].get_xlabel() == "activation"
    assert sum(figure.axes[0].patches[0].get_data().values) == run["x"].size
    drawn(figure)
    with pytest.raises(lp.ArgumentError, match="no finite"):
        lp.plot.stats([np.nan])


def test_stats_of_a_dataset(model: lp.Model):
    data = [model.tokenizer.encode(STORY), [1, 2, 3]]
    stats = lp.collect(model, data, points=("x:1", "x:3", "hidden:2"), stats=("histogram",))
    figure = lp.plot.stats(stats)
    ax = figure.axes[0]
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == list(stats.targets) and ax.get_xscale() == "symlog"
    for target, patch in zip(stats.targets, ax.patches, strict=True):
        counts, edges, _ = patch.get_data()
        buckets, by_channel = stats[target].histogram()
        assert sum(counts) == by_channel.sum() == stats[target].count.sum()
        assert (np.diff(edges) >= 0).all() and edges[0] == buckets[0, 0]
        assert len(counts) < 2 * len(buckets) - 1, "buckets that meet have no gap between them"
        for (low, high), n in zip(buckets, by_channel.sum(0), strict=True):
            assert counts[np.searchsorted(edges, (low + high) / 2) - 1] == n
    drawn(figure)
    figure = lp.plot.stats(stats["x", 3].all)
    assert len(figure.axes[0].patches) == 1
    drawn(figure)
    with pytest.raises(lp.ArgumentError, match="histogram was not collected"):
        lp.plot.stats(lp.collect(model, data, points="x:1", stats=("range",)))


def test_diff(model: lp.Model, run: lp.Run):
    figure = lp.plot.diff({"x": [0, 1e-3, 0.1], "z": [0, 0, 1]})
    shown = figure.axes[0].images[0].get_array()
    assert shown[0, 1] == -3 and shown[1, 2] == 0 and np.ma.getmaskarray(shown)[0, 0]
    assert labels(figure.axes[0].yaxis) == ["x", "z"]
    drawn(figure)
    drawn(lp.plot.diff({"x": [0, 0]}))
    edits = lp.Edits()
    edits["z", 2][4:] *= 2
    found = lp.diff(run, model.run(STORY, points=("x", "z"), edits=edits))
    figure = lp.plot.diff(found)
    shown = figure.axes[0].images[0].get_array()
    assert labels(figure.axes[0].yaxis) == ["x", "z"]
    assert shown[1, 2] == np.log10(found.largest["z"][2]) and np.ma.getmaskarray(shown)[0, 2]
    drawn(figure)
    shown = lp.plot.diff({"x": [0, 0.1, np.inf]}).axes[0].images[0].get_array()
    assert shown[0, 2] == -1 and np.ma.getmaskarray(shown)[0].tolist() == [True, False, False]


def test_axes_of_a_figure_of_one_s_own(run: lp.Run):
    figure = matplotlib.figure.Figure()
    left, right = figure.subplots(1, 2)
    assert lp.plot.pattern(run, 0, 2, ax=left) is figure
    assert lp.plot.norms(run, ax=right) is figure
    assert left.images and right.images
    with pytest.raises(lp.ArgumentError, match="give head="):
        lp.plot.pattern(run, 0, ax=left)
    with pytest.raises(lp.ArgumentError, match="no head 4"):
        lp.plot.pattern(run, 0, 4)


def test_hostile_tokens(model: lp.Model):
    run = model.run([3, 4, 5, 6, 7], points=("x", "x_out", "pattern"))
    hostile = ["$\\frac{1}{", "\x00\r\n", "\u202ex", "\U0010ffff\u0f00", "a" * 5000]
    run._tokens = Tokens(hostile)
    for figure in (lp.plot.pattern(run, 0, 0), lp.plot.pattern(run, 0), lp.plot.norms(run)):
        drawn(figure)
    shown = labels(lp.plot.pattern(run, 0, 0).axes[0].yaxis)
    assert shown[0] == "$\\frac{1}{" and shown[1] == "\\x00\\x0d\\x0a" and shown[2] == "\\u202ex"
    assert shown[3] == "\\U0010ffff\\u0f00" and len(shown[4]) == figures.LONGEST
    drawn(lp.plot.lens(model.lens(run, position=None)))


def test_glyphs_that_the_font_lacks_are_escaped():
    assert figures.label("\u4e2d") == "\\u4e2d" and figures.label("\u00e9") == "\u00e9"


@pytest.mark.parametrize("n", [1, pytest.param(4096, marks=pytest.mark.slow)])
def test_few_and_many_tokens(random_checkpoint, n: int):
    model = lp.load(random_checkpoint(max_position_embeddings=4096, num_hidden_layers=1))
    ids = np.arange(n) % 90
    run = model.run(ids, points=("x", "x_out"))
    drawn(lp.plot.norms(run))
    drawn(lp.plot.channels(run))
    figure = lp.plot.lens(model.lens(run, position=slice(-600, None)))
    assert len(labels(figure.axes[0].xaxis)) <= figures.MOST_LABELS
    drawn(figure)
    pattern = np.tri(n, dtype=np.float32)[None, None] / np.arange(1, n + 1)[:, None]
    run._values["pattern"] = ((0,), pattern.astype(np.float32))
    figure = lp.plot.pattern(run, 0, 0)
    assert max(figure.axes[0].images[0].get_array().shape) <= figures.SIDE
    assert figure.axes[0].get_ylim() == (n - 0.5, -0.5)
    drawn(figure)


def test_no_pyplot(run: lp.Run):
    """Figures are not kept by anything global."""
    import subprocess
    import sys

    code = (
        "import sys, llamaprobe as lp; r = lp.load('demo').run('Once', points='pattern');"
        "lp.plot.pattern(r, 0)._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- the command line ----


def test_plots_of_a_command(command, tmp_path: Path):
    files = [tmp_path / name for name in ("a.png", "b.svg", "c.png", "d.PNG", "e.pdf")]
    kinds = ["pattern:3", "pattern:3.1", "norms:z", "channels", "lens"]
    plots = [
        word
        for kind, file in zip(kinds, files, strict=True)
        for word in ("--plot", f"{kind}={file}")
    ]
    code, out, err = command("run", "demo", STORY, *plots, "--points", "x", "--layers", "0")
    assert code == 0 and all(file.stat().st_size > 1000 for file in files)
    assert err.count("drew") == 5 and "pattern" not in out and "z " not in out


def test_a_plot_adds_no_file_to_a_run(command, tmp_path: Path):
    picture = f"pattern:3={tmp_path / 'a.png'}"
    for folder, more in (("with", ["--plot", picture]), ("without", [])):
        out = tmp_path / folder
        code, _, err = command("run", "demo", STORY, "--out", out, "--layers", "1", *more)
        assert code == 0 and "pattern" not in err.replace(picture, "")
    with_, without = (sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("with", "without"))
    assert with_ == without and (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("plot", "fact"),
    [
        ("pattern=a.png", "is not KIND=FILE"),
        ("pattern:x=a.png", "is not KIND=FILE"),
        ("stats=a.png", "pattern:LAYER"),
        ("norms:z", "is not KIND=FILE"),
        ("lens=a.xyz", "ends in none of"),
    ],
)
def test_wrong_plots(command, plot: str, fact: str):
    code, out, err = command("run", "demo", STORY, "--plot", plot)
    assert code == 2 and fact in err and out == ""


def test_plots_that_cannot_be_written(command, tmp_path: Path):
    code, _, err = command("run", "demo", STORY, "--plot", f"lens={tmp_path}/missing/a.png")
    assert code == 1 and "missing/a.png: No such file" in err
    code, _, err = command("run", "demo", STORY, "--plot", f"pattern:9={tmp_path}/a.png")
    assert code == 1 and "no layer 9" in err
