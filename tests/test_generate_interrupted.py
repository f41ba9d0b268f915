"""Ctrl-C, timeouts, cancel tokens and exceptions in the midst of a text: what was generated is kept."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from alarm import interrupted_after

import llamaprobe as lp

PATIENCE = 60
STORY = "Once upon a time there was a miller"


class Enough(Exception):
    pass


@pytest.fixture(scope="module")
def demo() -> lp.Model:
    return lp.load("demo", threads=2)


def stop_at(n: int, how: Any) -> Any:
    """An on_token that calls `how` with its n-th token."""
    left = [n]

    def on_token(position: int, id: int, text: str) -> None:
        left[0] -= 1
        if not left[0]:
            how()

    return on_token


def raise_enough() -> None:
    raise Enough


def check(model: lp.Model, error: BaseException, points: Any, n_new: int) -> None:
    run = error.run
    assert run.stopped_by == "interrupted" and len(run.new_ids) == n_new == len(run.logprobs)
    whole = model.generate(STORY, 60, stop=())
    assert run.token_ids.tolist() == whole.token_ids.tolist()[: len(run)]
    assert run.text == model.tokenizer.decode(run.new_ids)
    if points:
        assert run.equals(model.run(run.token_ids, points=points))


@pytest.mark.parametrize("points", [(), ("x", "pattern")], ids=["none", "captured"])
def test_an_exception_has_what_was_generated_whole(demo: lp.Model, points: Any):
    """Of a captured run, the tokens whose values are computed: all but the last one."""
    with pytest.raises(Enough) as error:
        demo.generate(STORY, 60, stop=(), points=points, on_token=stop_at(20, raise_enough))
    check(demo, error.value, points, 19 if points else 20)
    token = lp.Cancel()
    with pytest.raises(lp.Cancelled) as error:
        demo.generate(
            STORY, 60, stop=(), points=points, cancel=token, on_token=stop_at(20, token.set)
        )
    check(demo, error.value, points, 19 if points else 20)
    with pytest.raises(KeyboardInterrupt) as error:
        demo.generate(
            STORY,
            60,
            stop=(),
            points=points,
            on_token=stop_at(20, lambda: signal.raise_signal(signal.SIGINT)),
        )
    check(demo, error.value, points, 19 if points else 20)


def test_a_timeout_has_what_was_generated(demo: lp.Model):
    slow = threading.Event()
    with pytest.raises(lp.Timeout) as error:
        demo.generate(STORY, 60, stop=(), timeout=0.3, on_token=stop_at(5, lambda: slow.wait(0.4)))
    check(demo, error.value, (), 5)


def test_before_the_prompt_is_computed_there_is_no_run(demo: lp.Model):
    token = lp.Cancel()
    token.set()
    with pytest.raises(lp.Cancelled) as error:
        demo.generate(STORY, 3, cancel=token)
    assert getattr(error.value, "run", None) is None
    e = lp.Edits()
    e["x", 0].map(lambda value, at: token.clear() or raise_enough())
    for prompt, expected in ((STORY, None), ([STORY, "Once"], [None, None])):
        with pytest.raises(Enough) as enough:
            demo.generate(prompt, 3, edits=e)
        assert enough.value.run == expected


def test_a_batch_has_a_list(demo: lp.Model):
    with pytest.raises(Enough) as error:
        demo.generate(
            ["Once", STORY], 60, stop=(), points="x", on_token=[None, stop_at(7, raise_enough)]
        )
    first, second = error.value.run
    assert (len(first.new_ids), len(second.new_ids)) == (6, 6)
    for run in (first, second):
        assert run.equals(demo.run(run.token_ids, points="x"))


CHILD = """
import json, sys
import llamaprobe as lp
model = lp.load("demo")
points = json.loads(sys.argv[2])
session = model.start(sys.argv[1], points=points)
def shown(position, id, text):
    print(position, flush=True)
try:
    session.generate(1900, stop=(), on_token=shown)
