"""Edits of a run: what NumPy would do to a value is what the run does, and nothing else changes."""

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import models
import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core

TEXT = "Once upon a time there was a miller named Hopoa who lived behind the hills."
OTHER = "A friend named Torsa owned a wooden clock. One night the clock was gone again."


@pytest.fixture(scope="module")
def model() -> Iterator[lp.Model]:
    with lp.load("demo") as model:
        yield model


@pytest.fixture(scope="module")
def base(model: lp.Model) -> lp.Run:
    return model.run(TEXT, points="all")


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((bits(a) == bits(b)).all())


def hidden_keys(n_tokens: int) -> np.ndarray:
    """[T, T]: whether the key comes after the query."""
    return np.triu(np.ones((n_tokens, n_tokens), bool), 1)


def places(run: lp.Run) -> list[tuple[str, int | None]]:
    """Every value of a run."""
    return [(point, layer) for point in run.points for layer in run.layers_of(point) or [None]]


def value_of(run: lp.Run, point: str, layer: int | None) -> np.ndarray:
    return run[point] if layer is None else run[point, layer]


def place_in(edits: lp.Edits, point: str, layer: int | None) -> Any:
    return edits[point] if layer is None else edits[point, layer]


# ---- identity ----


def test_writing_back_every_value_changes_no_bit(model, base):
    edits = lp.freeze(base, "all")
    again = model.run(TEXT, points="all", edits=edits)
    assert again.equals(base) and len(edits) == len(places(base))
    assert [edit.n_changed for edit in again.edits] == [0] * len(edits)


@pytest.mark.parametrize("point", ["x_rms", "act", "scores", "x_mid", "q", "final_unit"])
def test_writing_back_one_value_changes_no_bit(model, base, point):
    run = model.run(TEXT, points="logits", edits=lp.freeze(base, point))
    assert same(run["logits"], base["logits"])


# ---- what NumPy would do ----


