"""One dataset has one hash: for any parts, order, batches, threads and kernels, and for any tree of
merges. Also what collect refuses, masks and groups."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.stats.chosen import read_chosen
from llamaprobe.stats.state import fault_of, from_core, merge
from llamaprobe.stats.writing import FORMAT_VERSION

ALL = ("range", "moments", "histogram", "gram", "top:5", "firing:0.25")
HOW = {"stats": ALL, "points": ("x:1", "hidden:0", "final_norm"), "max_tokens": 40}


def documents(n=14, seed=11):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 960, rng.integers(1, 91)).tolist() for _ in range(n)]


@pytest.fixture(scope="module")
def model():
    return lp.load("demo", threads=1)


@pytest.fixture(scope="module")
def whole(model):
    return lp.collect(model, documents(), **HOW)


@pytest.fixture(scope="module")
def parts(model):
    return [lp.collect(model, documents(), part=(i, 6), **HOW) for i in range(6)]


@pytest.mark.parametrize(("threads", "batch_tokens"), [(1, 1), (2, 64), (5, 4096), (1, 300)])
def test_threads_and_batches_change_no_bit(model, whole, threads, batch_tokens):
    again = lp.collect(model, documents(), threads=threads, batch_tokens=batch_tokens, **HOW)
    assert again.sha256 == whole.sha256


@pytest.mark.parametrize("variant", [name for name, runs in _core.kernels() if runs])
def test_every_variant_gives_the_same_bytes(model, variant, monkeypatch):
    docs, how = documents(3), HOW | {"points": ("x:1", "hidden:0")}
    expected = lp.collect(model, docs, **how).sha256
    monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
    assert lp.collect(model, docs, threads=2, **how).sha256 == expected


def test_parts_in_any_order(whole, parts):
    assert not parts[2].is_complete and whole.is_complete
    for seed in range(8):
        order = random.Random(seed).sample(parts, len(parts))
        assert lp.merge_stats(order).sha256 == whole.sha256
    assert (parts[0] + parts[1]).facts["covers"] == [[0, parts[1].facts["covers"][0][1]]]


# ---- random trees of merges, on states with extreme values ----


def extreme(rng, n):
    """Values of all sizes: denormals, zeros, the largest, some that are not finite."""
    bits = rng.integers(0, 1 << 32, n, np.uint32)
    kinds = rng.integers(0, 6, n)
    ordinary = rng.normal(size=n).astype(np.float32).view(np.uint32)
    bits = np.where(kinds < 3, ordinary, bits)
    return np.where(kinds == 5, bits & np.uint32(0x80000000), bits).view(np.float32)


CHOSEN = read_chosen(["range", "moments", "histogram", "top:3", "firing:0"])
N_CHANNELS = 3


def state_of(values, documents):
    """The slow state of some rows, from Python's integers."""
    part = {}
    finite = np.isfinite(values)
    kept = [values[finite[:, c], c] for c in range(N_CHANNELS)]
    places = [documents[finite[:, c]] for c in range(N_CHANNELS)]
    nan, inf = np.isnan(values).sum(0), np.isinf(values).sum(0)
    zero = [(each == 0).sum() for each in kept]
    part["count"] = np.array([list(map(len, kept)), zero, nan, inf], np.int64).T.copy()
    keys = [np.where(b < 0, b ^ 0x7FFFFFFF, b) for b in (each.view(np.int32) for each in kept)]
    part["range"] = np.array(
        [
            [each[k.argmin()], each[k.argmax()]] if len(each) else [np.inf, -np.inf]
            for each, k in zip(kept, keys, strict=True)
        ],
        np.float32,
    )
    part["fires"] = np.array([[(each > 0).sum()] for each in kept], np.int64)
    limbs = []
    for each in kept:
        row = []
        for p, width, sign in ((1, 6, 0), (1, 6, 1), (2, 10, 1), (3, 14, 1), (4, 19, 1)):
            total = 0
            for v in each.tolist():
                m, e = np.frexp(abs(v) if not sign else v)
                total += (
                    (int(m * (1 << 24)) ** p) * 2 ** ((int(e) - 24 + 149) * p)
                    if e >= -124
                    else (int((abs(v) if not sign else v) * 2.0**149) ** p)
                )
            row.append(np.frombuffer(total.to_bytes(8 * width, "little", signed=True), "<i8"))
        limbs.append(np.concatenate(row))
    part["sums"] = np.array(limbs)
    buckets = [np.unique(each.view(np.uint32) >> 19, return_counts=True) for each in kept]
    part["first"] = np.array([0, *np.cumsum([len(b) for b, _ in buckets])], np.int64)
    part["bucket"] = np.concatenate([b for b, _ in buckets]).astype(np.int32)
    part["total"] = np.concatenate([n for _, n in buckets]).astype(np.int64)
    top = {
        name: np.full((N_CHANNELS, 3), -1, np.int64) for name in ("document", "start", "position")
    }
    value = np.zeros((N_CHANNELS, 3), np.float32)
    for c in range(N_CHANNELS):
        best = sorted(range(len(kept[c])), key=lambda i: (-int(keys[c][i]), int(places[c][i])))[:3]
        value[c, : len(best)] = kept[c][best]
        top["document"][c, : len(best)] = places[c][best]
        top["start"][c, : len(best)] = top["position"][c, : len(best)] = 0
    part |= {"top.value": value} | {f"top.{name}": array for name, array in top.items()}
    return from_core([part], CHOSEN)


