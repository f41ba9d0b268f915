"""Ctrl-C and the exit status of the whole process, from the command's first line to the
interpreter's last: 130, or that of the command that had ended already; one line, no traceback."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hub_process import environment

N_MOMENTS = 60
LINE = "llamaprobe: interrupted\n"

START = """
import os, sys
from llamaprobe.cli import main as cli
from llamaprobe.cli import process
install = process.Interrupts.install
def install_and_report(self):
    install(self)
    os.write(int(sys.argv.pop(1)), b"x")  # from here on Ctrl-C is the command's
process.Interrupts.install = install_and_report
sys.exit(cli.main())
"""

FAKE = """
import argparse, atexit, os, signal, sys, threading, time
from llamaprobe.cli import main as cli
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
def work(args):
    {work}
class Parser:
    def parse_args(self, argv):
        return argparse.Namespace(run=work)
cli._parser = Parser
sys.argv = ["llamaprobe"]
{before}
sys.exit(cli.main())
"""


def started(words: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A command, and a descriptor from which a byte comes when it catches Ctrl-C."""
    ready, report = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(report), *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[report],
    )
    os.close(report)
    return process, ready


def ended(words: list[str], delay: float | None) -> tuple[int, str, float]:
    process, ready = started(words)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    start = time.monotonic()
    if delay is not None:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err, time.monotonic() - start


@pytest.mark.slow
def test_the_status_at_random_moments():
    words = ["run", "demo", "Once"]
    whole = max(ended(words, None)[2] for _ in range(2))
    rng, codes = random.Random(5), []
    for number in range(N_MOMENTS):
        share = rng.random() if number % 2 else 0.8 + 0.3 * rng.random()  # near its end above all
        code, err, _ = ended(words, share * whole)
        assert code in (0, 130), (code, err)
        assert code == 0 or err.endswith(LINE), err
        assert err.count("\n") <= 2 and "Traceback" not in err and "ignored" not in err, err
        codes.append(code)
    assert codes.count(130) >= N_MOMENTS // 10


def fake(work: str, before: str = "") -> tuple[int, str]:
    script = FAKE.format(work=work, before=before)
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return process.returncode, process.stderr


LOST = {
    "in a destructor": "D = type('D', (), {'__del__': lambda self: interrupt()}); D(); [time.sleep(0.1) for _ in range(300)]",
    "as another error": "\n    try: interrupt()\n    except KeyboardInterrupt: raise ValueError('x')",
    "as an error of ours": "\n    try: interrupt()\n    except KeyboardInterrupt: raise OSError('x')",
    "twice": "\n    try: interrupt()\n    finally: interrupt()",
}


@pytest.mark.parametrize("how", LOST)
def test_an_interrupt_is_not_lost(how: str):
    assert fake(LOST[how]) == (130, LINE)


def test_an_interrupt_while_a_dataclass_is_made(tmp_path):
    """`python -m` remembers a KeyboardInterrupt that leaves exec() of a text."""
    work = "exec('interrupt()', {'interrupt': interrupt})"
    (tmp_path / "fake.py").write_text(FAKE.format(work=work, before=""))
    process = subprocess.run(
        [sys.executable, "-m", "fake"],
        cwd=tmp_path,  # `-m` looks here first
        env=environment(PYTHONSAFEPATH=""),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (130, LINE)


AT_THE_END = {
    "at exit": "atexit.register(interrupt)",
    "while threads end": "threading._register_atexit(interrupt)",
    "of a thread": "threading.Thread(target=lambda: (time.sleep(0.3), interrupt())).start()",
    "at the last moment": "sys.last = type('D', (), {'__del__': lambda self, kill=os.kill, pid="
    "os.getpid(), number=signal.SIGINT: kill(pid, number)})()",
}


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("when", AT_THE_END)
def test_a_decided_status_stays(when: str, code: int):
    assert fake(f"return {code}", before=AT_THE_END[when]) == (code, "")


def test_a_command_in_a_program_restores_the_handler():
    script = """
import os, signal, sys
from llamaprobe.cli import main as cli
hooks = sys.excepthook, sys.unraisablehook
assert cli.main(["points", "--json"]) == 0
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert (sys.excepthook, sys.unraisablehook) == hooks
signal.signal(signal.SIGINT, signal.SIG_IGN)
assert cli.main(["points", "--json"]) == 0
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    subprocess.run(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.DEVNULL, check=True
    )


@pytest.mark.slow
def test_a_second_ctrl_c_abandons_a_reader_that_does_not_read():
    """The first Ctrl-C waits for what is printed to be read."""
    work = "\n    for _ in range(9000): print('x' * 80)"
    process = subprocess.Popen(
        [sys.executable, "-c", FAKE.format(work=work, before="print('up', file=sys.stderr)")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "up\n"
    for _ in range(100):  # until it has ended: each wait is of half a second
        time.sleep(0.5)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130 and process.stderr.read() == LINE
