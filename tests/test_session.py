"""Sessions: after any calls the values are those of one run of the tokens, whatever was dropped."""

import copy
import gc
import pickle
import random
import threading
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.cli.main import main

POINTS = ("x", "pattern", "scores", "v", "logits")
STORY = "Once upon a time there was a miller named Hopoa. Hopoa had a heavy"


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo", threads=2)


def check_law(model: lp.Model, session: lp.Session) -> None:
    run = session.run
    assert run.token_ids.tolist() == session.token_ids.tolist() and len(run) == len(session)
    if run.points:
        assert run.equals(model.run(session.token_ids, points=run.points, edits=session.edits))


def next_ids(model: lp.Model, session: lp.Session, n: int) -> list[int]:
    return model.generate(session.token_ids, n, stop=(), edits=session.edits).new_ids.tolist()


@pytest.mark.parametrize("points", [(), "x", POINTS], ids=["none", "one", "maps"])
def test_a_session_is_a_run_of_its_tokens(demo: lp.Model, points: Any):
    session = demo.start(STORY, points=points)
    check_law(demo, session)
    assert session.n_prompt == len(session) == len(demo.tokenizer.encode(STORY))
    session.extend(" bell. A friend")
    added = demo.tokenizer.encode(" bell. A friend", add_special_tokens=False)
    assert session.token_ids[-len(added) :].tolist() == added.tolist()
    check_law(demo, session)
    expected = next_ids(demo, session, 8)
    run = session.generate(8, stop=())
    assert run.new_ids.tolist() == expected and run.stopped_by == "length"
    assert run.equals(session.run) and run.text == demo.tokenizer.decode(expected)
    check_law(demo, session)
    session.rewind(-3)
    session.extend(np.array([7, 8], np.int64))
    check_law(demo, session)
    assert session.generate(5, stop=()).new_ids.tolist() == next_ids(
        demo, session_at(session, -5), 5
    )


def session_at(session: lp.Session, position: int) -> lp.Session:
    """A copy without the last tokens."""
    other = session.copy()
    other.rewind(position)
    return other


@pytest.mark.parametrize("seed", range(6))
def test_any_calls_in_any_order(demo: lp.Model, seed: int):
    draw = random.Random(seed)
    e = lp.Edits()
    e["x", 1][-2:, 3] += 1
    e["pattern", 2][1, lp.NEW, 0] = 0.5
    edits = e if seed % 2 else None
    sessions = [demo.start([5, 6, 7, 8], points=POINTS if seed % 3 else (), edits=edits)]
    for _ in range(12):
        session = draw.choice(sessions)
        what = draw.choice(["extend", "generate", "rewind", "copy"])
        if what == "extend":
            session.extend([draw.randrange(900) for _ in range(draw.randint(1, 30))])
        elif what == "generate":
            n = draw.randint(1, 6)
            before = session.token_ids
            new = session.generate(n, stop=(), sample=lp.Sample(seed=seed)).new_ids
            whole = demo.generate(
                before, n, stop=(), sample=lp.Sample(seed=seed), edits=session.edits
            )
            assert new.tolist() == whole.new_ids.tolist()
        elif what == "rewind":
            session.rewind(draw.randint(session.n_prompt, len(session)))
        elif len(sessions) < 4:
            sessions.append(session.copy())
    for session in sessions:
        check_law(demo, session)


def test_copies_go_their_own_way(demo: lp.Model):
    session = demo.start(STORY, points="x")
    other = copy.copy(session)
    session.extend([1])
    other.extend([2, 3])
    assert len(session) + 1 == len(other) and session.run["x"].shape != other.run["x"].shape
    for one in (session, other):
        check_law(demo, one)
    kept = session.run
    session.rewind(2)
    session.extend([9] * 20)
    assert kept.equals(demo.run(kept.token_ids, points="x")), "a run is a copy"


def test_positions_of_edits_refer_to_the_prompt(demo: lp.Model):
    e = lp.Edits()
    e["x", 2][-1, 0] = 3.0
    e["x", 2][lp.NEW, 1] = 4.0
    session = demo.start([5, 6, 7], points="x", edits=e)
    session.extend([8, 9])
    session.generate(2, stop=())
    value = session["x", 2]
    assert np.flatnonzero(value[:, 0] == 3.0).tolist() == [2]
    assert np.flatnonzero(value[:, 1] == 4.0).tolist() == [3, 4, 5, 6]
    check_law(demo, session)


def test_streaming_and_stops(demo: lp.Model):
    session = demo.start(STORY)
    seen: list[str] = []
    run = session.generate(40, stop="e", on_token=lambda p, i, t: seen.append(t))
    assert run.stopped_by == "stop:e" and "".join(seen) == run.text
    assert session.token_ids.tolist() == run.token_ids.tolist()