@pytest.mark.parametrize("n_trees", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_trees_of_merges_give_one_state(n_trees):
    rng = np.random.default_rng(1)
    n, n_leaves = 120, 8
    values = extreme(rng, n * N_CHANNELS).reshape(n, N_CHANNELS)
    values[:, 2] = np.where(rng.random(n) < 0.9, np.float32(0.5), values[:, 2])  # ties
    leaves = [state_of(values[rows], rows) for rows in np.array_split(rng.permutation(n), n_leaves)]
    expected = state_of(values, np.arange(n))
    assert fault_of(expected, CHOSEN) is None
    names = {name: array.tobytes() for name, array in expected.items()}
    for seed in range(n_trees):
        left = random.Random(seed).sample(leaves, n_leaves)
        shuffle = random.Random(seed)
        while len(left) > 1:
            a, b = (left.pop(shuffle.randrange(len(left))) for _ in range(2))
            left.append(merge(a, b))
        assert {name: array.tobytes() for name, array in left[0].items()} == names


def test_grams_move_apart_and_back():
    """Sums beyond 128 bits are kept apart, whichever way they are reached."""
    chosen = read_chosen("gram")
    big = [[-1, (1 << 63) - 1], [0, 1 << 61], [5, -(1 << 63)], [1, -(1 << 60)]]

    def leaf(row):
        gram = np.array([row, [row[0], 7], [0, 0]], np.int64)
        return from_core(
            [
                {
                    "count": np.ones((2, 4), np.int64),
                    "gram": gram,
                    "gram.rows": np.ones(3, np.int64),
                    "gram.entry": np.zeros(0, np.int64),
                    "gram.wide": np.zeros((0, 6), np.int64),
                }
            ],
            chosen,
        )

    states = [leaf([lo, hi]) for lo, hi in big]
    results, apart = set(), set()
    for seed in range(50):
        found = random.Random(seed).sample(states, 4)
        while len(found) > 1:
            found = [merge(found[0], found[1]), *found[2:]]
            apart.add(len(found[0]["gram.entry"]))
        results.add(b"".join(array.tobytes() for _, array in sorted(found[0].items())))
    assert len(results) == 1 and apart == {0, 1}


# ---- what differs is refused ----


def test_overlaps_and_other_options_are_refused(model, parts, whole):
    with pytest.raises(lp.ArgumentError, match="both statistics cover the windows 0 to"):
        lp.merge_stats([parts[0], parts[1], parts[0]])
    with pytest.raises(lp.ArgumentError, match="both statistics cover"):
        whole + parts[3]
    for change in (
        {"stats": ("range",)},
        {"by": "none"},
        {"max_tokens": 39},
        {"points": ("x:1", "hidden:0")},
        {"positions": "skip:1"},
        {"mask": lambda ids: ids > 3},
    ):
        other = lp.collect(model, documents(), part=(5, 6), **HOW | change)
        with pytest.raises(lp.ArgumentError, match="these statistics differ in"):
            parts[0] + other
    with pytest.raises(lp.ArgumentError, match="differ in data"):
        parts[0] + lp.collect(model, documents(13), part=(5, 6), **HOW)


def test_one_plan_serves_all_parts(model, tmp_path):
    plan = lp.plan_harvest(model, documents(), tmp_path / "plan", points="x:1", max_tokens=40)
    how = {"stats": ALL, "points": HOW["points"]}
    found = [lp.collect(model, plan, part=(i, 2), **how) for i in (1, 0)]
    assert lp.merge_stats(found).sha256 == lp.collect(model, documents(), **HOW).sha256
    with pytest.raises(lp.ArgumentError, match="a plan has its options already"):
        lp.collect(model, plan, max_tokens=3)


def test_exact_quantiles_are_of_one_part_only(model):
    how = {"stats": "histogram", "points": "x:1", "exact": (0.5,)}
    a, b = (lp.collect(model, documents(), part=(i, 2), **how) for i in (0, 1))
    low, high = a["x", 1].quantile(0.5)
    assert (low == high).all()
    low, high = (a + b)["x", 1].quantile(0.5)
    assert (low < high).any()
    without = [lp.collect(model, documents(), part=(i, 2), **how | {"exact": ()}) for i in (0, 1)]
    assert (a + b).sha256 == lp.merge_stats(without).sha256


@pytest.mark.slow
def test_processes_and_parts_twice(whole, tmp_path):
    """Parts in processes of their own, in reverse, one of them twice, added up by the command."""
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({"input_ids": ids}) + "\n" for ids in documents())
    )
    options = [
        "--stats",
        ",".join(ALL),
        "--points",
        "x:1,hidden:0,final_norm",
        "--max-tokens",
        "40",
    ]
    for i in (2, 1, 0, 1):
        command = [sys.executable, "-m", "llamaprobe", "stats", "demo", "data.jsonl", *options]
        command += [
            "--part",
            f"{i}/3",
            "--out",
            f"{i}.safetensors",
            "--threads",
            str(1 + i),
            "--quiet",
            "--force",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    found = [lp.read_stats(tmp_path / f"{i}.safetensors") for i in (1, 2, 0)]
    assert lp.merge_stats(found).sha256 == whole.sha256
    assert sorted(os.listdir(tmp_path)) == [*(f"{i}.safetensors" for i in range(3)), "data.jsonl"]


# ---- which tokens ----


def test_a_mask_leaves_tokens_out(model):
    docs = documents(6)
    masks = [np.arange(len(ids)) % 3 == 1 for ids in docs]
    how = {"stats": ("moments", "gram"), "points": "x:1", "max_tokens": 40}
    stats = lp.collect(model, docs, mask=masks, by="none", **how)
    rows = []
    for ids, mask in zip(docs, masks, strict=True):
        for start in range(0, len(ids), 40):
            rows.append(model.run(ids[start : start + 40])["x", 1][mask[start : start + 40]])
    values = np.concatenate(rows).astype(np.float64)
    assert stats.tokens == {"every": len(values)}
    assert np.allclose(stats["x", 1].mean, values.mean(0), rtol=1e-12)
    assert np.allclose(stats["x", 1].gram(), values.T @ values, rtol=1e-5, atol=1e-3)
    by_id = lp.collect(model, docs, mask=lambda ids: ids % 2 == 0, by="none", **how)
    assert by_id.tokens["every"] == sum(i % 2 == 0 for ids in docs for i in ids)
    assert by_id.facts["mask"] != stats.facts["mask"] is not None
    for wrong in (masks[:-1], [*masks[:-1], masks[-1][:-1]], [["a"]] * 6):
        with pytest.raises(lp.ArgumentError, match="mask"):
            lp.collect(model, docs, mask=wrong, **how)


@pytest.mark.parametrize("by", ["position", "token", [3, 5, 900], "none"])
def test_groups_are_sums_of_their_own(model, by):
    docs = [[3, 5, 5, 7], [5, 3], [7, 7, 7, 3, 5, 3]]
    stats = lp.collect(model, docs, stats=("moments", "top:2"), points="x:2", by=by)
    sums = {}
    for ids in docs:
        for position, (token, row) in enumerate(zip(ids, model.run(ids)["x", 2], strict=True)):
            key = {"position": position, "token": token, "none": "every"}.get(str(by), token)
            sums.setdefault(str(key), []).append(row.astype(np.float64))
    if isinstance(by, list):
        sums = {str(token): sums.get(str(token), []) for token in by}
    assert stats.tokens == {group: len(rows) for group, rows in sums.items()}
    for group, rows in sums.items():
        mean = stats["x", 2].of(group).mean
        assert np.allclose(mean, np.mean(rows, 0), rtol=1e-12) if rows else np.isnan(mean).all()
    assert (stats["x", 2].count == sum(map(len, sums.values()))).all()


def test_context_of_a_stride_counts_once(model):
    ids = documents(1, 3)[0] + list(range(60))
    stats = lp.collect(model, [ids], stats="range", points="x:1", max_tokens=20, stride=5)
    assert sum(stats.tokens.values()) == len(ids) and stats.tokens["first"] == 1


def test_a_bos_before_later_windows_is_context(model):
    ids = list(range(100, 150))
    how = {"stats": "range", "points": "x:1", "max_tokens": 20}
    plain, always = (lp.collect(model, [ids], bos=bos, **how) for bos in ("auto", "always"))
    assert plain.tokens == {"first": 3, "rest": 47}
    assert always.tokens == {"first": 1, "rest": 50}, "the document's own BOS is a token of it"
    assert always.facts["data"]["sha256"] != plain.facts["data"]["sha256"]


def test_a_part_may_be_empty(model):
    docs = [[1, 2, 3]]
    parts = [lp.collect(model, docs, part=(i, 3), points="x:1") for i in range(3)]
    assert sorted(sum(part.tokens.values()) for part in parts) == [0, 0, 3]
    assert lp.merge_stats(parts).sha256 == lp.collect(model, docs, points="x:1").sha256
    empty = next(part for part in parts if not part.facts["covers"])
    assert np.isnan(empty["x", 1].mean).all() and empty["x", 1].absmax.tolist() == [0] * 128
    assert np.isnan(empty["x", 1].quantile(0.5)[0]).all() and empty.massive() == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stats": "mean"}, lp.ArgumentError, "there is no statistic 'mean'"),
        ({"stats": "top:0"}, lp.ArgumentError, "K is a number from 1 to 4096"),
        ({"stats": "top:x"}, lp.ArgumentError, "K is a number"),
        ({"stats": "firing:nan"}, lp.ArgumentError, "THETA is a finite"),
        ({"stats": "firing:1e39"}, lp.ArgumentError, "THETA is a finite"),
        ({"points": "y"}, lp.PointError, "y"),
        ({"points": "pattern", "stats": "top:3"}, lp.ArgumentError, "has no rows of tokens"),
        ({"by": "word"}, lp.ArgumentError, "by is 'word'"),
        ({"by": range(2000)}, lp.ArgumentError, "2000 groups"),
        ({"exact": (0.5,), "stats": "range"}, lp.ArgumentError, "need the statistic histogram"),
        ({"exact": (1.5,)}, lp.ArgumentError, "exact is 1.5; give a number from 0 to 1"),
        ({"part": (3, 3)}, lp.ArgumentError, "part is"),
        ({"part": 3}, lp.ArgumentError, "give \\(i, n\\)"),
        ({"keys": 0}, lp.ArgumentError, "keys is 0"),
        ({"batch_tokens": 0}, lp.ArgumentError, "batch_tokens is 0"),
        ({"dtype": "bf16"}, lp.ArgumentError, "dtype is not an option of statistics"),
        ({"layers": [9]}, lp.PointError, "9"),
    ],
)
def test_wrong_arguments(model, change, error, message):
    with pytest.raises(error, match=message):
        lp.collect(model, [[1, 2]], **{"points": "x:1"} | change)


