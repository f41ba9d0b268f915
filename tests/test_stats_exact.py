"""Statistics against Fraction, math.fsum, NumPy and a full sort, on values that a run gives."""

import json
import math
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.stats import collect, exact, quantiles

ALL = ("range", "moments", "histogram", "gram", "top:6", "firing:0", "firing:0.5")
POINTS = ("x", "hidden:1", "q:2", "logits")


def documents(n=12, seed=5, most=90):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 960, rng.integers(1, most)).tolist() for _ in range(n)]


def values_of(model, docs, point, layer, max_tokens=60):
    """[(document, start, position)] and the rows of each, window after window."""
    places, rows = [], []
    for number, ids in enumerate(docs):
        for start in range(0, len(ids), max_tokens):
            window = ids[start : start + max_tokens]
            value = model.run(window, points=[point])[
                (point, layer) if layer is not None else point
            ]
            rows.append(value.reshape(len(window), -1))
            places += [(number, start, position) for position in range(len(window))]
    return places, np.concatenate(rows)


@pytest.fixture(scope="module")
def model():
    return lp.load("demo", threads=2)


@pytest.fixture(scope="module")
def docs():
    return documents()


@pytest.fixture(scope="module")
def stats(model, docs):
    return lp.collect(model, docs, stats=ALL[:3] + ALL[4:], points=POINTS, max_tokens=60)


@pytest.fixture(
    scope="module", params=[("x", 0), ("x", 3), ("hidden", 1), ("q", 2), ("logits", None)]
)
def case(request, model, docs, stats):
    """(channels of the statistics, places, values [n, channels])."""
    point, layer = request.param
    places, values = values_of(model, docs, point, layer)
    key = (point, layer) if layer is not None else point
    return stats[key].all, places, values


def test_counts_and_range_are_those_of_numpy(case):
    channels, _, values = case
    flat = {name: getattr(channels, name).reshape(-1) for name in ("min", "max", "absmax", "count")}
    assert (flat["count"] == len(values)).all() and channels.count.shape == channels.shape
    assert (flat["min"] == values.min(0)).all() and (flat["max"] == values.max(0)).all()
    assert (flat["absmax"] == np.abs(values).max(0)).all()
    assert (channels.zero.reshape(-1) == (values == 0).sum(0)).all()
    for theta in (0, 0.5):
        assert (channels.fires(theta).reshape(-1) == (values > theta).sum(0)).all()
    assert not channels.nan.any() and not channels.inf.any()


def test_power_sums_are_exact(case):
    channels, _, values = case
    for column in range(0, values.shape[1], 41):
        numbers = [Fraction(float(v)) for v in values[:, column]]
        for p in (1, 2, 3, 4):
            found = channels.power_sums(p).reshape(-1)[column]
            assert Fraction(found, 1 << 149 * p) == sum(v**p for v in numbers)
        n = len(numbers)
        sums = [float(v) for v in values[:, column]]
        assert channels.mean.reshape(-1)[column] == float(sum(numbers) / n)
        assert channels.mean.reshape(-1)[column] == pytest.approx(math.fsum(sums) / n, rel=1e-15)
        assert channels.mean_abs.reshape(-1)[column] == float(sum(map(abs, numbers)) / n)


def test_moments_are_rounded_once(case):
    channels, _, values = case
    found = {
        "var": channels.var(),
        "std": channels.std(ddof=1),
        "skew": channels.skew(),
        "kurtosis": channels.kurtosis(),
    }
    for column in range(0, values.shape[1], 53):
        numbers = [Fraction(float(v)) for v in values[:, column]]
        n, mean = len(numbers), sum(numbers) / len(numbers)
        m2, m3, m4 = (sum((v - mean) ** p for v in numbers) / n for p in (2, 3, 4))
        flat = {name: float(each.reshape(-1)[column]) for name, each in found.items()}
        assert flat["var"] == float(m2) and flat["kurtosis"] == float(m4 / m2**2)
        assert is_nearest_root(flat["std"], m2 * n / (n - 1))
        assert is_nearest_root(abs(flat["skew"]), m3 * m3 / m2**3) and flat["skew"] * m3 >= 0


def is_nearest_root(found, square):
    """Whether no float64 is nearer to the root."""
    low, high = (Fraction(float(np.nextafter(found, to))) for to in (-np.inf, np.inf))
    middle = [(Fraction(found) + each) / 2 for each in (low, high)]
    return max(middle[0], 0) ** 2 <= square <= middle[1] ** 2


