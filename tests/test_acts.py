"""What could not act is an error that says so: edits of tokens that are never computed, empty selections, numbers beyond
a model, masks that leave out everything. Errors name the prompt or the cell, the edit, and the way out."""

import copy
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core

IDS = [1, 5, 9, 12, 7]


@pytest.fixture(scope="module")
def model() -> Iterator[lp.Model]:
    with lp.load("demo") as model:
        yield model


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(IDS, points="all")


def of(*texts: str) -> lp.Edits:
    return lp.Edits.parse(texts)


def mapped(function: Callable[..., Any], name: Any = ("x", 1), index: Any = ...) -> lp.Edits:
    e = lp.Edits()
    e[name][index].map(function)
    return e


def nan(value: Any, at: Any) -> Any:
    return value * np.nan


Case = Callable[[lp.Model, lp.Run], Any]
MASKED = np.ma.masked_array(np.ones(128), np.arange(128) < 3)
CASES: list[tuple[Case, str]] = [
    # positions that are never computed
    (lambda m, r: m.generate(IDS, 1, edits=of("x[1][NEW] = 0")), r"x\[1\]\[NEW\] = 0: cannot act, because position 5"),
    (lambda m, r: m.generate(IDS, 3, edits=of("x[1][7] = 0")), "position 7 is computed only where values are kept"),
    (lambda m, r: m.generate([IDS, IDS], 1, edits=of("x[1][5:] = 0")), "^prompt 0 of 2: .*cannot act"),
    # what selects nothing, or something that is not there
    (lambda m, r: lp.knockout(1, [], 2), "query is an empty list"),
    (lambda m, r: lp.knockout(1, 2, 2, []), "head is an empty list"),
    (lambda m, r: lp.like(r, "x", 1, 99), r"x\[1\]\[99\] of the run: there is no row 99: the prompt has 5 tokens"),
    (lambda m, r: lp.like(r, "z", 1, np.s_[:, 9]), "there is no head 9"),
    (lambda m, r: lp.like("folder", "x", 1), r"run is 'folder'; give .* lp.read_run\(folder\)"),
    (lambda m, r: lp.freeze(3, "x"), "run is 3; give what"),  # type: ignore[arg-type]
    (lambda m, r: lp.collect(m, [IDS], by=[960]), "a token of by is 960; give an integer from 0 to 959"),
    (lambda m, r: lp.collect(m, [IDS], by=[-1]), "a token of by is -1"),
    (lambda m, r: lp.collect(m, [IDS], by=[1.5]), "a token of by is 1.5"),
    (lambda m, r: lp.collect(m, [IDS], mask=lambda ids: ids < 0), "mask leaves out every token"),
    (lambda m, r: m.lens(r, tokens=[]), "tokens is empty; leave it out"),
    (lambda m, r: m.lens(r, position=[]), r"position \[\] selects none of 5"),
    (lambda m, r: m.lens(r, top=99999), "top is 99999; give an integer from 1 to 960"),
    (lambda m, r: m.lens(r, point=("x", 2)), "names a layer; give point='x', layers=2"),  # type: ignore[arg-type]
    (lambda m, r: m.lens(r).top(99, 0), "row is 99; give an integer from -5 to 4"),
    (lambda m, r: m.attribute(r, None), "a token is an id or text, not None"),  # type: ignore[call-overload]
    (lambda m, r: m.attribute(r, 3, position=[]), "selects none"),
    (lambda m, r: m.attribute(r, 3).top(-1), "n is -1; give an integer of at least 1"),
    (lambda m, r: m.head_out(r, [1, 2]), r"layer is \[1, 2\]; give an integer"),  # type: ignore[arg-type]
    (lambda m, r: m.direct_effect(r, 3, component=[]), r"component is \[\]; give its kind"),  # type: ignore[arg-type]
    (
        lambda m, r: m.direct_effect(
            m.run(IDS, points="all", edits=of("final_norm[-1] *= 2")), 3, component=("attn", 1)
        ),
        "final_norm of this run was edited, after the sum",
    ),
    (lambda m, r: m.patch_map(IDS, IDS, metric=lp.logprob(3), positions=[0, 0]), "position 0 is listed twice"),
    (lambda m, r: m.patch_map(IDS, IDS, metric=lp.logprob(3), positions="a"), "positions is 'a'; give a position"),  # type: ignore[arg-type]
    (lambda m, r: m.sweep(IDS, of("x[1][2] = 0"), lp.logprob(3)), "edits is one Edits; give a list"),  # type: ignore[arg-type]
    (lambda m, r: m.sweep(IDS, [], lp.kl(r, 99)), "position 99 is out of range: the run of lp.kl has 5 tokens"),
    (lambda m, r: m.sweep(IDS, [], lp.logprob(3, 99)), "position 99 is out of range: the prompt has 5 tokens"),
    (lambda m, r: lp.merge_stats([3]), "item 0 of parts is 3; give a Stats"),  # type: ignore[list-item]
    # values
    (lambda m, r: lp.Edits().__getitem__(("x", 1)).__setitem__(2, MASKED), "the array is masked .3 of 128 values."),
    (lambda m, r: lp.Edits().__getitem__(("x", 1)).__setitem__(2, [[1], [1, 2]]), "which NumPy cannot read"),
    (lambda m, r: lp.Sample().choose(np.zeros((2, 2)), 3), "logits is .*; give one row"),
    (lambda m, r: m.generate(IDS, 2, stop="\ud800"), r"stop is \('\\ud800',\); give"),
    (lambda m, r: m.generate(IDS, 2, sample=[lp.Sample()]), "sample has 1 item for a prompt that is not in a list"),
    (lambda m, r: m.start(IDS).generate(2, sample=[lp.Sample()]), "sample has 1 item"),  # type: ignore[arg-type]
    (lambda m, r: m.start(IDS, max_tokens=9999), "max_tokens is 9999, over the 2048 positions"),
    (lambda m, r: m.start(IDS).extend([960]), "token id 960 at position 5 is outside the vocabulary"),
    (lambda m, r: m.run([5000000000]), "token id 5000000000 at position 0 is outside the vocabulary"),
    (lambda m, r: m.run([1 << 70]), f"token id {1 << 70} at position 0 is outside"),
    (lambda m, r: m.generate(IDS, 2)["x"], "x was not captured, the run holds no values; request it"),
    # edits as objects
    (lambda m, r: lp.Edits("x[1][2] = 0"), "edits is 'x.*text is read by lp.Edits.parse"),  # type: ignore[arg-type]
    (lambda m, r: lp.Edits()[3], "there is no edit 3, there are 0; a layer is named with its point"),
    (lambda m, r: r.edits["x", 1].__setitem__(2, 0), r"x\[1\]\[2\]: these are the edits that a run made.*copy: lp.Edits"),
    # what the core finds while it computes
    (lambda m, r: m.run(IDS, points="logits", edits=mapped(nan)), r"^x\[1\]\[...\].map\(nan\): a function returned nan"),
    (lambda m, r: m.run([IDS, IDS[:3]], points="logits", edits=[None, mapped(nan)]), r"^prompt 1 of 2: x\[1\].*nan"),
    (lambda m, r: m.generate([IDS, IDS[:3]], 2, edits=[None, mapped(nan)]), r"^prompt 1 of 2: x\[1\].*map.nan.: a"),
    (
        lambda m, r: m.sweep(IDS, [of("x[1][2] = 0"), mapped(nan, ("z", 2))], lp.logprob(3)),
        r"^cell 1: z\[2\]\[...\].map\(nan\): a function returned nan for z",
    ),
    (
        lambda m, r: m.run([IDS, IDS], points="logits", edits=[None, of("x[1][2] = 1", "x_rms[3][2] = 0")]),
        r"^prompt 1 of 2: x_rms\[3\]\[2\] = 0: an edit would make",
    ),
    (
        lambda m, r: m.run(IDS, points="logits", edits=of("scores[2][1, 3] = -inf")),
        r"^scores\[2\]\[1, 3\] = -inf: layer 2, head 1: query 3 has no key left",
    ),
    (lambda m, r: m.run(IDS, points="x", edits=mapped(lambda v, at: v[:1])), r"map\(<lambda>\): the function returned \["),
    (lambda m, r: m.run([IDS], points="x", edits=of("kk[1][2] = 0")), r"^prompt 0 of 1: kk\[1\]\[2\] = 0: there is no p"),
    (lambda m, r: m.sweep(IDS, [of("z[9][2] = 0")], lp.logprob(3)), r"^cell 0: z\[9\]\[2\] = 0: there is no layer 9"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "message"), CASES, ids=[message[:40] for _, message in CASES])
