"""Threads, processes and interrupts: the same bits whoever computes, and a model that survives."""

import gc
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

import llamaprobe as lp

POINTS = ("x", "pattern", "z", "hidden", "logits")
IDS = list(range(70))

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def digest(model: lp.Model, ids: list[int] = IDS, **how: Any) -> str:
    run = model.run(ids, points=POINTS, **how)
    return hashlib.sha256(b"".join(run[name].tobytes() for name in POINTS)).hexdigest()


@pytest.fixture
def folder(random_checkpoint) -> Path:
    return random_checkpoint(hidden_size=96, intermediate_size=200)


@pytest.fixture
def model(folder: Path) -> lp.Model:
    return lp.load(folder)


@pytest.fixture(scope="module")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = models.make_config(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        max_position_embeddings=4096,
    )
    folder = tmp_path_factory.mktemp("slow")
    return models.write_checkpoint(folder, config, models.make_weights(config))


@pytest.fixture
def slow(slow_folder: Path) -> lp.Model:
    """A model whose long prompt takes long enough to be interrupted."""
    return lp.load(slow_folder)


LONG = [3] * 3000


@pytest.fixture
def often_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Starts all jobs at the same moment, each on a thread; results, or the first failure."""
    barrier = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            barrier.wait(60)
            results[i] = jobs[i]()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
    return results


# ---- threads ----


@pytest.mark.parametrize("threads", [2, 3, 7, 33, 5000])
def test_the_number_of_threads_changes_no_bit(model: lp.Model, threads: int):
    assert digest(model, threads=threads) == digest(model, threads=1)


def test_the_environment_sets_the_number(model: lp.Model, monkeypatch: pytest.MonkeyPatch):
    expected = digest(model, threads=1)
    monkeypatch.setenv("LLAMAPROBE_NUM_THREADS", "3")
    assert digest(model) == expected
    monkeypatch.setenv("LLAMAPROBE_NUM_THREADS", "none")
    with pytest.raises(lp.ArgumentError, match="LLAMAPROBE_NUM_THREADS"):
        model.run(IDS)


def test_eight_threads_share_a_model(model: lp.Model, often_switching: None):
    prompts = [list(range(i, i + 40)) for i in range(8)]
    expected = [digest(model, ids, threads=1) for ids in prompts]
    jobs = [
        lambda ids=ids, n=i % 3 + 1: digest(model, ids, threads=n) for i, ids in enumerate(prompts)
    ]
    for _ in range(5):
        assert together(jobs) == expected


def test_threads_that_open_run_and_close(folder: Path, often_switching: None):
    def job() -> str:
        with lp.load(folder) as model:
            return digest(model)

    assert len(set(together([job] * 6))) == 1


def test_one_tokenizer_for_all_threads(demo_folder: Path):
    model = lp.load("demo")
    runs = together([lambda: model.run("Once upon a time").tokens] * 6)
    assert all(tokens == runs[0] for tokens in runs)


def test_python_threads_run_while_the_core_computes(slow: lp.Model):
    done = threading.Event()

    def compute() -> None:
        slow.run(LONG, threads=1)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    n = 0
    while not done.wait(0.001):  # comes back only when this thread gets its turn
        n += 1
    thread.join()
    assert n > 5


# ---- closing ----


@pytest.mark.slow
def test_closing_while_a_run_is_under_way(slow: lp.Model):
    expected = slow.run([1, 2, 3])["x"].copy()
    inside, results = threading.Event(), []

    def compute() -> None:
        inside.set()
        results.append(slow.run(LONG))

    thread = threading.Thread(target=compute)
    thread.start()
    inside.wait(60)
    slow.close()
    gc.collect()
    thread.join(300)
    if results:  # else the model was closed before the run took hold of it
        assert np.isfinite(results[0]["x"]).all()
    with pytest.raises(lp.ArgumentError, match="is closed; load it again"):
        slow.run([1])
    assert expected.shape == (6, 3, 256)


def test_use_after_close(model: lp.Model):
    run, weight = model.run(IDS), model.weights["model.norm.weight"]
    before = run["x"].copy()
    model.close()
    model.close()
    for use in (lambda: model.run(IDS), lambda: model.weights, lambda: model.__enter__().run([1])):
        with pytest.raises(lp.ArgumentError, match="closed"):
            use()
    assert "closed" in repr(model) and model.config.n_layers == 3
    assert np.array_equal(run["x"], before) and run.meta["token_ids"] == IDS
    assert np.isfinite(np.asarray(weight)).all()


def test_a_context_manager_closes(folder: Path):
    with lp.load(folder) as model:
        x = model.run(IDS)["x"]
    with pytest.raises(lp.ArgumentError, match="closed"):
        model.run(IDS)
    assert np.isfinite(x).all()


def test_arrays_outlive_model_and_run(folder: Path):
    x = lp.load(folder).run(IDS)["x", 2]
    batch = lp.load(folder).run([IDS, [1, 2]])[1]["x"]
    gc.collect()
    again = lp.load(folder)
    assert np.array_equal(x, again.run(IDS)["x", 2])
    assert np.array_equal(batch, again.run([1, 2])["x"])


# ---- interrupts ----


class Stop(Exception):
    pass


def test_a_signal_stops_a_run_and_leaves_the_model_usable(slow: lp.Model):
    """The handler raises, as Python's own for Ctrl-C does; here for a signal of our own."""
    expected = digest(slow, [1, 2, 3])
    inside = threading.Event()

    def handler(number: int, frame: object) -> None:
        raise Stop

    def send() -> None:
        inside.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    try:
        sender.start()
        with pytest.raises(Stop):
            inside.set()
            for _ in range(200):  # one is enough, unless the machine is very fast
                slow.run(LONG, points=("x", "logits"))
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert digest(slow, [1, 2, 3]) == expected


