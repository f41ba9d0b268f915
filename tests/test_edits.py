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
from llamaprobe.captures import captures_of
from llamaprobe.edits.resolve import Call, bind

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
    with pytest.raises(lp.EditError, match="the function <lambda> was not pickled"):
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


# ---- refusals ----

BAD: list[tuple[str, str]] = [
    ("e['kk', 1][0] = 0", "there is no point 'kk'; near: k"),
    ("e['z', 9][0] = 0", "there is no layer 9; the model has 0 to 3"),
    ("e['scores_raw', 1][:, 3, 2] = 0", "this model has no 'scores_raw'"),
    ("e['z'][0] = 0", "value of each layer"),
    ("e['logits', 2][0] = 0", "computed once"),
    ("e['z', 1][20] = 0", "there is no row 20: the prompt has 20 tokens, 0 to 19"),
    ("e['z', 1][-21] = 0", "there is no row -21"),
    ("e['z', 1][3:21] = 0", "21 is outside"),
    ("e['z', 1][5:5] = 0", "selects no row"),
    ("e['z', 1][::-1] = 0", "goes forward"),
    ("e['z', 1][[]] = 0", "empty list"),
    ("e['z', 1][[2, 2]] += 1", "row 2 is listed twice"),
    ("e['z', 1][[1, 2], [2, 3]] = 1", "NumPy would pair"),
    ("e['z', 1][0, 0, 0, 0] = 1", "4 indices for 3 axes"),
    ("e['z', 1][..., 0, ...] = 1", "one ... at most"),
    ("e['z', 1][0, 4] = 0", "there is no head 4: there are 4, 0 to 3"),
    ("e['k', 1][0, 2] = 0", "query head 2 reads kv head 1, which serves query heads 2 to 3"),
    ("e['k_rope', 1][0, 9] = 0", "there is no kv head 9: there are 2"),
    ("e['hidden', 1][:, 352] = 0", "there is no neuron 352"),
    ("e['z', 1][lp.NEW] = 0", "selects no row"),
    ("e['z', 1][0, lp.PROMPT] = 0", "PROMPT selects positions"),
    ("e['x', 1][2:4] = np.zeros((3, 128))", r"shape \[3, 128\] for \[2, 128\]"),
    ("e['x', 1][0, 0] = np.zeros(2)", "shape"),
    ("e['x', 1][0] = np.nan", "must be finite"),
    ("e['x', 1][0] = 1e39", "must be finite"),
    ("e['x', 1][0] = -np.inf", "but -inf in scores and logits"),
    ("e['scores', 1][:, 5, 2] += -np.inf", "must be finite"),
    ("e['scores', 1][:, 5, 6:] = 0", "none of these keys is seen"),
    ("e['scores', 1][:, 5] = -np.inf", "query 5 has no key left"),
    ("e['hidden', 3][0] = 0", "hidden of layer 3 changes nothing that you keep: the last is .* 2"),
    ("e['up', 2][0] = 0", "changes nothing that you keep: the last is gate of layer 2"),
    ("e['logits'][0] = 0", "changes nothing"),
    ("e += lp.like(other, 'z', 1)", "has 22 tokens and this prompt has 20"),
    ("e['x', 1][0].map(len)", "len"),
]


@pytest.mark.parametrize(("code", "message"), BAD, ids=[code for code, _ in BAD])
def test_an_edit_that_cannot_act_is_refused(model, code, message):
    names = {"e": lp.Edits(), "lp": lp, "np": np}
    names["other"] = model.run(list(range(22)), points="z")
    exec(code, names)
    with pytest.raises((lp.EditError, lp.PointError, TypeError), match=message) as caught:
        model.run(TEXT, points=("z", "gate"), layers=[0, 1, 2], edits=names["e"])
    assert isinstance(caught.value, (lp.ArgumentError, TypeError))


def test_a_value_before_its_own_edits_depends_on_none_of_them(model):
    e = lp.Edits()
    e["z", 2][0] = 0
    with pytest.raises(lp.EditError, match="the last is z.before of layer 2"):
        model.run(TEXT, points="z.before", layers=2, edits=e)


@pytest.mark.parametrize(
    "code",
    [
        "e['z', 1][2][3] = 0",
        "e['z', 1] + 2",
        "e['z', 1] = e['z', 2]",
        "e['z', 1][2] = e['z', 2][2]",
        "e['z', 1][2.0] = 0",
        "e['z', 1][np.zeros(20, bool)] = 0",
        "e['z', 1][None] = 0",
        "e['z', 1][True] = 0",
        "e['z', 1][0] = 'a'",
        "e['z', 1][0] = 1j",
        "e['z', 1][0] = True",
        "e['z', 1].map(3)",
    ],
)
def test_what_is_no_assignment_of_numbers_is_a_type_error(code):
    e = lp.Edits()
    with pytest.raises(TypeError):
        exec(code, {"e": e, "np": np})
    assert not e


