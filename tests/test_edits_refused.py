"""Edits that are refused, their rows in calls with a cache, and edits as text."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.captures import captures_of
from llamaprobe.edits.resolve import Call, bind

TEXT = "Once upon a time there was a miller named Hopoa who lived behind the hills."
OTHER = "A friend named Torsa owned a wooden clock. One night the clock was gone again."


@pytest.fixture(scope="module")
def model() -> Iterator[lp.Model]:
    with lp.load("demo") as model:
        yield model


# ---- refusals ----

BAD: list[tuple[str, str]] = [
    ("e['kk', 1][0] = 0", "there is no point 'kk'; near: k"),
    ("e['z', 9][0] = 0", "there is no layer 9; the model has 0 to 3"),
    ("e['scores_raw', 1][:, 3, 2] = 0", "this model has no 'scores_raw'"),
    ("e['z'][0] = 0", "value of each layer"),
    ("e['logits', 2][0] = 0", "computed once"),
    ("e['z', 1][20] = 0", "there is no row 20: the prompt has 20 tokens, 0 to 19"),
    ("e['z', 1][-21] = 0", "there is no row -21"),
    ("e['z', 1][3:21] = 0", "21 is out of range"),
    ("e['z', 1][5:5] = 0", "selects no row"),
    ("e['z', 1][::-1] = 0", "must go forward"),
    ("e['z', 1][[]] = 0", "empty list"),
    ("e['z', 1][[2, 2]] += 1", "row 2 is listed twice"),
    ("e['z', 1][[1, 2], [2, 3]] = 1", "NumPy would pair"),
    ("e['z', 1][0, 0, 0, 0] = 1", "4 indices for 3 axes"),
    ("e['z', 1][..., 0, ...] = 1", "at most one ..."),
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
def test_what_is_not_an_assignment_of_numbers_is_a_type_error(code):
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


def test_names_of_other_tools_are_understood(model):
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
def test_text_that_is_not_an_edit_is_refused(text):
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


# ---- the core, which trusts no index and no size ----

ZERO = np.zeros(1, np.uint32)
ONE = np.zeros((1, 1, 1), np.float32)
GOOD = (0, 18, 0, 0, ZERO, ZERO, ZERO, ONE)  # z of layer 0


@pytest.mark.parametrize(
    ("place", "wrong", "error"),
    [
        (0, 9, lp.ArgumentError),
        (0, 4, lp.ArgumentError),  # the core's own operation
        (1, 99, lp.ArgumentError),
        (1, 11, lp.ArgumentError),  # a point that the model lacks
        (2, 4, lp.ArgumentError),
        (2, -1, lp.ArgumentError),
        (3, 1, lp.ArgumentError),
        (4, ZERO + 30, lp.ArgumentError),
        (5, ZERO + 4, lp.ArgumentError),
        (6, ZERO + 32, lp.ArgumentError),
        (6, ZERO[:0], lp.ArgumentError),
        (4, ZERO.astype(np.int64), TypeError),
        (7, ONE[0], ValueError),
        (7, np.zeros((2, 1, 1), np.float32), lp.ArgumentError),
    ],
)
def test_the_core_refuses_a_bad_edit(model, place, wrong, error):
    core, ids = model._open(), np.arange(30, dtype=np.int32)
    captures = [(18, (0,))]
    changed = np.zeros(1, np.int64)
    core.run(ids, [0, 30], captures, n_threads=1, edits=[GOOD], changed=changed)
    assert changed.tolist() == [1]
    bad = (*GOOD[:place], wrong, *GOOD[place + 1 :])
    with pytest.raises(error):
        core.run(ids, [0, 30], captures, n_threads=1, edits=[GOOD, bad])


@pytest.mark.parametrize("changed", [np.zeros(1), np.zeros(2, np.int64), np.zeros(2)[::2], 3])
def test_the_core_counts_into_an_array_of_its_own_kind(model, changed):
    ids = np.arange(30, dtype=np.int32)
    with pytest.raises(lp.ArgumentError, match="an int64 array"):
        model._open().run(ids, [0, 30], [(18, (0,))], n_threads=1, edits=[GOOD], changed=changed)


@pytest.mark.parametrize(
    ("edits", "named"),
    [
        (["x[2][0] *= 1e38", "x[2][0] *= 1e38"], "inf of an element of x"),
        (["scores[3][:, 3, 1] = -inf", "scores[3][:, 3, 1] *= 0"], "nan of an element of scores"),
        (["scores[3][:, 3, 1] = -inf", "scores[3][:, 3, 1] *= -1"], "inf of an element of scores"),
        (["x_rms[3][0] = 0"], "0.0* of an element of x_rms"),
        (["scores[3][:] += -inf"], "must be finite"),
    ],
)
def test_a_result_that_is_not_finite_is_refused(model, edits, named):
    with pytest.raises(lp.EditError, match=named):
        model.run(list(range(8)), points="logits", edits=lp.Edits.parse(edits))