def test_histograms_count_buckets(case):
    channels, _, values = case
    edges, counts = channels.histogram()
    assert (np.diff(edges[:, 0]) > 0).all() and (edges[:, 0] <= edges[:, 1]).all()
    counts = counts.reshape(-1, len(edges))
    for column in range(0, values.shape[1], 37):
        inside = (values[:, column, None] >= edges[:, 0]) & (values[:, column, None] <= edges[:, 1])
        assert (inside.sum(0) == counts[column]).all()
    normal = np.abs(edges).min(1) >= np.finfo(np.float32).tiny
    widths = np.abs(edges[normal, 1] - edges[normal, 0]) / np.abs(edges[normal]).min(1)
    assert widths.max() < 0.0626


@pytest.mark.parametrize("q", [0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.999, 1])
def test_quantiles_are_within_their_bounds(case, q):
    channels, _, values = case
    low, high = (each.reshape(-1) for each in channels.quantile(q))
    true = np.quantile(values, q, axis=0, method="inverted_cdf")
    assert (low <= true).all() and (true <= high).all()


def test_the_largest_are_those_of_a_full_sort(case):
    channels, places, values = case
    for column in range(0, values.shape[1], 29):
        order = sorted(range(len(values)), key=lambda i: (-values[i, column], places[i]))[:6]
        index = np.unravel_index(column, channels.shape)
        found = [(e.value, e.document, e.start, e.position) for e in channels.top(index)]
        assert found == [(float(values[i, column]), *places[i]) for i in order]


def test_examples_have_their_context(stats, docs):
    example = stats["x", 2].top(7)[0]
    window = docs[example.document][example.start :]
    assert example.context.tolist() == window[: example.position + 1]
    assert example.token_id == window[example.position]
    assert all(e.position > 0 for e in stats["x", 2].top(7)), "position 0 is apart"
    assert {e.position for e in stats["x", 2].of("first").top(7)} == {0}