def test_edits_of_a_batch_are_one_for_each_prompt(model):
    e = lp.Edits()
    e["z", 1][19] = 0
    with pytest.raises(lp.EditError, match="a list of 1 for 2 prompts"):
        model.run([TEXT, OTHER], edits=[e])
    with pytest.raises(lp.EditError, match=r"^prompt 1 of 2: z\[1\]\[19\] = 0: there is no row 19"):
        model.run([TEXT, "Once"], points="z", edits=e)
    for wrong in ([e], "z[1][0] = 0", 3):
        with pytest.raises(lp.EditError, match="edits is an lp.Edits"):
            model.run(TEXT, edits=wrong)


def test_a_selection_that_is_kept_records_its_edit():
    e = lp.Edits()
    part = e["x", 1][2]
    part += 1
    assert len(e) == 1 and repr(e) == "x[1][2] += 1"
    e["x", 1] *= 2
    e["x", 2] = 0
    assert repr(e[1]) == "x[1][...] *= 2" and repr(e[2]) == "x[2][...] = 0" and len(e[1:]) == 2
    assert len(e + e) == 6 and repr(lp.Edits()) == "<no edits>"


def test_names_of_other_tools_are_understood(model, base):
    e = lp.Edits()
    e["blocks.1.attn.hook_z"][2] = 0
    e["model.layers.2.mlp.down_proj.input"][2] = 0
    e["normalized", 3, "ln2"][2] = 0
    run = model.run(TEXT, points=("z", "hidden", "x_mid_unit", "logits"), edits=e)
    assert (run["z", 1][2] == 0).all() and (run["hidden", 2][2] == 0).all()
    assert (run["x_mid_unit", 3][2] == 0).all()


# ---- rows of a call with a cache ----


def test_the_rows_of_calls_are_those_of_the_whole(model):
    """A prompt of 6 tokens and 5 new ones, one by one: absolute positions become rows of each call."""
    e = lp.Edits()
    e["x", 1][4:] += 1
    e["x", 1][-1] = 2
    e["x", 1][lp.NEW] = 3
    e["x", 1][lp.DECIDING] *= 4
    e["x", 1][[1, 8]] = np.arange(2)[:, None]
    e["scores", 1][:, 4:, 2] = 0
    wanted = captures_of("logits", None, model.config)
    bound = bind(e, model.config, 6, wanted, limit=11, cached=True)
    rows: list[list[int]] = [[] for _ in e]
    values: list[list[float]] = [[] for _ in e]
    for n_past, n_rows in [(0, 6), *((n, 1) for n in range(6, 11))]:
        call = Call([None, bound], [0, n_past], [3, n_rows], step=n_past)
        for (_, number), item in zip(call._of, call.items, strict=True):
            op, _, layer, sequence, *lists, value = item
            assert layer == (0 if number < 5 else 1) or layer == 1
            assert sequence == 1 and op == [1, 0, 0, 2, 0, 0][number]
            at = 1 if number == 5 else 0
            assert all(0 <= row < n_rows for row in lists[at])
            rows[number] += [int(row) + n_past for row in lists[at]]
            values[number] += value[:, 0, 0].tolist()
        call.changed[:] = 1
        call.count()
    every = list(range(4, 11))
    assert rows == [every, [5], list(range(6, 11)), list(range(5, 11)), [1, 8], every]
    assert values[4] == [0, 1]
    assert bound.n_changed.tolist() == [6, 1, 5, 6, 2, 6]
    assert [edit.place for edit in bound.applied()] == [
        *("x[1][4:]", "x[1][5]", "x[1][6:]", "x[1][5:]", "x[1][[1, 8]]", "scores[1][:, 4:, 2]"),
    ]


def test_a_function_sees_only_rows_that_are_computed(model):
    e, seen = lp.Edits(), []
    e["logits"].map(lambda value, at: seen.append(at.positions.tolist()))
    e["x", 1].map(lambda value, at: seen.append(at.positions.tolist()))
    bound = bind(e, model.config, 6, captures_of("logits", None, model.config), limit=9)
    for last_rows in (False, True):
        call = Call([bound], [4], [2], last_rows=last_rows)
        for *_, rows, _, columns, function in call.items:
            function(np.zeros((len(rows), 1, len(columns)), np.float32))
            assert len(rows) == len(seen[-1]) and rows[-1] == 1
    assert seen == [[4, 5], [4, 5], [5], [4, 5]]


