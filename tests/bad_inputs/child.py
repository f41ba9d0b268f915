"""Work in a forked child process, where it may crash, hang or eat memory."""

import contextlib
import ctypes
import gc
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
LIBC.free.restype, LIBC.free.argtypes = None, [ctypes.c_void_p]


class Outcome(NamedTuple):
    """The outcome: the value, or the class and message of the exception; what it printed."""

    value: Any
    error: type[BaseException] | None
    message: str
    stdout: str
    stderr: str


def in_child(work: Callable[[], Any], *, seconds: float = 60, memory: int = 1 << 30) -> Outcome:
    """Does `work` in a child that may take so much wall time and so much more address space.

    A crash and a hang are failures of the test that called. The value must be one that can be
    pickled.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        reply, send = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other tests left threads
            pid = os.fork()
        if pid == 0:
            _serve(work, memory, send, stdout.fileno(), stderr.fileno())
        os.close(send)
        data = _wait(pid, reply, seconds)
        stdout.seek(0), stderr.seek(0)
        printed = stdout.read().decode(), stderr.read().decode()
    assert data, f"the child died without a word: {printed[1][-500:]}"
    return Outcome(*pickle.loads(data), *printed)


def _serve(work: Callable[[], Any], memory: int, send: int, stdout: int, stderr: int) -> NoReturn:
    status = 3
    gc.freeze()  # garbage of other tests freed later would add room beyond the limit
    try:
        os.dup2(stdout, 1), os.dup2(stderr, 2)
        sys.stdout = open(1, "w", closefd=False)  # pytest's own capture stays out of it
        sys.stderr = open(2, "w", closefd=False)
        outcome: tuple[Any, type[BaseException] | None, str]
        try:
            with less_memory(memory):
                outcome = work(), None, ""
        except BaseException as e:
            outcome = None, type(e), str(e)
        sys.stdout.flush(), sys.stderr.flush()
        os.write(send, pickle.dumps(outcome))
        status = 0
    finally:
        os._exit(status)


@contextlib.contextmanager
def less_memory(more: int) -> Iterator[None]:
    """This process may take so many bytes of address space more than it has, for a while."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    blocks = [] if hasattr(LIBC, "__asan_init") else list(_free_blocks(used, before[1]))
    resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        for block in blocks:
            LIBC.free(block)


def _free_blocks(used: int, hard: int) -> Iterator[int]:
    """Allocates what earlier tests freed and malloc cached: it would add room beyond the limit.

    Meanwhile the address space may not grow, at which AddressSanitizer would end the process.
    """
    resource.setrlimit(resource.RLIMIT_AS, (used, hard))
    for n_bytes in (64 << 20, 8 << 20, 1 << 20):
        while block := LIBC.malloc(n_bytes):
            yield block


def _wait(pid: int, reply: int, seconds: float) -> bytes:
    """All that the child sends; it is ended when its time is over."""
    deadline, data = time.monotonic() + seconds, b""
    try:
        while select.select([reply], [], [], max(0, deadline - time.monotonic()))[0]:
            if not (chunk := os.read(reply, 1 << 16)):
                break
            data += chunk
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(reply)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"the child ended with {code} within {seconds} s"
    return data