def test_a_chat_goes_on(demo: lp.Model):
    chat = [{"role": "user", "content": "Tell me a story about Hopoa."}]
    session = demo.start(chat)
    run = session.generate(200)
    assert run.stopped_by == "eos"
    turn = "<|start_header_id|>user<|end_header_id|>\n\nWhose wooden spoon was it?<|eot_id|>"
    session.extend(turn + "<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert session.generate(30).new_ids.tolist() == next_ids_until(demo, session)
    with pytest.raises(lp.ArgumentError, match="not with chat messages"):
        session.extend(chat)


def next_ids_until(model: lp.Model, session: lp.Session) -> list[int]:
    """The answer, by one call with all tokens before it."""
    ids = session.token_ids.tolist()
    start = len(ids) - ids[::-1].index(958)  # after the last header, and its two line ends
    start += len(model.tokenizer.encode("\n\n", add_special_tokens=False))
    return model.generate(ids[:start], 30).new_ids.tolist()


def test_a_failed_call_changes_nothing(demo: lp.Model):
    session = demo.start(STORY, points="x", max_tokens=40)
    before = session.token_ids.tolist()
    for wrong in (
        lambda: session.extend([5] * 40),
        lambda: session.extend([960]),
        lambda: session.extend(""),
        lambda: session.extend([0.5]),
        lambda: session.generate(1000),
        lambda: session.generate(0),
        lambda: session.rewind(0),
        lambda: session.rewind(len(before) + 1),
        lambda: session.rewind(True),
        lambda: session.rewind(1.0),
    ):
        with pytest.raises(lp.ArgumentError):
            wrong()
        assert session.token_ids.tolist() == before
    with pytest.raises(lp.Timeout):
        session.extend([1, 2], timeout=0)
    check_law(demo, session)


def test_a_session_works_after_an_exception_in_the_midst(demo: lp.Model):
    class Enough(Exception):
        pass

    def stop_at(position: int, id: int, text: str) -> None:
        if position == 30:
            raise Enough

    for points in ((), "x"):
        session = demo.start(STORY, points=points)
        with pytest.raises(Enough) as error:
            session.generate(40, stop=(), on_token=stop_at)
        assert len(session) == 31, "the token that on_token saw is finished"
        run = error.value.run
        assert (
            run.stopped_by == "interrupted"
            and run.token_ids.tolist() == session.token_ids.tolist()[: len(run)]
        )
        assert len(run) == (30 if points else 31)
        assert run.equals(demo.run(run.token_ids, points="x")) if points else True
        check_law(demo, session)
        whole = demo.generate(STORY, 40, stop=())
        session.generate(9, stop=())
        assert session.token_ids.tolist() == whole.token_ids.tolist()[: len(session)]


def test_one_thread_at_a_time(demo: lp.Model):
    session = demo.start(STORY)
    inside, go_on = threading.Event(), threading.Event()

    def wait(position: int, id: int, text: str) -> None:
        inside.set()
        assert go_on.wait(60)

    thread = threading.Thread(target=lambda: session.generate(2, stop=(), on_token=wait))
    thread.start()
    assert inside.wait(60)
    for call in (
        lambda: session.extend([1]),
        lambda: session.generate(1),
        lambda: session.rewind(1),
        lambda: session.copy(),
        lambda: session.run,
    ):
        with pytest.raises(
            lp.ArgumentError, match=r"while another thread is at work in session.generate; one thread"
        ):
            call()
    assert len(session.token_ids) >= session.n_prompt, "may be read"
    go_on.set()
    thread.join()
    session.extend([1])
    check_law(demo, session)


def test_sessions_of_one_model_run_side_by_side(demo: lp.Model):
    expected = demo.generate(STORY, 25, stop=()).token_ids.tolist()
    found = []

    def work() -> None:
        session = demo.start(STORY, threads=1)
        session.generate(25, stop=())
        found.append(session.token_ids.tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_what_start_refuses(demo: lp.Model):
    with pytest.raises(lp.ArgumentError, match="a session has one prompt"):
        demo.start(["a", "b"])
    with pytest.raises(lp.ArgumentError, match="max_tokens is 2, but the prompt has 3 tokens"):
        demo.start([1, 2, 3], max_tokens=2)
    with pytest.raises(lp.ArgumentError, match="over the 2048 positions"):
        demo.start([1], max_tokens=5000)
    session = demo.start([1, 2, 3])
    with pytest.raises(lp.ArgumentError, match="works within its process; pickle session.run"):
        pickle.dumps(session)
    with pytest.raises(TypeError, match="see session.token_ids"):
        list(session)
    assert session and repr(session) == "<Session of demo: 3 tokens, 3 of them the prompt>"


def test_memory_is_checked_before_a_session_grows(demo: lp.Model, monkeypatch: pytest.MonkeyPatch):
    from llamaprobe import _core

    session = demo.start([1] * 30, points="x")
    with monkeypatch.context() as patch:
        patch.setattr(_core, "memory", lambda: 100_000)
        for call in (lambda: session.extend([1] * 100), lambda: session.copy()):
            with pytest.raises(lp.OutOfMemory, match="bytes and 100000 are free"):
                call()
    check_law(demo, session)


def test_memory_is_freed_with_the_object(demo: lp.Model):
    import weakref

    session = demo.start(STORY, points="x")
    cache = weakref.ref(session._context)
    del session
    gc.collect()
    assert cache() is None


@pytest.mark.parametrize(
    ("edit", "length"),
    [("NEW", None), ("2:", 1), ("DECIDING", 3), ("-1", 3), ("1:5", 3), ("PROMPT", 3), ("40", None)],
)
def test_edits_that_the_text_no_longer_reaches(demo: lp.Model, tmp_path: Any, edit: str, length: Any):
    """Also when the run is saved: what verify makes again is what is there."""
    edits = lp.Edits.parse(f"z[3][{edit}] = 0")
    session = demo.start(STORY, points=("z", "logits"), edits=edits, max_tokens=60)
    session.rewind(length or len(session))
    check_law(demo, session)
    session.run.save(tmp_path / "run")
    assert main(["verify", str(tmp_path / "run"), "--quiet"]) == 0
