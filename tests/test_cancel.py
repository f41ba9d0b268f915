"""timeout= and cancel=: what they raise, how soon, and that the model works afterwards."""

import copy
import pickle
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

import llamaprobe as lp

LONG = [3] * 12_000
SOON = 1.0  # seconds of this process on its CPUs, which other work does not lengthen; it takes 0.1
PATIENCE = 60  # seconds until what would never end counts as not ended


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> lp.Model:
    """A model whose long prompt takes seconds."""
    config = models.make_config(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=6, max_position_embeddings=12_000
    )
    folder = tmp_path_factory.mktemp("slow")
    return lp.load(models.write_checkpoint(folder, config, models.make_weights(config)), threads=2)


def calls(model: lp.Model) -> list[Any]:
    return [
        lambda **how: model.run(LONG, points="logits", **how),
        lambda **how: model.run([LONG, [1], LONG], points="logits", **how),
        lambda **how: model.profile(LONG, points="logits", **how),
    ]


def test_a_timeout_ends_a_run_soon(slow: lp.Model):
    before = slow.run([1, 2, 3])
    for call in calls(slow):
        start, cpu = time.monotonic(), time.process_time()
        with pytest.raises(lp.Timeout, match="longer than its timeout of 0.1 seconds") as e:
            call(timeout=0.1)
        assert time.monotonic() - start >= 0.1 and time.process_time() - cpu < 0.2 + SOON
        assert isinstance(e.value, TimeoutError) and isinstance(e.value, lp.Error)
    assert slow.run([1, 2, 3]).equals(before)


@pytest.fixture(scope="module")
def endless(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> lp.Model:
    """A model whose chat template ends only for the message "hi"."""
    folder = shutil.copytree(demo_folder, tmp_path_factory.mktemp("endless") / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].content != 'hi' %}{% for a in range(99999) %}{% for b in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}"
    )
    return lp.load(folder, threads=1)


@pytest.mark.slow
def test_a_template_in_a_child_is_stopped_too(endless: lp.Model):
    chats = [[{"role": "user", "content": text}] for text in ("hi", "slow")]
    for call in (
        lambda **how: endless.run(chats, **how),
        lambda **how: endless.run(chats[1], **how),
        lambda **how: endless.profile(chats[1], **how),
    ):
        start = time.monotonic()
        with pytest.raises(lp.Timeout, match=r"^the run took longer"):  # of the call, not a prompt
            call(timeout=0.7)
        assert time.monotonic() - start < PATIENCE
        token = lp.Cancel()
        timer = threading.Timer(0.7, token.set)
        timer.start()
        start = time.monotonic()
        with pytest.raises(lp.Cancelled, match=r"^the run was stopped"):
            call(cancel=token)
        assert time.monotonic() - start < PATIENCE
    assert endless.run(chats[0], timeout=60).prompt == "hi"


def test_a_token_set_by_another_thread_ends_a_run_soon(slow: lp.Model):
    before = slow.run([1, 2, 3])
    token = lp.Cancel()
    for call in calls(slow):
        when: list[float] = []

        def stop() -> None:
            time.sleep(0.1)
            when.append(time.process_time())
            token.set()

        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(lp.Cancelled, match="stopped by its cancel token") as e:
            call(cancel=token)
        assert time.process_time() - when[0] < SOON and not isinstance(e.value, KeyboardInterrupt)
        thread.join()
        assert token.is_set()
        token.clear()
        assert not token.is_set() and slow.run([1, 2, 3], cancel=token).equals(before)


def test_a_progress_bar_works_with_both(slow: lp.Model, capsys: pytest.CaptureFixture[str]):
    token = lp.Cancel()
    run = slow.run([1, 2, 3], progress=True, timeout=60, cancel=token)
    assert "step" in capsys.readouterr().err and run.equals(slow.run([1, 2, 3]))
    with pytest.raises(lp.Timeout):
        slow.run(LONG, points="logits", progress=True, timeout=0.05)


def test_a_zero_timeout_or_a_set_token_stops_at_once(slow: lp.Model):
    token = lp.Cancel()
    token.set()
    for prompt in ([1, 2], [[1, 2], [3]]):
        with pytest.raises(lp.Timeout):
            slow.run(prompt, timeout=0)
        with pytest.raises(lp.Cancelled):
            slow.run(prompt, cancel=token)


def test_both_are_checked_between_the_prompts_of_a_batch(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    model, token, seen = lp.load("demo"), lp.Cancel(), []
    module = sys.modules["llamaprobe.model"]
    read = module.read_prompt

    def slowly(prompt: object, **how: Any) -> Any:
        seen.append(prompt)
        if len(seen) == 2:
            token.set()
        return read(prompt, **how)

    monkeypatch.setattr(module, "read_prompt", slowly)
    with pytest.raises(lp.Cancelled):
        model.run(["Once"] * 1000, cancel=token)
    assert len(seen) == 2
    seen.clear()
    monkeypatch.setattr(module, "read_prompt", lambda p, **h: (time.sleep(0.06), read(p, **h))[1])
    start = time.monotonic()
    with pytest.raises(lp.Timeout):
        model.run(["Once"] * 1000, timeout=0.1)
    assert time.monotonic() - start < PATIENCE / 2  # all of them sleep for PATIENCE


def test_a_timeout_not_reached_changes_no_value(slow: lp.Model):
    ids = list(range(40))
    plain = slow.run(ids, points="all")
    for timeout in (60, 60.0, np.int64(60), np.float32(60), float("inf"), None):
        assert slow.run(ids, points="all", timeout=timeout).equals(plain)


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), True, "1", [1], 1j])
def test_bad_timeouts(slow: lp.Model, timeout: Any):
    for call in calls(slow):
        with pytest.raises(lp.ArgumentError, match="timeout is .*; give seconds"):
            call(timeout=timeout)


@pytest.mark.parametrize("cancel", [True, "x", threading.Event(), lp.Cancel])
def test_rejects_what_is_not_a_cancel(slow: lp.Model, cancel: Any):
    with pytest.raises(lp.ArgumentError, match=r"give a llamaprobe.Cancel\(\)"):
        slow.run([1], cancel=cancel)


def test_one_token_stops_many_runs(slow: lp.Model):
    token, ends = lp.Cancel(), []

    def work() -> None:
        try:
            slow.run(LONG, points="logits", cancel=token)
        except lp.Cancelled:
            ends.append(time.process_time())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    start = time.process_time()
    token.set()
    for thread in threads:
        thread.join()
    assert len(ends) == 3 and max(ends) - start < 2 * SOON
    assert repr(token) == "<Cancel: set>"
    for away in (pickle.dumps, copy.copy):
        with pytest.raises(lp.ArgumentError, match="works within its process"):
            away(token)