def test_what_cannot_act_is_named(model: lp.Model, run: lp.Run, case: Case, message: str):
    with pytest.raises(lp.ArgumentError) as caught:
        case(model, run)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("e['z', 1][0][1] = 2", r"z\[1\]\[0\] was indexed once more, with 1; put all indices into one"),
        ("e['z', 1][0][1]", "put all indices into one"),
        ("e['z', 1][0] /= 2", r"instead of x /= 2 write x \*= 1 / 2"),
        ("e['z', 1] **= 2", r"an edit is =, \+=, -= or \*="),
        ("e['z', 1]['a'] = 0", "made of integers, slices, spans.*not 'a'"),
        ("e['z', 1][1.5] = 0", "not 1.5"),
        ("e['z', 1][None] = 0", "not None"),
        ("e[1.5]", "1.5 is neither a place nor the number of an edit"),
    ],
)
def test_what_is_no_assignment_is_an_edit_error_and_a_type_error(code: str, message: str):
    e = lp.Edits()
    with pytest.raises(lp.EditTypeError, match=message) as caught:
        exec(code, {"e": e})
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, lp.ArgumentError) and not e
    with pytest.raises(TypeError):
        list(e["z", 1])


def test_the_last_new_token_is_computed_where_values_are_kept(model: lp.Model):
    e = of("x[1][NEW] = 0")
    run = model.generate(IDS, 1, edits=e, points="x", stop=())
    assert run.edits[0].n_changed and (run["x", 1][5] == 0).all()
    assert model.generate(IDS, 2, edits=e, stop=()).edits[0].n_changed
    session = model.start(IDS, edits=e)
    session.generate(1)
    session.extend([3])
    assert session.edits[0].n_changed