def random_index(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Integers, slices, and at most one list."""
    items: list[Any] = []
    for n in shape[: rng.integers(1, len(shape) + 1)]:
        start = int(rng.integers(n))
        stop = int(rng.integers(start, n)) + 1
        count = int(rng.integers(1, min(n, 5) + 1))
        some = sorted(rng.choice(n, count, replace=False).tolist())
        choices = [start, start - n, slice(start, stop), slice(start, None), slice(None)]
        choices += [slice(start, stop, 2), slice(-n + start, None)]
        choices += [some] * (not any(isinstance(item, list) for item in items))
        items.append(choices[rng.integers(len(choices))])
    if len(items) < len(shape) and rng.integers(2):
        items.append(...)
    return tuple(items) if len(items) > 1 else items[0]


def numpy_does(value: np.ndarray, index: Any, op: str, operand: np.ndarray) -> np.ndarray:
    value = value.copy()
    if op == "=":
        value[index] = operand
    elif op == "+=":
        value[index] += operand
    elif op == "-=":
        value[index] -= operand
    else:
        value[index] *= operand
    return value


def record(edits: lp.Edits, point: str, layer: int | None, index: Any, op: str, value: Any) -> None:
    place = place_in(edits, point, layer)
    if op == "=":
        place[index] = value
    elif op == "+=":
        place[index] += value
    elif op == "-=":
        place[index] -= value
    else:
        place[index] *= value


def test_an_edit_does_what_numpy_does(model, base):
    """Any point, index, operation and shape of the value; the value before it is kept as it was."""
    rng = np.random.default_rng(5)
    seen, n_tokens = 0, len(base)
    for point, layer in places(base) * 3:
        before = value_of(base, point, layer)
        index, op = random_index(rng, before.shape), ["=", "+=", "-=", "*="][rng.integers(4)]
        shape = before[index].shape
        cut = int(rng.integers(len(shape) + 1))
        operand = rng.normal(size=[n if rng.integers(3) else 1 for n in shape][cut:])
        operand = operand.astype(np.float32)
        edits = lp.Edits()
        record(edits, point, layer, index, op, operand)
        with np.errstate(invalid="ignore"):
            expected = numpy_does(before, index, op, operand)
        if point in ("scores", "pattern"):
            hidden = np.broadcast_to(hidden_keys(n_tokens), before.shape)
            expected[hidden] = before[hidden]
            touched = numpy_does(np.zeros_like(before), index, "=", np.float32(1)) != 0
            if not (touched & ~hidden).any():
                with pytest.raises(lp.EditError, match="none of these keys"):
                    model.run(TEXT, points=point, layers=layer, edits=edits)
                continue
        run = model.run(TEXT, points=(point, f"{point}.before", "logits"), edits=edits)
        assert same(value_of(run, point, layer), expected), edits
        assert same(value_of(run, f"{point}.before", layer), before), edits
        changed = int((bits(expected) != bits(before)).sum())
        assert run.edits[0].n_changed == changed, edits
        seen += 1
    assert seen > 200


def test_edits_of_a_value_are_made_in_their_order(model, base):
    e = lp.Edits()
    e["x", 2][3] = 1
    e["x_out", 1][3] *= 3  # the same value
    e["x", 2][3] += 0.5
    run = model.run(TEXT, points=("x", "x_out", "x.before", "x_out.before"), edits=e)
    assert (run["x", 2][3] == 3.5).all() and (run["x_out", 1][3] == 3.5).all()
    assert same(run["x.before", 2], base["x", 2]) and same(run["x_out.before", 1], base["x", 2])
    assert [edit.n_changed for edit in run.edits] == [128, 128, 128]


def test_a_value_is_rounded_once_and_copied_when_it_is_recorded(model):
    value = np.full(128, 0.1)
    e = lp.Edits()
    e["x", 1][0] = value
    value[:] = 7
    run = model.run(TEXT, points="x", edits=e)
    assert (run["x", 1][0] == np.float32(0.1)).all()


def test_a_changed_rms_is_what_its_unit_is_divided_by(model, base):
    e = lp.Edits()
    e["x_rms", 2][::2] *= 1.5
    run = model.run(TEXT, points=("x_rms", "x_unit"), edits=e)
    inverse = np.float32(1) / run["x_rms", 2][::2]
    assert same(run["x_unit", 2][::2], base["x", 2][::2] * inverse[:, None])
    assert same(run["x_unit", 2][1::2], base["x_unit", 2][1::2])


# ---- what depends on an edit, and what does not ----


def test_layers_below_an_edit_and_rows_before_it_keep_their_bits(model, base):
    rng = np.random.default_rng(6)
    points = [p for p in base.points if p not in ("final_rms", "final_unit", "final_norm")]
    for point in points:
        layer = int(rng.integers(4)) if base.layers_of(point) else None
        row = int(rng.integers(1, len(base) - 1))
        is_map = point in ("scores", "pattern")
        e = lp.Edits()
        place_in(e, point, layer)[(slice(None), row) if is_map else (row,)] *= 1.25
        run = model.run(TEXT, points="all", edits=e)
        assert run.edits[0].n_changed, point
        for other, at in places(base):
            a, b = value_of(run, other, at), value_of(base, other, at)
            if other in ("scores", "pattern"):
                a, b = a.swapaxes(0, 1), b.swapaxes(0, 1)
            assert same(a[:row], b[:row]), (point, other, at)
            below = layer is not None and at is not None and at < layer
            if below and (point, other, at) != ("x", "x_out", layer - 1):  # one value
                assert same(a, b), (point, other, at)
        final = bits(run["logits"][row]) != bits(base["logits"][row])
        assert final.any() or point in ("x_rms",), point


def test_all_rows_of_x_of_another_prompt_are_its_run_from_there_on(model):
    source = model.run(OTHER, points="all")
    ids = np.resize(model.tokenizer.encode(TEXT), len(source))
    for layer in range(4):
        run = model.run(ids, points="all", edits=lp.like(source, "x", layer))
        for point, at in places(source):
            if (at is None or at >= layer) and not (point == "x_out" and at < layer):
                assert same(value_of(run, point, at), value_of(source, point, at)), (point, at)


def test_bits_depend_on_no_thread_batch_or_variant(model, base, monkeypatch):
    other = model.run(OTHER, points="z")
    e = lp.like(other, "z", 3, np.s_[-4:, 1]) + lp.knockout(1, query=5, key=[0, 2], head=slice(2))
    e["x", 2][7:] += 0.25
    e["hidden", 0].map(lambda value, at: value * 2)
    e["x_mid_rms", 1][3] = 1
    whole = model.run(TEXT, points="all", edits=e, threads=1)
    assert not whole.equals(base)
    for variant, can_run in _core.kernels():
        if can_run:
            monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
            assert model.run(TEXT, points="all", edits=e, threads=2).equals(whole), variant
    monkeypatch.delenv("LLAMAPROBE_KERNELS")
    plain, edited, both = model.run([OTHER, TEXT, TEXT], points="all", edits=[None, e, e + e[2:3]])
    assert edited.equals(whole) and plain.equals(model.run(OTHER, points="all"))
    assert both.equals(model.run(TEXT, points="all", edits=e + e[2:3]))
    assert not plain.edits and len(edited.edits) == len(e) and len(both.edits) == len(e) + 1
    for point in whole.points:
        alone = model.run(TEXT, points=(point, "logits"), edits=e)
        assert same(alone[point], whole[point]), point


def test_the_edits_of_a_run_do_the_same_again(model):
    e = lp.Edits()
    e["x", -1][-3:, 5] = 2
    e["z", 1][lp.DECIDING] *= 0
    e["q", 0][lp.PROMPT, 2] += 1
    e += lp.like(model.run(TEXT, points="v"), "v", 2)
    run = model.run(TEXT, points="all", edits=e)
    assert repr(run.edits[0]) == "x[-1][17:, 5] = 2  # 3 changed"
    assert run.edits[0].written == "x[-1][-3:, 5] = 2"
    assert model.run(run.token_ids, points="all", edits=run.edits).equals(run)
    longer = [*run.token_ids, 5, 6]  # positions are absolute by now
    again = model.run(longer, points=("x", "q"), edits=run.edits)
    assert (again["x", 3][17:20, 5] == 2).all() and same(again["q", 0][:20], run["q", 0])
    stored = pickle.loads(pickle.dumps(run)).edits
    assert repr(stored) == repr(run.edits)


# ---- heads, keys, neurons ----


def test_a_kv_head_serves_its_query_heads(model, base):
    e = lp.Edits()
    e["v", 3][:, 1] = 0
    run = model.run(TEXT, points="z", edits=e)
    assert (run["z", 3][:, 2:] == 0).all() and same(run["z", 3][:, :2], base["z", 3][:, :2])


def test_a_knocked_out_key_gets_no_attention(model, base):
    edits = lp.knockout(3, query=[7, 9], key=slice(2, 4), head=[0, 2])
    run = model.run(TEXT, points=("pattern", "pattern.before", "scores"), edits=edits)
    after, before = run["pattern", 3], run["pattern.before", 3]
    assert (run["scores", 3][0, 7, 2:4] == -np.inf).all()
    assert (after[[0, 0, 2, 2], [7, 9, 7, 9], 2:4] == 0).all()
    assert np.allclose(after.sum(-1), 1, atol=1e-6)
    assert same(after[[1, 3]], base["pattern", 3][[1, 3]])
    assert same(before, after), "before its own edits, and it has none"


def test_a_pattern_is_not_normalised_again(model):
    e = lp.Edits()
    e["pattern", 2][1, 8, :4] = 0.5
    run = model.run(TEXT, points=("pattern", "z", "v"), edits=e)
    p = run["pattern", 2][1, 8].astype(np.float64)
    assert p.sum() > 1.5
    assert np.allclose(run["z", 2][8, 1], p @ run["v", 2][:, 0], rtol=1e-5, atol=1e-5)


# ---- functions ----


def test_a_function_sees_its_rows_and_where_they_are(model):
    seen = []

    def double(value: np.ndarray, at: Any) -> np.ndarray:
        seen.append((at.point, at.layer, at.positions.tolist(), at.prompt, at.step, value.shape))
        assert value.dtype == np.float32 and value.flags.writeable
        assert threading.current_thread() is threading.main_thread()
        return value * 2

    e = lp.Edits()
    e["z", 1][3:6, 2].map(double)
    e["pattern", 1].map(lambda value, at: seen.append((at.point, value.shape)))
    e["logits"][-1].map(double, whole=True)
    plain = model.run(TEXT, points=("z", "logits"))
    run = model.run([OTHER, TEXT], points=("z", "logits", "z.before"), edits=[None, e])[1]
    n = len(plain)
    assert seen == [
        ("pattern", (4, n, n)),
        ("z", 1, [3, 4, 5], 1, 0, (3, 32)),
        ("logits", None, [n - 1], 1, 0, (1, 960)),
    ]
    assert same(run["z", 1][3:6, 2], 2 * plain["z", 1][3:6, 2])
    assert [edit.n_changed for edit in run.edits][0::2] == [96, 960]


def test_a_function_may_run_a_model_and_its_exception_passes_through(model, base):
    inner = []

    def run_inside(value: np.ndarray, at: Any) -> None:
        inner.append(model.run(TEXT, points="all"))
        value += 1

    e = lp.Edits()
    e["x", 1][5].map(run_inside)
    run = model.run(TEXT, points="x", edits=e)
    assert inner[0].equals(base) and same(run["x", 1][5], base["x", 1][5] + np.float32(1))
    e = lp.Edits()
    e["x", 1].map(lambda value, at: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        model.run(TEXT, points="x", edits=e)
    assert model.run(TEXT, points="all").equals(base)


def add_one(value: np.ndarray, at: Any) -> np.ndarray:
    return value + 1


def test_a_run_with_a_function_can_be_pickled_and_copied(model):
    e = lp.Edits()
    e["x", 1].map(add_one)
    e["x", 2].map(lambda value, at: value + 1)
    run = model.run(TEXT, points="x", edits=e)
    for copied, n in ((copy.deepcopy(run), 2), (pickle.loads(pickle.dumps(run)), 1)):
        assert copied.equals(run) and repr(copied.edits) == repr(run.edits)
        again = model.run(TEXT, points="x", edits=copied.edits[:n])
        assert again.equals(model.run(TEXT, points="x", edits=e[:n]))
    lost = pickle.loads(pickle.dumps(copied.edits))
    with pytest.raises(lp.EditError, match="the function <lambda> was not kept"):
        model.run(TEXT, points="x", edits=lost)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda value, at: value[:1], lp.EditError, "an array of that shape, or None"),
        (lambda value, at: value.astype(complex), lp.EditError, "complex"),
        (lambda value, at: value * np.inf, lp.EditError, "returned .*inf for x"),
        (lambda value: value, TypeError, "argument"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(model, function, error, message):
    e = lp.Edits()
    e["x", 1][2:4].map(function)
    with pytest.raises(error, match=message):
        model.run(TEXT, points="x", edits=e)


# ---- surgery on weights is the edit ----


def test_weights_that_are_zeroed_are_the_same_as_edits(tmp_path):
    config = models.make_config()
    weights = models.make_weights(config, dtype="F32")
    n_heads, head_dim = config["num_attention_heads"], config["head_dim"]
    ids = models.make_token_ids(config, 21)

    def run(changed: dict[str, Any], edits: lp.Edits | None = None) -> lp.Run:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        models.write_checkpoint(folder, config, weights | changed, "F32")
        return lp.load(folder).run(ids, points="all", edits=edits)

    def layer(name: str) -> str:
        return f"model.layers.1.{name}.weight"

    o, down, norm = (
        weights[layer(name)].copy()
        for name in ("self_attn.o_proj", "mlp.down_proj", "input_layernorm")
    )
    head, neuron = n_heads - 1, 5
    o[:, head * head_dim : (head + 1) * head_dim] = 0
    down[:, neuron] = 0
    e = [lp.Edits() for _ in range(4)]
    e[0]["z", 1][:, head] = 0
    e[1]["hidden", 1][:, neuron] = 0
    e[2]["attn_out", 1] = 0
    e[3]["x_norm", 1][...] *= 2
    surgeries = [
        {layer("self_attn.o_proj"): o},
        {layer("mlp.down_proj"): down},
        {layer("self_attn.o_proj"): 0 * o},
        {layer("input_layernorm"): 2 * norm},
    ]
    plain = run({})
    for edits, changed, ours in zip(e, surgeries, ("z", "hidden", "", ""), strict=True):
        edited, cut = run({}, edits), run(changed)
        assert not np.array_equal(edited["logits"], plain["logits"])
        for point in edited.points:  # 0 == -0
            same_values = np.array_equal(edited[point], cut[point], equal_nan=True)
            assert same_values or point == ours, (edits, point)


# ---- a real model ----


@pytest.mark.slow
def test_a_real_model_keeps_the_laws(smollm2):
    with lp.load(smollm2) as model:
        points = ("x", "x_rms", "scores", "pattern", "z", "act", "x_mid", "x_out", "logits")
        base, source = (model.run(ids, points=points) for ids in ([5, 300, 7, 9], [8, 31, 32, 33]))
        frozen = lp.freeze(base, points, range(0, 30, 3))
        assert model.run(base.token_ids, points=points, edits=frozen).equals(base)
        patched = model.run(base.token_ids, points=points, edits=lp.like(source, "x", 12))
        for layer in range(30):
            expected = source if layer >= 12 else base
            assert same(patched["z", layer], expected["z", layer]), layer
        assert same(patched["logits"], source["logits"])
