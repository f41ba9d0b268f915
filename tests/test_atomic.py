"""Files that are whole or not there: temporary names, locks, Ctrl-C, kills and full disks."""

import errno
import gc
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.files import atomic
from llamaprobe.files.encode import Encoder, array_encoder, bytes_encoder
from llamaprobe.files.writer import Writer
from llamaprobe.saved_run import read_run

IDS = [1, 40, 7, 96, 3]


@pytest.fixture
def model(random_checkpoint):
    return lp.load(random_checkpoint())


def test_atomic_open_leaves_no_trace_of_a_failure(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.atomic_open(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]
    with atomic.atomic_open(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_only_files_of_a_killed_writer_are_removed(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=os.getpid)
    process.start()
    process.join()
    (tmp_path / f".llamaprobe-{process.pid}-0.part").write_text("left behind")
    (tmp_path / f".llamaprobe-{os.getpid()}-987654.part").write_text("left by Ctrl-C")
    written, path = atomic.open_temporary(tmp_path)
    (tmp_path / ".llamaprobe-notes.part").write_text("somebody's")
    with written, atomic.hold_folder(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [path.name, ".llamaprobe-notes.part"]


def test_keeps_files_written_by_another_container(tmp_path):
    """Its process id does not exist here; the file is locked nevertheless."""
    file, path = atomic.open_temporary(tmp_path)
    foreign = tmp_path / ".llamaprobe-999999999-0.part"
    path.rename(foreign)
    with atomic.hold_folder(tmp_path):
        assert foreign.exists()
    file.close()
    with atomic.hold_folder(tmp_path):
        assert not foreign.exists()


@pytest.mark.parametrize("again", [False, True])
def test_a_temporary_file_removed_at_once_is_made_again(tmp_path, monkeypatch, again):
    """Also when another one has its name since: a process in a container may have our number."""
    removed, lock = [], atomic.try_lock

    def remove_first(fd):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
            if again:
                removed[0].write_text("somebody's")
        return lock(fd)

    monkeypatch.setattr(atomic, "try_lock", remove_first)
    with atomic.atomic_open(tmp_path / "a") as file:
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and removed


def test_ctrl_c_in_between_leaves_no_descriptor(tmp_path, monkeypatch):
    def interrupt(fd):
        raise KeyboardInterrupt

    n_open = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "try_lock", interrupt)
        try:
            atomic.open_temporary(tmp_path)
        except KeyboardInterrupt:
            pass
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= n_open  # others may close meanwhile
    with atomic.hold_folder(tmp_path):
        assert os.listdir(tmp_path) == []


def test_ctrl_c_while_threads_start_leaves_no_thread(tmp_path, monkeypatch):
    start = threading.Thread.start

    def interrupted(self):
        start(self)
        if self.name == "llamaprobe_hash":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    writer = Writer(tmp_path)
    with pytest.raises(KeyboardInterrupt), writer:
        pass
    for thread in writer._threads[:2]:
        thread.join(10)
        assert not thread.is_alive()


def test_a_stage_out_of_memory_leaves_no_temporary_file(tmp_path):
    class Full(queue.SimpleQueue):
        def put(self, item):
            if threading.current_thread().name == "llamaprobe_hash":
                raise MemoryError
            super().put(item)

    writer = Writer(tmp_path)
    writer._scratches = Full()
    for _ in range(20):
        writer._scratches.put(memoryview(b""))
    with pytest.raises(MemoryError), writer:
        for i in range(20):
            writer.add(f"{i}.csv", array_encoder(np.ones(3, np.float32), "csv"))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_warns_of_a_file_system_without_locks(model, tmp_path, monkeypatch):
    def refuse(fd, operation):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr("llamaprobe.files.lock.fcntl.flock", refuse)
    with pytest.warns(UserWarning, match=r"out: this file system has no locks"):
        model.run(IDS).save(tmp_path / "out")
    assert read_run(tmp_path / "out")["x"].shape == (3, 5, 48)


def test_a_folder_has_one_writer_at_a_time(model, tmp_path):
    run = model.run(IDS)
    with atomic.hold_folder(tmp_path / "out"):
        with pytest.raises(lp.FileError, match="another llamaprobe is writing"):
            run.save(tmp_path / "out")
        assert os.listdir(tmp_path / "out") == []
    run.save(tmp_path / "out")


def test_the_first_failure_of_a_writer_leaves_only_whole_files(tmp_path):
    def encode(scratch, first, count):
        raise ZeroDivisionError("here")

    broken = Encoder((10,), "float32", b"# shape=[10]\n", 10, encode)
    with pytest.raises(ZeroDivisionError), Writer(tmp_path) as writer:
        writer.add("a.csv", bytes_encoder(b"whole"))
        writer.add("b.csv", broken)
    assert not [name for name in os.listdir(tmp_path) if name != "a.csv"]


def test_a_writer_over_the_file_size_limit_names_the_file(tmp_path, random_checkpoint):
    script = f"""
import resource, sys, llamaprobe as lp
run = lp.load({str(random_checkpoint())!r}).run([1, 2, 3] * 60, points=["x", "pattern"])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    run.save({str(tmp_path / "out")!r})
except lp.FileError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == f"{tmp_path}/out/pattern_layer0.csv: File too large\n"
    out = tmp_path / "out"
    left = os.listdir(out) if out.exists() else []  # gone when no file was whole yet
    if left:
        left.remove(".llamaprobe-save.json")  # lists for the next save what this one left
    assert "manifest.json" not in left and not [n for n in left if n.endswith(".part")]
    assert all(lp.read(out / name).size for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("n_signals", [1, 3])
def test_ctrl_c_during_a_slow_fsync_does_not_close_other_files(tmp_path, n_signals):
    """The caller leaves when the stages have ended, and no descriptor is closed after that."""
    script = f"""
import os, signal, sys, threading, time
import llamaprobe as lp
sync, started, sent = os.fsync, threading.Event(), threading.Event()
def slow(fd):
    if threading.current_thread() is threading.main_thread():
        return sync(fd)
    started.set()
    sent.wait(20)
    time.sleep(0.3)
    sync(fd)
os.fsync = slow
def interrupt():
    started.wait()
    for _ in range({n_signals}):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
    sent.set()
run = lp.load("demo").run([1] * 9, points=["x"], layers=[0, 1])
threading.Thread(target=interrupt, daemon=True).start()
try:
    run.save({str(tmp_path / "out")!r})
except KeyboardInterrupt:
    print("interrupted", [t.name for t in threading.enumerate() if "_publish" in t.name])
mine = [os.open({str(tmp_path / "mine")!r}, os.O_RDWR | os.O_CREAT) for _ in range(40)]
time.sleep(1)
for fd in mine:
    os.fstat(fd)
out = {str(tmp_path / "out")!r}
print(sorted(os.listdir(out)) if os.path.isdir(out) else [])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    interrupted, left = run.stdout.splitlines()
    assert interrupted.startswith("interrupted")
    assert ".part" not in left and "manifest.json" not in left


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.08])
def test_a_killed_save_leaves_only_whole_files(tmp_path, random_checkpoint, delay):
    script = f"""
import llamaprobe as lp
run = lp.load({str(random_checkpoint())!r}).run([1, 2, 3] * 60, points=["x", "q", "pattern"])
print("ready", flush=True)
for i in range(100):
    run.save({str(tmp_path / "out")!r}, force=True)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    out = tmp_path / "out"
    for path in out.glob("[!.]*") if out.exists() else []:
        if path.suffix == ".csv":
            assert lp.read(path).size
        else:
            json.loads(path.read_text())
    if (out / "manifest.json").exists():
        assert len(read_run(out)) == 180
    lp.load(random_checkpoint()).run(IDS).save(out, force=True)
    assert not list(out.glob(".llamaprobe*"))
