"""Child processes that misbehave, each in its way, and what the parent reports."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_inputs.child import LIBC, in_child, less_memory

from llamaprobe.prompts import sandbox
from llamaprobe.prompts.workers import Workers


def test_wall_clock_ends_a_child_that_sleeps(monkeypatch):
    limits = sandbox.Limits(cpu_seconds=5, wall_seconds=0.2, memory=1 << 30, reply=1 << 20)
    monkeypatch.setattr(sandbox, "FOLDER", os.path.dirname(__file__))
    with pytest.raises(sandbox.ChildError, match="over 0.2 s"):
        sandbox.call("child_scripts/sleeps.py", {}, {}, packages=(), limits=limits)


@pytest.mark.parametrize(
    ("script", "fact"),
    [
        ("chatters", "over 1048576 bytes"),
        ("dies", "died of SIGSEGV"),
        ("exits", "failed with status 3"),
        ("babbles", "no proper reply"),
    ],
)
def test_misbehaving_children(monkeypatch, script, fact):
    limits = sandbox.Limits(cpu_seconds=5, wall_seconds=60, memory=1 << 30, reply=1 << 20)
    monkeypatch.setattr(sandbox, "FOLDER", os.path.dirname(__file__))
    with pytest.raises(sandbox.ChildError, match=fact):
        sandbox.call(f"child_scripts/{script}.py", {}, {}, packages=(), limits=limits)


def test_missing_package_is_named():
    limits = sandbox.Limits(1, 1, 1 << 30, 1 << 20)
    with pytest.raises(sandbox.ChildError, match="pip install no_such_package"):
        sandbox.call("_render.py", {}, {}, packages=("no_such_package",), limits=limits)


@pytest.mark.skipif(
    not hasattr(LIBC, "mallopt") or hasattr(LIBC, "__asan_init"),
    reason="malloc is not that of the GNU C library",
)
def test_freed_memory_does_not_extend_a_limit():
    mmap_threshold, mb = -3, 1 << 20

    def work() -> None:
        assert LIBC.mallopt(mmap_threshold, 1 << 30)  # so that free() keeps a large block
        block, above = LIBC.malloc(300 * mb), LIBC.malloc(mb)
        LIBC.free(block)
        with less_memory(64 * mb):
            bytearray(32 * mb)
            bytearray(200 * mb)
        LIBC.free(above)

    assert in_child(work).error is MemoryError


# A worker: one child, many answers


# Only a child that loops is to meet the limit of processor time: a busy machine counts more of it for the same work.
LIMITS = sandbox.Limits(cpu_seconds=60, wall_seconds=120, memory=512 << 20, reply=1 << 20)
BRIEF = LIMITS._replace(cpu_seconds=1)
SHORT = LIMITS._replace(wall_seconds=4)


@pytest.fixture
def worker(monkeypatch) -> Iterator[sandbox.Worker]:
    with obedient(monkeypatch) as worker:
        yield worker


def obedient(monkeypatch, *prepare: str, limits: sandbox.Limits = LIMITS) -> sandbox.Worker:
    monkeypatch.setattr(sandbox, "FOLDER", os.path.dirname(__file__))
    return sandbox.Worker("child_scripts/obeys.py", {"do": prepare}, packages=(), limits=limits)


def state_of(worker: sandbox.Worker) -> list[int]:
    """[times prepared, answers of this state, pid of the child, pid of the grandchild]."""
    return worker.answer({"do": "report"})  # type: ignore[return-value]


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return Path("/proc").is_dir() is False and _exists(pid)


def _exists(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def wait_for_end(pid: int, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.02)


def test_one_child_prepares_once_and_each_answer_has_a_fresh_state(worker):
    answers = [state_of(worker) for _ in range(5)]
    assert [one[:2] for one in answers] == [[1, 1]] * 5
    assert len({child for _, _, child, _ in answers}) == 1
    assert len({grandchild for *_, grandchild in answers}) == 5
    worker.close()
    assert not is_running(answers[0][2]) and not is_running(answers[-1][3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "fact"),
    [
        ("loop", "over 1 s of processor time"),
        ("eat", "over 512 MiB of memory"),
        ("eat slowly", "over 512 MiB of memory"),
        ("chatter", "over 1048576 bytes"),
        ("print", None),
        ("die", "died of SIGSEGV"),
        ("exit", "failed with status 1"),
        ("kill parent", "died of SIGKILL"),
    ],
)
def test_a_request_over_a_limit_is_refused_and_the_next_is_answered(monkeypatch, do, fact):
    limits = BRIEF if do == "loop" else LIMITS
    with obedient(monkeypatch, limits=limits) as worker:
        first = state_of(worker)
        if fact is None:
            assert worker.answer({"do": do}) == do
        else:
            with pytest.raises(sandbox.ChildError, match=fact):
                worker.answer({"do": do})
        second = state_of(worker)
        assert second[:2] == [1, 1]
        if do == "kill parent":
            assert second[2] != first[2]
        else:
            assert second[2] == first[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "fact"),
    [
        ("sleep", "over 4 s, which is the limit"),
        ("flood", "over 4 s|over 1048576 bytes|no proper reply"),
        ("fork and die", "over 4 s|died of SIGSEGV"),
    ],
)
def test_a_late_answer_is_killed_and_the_next_request_is_answered(monkeypatch, do, fact):
    with obedient(monkeypatch, limits=SHORT) as worker:
        child = state_of(worker)[2]
        with pytest.raises(sandbox.ChildError, match=fact):
            worker.answer({"do": do})
        assert state_of(worker)[:3] == [1, 1, child]


@pytest.mark.slow
def test_limits_count_for_each_answer(monkeypatch):
    """Together these answers use more of everything than one answer may."""
    with obedient(monkeypatch, limits=LIMITS._replace(cpu_seconds=3)) as worker:
        children = {state_of(worker)[2]}
        for _ in range(3):
            assert worker.answer({"do": "burn"}) == "burn"
            assert len(worker.answer({"do": "chatter", "n": 1_000_000})) == 1_000_000
            worker.answer({"do": "eat", "n": 300 << 20})
        children.add(state_of(worker)[2])
        assert len(children) == 1


@pytest.mark.slow
def test_preparing_has_limits_too(monkeypatch):
    for do, fact, limits in (
        ("loop", "1 s of processor time", BRIEF),
        ("eat", "512 MiB of memory", LIMITS),
        ("sleep", "over 4 s", SHORT),
        ("die", "SIGSEGV", LIMITS),
    ):
        with (
            obedient(monkeypatch, do, limits=limits) as worker,
            pytest.raises(sandbox.ChildError, match=fact),
        ):
            state_of(worker)


def test_files_cannot_be_written(worker, tmp_path):
    with pytest.raises(sandbox.ChildError, match="File too large"):
        worker.answer({"do": "write", "path": str(tmp_path / "file")})


def test_processes_of_a_grandchild_end_with_it(worker):
    if os.geteuid() != 0:
        with pytest.raises(sandbox.ChildError, match="temporarily unavailable"):
            worker.answer({"do": "fork"})
        return
    wait_for_end(worker.answer({"do": "fork"}))  # type: ignore[arg-type]


def test_threads_share_a_worker(worker):
    answers: list[list[int]] = []

    def work() -> None:
        answers.extend(state_of(worker) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20 and {tuple(one[:2]) for one in answers} == {(1, 1)}
    assert len({one[2] for one in answers}) == 1


def test_a_forked_copy_starts_a_child_of_its_own(worker):
    child = state_of(worker)[2]
    theirs = in_child(lambda: (state_of(worker)[2], worker.close())[0]).value
    assert theirs not in (None, child)
    assert state_of(worker)[2] == child


@pytest.mark.slow
def test_a_child_ends_when_its_parent_is_killed():
    code = (
        "import os, sys; from llamaprobe.prompts import sandbox; sandbox.FOLDER = sys.argv[1]\n"
        "w = sandbox.Worker('child_scripts/obeys.py', {}, packages=(),"
        " limits=sandbox.Limits(60, 60, 1 << 30, 1 << 20))\n"
        "print(w.answer({'do': 'report'})[2], flush=True)\n"
        "if os.fork() == 0: import time; time.sleep(20); os._exit(0)\n"  # holds the pipes
        "w.answer({'do': sys.argv[2]})\n"
    )
    for do in ("sleep", "loop"):
        parent = subprocess.Popen(
            [sys.executable, "-c", code, os.path.dirname(__file__), do],
            stdout=subprocess.PIPE, start_new_session=True,
            cwd=Path(sandbox.__file__).parents[1],
        )
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
        parent.wait()
        wait_for_end(child)
        os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.close()


def test_an_exception_leaves_no_process(monkeypatch):
    with pytest.raises(RuntimeError), obedient(monkeypatch) as worker:
        child = state_of(worker)[2]
        raise RuntimeError
    assert not is_running(child)


def test_an_interrupt_leaves_no_process(monkeypatch):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals arrive in the main thread")
    with obedient(monkeypatch) as worker:
        child = state_of(worker)[2]
        for do in ("loop", "sleep"):
            with pytest.raises(KeyboardInterrupt):
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
                worker.answer({"do": do})
            assert not is_running(child)
            child = state_of(worker)[2]


def test_the_parent_handles_an_interrupt_of_the_whole_group(worker):
    child = state_of(worker)[2]
    os.kill(child, signal.SIGINT)
    assert state_of(worker)[2] == child


def test_closed_standard_streams():
    code = (
        "import os, sys; from llamaprobe.prompts import sandbox; sandbox.FOLDER = sys.argv[1]\n"
        "out = os.dup(1)\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "w = sandbox.Worker('child_scripts/obeys.py', {}, packages=(),"
        " limits=sandbox.Limits(5, 30, 1 << 30, 1 << 20))\n"
        "with w: os.write(out, b'%d %d' % tuple(w.answer({'do': 'report'})[:2]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        capture_output=True, cwd=Path(sandbox.__file__).parents[1],
    )
    assert ended.stdout == b"1 1"


@pytest.mark.slow
def test_signals_ignored_by_the_parent_still_limit_the_child(monkeypatch):
    numbers = (signal.SIGCHLD, signal.SIGALRM, signal.SIGXCPU)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        with obedient(monkeypatch, limits=BRIEF) as worker:
            child = state_of(worker)[2]
            with pytest.raises(sandbox.ChildError, match="1 s of processor time"):
                worker.answer({"do": "loop"})
            assert state_of(worker)[2] == child
        assert not is_running(child)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.slow
def test_blocked_signals_do_not_keep_a_child_alive(monkeypatch):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU])
    try:
        with obedient(monkeypatch, limits=BRIEF) as worker:
            child = state_of(worker)[2]
            with pytest.raises(sandbox.ChildError, match="1 s of processor time"):
                worker.answer({"do": "loop"})
        assert not is_running(child)
    finally:
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU]
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "fact"),
    [
        ("#!/bin/sh\nexit 2\n", "which is not Python (it ended with status 2)"),
        ("#!/bin/sh\necho usage: R; exit 0\n", "which is not Python"),
        ("#!/bin/sh\nyes\n", "which is not Python; set it"),
        ("#!/bin/sh\nsleep 60\n", "which is not Python; set it"),
        ("not a program", "cannot run a child process: "),
    ],
)
def test_another_program_as_sys_executable_is_named(monkeypatch, tmp_path, program, fact):
    path = tmp_path / "R"
    path.write_text(program)
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(sandbox, "_START", 2.0)
    with obedient(monkeypatch) as worker, pytest.raises(sandbox.ChildError) as caught:
        state_of(worker)
    assert str(path) in str(caught.value) and fact in str(caught.value)


def test_workers_of_a_batch_differ_by_what_they_prepare(monkeypatch):
    monkeypatch.setattr(sandbox, "FOLDER", os.path.dirname(__file__))
    how = {"packages": (), "limits": LIMITS}
    with Workers() as workers:
        answers = [
            workers.call("child_scripts/obeys.py", {"do": [], "n": n}, {"do": "report"}, **how)
            for n in (1, 2, 1, 2)
        ]
    pids = [one[2] for one in answers]
    assert pids[:2] == pids[2:] and pids[0] != pids[1]
    assert not any(map(is_running, pids))
