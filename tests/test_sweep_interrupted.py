"""Sweeps that are stopped: by exceptions of functions and metrics, and by Ctrl-C."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alarm import interrupted_after

import llamaprobe as lp

IDS = [(7 * i * i + 3 * i) % 97 for i in range(21)]


@pytest.fixture(scope="module")
def model() -> lp.Model:
    return lp.load("demo", threads=2)


class Enough(Exception):
    pass


def test_a_sweep_can_be_stopped(model: lp.Model, capsys: pytest.CaptureFixture[str]):
    """By an exception of a function or a metric, and by Ctrl-C; the model stays usable."""

    def interrupt(value: Any, at: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    def stop(value: Any, at: Any = None) -> None:
        raise Enough

    cells = [lp.Edits() for _ in range(3)]
    for cell, function in zip(cells, (interrupt, stop, lambda value, at: 2 * value), strict=True):
        cell["z", 2][5].map(function)
    with pytest.raises(KeyboardInterrupt):
        model.sweep(IDS, cells[::2], lp.logprob(3))
    with pytest.raises(Enough):
        model.sweep(IDS, cells[1:], lp.logprob(3))
    with pytest.raises(Enough):
        model.sweep(IDS, cells[2:], stop)
    sweep = model.sweep(IDS, cells[2:], lambda row: row[3])
    own = model.run(IDS, points="logits", edits=cells[2])
    assert sweep.values == own["logits"][-1, 3] and not sweep.n_skipped
    assert capsys.readouterr().err == ""
    model.sweep(IDS, cells[2:], lp.logprob(3), progress=True)
    assert "cell" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_at_random_moments(model: lp.Model):
    """Between any two instructions of Python, and in the core: nothing, or the whole map."""
    draw = random.Random(0)
    other = [*IDS[:9], 3, *IDS[10:]]

    def patch_map() -> lp.Sweep:
        return model.patch_map(IDS, other, metric=lp.logit_diff(5, 6), point="z", heads=True)

    start = time.perf_counter()
    whole = patch_map()
    seconds = time.perf_counter() - start
    found: list[lp.Sweep] = []
    for _ in range(30):
        interrupted_after(draw.uniform(1e-4, seconds), lambda: found.append(patch_map()))
    assert all(sweep.values.tobytes() == whole.values.tobytes() for sweep in found)
    assert any(interrupted_after(1e-4, patch_map) for _ in range(100))
    assert patch_map().values.tobytes() == whole.values.tobytes()


COMMAND = """
import sys
import llamaprobe as lp
from llamaprobe.cli.main import main
from llamaprobe.sweeps import engine

run = engine.Engine._run

def shown(self, *args, **how):
    print("layer", file=sys.stderr, flush=True)
    return run(self, *args, **how)

engine.Engine._run, engine._ROWS = shown, 1
text = "Once upon a time there was a miller named {}. " * 20
sys.argv = ["llamaprobe", "sweep", "demo", "--clean", text.format(*["Hopoa"] * 20)]
sys.argv += ["--corrupted", text.format(*["Mopoa"] * 20), "--out", sys.argv0]
sys.exit(main())
"""


def test_ctrl_c_on_the_command_line(tmp_path: Path):
    """It writes nothing. The pipe holds less than all that it says, so that it cannot end before."""
    out = tmp_path / "map.npy"
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND.replace("sys.argv0", repr(str(out)))],
        stderr=subprocess.PIPE,
        bufsize=0,
        pipesize=4096,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    killer = threading.Timer(60, child.kill)
    killer.start()
    try:
        seen = b""
        while seen.count(b"\n") < 20:
            assert (byte := child.stderr.read(1)), seen
            seen += byte
        child.send_signal(signal.SIGINT)
        errors = child.communicate(timeout=60)[1]
    finally:
        killer.cancel()
        child.kill()
    assert child.returncode == 130 and errors.endswith(b"llamaprobe: interrupted\n")
    assert b"Traceback" not in errors and not list(tmp_path.iterdir())