def test_ctrl_c_is_keyboard_interrupt(slow: lp.Model):
    inside = threading.Event()

    def send() -> None:
        inside.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        inside.set()
        for _ in range(200):
            slow.run(LONG)
    sender.join()
    assert slow.run([1])["x"].shape == (6, 1, 256)


def test_the_poll_is_called_during_a_long_run(slow: lp.Model):
    """And what it raises ends the run at once, not at the end."""
    seen: list[int] = []

    def report(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            assert done < total or total == 0  # 0 of 0: memory is made ready
            raise Stop

    with pytest.raises(Stop):
        for _ in range(200):
            seen.clear()
            core_run(slow, LONG, report)
    assert len(seen) == 2


def test_a_callback_may_run_the_model_itself(slow: lp.Model):
    expected = digest(slow, [1, 2, 3])
    inner: list[str] = []

    def report(done: int, total: int) -> None:
        if len(inner) < 3:
            inner.append(digest(slow, [1, 2, 3]))

    core_run(slow, LONG, report)
    assert set(inner) == {expected}


def core_run(model: lp.Model, ids: list[int], report: Callable[[int, int], None]) -> Any:
    return model._core.run(
        np.array(ids, np.int32), [0, len(ids)], [(0, (0, 5))], n_threads=2, progress=report
    )


# ---- interpreters of their own, which a fault of this kind ends ----


def interpreter(script: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(Path(lp.__file__).parent.parent)}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=120)


@pytest.mark.slow
def test_the_environment_may_change_during_a_run():
    """The environment moves in memory when it grows: whoever reads it meanwhile must hold the GIL."""
    done = interpreter("""
import itertools, os, sys, threading, time
import numpy as np
import llamaprobe as lp

model, end = lp.load("demo")._core, time.monotonic() + 2

def compute():
    while time.monotonic() < end:
        model.run(np.array([1], np.int32), [0, 1], [(0, (0,))], n_threads=1)

thread = threading.Thread(target=compute)
sys.setswitchinterval(1e-6)
thread.start()
for i in itertools.takewhile(lambda i: time.monotonic() < end, itertools.count()):
    names = [f"VARIABLE_{i}_{k}" for k in range(1000)]
    for name in names:
        os.putenv(name, "x" * 50)
    for name in names:
        os.unsetenv(name)
thread.join()
print("done")
""")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="it cannot unwind a deep stack")
@pytest.mark.parametrize("attempt", range(4))
def test_the_interpreter_may_end_during_a_run(attempt: int):
    """It ends a daemon thread that requests the GIL, and with it the stack that workers read."""
    done = interpreter("""
import threading, time
import llamaprobe as lp

model = lp.load("demo")
ids = [1] * model.config.max_positions

def compute(depth):
    if depth:
        return list(map(compute, [depth - 1]))  # deep in the stack, as within a framework
    while True:
        model.run([ids] * 8, points=("z",), threads=2)

class Late:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

threading.Thread(target=compute, args=(200,), daemon=True).start()
time.sleep(0.3)
late = Late()
late.itself = late  # goes in the last collection, when no other thread gets the GIL
del late
""")
    assert (done.returncode, done.stderr) == (0, "")


