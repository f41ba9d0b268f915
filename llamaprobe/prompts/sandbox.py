"""A module of this folder in a child process with limits, for work whose cost an untrusted file
decides.

A `Worker` starts this very file as a script. The child loads one module, runs its
`prepare(request)` once, and then answers any number of requests: for each it forks a grandchild,
which sets its limits, runs `answer(state, request)` and sends the result. So costly files are read
once, each request starts from the same state, and each has the full limits. The child's Python is
isolated (-I -S): it has the standard library and the folders of the named packages, but no
environment, no user site and no current folder.

Refused: more processor time, memory, wall time or output than `Limits` allows, in preparing and in
each answer. The grandchild is then killed; a child that hangs is replaced at the next request. The
child ends with its Worker, when the parent is interrupted, and when the parent is gone. No process
and no file remains.

Both pipes carry frames: a status (an exit status as in `subprocess`), a length, that many bytes of
JSON. It is written and read by this file alone, and the child has nothing of llamaprobe but this
folder: hence `json` and not the reader of files.
"""

import contextlib
import functools
import importlib
import json
import os
import select
import signal
import struct
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

FOLDER = os.path.dirname(os.path.abspath(__file__))

_HEAD = struct.Struct("!iQ")
_HELLO = b"llamaprobe child"
_MAX_REQUEST = 1 << 30  # bytes of JSON
_START = 30.0  # seconds in which a Python must have started, also on a busy machine
_TICK = 1.0  # seconds between two checks that the other side is alive
_CHECK = 0.05  # seconds between two calls of `check`
_GRACE = 2.0  # seconds that the child has to see that a grandchild is late


class Limits(NamedTuple):
    """Of preparing, and of each answer."""

    cpu_seconds: int
    wall_seconds: float
    memory: int  # bytes of address space
    reply: int  # bytes of JSON


class ChildError(Exception):
    """The child refused, failed or exceeded a limit; the message is one line for the user."""


def call(
    script: str, prepare: dict, request: dict, *, packages: tuple[str, ...], limits: Limits
) -> object:
    """One answer of a Worker of its own. Raises ChildError."""
    with Worker(script, prepare, packages=packages, limits=limits) as worker:
        return worker.answer(request)


class Worker:
    """`script`, a file in this folder, in a child process that serves requests until closed.

    The child starts at the first request. Any number of threads may call `answer`; requests are
    served one at a time. A forked copy of the parent starts its own child.
    """

    def __init__(
        self,
        script: str,
        prepare: dict,
        *,
        packages: tuple[str, ...],
        limits: Limits,
        check: Callable[[], object] | None = None,
    ) -> None:
        """`packages`: names of the third-party packages that the script imports. `check`: called
        regularly while the child works; an exception from it ends the child and is raised here.
        """
        self._script, self._prepare = script, prepare
        self._packages, self._limits = packages, limits
        self._check = check or _always
        self._tick = _TICK if check is None else _CHECK
        self._lock = threading.Lock()
        self._child: Any = None  # subprocess.Popen[bytes]
        self._prepared = False
        self._owner = os.getpid()

    def answer(self, request: dict) -> object:
        """What `answer(state, request)` of the script returns, JSON. Raises ChildError."""
        data = json.dumps(request).encode("ascii")
        with self._lock:
            if self._owner != os.getpid():  # forked: the child belongs to the other process
                if self._child is not None:
                    self._child.returncode = 0  # else Popen would wait for it
                self._child, self._owner = None, os.getpid()
            try:
                if self._child is None:
                    self._start()
                status, reply = self._exchange(data, self._limits.wall_seconds + _GRACE)
            except BaseException:
                self._stop()
                raise
        if status != 0:
            raise ChildError(_why(status, self._limits))
        return _result(reply)

    def close(self) -> None:
        """End the child; another request starts a new one."""
        if self._owner == os.getpid():
            self._stop()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self) -> None:
        """Start the child and have it prepare."""
        import subprocess

        head = {
            "folder": FOLDER,
            "script": self._script,
            "path": _folders_of(self._packages),
            "limits": self._limits,
            "prepare": self._prepare,
        }
        if not sys.executable:
            raise ChildError(
                "this Python does not know its own path, so it cannot start a child process"
            )
        keep = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
        self._prepared = False
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", os.path.abspath(__file__)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={k: os.environ[k] for k in keep if k in os.environ},
            )
        except OSError as e:
            raise ChildError(
                f"cannot run a child process: sys.executable is {sys.executable}: {e.strerror or e}"
            ) from None
        os.set_blocking(self._child.stdin.fileno(), False)
        self._expect_python()
        status, reply = self._exchange(json.dumps(head).encode("ascii"), self._limits.wall_seconds)
        _result(reply)
        self._prepared = True

    def _expect_python(self) -> None:
        """Read the child's first frame; a program that sends none is not Python."""
        child, deadline = self._child, time.monotonic() + _START
        with contextlib.suppress(EOFError, TimeoutError, OverflowError):
            hello = _receive(
                child.stdout.fileno(), len(_HELLO), deadline, self._goes_on, self._tick
            )
            if hello[1] == _HELLO:
                return
        self._check()
        child.kill()
        status = child.wait()
        if status < 0 and status != -signal.SIGKILL:
            raise ChildError(_why(status, self._limits))
        ended = f" (it ended with status {status})" if status >= 0 else ""
        raise ChildError(
            f"sys.executable is {sys.executable}, which is not Python{ended}; set it to the path of"
            " the Python that is running"
        )

    def _goes_on(self) -> bool:
        self._check()
        return True

    def _exchange(self, data: bytes, seconds: float) -> tuple[int, bytes]:
        """One frame to the child and one back. ChildError: it is dead, or hangs."""
        child, deadline = self._child, time.monotonic() + seconds
        try:
            _send(child.stdin.fileno(), 0, data, deadline, self._goes_on, self._tick)
            return _receive(
                child.stdout.fileno(), self._limits.reply, deadline, self._goes_on, self._tick
            )
        except TimeoutError:
            self._check()  # which may have raised it
            raise ChildError(_why(-signal.SIGALRM, self._limits)) from None
        except OverflowError:
            raise ChildError(_why(-signal.SIGXFSZ, self._limits)) from None
        except (EOFError, BrokenPipeError):
            child.stdout.close()
            with contextlib.suppress(Exception):
                child.wait(_GRACE)
            raise ChildError(_why(child.poll(), self._limits)) from None

    def _stop(self) -> None:
        """End the child and wait for it; a child that has prepared ends its grandchild first."""
        child, self._child = self._child, None
        if child is None:
            return
        try:
            child.stdin.close()
            child.stdout.close()
            if self._prepared:
                child.terminate()
                with contextlib.suppress(Exception):
                    child.wait(_GRACE)
        finally:
            child.kill()
            child.wait()


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


