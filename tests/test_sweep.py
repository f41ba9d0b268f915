"""Sweeps: every cell has the bits of its own run, and shares the work."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe.sweeps import engine as sweeps

IDS = [(7 * i * i + 3 * i) % 97 for i in range(21)]
CASES = {case.name: case for case in family_models.family_cases()}
MAPS = ("scores_raw", "scores", "pattern")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> lp.Model:
    folder = tmp_path_factory.mktemp("sweep")
    config = models.make_config(num_hidden_layers=4)
    models.write_checkpoint(folder, config, models.make_weights(config))
    return lp.load(folder, threads=2)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sweeps, "_ROWS", 30)
    yield


def rows_of(model: lp.Model, ids: Any, cells: Any, **how: Any) -> tuple[list[Any], lp.Sweep]:
    """The row of logits of each cell."""
    rows: list[Any] = []

    def keep(row: Any) -> int:
        rows.append(row.copy())
        return len(rows) - 1

    sweep = model.sweep(ids, cells, keep, **how)
    return [rows[int(value)] for value in sweep.values], sweep


def check(model: lp.Model, ids: Any, cells: list[lp.Edits], **how: Any) -> lp.Sweep:
    """The law; and a cell is skipped if and only if its row is that of the base."""
    rows, sweep = rows_of(model, ids, cells, **how)
    base = model.run(ids, points="logits")["logits"][-1]
    for number, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        own = model.run(ids, points="logits", edits=cell)["logits"][-1]
        assert row.tobytes() == own.tobytes(), (number, cell)
    assert sweep.values.shape == (len(cells),) and sweep.base == 0
    assert sweep.n_skipped == list(sweep.values).count(0)
    assert sum(row.tobytes() == base.tobytes() for row in rows) >= sweep.n_skipped
    return sweep


def place(edits: lp.Edits, point: str, layer: int | None) -> Any:
    return edits[point] if layer is None else edits[point, layer]


def at_row(point: str, row: int) -> tuple[Any, ...]:
    return (slice(None), row) if point in MAPS else (row,)


def cells_at_every_point(model: lp.Model, ids: list[int]) -> Iterator[lp.Edits]:
    """Each point in one layer and row, also the first and the last ones; all change the logits."""
    n_layers = model.config.n_layers
    for number, point in enumerate(model.points()):
        layer = number % n_layers if point.per_layer else None
        row = -1 if layer in (None, n_layers - 1) else (0, len(ids) - 1, 10, 5)[number // 3 % 4]
        e = lp.Edits()
        place(e, point.name, layer)[at_row(point.name, row)] *= 1.25
        place(e, point.name, layer)[at_row(point.name, row)] += 0.125
        yield e


# ---- the law ----


@pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")
@pytest.mark.parametrize("name", CASES)
def test_every_point_of_every_family(name: str, tmp_path: Path, small_chunks: None):
    """Beyond the window of 7 keys and the 16 positions of a short table."""
    model = lp.load(CASES[name].make(tmp_path))
    cells = list(cells_at_every_point(model, IDS))
    assert check(model, IDS, cells).n_skipped == 0
    sources = [lp.like(model.run(IDS[::-1], points="x"), "x", 1, np.s_[p]) for p in range(0, 21, 4)]
    check(model, IDS, sources, threads=1)


def drawn(model: lp.Model, rng: np.random.Generator) -> lp.Edits:
    """Up to three edits of any values, sometimes those that the base has."""
    e, run = lp.Edits(), model.run(IDS, points="all")
    for _ in range(rng.integers(1, 4)):
        point = rng.choice(list(run.points))
        layers = run.layers_of(point)
        layer = int(rng.choice(layers)) if layers else None
        first = int(rng.integers(len(IDS)))
        rows = slice(first, int(rng.integers(first, len(IDS))) + 1)
        index = (slice(None), rows) if point in MAPS else (rows,)
        kind = rng.integers(4)
        if kind == 0:
            e += lp.like(run, point, layer, np.s_[:, rows] if point in MAPS else np.s_[rows])
        elif kind == 1:
            place(e, point, layer)[index] *= float(rng.choice([1, 0.5, -2]))
        elif kind == 2:
            place(e, point, layer)[index] += float(rng.choice([0, 1e-30, 0.25]))
        else:
            place(e, point, layer)[index].map(lambda value, at: value * np.float32(1.5))
    return e


@pytest.mark.parametrize("seed", [0, 1])
def test_cells_of_several_edits(model: lp.Model, seed: int, small_chunks: None):
    rng = np.random.default_rng(seed)
    cells = [drawn(model, rng) for _ in range(60)]
    sweep = check(model, IDS, [*cells, lp.Edits()])
    assert 3 < sweep.n_skipped < 40
    one = rows_of(model, IDS, [*cells, lp.Edits()], threads=1)[0]
    two = rows_of(model, IDS, [*cells[::-1], lp.Edits()], threads=2)[0]
    assert [row.tobytes() for row in one[:-1]] == [row.tobytes() for row in two[-2::-1]]


def test_prompts_of_any_length_and_cells_at_any_row(model: lp.Model):
    """On both sides of a panel of 8 keys, and of a block of 64."""
    ids = [(5 * i * i + i) % 97 for i in range(75)]
    for n in (1, 2, 8, 9, 64, 65, 75):
        cells = []
        for row in sorted({0, 1, n // 2, 7, 8, 9, 62, 63, 64, 65, n - 1}):
            for layer in range(4):
                e = lp.Edits()
                e["x", layer][min(row, n - 1), :3] = 0.5
                cells.append(e)
        check(model, ids[:n], cells)


def test_what_a_function_sees(model: lp.Model):
    seen: list[Any] = []

    def double(value: Any, at: Any) -> Any:
        seen.append((value.shape, at.point, at.layer, at.positions.tolist(), at.prompt, at.step))
        return 2 * value

    cells = [lp.Edits(), lp.Edits(), lp.Edits()]
    cells[0]["z", 1][3:5, 2].map(double)
    cells[1]["logits"][:].map(double)
    cells[2]["x", 2][4, 0].map(lambda value, at: value)
    assert rows_of(model, IDS, cells)[1].n_skipped == 1
    assert sorted(seen, key=str) == [
        ((1, 97), "logits", None, [20], 0, 0),
        ((2, model.config.head_dim), "z", 1, [3, 4], 0, 0),
    ]
    check(model, IDS, cells)
    whole = lp.Edits()
    whole["x", 1][5:].map(lambda value, at: value - value.mean(0), whole=True)
    check(model, IDS, [whole])
    with pytest.raises(lp.EditError, match=r"cell 0: x\[1\].*needs all rows"):
        model.sweep(IDS, [whole], lp.logprob(3, position=4))


def test_a_metric_at_an_earlier_position(model: lp.Model):
    """What lies after it is not computed, and edits of it are skipped."""
    cells = [lp.Edits() for _ in range(4)]
    cells[0]["x", 1][3] = 0.5
    cells[1]["x", 1][12] = 0.5
    cells[2]["pattern", 2][:, 2:9] *= 0.5
    cells[3]["logits"][-3, 5] = 7
    for position in (8, -13):
        metric = lp.logit_diff(5, 6, position=position)
        sweep = model.sweep(IDS, cells, metric)
        for value, cell in zip(sweep.values, cells, strict=True):
            row = model.run(IDS, points="logits", edits=cell)["logits"][8]
            assert value == float(row[5]) - float(row[6])
        assert sweep.n_skipped == 2


@pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")
def test_the_prompt_chooses_the_table_of_rope(tmp_path: Path):
    """Also where the metric reads a position of the short one."""
    model = lp.load(CASES["phi3-short"].make(tmp_path))
    e = lp.Edits()
    e["x", 1][4] += 1
    sweep = model.sweep(IDS, [e], lp.logit_diff(5, 6, position=10))
    row = model.run(IDS, points="logits", edits=e)["logits"][10]
    assert sweep.values[0] == float(row[5]) - float(row[6])
    assert sweep.base != model.sweep(IDS[:11], [e], lp.logit_diff(5, 6)).base


# ---- sharing ----


def test_work_is_shared(model: lp.Model):
    """Less than whole runs, and none for what is the base."""
    ids = IDS[:20]
    whole = sum(stage.flops for stage in model.profile(ids, points="logits").stages)
    source = model.run(IDS[:10] + IDS[:10], points="x")
    cells = [lp.like(source, "x", k, np.s_[p]) for k, p in itertools.product(range(4), range(20))]
    sweep = model.sweep(ids, cells, lp.logprob(3))
    assert sweep.n_skipped >= 40
    assert whole < sweep.flops < len(cells) * whole / 6
    none = model.sweep(ids, [lp.freeze(model.run(ids, points="x"), "x")], lp.logprob(3))
    assert none.n_skipped == 1 and none.flops < whole
    assert none.values[0] == none.base == sweep.base


def test_the_same_edit_in_every_layer_reads_each_weight_once(
    model: lp.Model, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    run = sweeps.Engine._run

    def counted(self: Any, ids: Any, *args: Any, **how: Any) -> Any:
        calls.append(len(ids))
        return run(self, ids, *args, **how)

    monkeypatch.setattr(sweeps.Engine, "_run", counted)
    cells = []
    for layer in range(4):
        e = lp.Edits()
        e["mlp_out", layer][-1] = 0
        cells.append(e)
    check(model, IDS, cells)
    assert calls == [21, 1, 2, 3, 4]


# ---- patch maps ----


def test_a_patch_map_is_the_runs_of_its_cells(model: lp.Model, small_chunks: None):
    clean, corrupted = IDS, [*IDS[:9], 3, *IDS[10:]]
    points = ("x", "z", "v", "pattern", "x_out", "q_rms", "mlp_out", "scores")
    points = tuple(p for p in points if p in {each.name for each in model.points()})
    source = model.run(clean, points=(*points, "logits"))
    metric = lp.logit_diff(5, 6)
    for point in points:
        for heads in (False, True) if point in ("z", "v", "pattern", "scores") else (False,):
            s = model.patch_map(
                clean, corrupted, metric=metric, point=point, heads=heads, positions=[4, 9, -2, -1]
            )
            n_heads = 2 if point == "v" else 4
            assert s.values.shape == (4, 4, n_heads) if heads else (4, 4)
            assert s.layers == (0, 1, 2, 3) and s.positions == (4, 9, 19, 20)
            for at in np.ndindex(s.values.shape):
                layer, row = at[0], s.positions[at[1]]
                index = (at[2], row) if heads else (slice(None), row)
                if point not in MAPS:
                    index = (row, *index[: int(heads)])
                e = lp.like(source, point, layer, index)
                row_of = model.run(corrupted, points="logits", edits=e)["logits"][-1]
                assert s.values[at] == float(row_of[5]) - float(row_of[6]), (point, at)
            assert (s.values[:, 0] == s.base).all()
            last = source["logits"][-1]
            assert s.clean == float(last[5]) - float(last[6])
    whole = model.patch_map(clean, corrupted, metric=metric, point="x_out", layers=[-1])
    assert whole.layers == (3,) and whole.values.shape == (1, 21)
    assert whole.normalized.tolist() == [[0.0] * 20 + [1.0]]
    assert repr(whole).startswith("<Sweep [1, 21]: base ")


@pytest.mark.parametrize(
    "how, message",
    [
        ({"point": "logits"}, "takes a point that every layer has, not 'logits'"),
        ({"point": ("x", 2)}, "takes a point that every layer has"),
        ({"point": "x", "heads": True}, "it has no heads to patch one by one"),
        ({"point": "nothing"}, "nothing"),
        ({"layers": [4]}, "4"),
        ({"positions": [21]}, "position 21 is out of range: the prompt has 21 tokens"),
        ({"positions": slice(3, 3)}, "positions selects none of 21 tokens"),
        ({"clean": IDS[:20]}, "the clean prompt has 20 tokens and the corrupted one 21"),
        ({"clean": [IDS, IDS]}, "a sweep takes one prompt, and this is a batch"),
        ({"metric": lp.logprob(97)}, "token id 97 is out of range: the vocabulary has 97"),
        ({"metric": lp.logprob(3, position=-22)}, "position -22 is out of range"),
        ({"metric": 7}, "metric is 7; give lp.logit_diff"),
        ({"metric": lambda row: "much"}, "the metric returned 'much', a str; it must be a number"),
    ],
)
def test_patch_maps_that_are_refused(model: lp.Model, how: dict[str, Any], message: str):
    how = {"clean": IDS, "corrupted": IDS, "metric": lp.logprob(3), **how}
    with pytest.raises(lp.ArgumentError, match=message.replace("(", r"\(")):
        model.patch_map(how.pop("clean"), how.pop("corrupted"), **how)


def test_an_error_names_the_cell_before_anything_is_computed(
    model: lp.Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweeps.Engine, "_run", lambda *args, **how: pytest.fail("computed"))
    good, bad = lp.Edits(), lp.Edits()
    good["x", 1][3] = 0
    bad["x", 1][21] = 0
    with pytest.raises(lp.EditError, match=r"cell 1: x\[1\]\[21\] = 0.*: there is no row 21"):
        model.sweep(IDS, [good, bad], lp.logprob(3))
    with pytest.raises(lp.EditError, match="cell 0: it is {}; give an lp.Edits"):
        model.sweep(IDS, [{}], lp.logprob(3))  # type: ignore[list-item]


def test_normalized_needs_two_measures(model: lp.Model):
    s = model.sweep(IDS, [], lp.logprob(3))
    assert s.values.shape == (0,) and s.n_skipped == 0
    with pytest.raises(lp.ArgumentError, match="only a patch map has a clean prompt"):
        s.normalized  # noqa: B018
    same = model.patch_map(IDS, IDS, metric=lp.logprob(3))
    assert same.n_skipped == same.values.size and (same.values == same.base).all()
    with pytest.raises(lp.ArgumentError, match="for both the clean and the corrupted prompt"):
        same.normalized  # noqa: B018


@pytest.mark.filterwarnings("error")
def test_infinities_and_nan_are_numbers_too(model: lp.Model):
    """Without warnings of NumPy; a cell that is the same infinity as the base does not move it."""
    corrupted = [*IDS[:20], 3]
    for found in ([np.inf, np.nan, 1.0, -np.inf], [np.inf]):
        n = itertools.count()
        s = model.patch_map(IDS, corrupted, metric=lambda row: found[next(n) % len(found)], layers=1)  # noqa: B023
        assert repr(s) and s._repr_html_()
        same = s.values == s.base
        assert (s._changes[same] == 0).all()
    s = model.patch_map(IDS, corrupted, metric=lambda row, n=itertools.count(): [np.inf, 1.0][next(n) > 0], layers=1)
    assert s.normalized.shape == s.values.shape and "layer 1, position" in repr(s)


# ---- metrics ----


def test_metrics(model: lp.Model):
    e = lp.Edits()
    e["x", 1][3] += 1
    run, edited = (model.run(IDS, points="logits", edits=one) for one in (None, e))
    wide = [each["logits"][-1].astype(np.float64) for each in (run, edited)]
    logs = [row - row.max() - np.log(np.exp(row - row.max()).sum()) for row in wide]
    for metric, base, value in (
        (lp.logit_diff(5, 6), wide[0][5] - wide[0][6], wide[1][5] - wide[1][6]),
        (lp.logprob(5), logs[0][5], logs[1][5]),
        (lp.kl(run), 0, (np.exp(logs[0]) * (logs[0] - logs[1])).sum()),
        (lambda row: row[7], wide[0][7], wide[1][7]),
    ):
        sweep = model.sweep(IDS, [e], metric)
        assert sweep.base == pytest.approx(base, abs=1e-12)
        assert sweep.values[0] == pytest.approx(value, abs=1e-12)
    earlier = model.sweep(IDS[:9], [e], lp.kl(run, position=-9))
    assert earlier.base > 0
    with pytest.raises(lp.ArgumentError, match="position 21 is out of range: the run of lp.kl has 21 tokens"):
        model.sweep(IDS, [e], lp.kl(run, position=21))
    with pytest.raises(lp.PointError, match="logits was not captured"):
        model.sweep(IDS, [e], lp.kl(model.run(IDS)))
    hidden = lp.Edits()
    hidden["logits"][-1, 3] = -np.inf
    assert model.sweep(IDS, [hidden], lp.kl(run)).values[0] == np.inf


def test_a_token_may_be_text():
    demo = lp.load("demo")
    story = "Once upon a time there was a"
    assert demo.tokenizer.encode(" bell", add_special_tokens=False).tolist() == [
        (bell := int(demo.tokenizer.encode(" bell", add_special_tokens=False)[0]))
    ]
    e = lp.Edits()
    e["z", 1][-1] = 0
    by_text = demo.sweep(story, [e], lp.logprob(" bell"))
    assert by_text.values == demo.sweep(story, [e], lp.logprob(bell)).values
    assert repr(lp.logit_diff(" bell", 3)) == "logit_diff(' bell', 3, position=-1)"
    with pytest.raises(
        lp.ArgumentError, match=r"the text ' Hopoa' is 4 tokens, ' H' \(\d+\), 'o' \(\d+\), "
    ):
        demo.sweep(story, [e], lp.logprob(" Hopoa"))
    with pytest.raises(lp.ArgumentError, match="the text '' is 0 tokens; a metric takes one"):
        demo.sweep(story, [e], lp.logprob(""))
    with pytest.raises(lp.ArgumentError, match="a token is an id or a text, not True"):
        demo.sweep(story, [e], lp.logprob(True))
    s = demo.patch_map(story, story, metric=lp.logprob(" bell"), positions=[0, -1])
    assert s.tokens == [demo.tokenizer.pieces(demo.tokenizer.encode(story))[i] for i in (0, -1)]


def test_example_4_of_the_contract():
    """Clean into corrupted, all layers and positions: a 2-D array."""
    demo = lp.load("demo")
    clean, corrupted = "Hopoa had a heavy bell.", "Hopoa had a wooden bell."
    a, b = " heavy", " wooden"
    n = [len(demo.tokenizer.encode(text)) for text in (clean, corrupted)]
    assert n[0] == n[1]
    s = demo.patch_map(clean, corrupted, metric=lp.logit_diff(a, b, position=-2))
    assert s.normalized.shape == (demo.config.n_layers, n[0]) and s.normalized[0].max() == 1


@pytest.mark.slow
def test_a_real_model(smollm2: Path):
    """The name that was given away is patched in; some cells are redone as runs."""
    model = lp.load(smollm2)
    clean = "When Mary and John went to the store, John gave a drink to"
    corrupted = "When Mary and John went to the store, Mary gave a drink to"
    metric, rng = lp.logit_diff(" Mary", " John"), np.random.default_rng(0)
    a, b = (
        int(model.tokenizer.encode(text, add_special_tokens=False)[0])
        for text in (" Mary", " John")
    )
    for point, layers in (("x", range(30)), ("mlp_out", range(0, 30, 3)), ("k_rope", [4])):
        s = model.patch_map(clean, corrupted, metric=metric, point=point, layers=layers)
        assert s.clean is not None and s.base < 0 < s.clean
        assert s.n_skipped >= 9 * len(layers) and s.values.shape == (len(layers), 14)
        source = model.run(clean, points=point)
        for layer, row in zip(rng.choice(layers, 8), rng.integers(9, 14, 8), strict=True):
            e = lp.like(source, point, int(layer), np.s_[row])
            own = model.run(corrupted, points="logits", edits=e)["logits"][-1]
            found = s.values[s.layers.index(layer), row]
            assert found == float(own[a]) - float(own[b]), (point, layer, row)