def test_what_was_not_collected_is_named(model):
    stats = lp.collect(model, [[1, 2, 3]], stats="range", points="x:1")
    for attempt in (
        lambda c: c.mean,
        lambda c: c.kurtosis(),
        lambda c: c.quantile(0.5),
        lambda c: c.top(0),
        lambda c: c.gram(),
        lambda c: c.fires(0.5),
    ):
        with pytest.raises(lp.ArgumentError, match="was not collected"):
            attempt(stats["x", 1])
    with pytest.raises(lp.ArgumentError, match="the target is 'x.0'; give one of x.1"):
        stats["x", 0]
    with pytest.raises(lp.ArgumentError, match="group is 'last'; give one of all"):
        stats["x", 1].of("last")
    assert stats.facts["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize(
    ("observer", "error"),
    [
        (("core", 3, 1, 1), lp.ArgumentError),
        (("core", 4, 2, 1), lp.ArgumentError),
        ((3, 4, 1, 1), TypeError),
        (("core", 4, 1), TypeError),
        (7, TypeError),
    ],
)
def test_observers_that_do_not_fit(model, observer, error):
    core = _core.Stats(((0, 0, model.config.d_model, 0),), 1)
    if isinstance(observer, tuple):
        kinds = np.int32, np.int64, np.int64
        arrays = [np.zeros(n, kind) for n, kind in zip(observer[1:], kinds, strict=False)]
        observer = (core if observer[0] == "core" else observer[0], *arrays)
    with pytest.raises(error):
        model._open().run(np.zeros(4, np.int32), [0, 4], [], n_threads=1, observer=observer)
    assert core.is_whole and not core.arrays(0, 0)["count"].any()