def _why(status: int | None, limits: Limits) -> str:
    """A bad exit status in words."""
    if status == -signal.SIGXCPU:
        return f"it took over {limits.cpu_seconds} s of processor time, which is the limit"
    if status == -signal.SIGALRM:
        return f"it took over {limits.wall_seconds:g} s, which is the limit"
    if status == -signal.SIGXFSZ:
        return f"the result is over {limits.reply} bytes"
    if status is not None and status < 0:
        name = next((s.name for s in signal.Signals if s == -status), f"signal {-status}")
        return f"it died of {name}; it may use {limits.memory >> 20} MiB of memory"
    if status == 0:
        return "the child process sent no proper reply"
    return f"the child process failed with status {status}"


def _result(data: bytes) -> object:
    try:
        reply = json.loads(data)
        if "error" in reply:
            raise ChildError(str(reply["error"]))
        return reply["value"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ChildError("the child process sent no proper reply") from None


# ---- frames ----


def _always() -> bool:
    return True


def _send(
    fd: int,
    status: int,
    data: bytes,
    deadline: float | None,
    goes_on: Callable[[], bool] = _always,
    tick: float = _TICK,
) -> None:
    """Write a frame to a non-blocking pipe. TimeoutError, BrokenPipeError (the reader is gone, or
    `goes_on` is False)."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    for part in (memoryview(_HEAD.pack(status, len(data))), memoryview(data)):
        while part:
            _wait(poll, deadline, goes_on, tick)
            with contextlib.suppress(BlockingIOError):
                part = part[os.write(fd, part[: 1 << 16]) :]


def _receive(
    fd: int,
    room: int,
    deadline: float | None,
    goes_on: Callable[[], bool] = _always,
    tick: float = _TICK,
) -> tuple[int, bytes]:
    """Read a frame: (status, data). EOFError (closed too early), OverflowError (over `room` bytes),
    TimeoutError, BrokenPipeError (`goes_on` is False)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)

    def read(n: int) -> bytes:
        chunks: list[bytes] = []
        while n:
            _wait(poll, deadline, goes_on, tick)
            chunks.append(os.read(fd, min(n, 1 << 16)))
            if not chunks[-1]:
                raise EOFError
            n -= len(chunks[-1])
        return b"".join(chunks)

    status, length = _HEAD.unpack(read(_HEAD.size))
    if length > room:
        raise OverflowError
    return status, read(length)


