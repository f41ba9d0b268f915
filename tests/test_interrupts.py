"""Ctrl-C at random moments of load, run, save and export: prompt, clean, and the next call works.

Every command runs in a forked child of its own, so that fifty of them do not start fifty
interpreters.
"""

import argparse
import os
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import models
import numpy as np
import pytest
from alarm import interrupted_after
from bad_inputs import weights_file
from bad_inputs.child import in_child

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.cli import main as cli

N_MOMENTS = 50
PROMPT = 60.0
"""Seconds: far beyond what any machine should need, and far below endless."""


class Ended(NamedTuple):
    code: int
    stderr: str
    seconds: float
    """From the start, or from the signal where there was one."""


def command(args: list[str], delay: float | None = None) -> Ended:
    """Runs a command in a child and sends it SIGINT after `delay` seconds."""
    with tempfile.TemporaryFile() as stderr, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests left threads
        ready, report = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(args, report, stderr.fileno())
        os.close(report)
        os.read(ready, 1)
        os.close(ready)
        start = time.monotonic()
        if delay is not None:
            time.sleep(delay)
            os.kill(pid, signal.SIGINT)
            start = time.monotonic()
        code = os.waitstatus_to_exitcode(_wait(pid))
        stderr.seek(0)
        return Ended(code, stderr.read().decode(), time.monotonic() - start)


def _child(args: list[str], report: int, stderr: int) -> None:
    code, make_parser = 99, cli._parser

    def parser(first: str = "") -> argparse.ArgumentParser:
        os.write(report, b"x")  # from here on the command catches Ctrl-C
        return make_parser(first)

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1), os.dup2(stderr, 2)
        cli.sys.stdout, cli.sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli._parser, cli.sys.argv = parser, ["llamaprobe", *args]
        code = cli.main()
    except BaseException:  # the command itself is to catch it
        traceback.print_exc()
        cli.sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    """The child's status; one that does not end in time is killed, which is its status then."""
    deadline = time.monotonic() + PROMPT
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ids") / "ids.npy"
    np.save(path, np.arange(400) % 97)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = models.make_config(hidden_size=128, intermediate_size=320, max_position_embeddings=512)
    path = tmp_path_factory.mktemp("interrupted")
    return models.write_checkpoint(path, config, models.make_weights(config))


@pytest.fixture(scope="module")
def many_tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose header takes a moment: 30,000 empty tensors."""
    path = tmp_path_factory.mktemp("header") / "m.safetensors"
    empty = np.zeros((0,), np.float32)
    path.write_bytes(models.safetensors_bytes({f"tensor.{i}": empty for i in range(30_000)}, "F32"))
    return path


@pytest.mark.linux
def test_reading_a_file_into_memory_stops_midway(tmp_path: Path):
    """A file of 1 GB that is all hole: when the signal comes, not all of it has been read."""
    path = tmp_path / "m.safetensors"
    n_bytes = 1 << 30
    path.write_bytes(weights_file.image({"w": weights_file.entry(0, n_bytes)}))
    os.truncate(path, path.stat().st_size + n_bytes)

    def most() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def work() -> int:
        before = most()
        stopped = interrupted_after(0.01, lambda: _core.Safetensors(path, mmap=False))
        return most() - before if stopped else n_bytes

    assert in_child(work, memory=2 << 30).value < n_bytes


def hollow_tensor(path: Path, n_elements: int) -> _core.Safetensors:
    """A file of one BF16 tensor that is all hole."""
    n_bytes = 2 * n_elements
    path.write_bytes(weights_file.image({"w": weights_file.entry(0, n_bytes, "BF16", [n_elements])}))
    os.truncate(path, path.stat().st_size + n_bytes)
    return _core.Safetensors(path)


@pytest.mark.linux
def test_widening_a_tensor_stops_midway(tmp_path: Path):
    def work() -> int:
        file = hollow_tensor(tmp_path / "m.safetensors", 1 << 28)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert interrupted_after(0.01, lambda: file.read("w"))
        return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    assert in_child(work, memory=3 << 30).value < 1 << 30  # 1.5 GB is all of it


@pytest.mark.linux
def test_widening_a_tensor_checks_memory_first(tmp_path: Path):
    def work() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(lp.OutOfMemory, match=r'copy of tensor "w" needs 4 x 268435456 bytes'):
            hollow_tensor(tmp_path / "m.safetensors", 1 << 28).read("w")
        return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    assert in_child(work, memory=1 << 30).value < 1 << 26


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [1, 100, 1_000_000])
@pytest.mark.parametrize("whole", [True, False])
def test_reading_a_text_stops_midway(n_rows: int, whole: bool):
    """Also when the text has another number of numbers, and its rows are looked at one by one."""
    row = ",".join(["0.12345678"] * (8_000_000 // n_rows))
    text = f"{row}\n".encode() * n_rows

    def work() -> tuple[float, float]:
        values = np.empty(8_000_000 - (not whole), np.float32)
        start = time.process_time()
        fault = _core.parse_floats(values, text, 0, ",", 1)
        full, start = time.process_time() - start, time.process_time()
        assert (fault is None) == whole
        signal.signal(signal.SIGVTALRM, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_VIRTUAL, full / 8)
            _core.parse_floats(values, text, 0, ",", 1)
        return full, time.process_time() - start

    full, stopped = in_child(work).value
    assert stopped < 0.6 * full or n_rows == 1 and not whole  # a fault in a row is one piece of work


@pytest.mark.slow
@pytest.mark.parametrize("what", ["load", "run", "save", "export"])
def test_ctrl_c_at_random_moments(
    what: str, folder: Path, many_tensors: Path, ids: Path, tmp_path: Path
):
    out = tmp_path / "out"
    save = ["--out", str(out), "--force", "--points", "x,x_norm,q,k,gate"]
    args = {
        "load": ["inspect", str(many_tensors)],
        "run": ["run", str(folder), "--ids", str(ids), "--points", "x,scores,logits"],
        "save": ["run", str(folder), "--ids", str(ids), *save],
        "export": ["weights", str(folder), "--out", str(out)],
    }[what]
    whole = [command(args), command(args)]  # the first one warms up
    assert [one.code for one in whole] == [0, 0], whole
    seconds = min(one.seconds for one in whole)
    expected = files(out)
    moments, n_stopped = random.Random(what), 0
    for _ in range(N_MOMENTS):
        for path in out.iterdir() if out.exists() else ():
            path.unlink()
        ended = command(args, delay=moments.random() * seconds)
        assert ended.code in (0, 130) and ended.seconds < PROMPT, ended
        if ended.code == 130:
            n_stopped += 1
            assert ended.stderr.splitlines()[-1] == "llamaprobe: interrupted"
            assert "Traceback" not in ended.stderr
        left = {name: data for name, data in files(out).items() if name[0] != "."}
        assert left.items() <= expected.items(), "a file under its final name is whole"
        assert "manifest.json" not in left or left == expected
    assert n_stopped >= N_MOMENTS // 10
    assert command(args).code == 0
    assert files(out) == expected