def test_targets_that_the_model_lacks(model):
    for target, message in (
        ((0, 9, model.config.d_model, 0), "has no layer 9"),
        ((0, 0, 7, 0), "7 channels, the model has"),
        ((17, 0, model.config.n_heads * 5, 0), "channels"),
    ):
        core = _core.Stats((target,), 1)
        observer = core, np.zeros(4, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64)
        with pytest.raises(lp.ArgumentError, match=message):
            model._open().run(np.zeros(4, np.int32), [0, 4], [], n_threads=1, observer=observer)
    for wrong in (((0, 0, 5),), ((99, 0, 5, 0),), ((0, -1, 5, 0),), ((0, 0, 0, 0),)):
        with pytest.raises((lp.ArgumentError, TypeError)):
            _core.Stats(wrong, 1)


def test_cached_tokens_and_last_rows_cannot_be_observed(model):
    core = _core.Stats(((0, 0, model.config.d_model, 0),), 1)
    observer = core, np.zeros(4, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64)
    opened, ids = model._open(), np.zeros(4, np.int32)
    cache = _core.Cache(opened)
    opened.run(ids, [0, 4], [], n_threads=1, caches=[cache], observer=observer)
    assert core.arrays(0, 0)["count"][0, 0] == 4, "an empty cache holds no tokens"
    for how in ({"caches": [cache]}, {"last_rows": True}):
        with pytest.raises(lp.ArgumentError, match="cannot be observed"):
            opened.run(ids, [0, 4], [], n_threads=1, observer=observer, **how)