def _wait(
    poll: "select.poll", deadline: float | None, goes_on: Callable[[], bool], tick: float
) -> None:
    """Wait until the pipe is ready. TimeoutError, BrokenPipeError."""
    while True:
        left = tick if deadline is None else min(tick, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError
        if poll.poll(left * 1000):
            return
        if not goes_on():
            raise BrokenPipeError


# ---- the child ----


def _serve() -> None:
    """The child: prepare, then answer requests until the parent closes its pipe or is gone."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGXCPU):  # ignored ones are inherited
        signal.signal(number, signal.SIG_DFL)
    parent = os.getppid()
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # output of a library must not end up in a frame
    os.set_blocking(replies, False)
    child = _Child(requests, replies, lambda: os.getppid() == parent)
    with contextlib.suppress(EOFError, BrokenPipeError):
        child.send(0, _HELLO)
        head = json.loads(child.receive())
        limits = Limits(*head["limits"])
        sys.path.extend(head["path"])
        processor = resource.getrlimit(resource.RLIMIT_CPU)
        _limit(limits, last=False)
        child.send(0, _reply(lambda: child.load(head), limits))
        resource.setrlimit(resource.RLIMIT_CPU, processor)
        signal.signal(signal.SIGTERM, child.leave)
        while child.answer is not None:
            child.send(*child.fork(child.receive(), limits))
    child.leave()


class _Child:
    """The child's ends of the pipes, its loaded module, and its grandchild while there is one."""

    def __init__(self, requests: int, replies: int, goes_on: Callable[[], bool]) -> None:
        self._requests, self._replies, self._goes_on = requests, replies, goes_on
        self._grandchild = 0  # its pid
        self.answer: Callable[[dict], object] | None = None

    def receive(self) -> bytes:
        return _receive(self._requests, _MAX_REQUEST, None, self._goes_on)[1]

    def send(self, status: int, data: bytes) -> None:
        _send(self._replies, status, data, None, self._goes_on)

    def load(self, head: dict) -> None:
        """Import the script as part of a package without the real `__init__`."""
        package = types.ModuleType("llamaprobe")
        package.__path__ = [head["folder"]]
        sys.modules["llamaprobe"] = package
        name = head["script"].removesuffix(".py").replace("/", ".")
        module = importlib.import_module("llamaprobe." + name)
        if hasattr(module, "prepare"):
            self.answer = functools.partial(module.answer, module.prepare(head["prepare"]))
        else:
            self.answer = module.answer

    def fork(self, request: bytes, limits: Limits) -> tuple[int, bytes]:
        """The status and the reply of a grandchild, whose whole process group is killed afterwards.
        Status -SIGALRM: it was late; -SIGXFSZ: it sent too much."""
        deadline = time.monotonic() + limits.wall_seconds
        read, write = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the pid is noted
        pid = os.fork()
        if pid == 0:
            self._work(request, limits, read, write)
        self._grandchild = pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        with contextlib.suppress(OSError):  # done by itself already, or gone
            os.setpgid(pid, pid)
        os.close(write)
        reply, status = b"", None
        try:
            reply = _receive(read, limits.reply, deadline, self._goes_on)[1]
            status = 0
        except TimeoutError:
            status = -signal.SIGALRM
        except OverflowError:
            status = -signal.SIGXFSZ
        except EOFError:
            pass
        finally:
            os.close(read)
        ended = self._end_grandchild()
        return ended if status is None else status, reply

    def _work(self, request: bytes, limits: Limits, read: int, write: int) -> NoReturn:
        """The grandchild."""
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            for fd in (self._requests, self._replies, read):
                os.close(fd)
            signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds + _GRACE)  # if left alone
            _limit(limits, last=True)
            answer = self.answer
            data = _reply(lambda: answer(json.loads(request)), limits)  # type: ignore[misc]
            os.set_blocking(write, False)
            _send(write, 0, data, None)
            os._exit(0)
        finally:
            os._exit(1)

    def _end_grandchild(self) -> int:
        """Kill it and its group; its exit status, its own if it had ended already."""
        pid, self._grandchild = self._grandchild, 0
        if not pid:
            return 0
        for kill in (os.killpg, os.kill):  # the group may not exist yet
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def leave(self, *_: object) -> NoReturn:
        """End at once; also a signal handler."""
        try:
            self._end_grandchild()
        finally:
            os._exit(0)


def _reply(work: Callable[[], object], limits: Limits) -> bytes:
    """The result or the exception of `work` as the JSON of a reply."""
    try:
        data = json.dumps({"value": work()}).encode("ascii")
        if len(data) <= limits.reply:
            return data
        error = _why(-signal.SIGXFSZ, limits)
    except MemoryError:
        error = f"it needs over {limits.memory >> 20} MiB of memory"
    except Exception as e:
        error = (str(e) or type(e).__name__)[:4096]
    return json.dumps({"error": error}).encode("ascii")


def _limit(limits: Limits, *, last: bool) -> None:
    """Set the limits of this process; where the system lacks one, the wall clock remains. `last`:
    as hard limits, and no further processes."""
    import resource

    infinite = resource.RLIM_INFINITY
    # SIGXCPU first, SIGKILL if it is blocked.
    _lower(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1 if last else infinite)
    _lower(resource.RLIMIT_AS, limits.memory, limits.memory)
    _lower(resource.RLIMIT_FSIZE, 0, 0)
    _lower(resource.RLIMIT_CORE, 0, 0)
    if last:
        _lower(resource.RLIMIT_NPROC, 0, 0)


def _lower(what: int, soft: int, hard: int) -> None:
    import resource

    old = resource.getrlimit(what)[1]
    if old != resource.RLIM_INFINITY:
        soft = min(soft, old)
        hard = old if hard == resource.RLIM_INFINITY else min(hard, old)
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit on address space
        resource.setrlimit(what, (soft, hard))


if __name__ == "__main__":
    _serve()