except KeyboardInterrupt as error:
    run = error.run
    assert run.stopped_by == "interrupted", run
    assert run.token_ids.tolist() == session.token_ids.tolist()[:len(run)]
    if points:
        assert run.equals(model.run(run.token_ids, points=points))
    after = session.generate(3, stop=()).token_ids.tolist()
    assert after == model.generate(sys.argv[1], len(after) - session.n_prompt, stop=()).token_ids.tolist()
    if points:
        assert session.run.equals(model.run(after, points=points))
    print(json.dumps({"n_new": len(run.new_ids)}), flush=True)
"""


def interrupted(
    command: list[str], n_lines: int = 9999, n_bytes: int = 9999
) -> tuple[int, str, str]:
    """A child that gets SIGINT after so much of its output: code, all output, errors. The pipe holds
    less than all of it, so that the child cannot end before, however late the signal is."""
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what `communicate` returns is then all the rest
        pipesize=4096,
        env={**os.environ, "LLAMAPROBE_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    killer = threading.Timer(PATIENCE, child.kill)
    killer.start()
    try:
        seen = b""
        while seen.count(b"\n") < n_lines and len(seen) < n_bytes:
            seen += child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=PATIENCE)
        return child.returncode, (seen + rest).decode(), errors.decode()
    finally:
        killer.cancel()
        child.kill()


@pytest.mark.parametrize("points", ["[]", '["x", "z"]'], ids=["none", "captured"])
@pytest.mark.parametrize("n_lines", [1, 40])
def test_ctrl_c_in_a_session(points: str, n_lines: int):
    code, out, errors = interrupted([sys.executable, "-c", CHILD, STORY, points], n_lines)
    assert code == 0, errors
    shown, _, last = out.rpartition("{")
    n_new = json.loads("{" + last)["n_new"]
    n_shown = len(shown.split())
    assert n_lines <= n_shown < 1900 and 0 <= n_new - n_shown + (points != "[]") <= 1


def test_ctrl_c_on_the_command_line(tmp_path: Path, demo: lp.Model):
    out = tmp_path / "out"
    words = ["generate", "demo", STORY, "--tokens", "1900", "--no-eos", "--out", str(out)]
    words += ["--points", "z", "--format", "npy"]
    code, text, errors = interrupted([sys.executable, "-m", "llamaprobe", *words], n_bytes=30)
    assert code == 130 and errors.splitlines()[-1] == "llamaprobe: interrupted"
    assert "new tokens, ended by interrupted" in errors and "Traceback" not in errors
    run = lp.read_run(out)
    n_prompt = len(demo.tokenizer.encode(STORY))
    whole = demo.generate(STORY, len(run) - n_prompt + 1, stop=())
    assert run.token_ids.tolist() == whole.token_ids.tolist()[: len(run)]
    assert run.equals(demo.run(run.token_ids, points="z"))
    assert text.endswith("\n") and whole.text.startswith(text[:-1])
    assert text.startswith(demo.tokenizer.decode(run.token_ids[n_prompt:-1]))


@pytest.mark.parametrize("points", [(), ("x", "pattern", "logits")], ids=["none", "captured"])
def test_ctrl_c_at_random_moments_leaves_a_session_true(demo: lp.Model, points: Any):
    """Between any two instructions of Python, and in the core."""
    draw, n_stopped = random.Random(len(points)), 0
    whole = demo.generate(STORY, 300, stop=()).token_ids.tolist()
    session = demo.start(STORY, points=points)

    def use() -> None:
        if draw.random() < 0.5:
            session.extend(whole[len(session) :][: draw.randint(1, 60)])
        else:
            session.generate(40, stop=())
        session.rewind(draw.randint(session.n_prompt, len(session)))

    for _ in range(40):
        if len(session) > 150:
            session.rewind(session.n_prompt + draw.randrange(5))
        n_stopped += interrupted_after(draw.uniform(0.0001, 0.01), use)
        assert session.token_ids.tolist() == whole[: len(session)]
        if points:
            assert session.run.equals(demo.run(session.token_ids, points=points))
    assert n_stopped > 4