# ---- processes ----


def child_digest(folder: str, queue: Any) -> None:
    queue.put(digest(lp.load(folder), threads=3))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_computes_the_same(folder: Path, model: lp.Model, method: str):
    expected = digest(model, threads=3)  # the pool has threads now
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=child_digest, args=(str(folder), queue)) for _ in range(2)]
    for child in children:
        child.start()
    results = [queue.get(timeout=120) for _ in children]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert results == [expected] * 2


def pool_digest(folder: str) -> str:
    return digest(lp.load(folder), threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes(folder: Path, model: lp.Model, method: str):
    with multiprocessing.get_context(method).Pool(2) as processes:
        results = processes.map_async(pool_digest, [str(folder)] * 6, chunksize=1).get(timeout=120)
    assert results == [digest(model, threads=2)] * 6


def test_a_fork_before_the_first_run(folder: Path):
    """In an interpreter of its own: parent and child make their threads after the fork."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_threads
import llamaprobe as lp
model = lp.load({str(folder)!r})
same = test_threads.in_fork(lambda: print(test_threads.digest(model, threads=3), flush=True) is None)
print(test_threads.digest(model, threads=3), flush=True)
print(test_threads.in_fork(lambda: print(test_threads.digest(model, threads=3), flush=True) is None) + same)
"""
    env = os.environ | {"PYTHONPATH": str(Path(lp.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=120)
    child, parent, again, code = done.stdout.split()
    assert child == parent == again == digest(lp.load(folder)) and code == "0", done.stderr


def in_fork(work: Callable[[], bool]) -> int:
    """Exit code of a forked child: 0 when `work` says so."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_while_another_thread_computes(slow: lp.Model):
    """The child inherits the model, and nothing of the work that was under way."""
    expected = digest(slow, [1, 2, 3], threads=2)
    started = threading.Event()

    def compute() -> None:
        started.set()
        slow.run(LONG, threads=2)

    thread = threading.Thread(target=compute)
    thread.start()
    started.wait(60)
    codes = [in_fork(lambda: digest(slow, [1, 2, 3], threads=2) == expected) for _ in range(4)]
    thread.join()
    assert codes == [0] * 4


def test_a_fork_from_the_callback_of_a_run(slow: lp.Model):
    """When the callback raises in the child the run goes no further there, and the next one works."""
    expected = digest(slow, [1, 2, 3], threads=2)
    parent, codes = os.getpid(), []

    def report(done: int, total: int) -> None:
        if codes or done == total:
            return
        codes.append(None)
        pid = os.fork()
        if pid == 0:
            raise Stop
        codes[0] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    try:
        core_run(slow, LONG, report)
    except Stop:
        assert os.getpid() != parent
        os._exit(0 if digest(slow, [1, 2, 3], threads=2) == expected else 1)
    finally:
        if os.getpid() != parent:
            os._exit(3)
    assert codes in ([0], [])  # none: the machine was too fast for a poll


def test_a_run_continues_in_a_child_forked_by_its_callback(slow: lp.Model):
    expected = core_run(slow, LONG, lambda done, total: None)[0]
    children: list[int] = []

    def report(done: int, total: int) -> None:
        if not children and done < total:
            children.append(os.fork())

    code = 2
    try:
        code = 0 if np.array_equal(core_run(slow, LONG, report)[0], expected) else 1
    finally:
        if children == [0]:
            os._exit(code)
    assert code == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] in ([0], [])