def test_groups_add_up_to_all(stats):
    for target in stats:
        channels = stats[target]
        first, rest, both = channels.of("first"), channels.of("rest"), channels.all
        assert channels.group == "rest"
        assert (first.count + rest.count == both.count).all()
        for p in (1, 4):
            assert (first.power_sums(p) + rest.power_sums(p) == both.power_sums(p)).all()
    assert stats.tokens["first"] == sum(-(-len(ids) // 60) for ids in documents())


def test_quantiles_are_exact_after_two_more_runs(model, docs):
    wanted = (0, 0.003, 0.5, 0.9, 1)
    stats = lp.collect(
        model,
        docs,
        stats="histogram",
        points=("x:2", "z:0"),
        exact=wanted,
        by="none",
        max_tokens=60,
    )
    for point, layer in (("x", 2), ("z", 0)):
        _, values = values_of(model, docs, point, layer)
        for q in wanted:
            low, high = (each.reshape(-1) for each in stats[point, layer].quantile(q))
            true = np.quantile(values, q, axis=0, method="inverted_cdf")
            assert (low == true).all() and (high == true).all()
    assert stats["x", 2].quantile(0.4)[0][0] < stats["x", 2].quantile(0.4)[1][0], "not requested"


def test_more_tokens_than_a_counter_holds_are_refused_before_any_run(model, monkeypatch):
    monkeypatch.setattr(quantiles, "_MOST_TOKENS", 4)
    monkeypatch.setattr(collect._Run, "add", lambda *_: pytest.fail("it ran"))
    with pytest.raises(lp.ArgumentError, match="exact quantiles of 5 tokens; the most are 4: set limit_"):
        lp.collect(model, [[3, 5, 8], [13, 21]], stats="histogram", points="x:2", exact=(0.5,))


def test_a_gram_is_a_sum_of_float32_blocks(model):
    docs = [[1 + i % 900 for i in range(n)] for n in (300, 5, 512, 1)]
    stats = lp.collect(model, docs, stats=("gram", "moments"), points=("x:1", "x_norm:2"))
    for point, layer in (("x", 1), ("x_norm", 2)):
        _, values = values_of(model, docs, point, layer, 512)
        channels = stats[point, layer].all
        true = values.astype(np.float64).T @ values
        scale = np.sqrt(np.outer(np.diag(true), np.diag(true)))
        assert (np.abs(channels.gram() - true) <= 256 * 2.0**-24 * scale).all()
        assert channels.gram_rows == len(values) and (channels.gram() == channels.gram().T).all()
        covariance = np.cov(values.astype(np.float64).T, ddof=0)
        assert np.abs(channels.covariance() - covariance).max() < 1e-5 * np.diag(true / 818).max()
        assert np.allclose(np.diag(channels.covariance()), channels.var(), rtol=1e-4, atol=1e-5)


def test_one_block_is_rule_2_of_the_arithmetic(model):
    """Blocks of 64 tokens, each a chain of fused multiply-adds from +0, added in order: so two
    blocks of 64 that are summed in float32."""
    ids = [3 * i % 900 for i in range(100)]
    gram = lp.collect(model, [ids], stats="gram", points="x:1", by="none")["x", 1].gram()
    x = model.run(ids, points=["x"])["x", 1]

    def chain(rows, i, j):
        total = np.float32(0)
        for row in rows:
            exactly = Fraction(float(row[i])) * Fraction(float(row[j])) + Fraction(float(total))
            total = nearest_float32(exactly)
        return total

    for i, j in ((0, 0), (5, 3), (127, 64), (40, 40)):
        assert gram[i, j] == chain(x[:64], i, j) + chain(x[64:], i, j)


def nearest_float32(value):
    found = np.float32(float(value))
    near = [np.nextafter(found, np.float32(to)) for to in (-np.inf, np.inf)]
    best = min(
        [found, *near], key=lambda f: (abs(Fraction(float(f)) - value), f.view(np.uint32) & 1)
    )
    return np.float32(best)


def test_attention_of_keys_is_the_mean_of_the_pattern(model, docs):
    stats = lp.collect(
        model, docs, stats=("moments", "range"), points=("pattern",), keys=7, max_tokens=60
    )
    for layer in (0, 3):
        sums, counts = np.zeros((model.config.n_heads, 7)), np.zeros(7)
        for ids in docs:
            for start in range(0, len(ids), 60):
                window = ids[start : start + 60]
                pattern = model.run(window, points=["pattern"])["pattern", layer]
                n = min(7, len(window))
                sums[:, :n] += pattern[:, :, :n].astype(np.float64).sum(1)
                counts[:n] += len(window) - np.arange(n)
        channels = stats["pattern", layer].all
        assert channels.shape == (model.config.n_heads, 7)
        assert (channels.count == counts).all()
        assert np.allclose(channels.mean, sums / counts, rtol=1e-12)
    sinks = stats.sinks(0.03, seen=0)
    assert all(s.attention == stats["pattern", s.layer].all.mean[s.head, s.key] for s in sinks)
    every = [stats["pattern", layer].all.mean > 0.03 for layer in range(4)]
    assert len(sinks) == np.sum(every) > 0
    n = stats["pattern", 0].all.count[0]
    often = [s for s in sinks if n[s.key] >= 0.9 * n[0]]
    assert stats.sinks(0.03, seen=0.9) == often and 0 < len(often) < len(sinks)


def test_massive_activations_and_outlier_features(model, docs, stats):
    _, values = values_of(model, docs, "x", 3)
    low, high = stats["x", 3].all.median_abs()
    assert low <= np.median(np.abs(values)) <= high
    found = {each.channel[0] for each in stats.massive(above=1, times=3) if each.target == "x.3"}
    assert found == set(np.flatnonzero(np.abs(values).max(0) > max(1, 3 * high)).tolist()) and found
    features = stats.outliers("x", above=2.5, layers=0.5, tokens=0.06)
    votes = np.zeros(values.shape[1], int)
    for layer in range(4):
        each = np.abs(values_of(model, docs, "x", layer)[1])
        votes += (each >= 2.5).sum(0) >= 0.06 * len(each)
    assert features.tolist() == np.flatnonzero(votes >= 2).tolist() and len(features)
    with pytest.raises(lp.ArgumentError, match="not an edge of a bucket"):
        stats.outliers("x", above=2.6)
    with pytest.raises(lp.ArgumentError, match="was not collected"):
        stats.outliers("z")


def test_roots_and_ratios_are_correctly_rounded():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (int(rng.integers(1, 1 << 62)) ** int(rng.integers(1, 9)) for _ in range(2))
        assert is_nearest_root(exact.root(a, b), Fraction(a, b))
    assert exact.root(0, 3) == 0 and math.isnan(exact.root(1, 0)) and math.isnan(exact.ratio(0, 0))
    assert exact.ratio(1 << 2000, 1) == math.inf and exact.ratio(-(1 << 2000), 1) == -math.inf
    assert exact.rank(0.1, 10) == 1 and exact.rank(0, 5) == 1 and exact.rank(1, 5) == 5


def test_a_window_hides_keys_from_statistics_too(tmp_path):
    folder = shutil.copytree(Path(lp.__file__).parent / "demo", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4}
    (folder / "config.json").write_text(json.dumps(config))
    model, ids = lp.load(folder), list(range(3, 23))
    stats = lp.collect(model, [ids], stats=("range", "moments"), points="pattern", keys=6)
    whole, pattern = stats["pattern", 0].all, model.run(ids, points="pattern")["pattern", 0]
    assert (whole.count == 4).all()
    seen = [pattern[:, key : key + 4, key].astype(np.float64).mean(1) for key in range(6)]
    assert np.allclose(whole.mean, np.stack(seen, 1), rtol=1e-12)