def test_a_text_that_ends_at_the_edited_token_has_not_computed_it(model: lp.Model):
    """The position is there, but its token is the last one."""
    long = model.generate(IDS, 12, stop=())
    word = model.tokenizer.decode(long.new_ids[3:4])
    n = len(model.generate(IDS, 12, stop=word))
    e = lp.Edits()
    e["x", 3][n - 1 :] += 1e-9
    with pytest.raises(lp.EditError, match=f"{n} tokens, of which the last was not computed") as caught:
        model.generate(IDS, 12, stop=word, edits=e)
    assert len(caught.value.run) == n < 17
    assert model.generate(IDS, 12, stop=word, edits=e, points="x").edits[0].n_changed is not None


def test_edits_that_are_copied_do_not_share_their_list(run: lp.Run, model: lp.Model):
    e = of("x[1][2] = 0")
    other, deep = copy.copy(e), copy.deepcopy(e)
    other["x", 2] = 1
    deep["x", 2] = 1
    assert (len(e), len(other), len(deep)) == (1, 2, 2)
    made = model.run(IDS, points="x", edits=e).edits
    more = copy.copy(made)
    more["x", 2][1] = 3
    assert len(made) == 1 and len(more) == len(made + e) == 2
    assert model.run(IDS, points="x", edits=more)["x", 2][1].tolist() == [3] * 128


def test_a_session_that_is_called_inside_its_own_call_says_so(model: lp.Model):
    session = model.start(IDS)
    with pytest.raises(lp.ArgumentError, match="session.run is called while session.generate is at work, by on_token"):
        session.generate(2, on_token=lambda *any: session.run)
    assert session.run.token_ids.tolist()[:5] == IDS