def test_what_grows_with_new_tokens_takes_the_same_value_for_all(model):
    def bound(index: Any, value: Any, limit: int = 9, **how: Any) -> Any:
        e = lp.Edits()
        e["x", 1][index] = value
        wanted = captures_of("logits", None, model.config)
        return bind(e, model.config, 6, wanted, limit=limit, **how)

    rows = np.zeros((6, 128))
    assert bound(slice(None), np.zeros(128)) and bound(lp.PROMPT, rows)
    assert bound(slice(None), rows, limit=6)
    with pytest.raises(lp.EditError, match="lp.PROMPT"):
        bound(slice(3, None), rows[:6])
    with pytest.raises(lp.EditError, match="the text at most 9"):
        bound(9, 0)
    reached = bound(8, 0)
    reached.check_reached(9)
    with pytest.raises(lp.EditError, match="position 8 was not reached") as caught:
        reached.check_reached(8, "the run")
    assert caught.value.run == "the run"
    e = lp.Edits()
    e["x", 1].map(np.sort, whole=True)
    with pytest.raises(lp.EditError, match="one new token at a time"):
        bind(e, model.config, 6, captures_of("logits", None, model.config), cached=True)


# ---- text ----


def test_what_repr_shows_is_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.arange(3, dtype=np.float64))
    np.save("with space.npy", np.arange(3, dtype=np.float16))
    lines = [
        "z[3][-1, 5] = 0",
        "x[-1][7:] += 4 * v.npy",
        "x[0][..., :3] *= v.npy",
        'x[0][..., :3] = -0.5 * "with space.npy"',
        "logits[-1, [2, 5]] = -inf",
        "x[2][DECIDING] -= 0.001",
        "scores[1][:, 3:9:2, 1] = 1e+30",
        '"model.layers[3].mlp.down_proj.input"[0] = 0.1',
    ]
    edits = lp.Edits.parse(lines)
    assert [repr(edit) for edit in edits] == lines
    assert edits[1].value.tolist() == [0, 4, 8] and edits[3].value.tolist() == [0, -0.5, -1]
    again = lp.Edits.parse("  x[ 2 ][lp.NEW,0]=1_0".replace("_", "") + "   # a comment")
    assert repr(again) == "x[2][NEW, 0] = 10"


@pytest.mark.parametrize(
    "text",
    [
        *("", "z", "z[3]", "z[3][0]", "z[3][0] =", "z[3][0] == 1", "z[3][0] /= 2", "z[3][] = 1"),
        *("z[3][0] = x", "z[3][0] = 1 2", "z[3][0] = v.csv", "z[3][0] = 2 * 3", "z[3][0] = nan"),
        *("z[3][a] = 1", "z[3][1.5] = 1", "z[3][f()] = 1", "z[3][np.s_] = 1", "z[3][True] = 1"),
        *("z[3][0] = 1; x[1][0] = 2", "z[3][0][1] = 2", "z[3][[0, [1]]] = 0", "z" * 5000),
        *('"z[3][0] = 1', '"z\\q"[3][0] = 1', "z[3]['a'] = 1", "z[3][-True] = 1", "z[3][*a] = 1"),
    ],
)
def test_text_that_is_no_edit_is_refused(text):
    with pytest.raises(lp.EditError):
        lp.Edits.parse(text)


def test_a_file_that_is_missing_or_no_array_is_an_error(tmp_path):
    with pytest.raises(lp.FileMissingError):
        lp.Edits.parse(f"z[3][0] = {tmp_path}/v.npy")
    (tmp_path / "v.npy").write_text("no")
    with pytest.raises(lp.FormatError):
        lp.Edits.parse(f"z[3][0] = {tmp_path}/v.npy")


def test_the_command_line_edits(capsys):
    from llamaprobe.cli.main import main

    how = ["run", "demo", "Once upon a time", "--points", "z,logits"]
    assert main([*how, "--edit", "z[3][-1, 1] = 0", "--edit", "logits[-1, 341] = -inf"]) == 0
    out, err = capsys.readouterr()
    assert "z[3][-1, 1] = 0  # 32 elements changed" in err and "' there'" not in out
    assert main([*how, "--edit", "z[3][9, 1] = 0"]) == 1
    assert "there is no row 9" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "demo", "--prompts", "f", "--out", "d", "--edit", "z[3][0] = 0"])


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
