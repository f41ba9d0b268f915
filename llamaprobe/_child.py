"""One function of ours in a child process with limits, for work whose cost a stranger's file
decides.

The parent calls `call("_render.py", request)`; the child runs this very file as a script, takes
its limits on itself, loads the named file from this folder, runs its `answer(request)` and sends
the result back; a file with `prepare` gets `answer(prepare(request), request)`. Request and reply are JSON; the request lies in an unnamed file that is the
child's stdin, so that no pipe can fill up. The child's Python is isolated (-I -S): it sees the
standard library and the folders of the packages that were asked for, no environment, no user
site, no current folder.

Refused: more processor time, memory, wall time or output than `Limits` allows; the child is then
killed. A child is also killed when the parent is interrupted. Nothing is left running, no file is
left behind.
"""

import contextlib
import json
import os
import sys
from typing import BinaryIO, NamedTuple

FOLDER = os.path.dirname(os.path.abspath(__file__))


class Limits(NamedTuple):
    """What one call may use."""

    cpu_seconds: int
    wall_seconds: float
    memory: int  # bytes of address space
    reply: int  # bytes of JSON


class ChildError(Exception):
    """The child refused, failed or broke a limit; the message is for the user, in one line."""


def call(script: str, request: dict, *, packages: tuple[str, ...], limits: Limits) -> object:
    """What `answer(request)` of `script`, a file in this folder, returns when run in a child
    process.

    `packages` are the third-party packages that the script imports, by name. Raises ChildError.
    """
    import tempfile

    head = {
        "script": os.path.join(FOLDER, script),
        "path": _folders_of(packages),
        "cpu_seconds": limits.cpu_seconds,
        "memory": limits.memory,
    }
    try:
        with tempfile.TemporaryFile() as ask:
            ask.write(json.dumps([head, request]).encode("ascii"))
            ask.seek(0)
            status, data = _run(ask, limits)
    except OSError as e:
        raise ChildError(f"cannot run a child process: {e.strerror or e}") from None
    if status != 0:
        raise ChildError(_why(status, limits))
    return _result(data)


def _folders_of(packages: tuple[str, ...]) -> list[str]:
    """The folders on sys.path that hold `packages`, found without importing them."""
    from importlib.util import find_spec

    folders: list[str] = []
    for name in packages:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ChildError(f"the Python package {name} is missing; pip install {name}")
        folder = os.path.dirname(os.path.abspath(next(iter(spec.submodule_search_locations))))
        if folder not in folders:
            folders.append(folder)
    return folders


def _run(ask: BinaryIO, limits: Limits) -> tuple[int, bytes]:
    """Start the child, read its reply within the limits: (exit status, reply)."""
    import subprocess
    import time

    if not sys.executable:
        raise ChildError(
            "this Python does not know its own path, so it cannot start a child process"
        )
    keep = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", os.path.abspath(__file__)],
        stdin=ask,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={k: os.environ[k] for k in keep if k in os.environ},
    )
    deadline = time.monotonic() + limits.wall_seconds
    with child:
        try:
            data = _read(child.stdout.fileno(), limits, deadline)  # type: ignore[union-attr]
            return child.wait(max(0.0, deadline - time.monotonic())), data
        except subprocess.TimeoutExpired:
            raise ChildError(_too_slow(limits)) from None
        finally:
            child.kill()


def _read(fd: int, limits: Limits, deadline: float) -> bytes:
    """All that comes from `fd` until it closes, at most `limits.reply` bytes."""
    import select
    import time

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    chunks: list[bytes] = []
    room = limits.reply
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise ChildError(_too_slow(limits))
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return b"".join(chunks)
        room -= len(chunk)
        if room < 0:
            raise ChildError(f"the result is over {limits.reply} bytes")
        chunks.append(chunk)


def _too_slow(limits: Limits) -> str:
    return f"it took over {limits.wall_seconds:g} s, which is the limit"


def _why(status: int, limits: Limits) -> str:
    """What a bad exit status says, in words."""
    import signal

    if status == -signal.SIGXCPU:
        return f"it took over {limits.cpu_seconds} s of processor time, which is the limit"
    if status < 0:
        name = next((s.name for s in signal.Signals if s == -status), f"signal {-status}")
        return f"it died of {name}; it may use {limits.memory >> 20} MiB of memory"
    return f"the child process failed with status {status}"


def _result(data: bytes) -> object:
    try:
        reply = json.loads(data)
        if "error" in reply:
            raise ChildError(str(reply["error"]))
        return reply["value"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ChildError("the child process sent no proper reply") from None


def _limit(cpu_seconds: int, memory: int) -> None:
    """Take the limits on this process, for good; one that the system lacks is left to the wall
    clock.
    """
    import resource

    _lower(
        resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1
    )  # SIGXCPU first, SIGKILL if it is blocked
    _lower(resource.RLIMIT_AS, memory, memory)
    _lower(resource.RLIMIT_FSIZE, 0, 0)
    _lower(resource.RLIMIT_CORE, 0, 0)


def _lower(what: int, soft: int, hard: int) -> None:
    import resource

    old = resource.getrlimit(what)[1]
    if old != resource.RLIM_INFINITY:
        soft, hard = min(soft, old), min(hard, old)
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit on address space
        resource.setrlimit(what, (soft, hard))


def _serve() -> None:
    """The child: one request from stdin, one reply to stdout."""
    head, request = json.loads(sys.stdin.buffer.read())
    _limit(head["cpu_seconds"], head["memory"])
    sys.path.extend(head["path"])
    import runpy

    try:
        script = runpy.run_path(head["script"])
        arguments = (script["prepare"](request), request) if "prepare" in script else (request,)
        reply = {"value": script["answer"](*arguments)}
        data = json.dumps(reply).encode("ascii")
    except MemoryError:
        data = json.dumps({"error": f"it needs over {head['memory'] >> 20} MiB of memory"}).encode(
            "ascii"
        )
    except Exception as e:
        data = json.dumps({"error": str(e) or type(e).__name__}).encode("ascii")
    sys.stdout.buffer.write(data)


if __name__ == "__main__":
    _serve()