def test_the_output_row_of_a_lens_is_the_run_s_logits_where_these_were_edited(model: lp.Model):
    """final_rms, final_norm and logits are edited behind x_out."""
    for edit in ("final_rms[-1] = 0.5", "final_norm[2, :9] = 1", "logits[-1, 3] = -inf", "logits[:, 5] += 2"):
        run = model.run(IDS, points=("x", "x_out", "logits"), edits=of(edit))
        whole = model.lens(run, position=None)
        assert whole.logits[-1].tobytes() == run["logits"].tobytes()
        some = model.lens(run, position=[4, 2], tokens=[3, 5], layers=-1, point="x_out")
        assert some.logits[0].tobytes() == run["logits"][[4, 2]][:, [3, 5]].tobytes()
        assert whole.logits[1].tobytes() == model.lens(model.run(IDS), layers=1, position=None).logits[0].tobytes()
        if edit.startswith("logits"):
            continue
        without = model.run(IDS, points=("x", "x_out", "final_norm"), edits=of(edit))
        with pytest.raises(lp.PointError, match='needs logits.*points=."x", "x_out", "logits"'):
            model.lens(without)
        assert model.lens(without, layers=[0, 1]).logits.shape[0] == 2


# ---- the core ----


def test_numbers_that_do_not_fit_are_refused(model: lp.Model):
    logits = np.zeros(9, np.float32)
    for place in (1, 5, 6):
        good: list[Any] = [logits, 3, 1.0, 0, 0.0, 1, 2]
        assert 0 <= _core.sample(*good)[0] < 9
        for wrong in (-1, 1 << 64, 1 << 70):
            good[place] = wrong
            with pytest.raises(lp.ArgumentError, match=r"from 0 to 2\^64 - 1"):
                _core.sample(*good)
    cache = _core.Cache(model._open(), 8)
    for wrong in (-1, 1 << 70, 3):
        with pytest.raises(lp.ArgumentError, match="the cache has 0 tokens, it cannot go back to"):
            cache.rewind(wrong)


def test_arrays_that_are_resized_during_a_run_are_not_read_there(model: lp.Model):
    """A function of an edit makes the arrays of the call tiny while the core works."""
    core, ids = model._open(), np.arange(6, dtype=np.int32)
    zero, all_of = np.zeros(1, np.uint32), np.arange(128, dtype=np.uint32)
    values, changed = np.ones((1, 1, 128), np.float32), np.zeros(2, np.int64)
    big = np.ones((6, 128), np.float32)

    def shrink(value: Any) -> None:
        for array in (values, changed, big):
            array.resize((0,) * array.ndim, refcheck=False)

    edits = [(3, 0, 1, 0, zero, zero, all_of, shrink), (0, 0, 2, 0, zero, zero, all_of, values)]
    (x,) = core.run(ids, [0, 6], [(0, (2,))], n_threads=1, edits=edits, changed=changed)
    assert x.reshape(6, 128)[0].tolist() == [1] * 128 and not changed.size
    cache = _core.Cache(core, 6)
    core.run(ids, [0, 6], [(0, (0,))], n_threads=1, caches=[cache])
    values, changed = np.ones((1, 1, 128), np.float32), np.zeros(2, np.int64)
    branch = (cache, [0], 1, big := np.ones((6, 128), np.float32))
    x_out = next(p.number for p in model.points() if p.name == "x_out")
    found = core.run(ids, [0, 6], [(x_out, (1,))], n_threads=1, edits=edits[:1], branch=branch)[0]
    again = core.run(
        ids, [0, 6], [(x_out, (1,))], n_threads=1, branch=(cache, [0], 1, np.ones((6, 128), np.float32))
    )[0]
    assert not big.size and found.tobytes() == again.tobytes()


def test_logits_that_another_thread_resizes_are_not_read_there():
    logits, is_done = np.zeros(200_000, np.float32), threading.Event()

    def resize() -> None:
        while not is_done.is_set():
            logits.resize(1, refcheck=False)
            logits.resize(200_000, refcheck=False)

    thread = threading.Thread(target=resize)
    thread.start()
    try:
        for position in range(50):
            assert 0 <= lp.Sample().choose(logits, position) < 200_000
    finally:
        is_done.set()
        thread.join()
