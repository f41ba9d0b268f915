"""What this build can do on this CPU: kernel variants, threads, the CPU's name and its roof."""

import os
import platform
import re
import sys
from typing import NamedTuple

from .. import _core
from ..arguments import is_whole, shown
from ..errors import ArgumentError


class Kernel(NamedTuple):
    """A kernel variant: the hot loops for one instruction set. All variants give equal bits."""

    name: str
    """As LLAMAPROBE_KERNELS takes it."""
    supported: bool
    """This CPU can run it."""
    in_use: bool
    """Runs use it."""


def kernels() -> list[Kernel]:
    """The kernel variants of this build, best last, and which one is in use.

    LLAMAPROBE_KERNELS=name forces one. Raises ArgumentError when this build has no such variant,
    and UnsupportedError when this CPU cannot run it: there is no silent fallback.
    """
    chosen = _core.kernel_in_use()
    return [Kernel(name, supported, name == chosen) for name, supported in _core.kernels()]


def thread_count(threads: int | None = None) -> int:
    """How many threads a run uses: `threads`, else LLAMAPROBE_NUM_THREADS, else all cores that the
    process may use.

    More threads than cores are legal, and never change a result. ArgumentError for anything but an
    integer of at least 1.
    """
    if threads is not None:
        return _at_least_one(threads, "threads")
    text = os.environ.get("LLAMAPROBE_NUM_THREADS", "")
    if not text:
        return _core.cores()
    try:
        return _at_least_one(int(text), "LLAMAPROBE_NUM_THREADS")
    except ValueError:
        raise ArgumentError(
            f"LLAMAPROBE_NUM_THREADS is {text[:40]!r}; it must be an integer of at least 1"
        ) from None


class Roof(NamedTuple):
    """The speeds that no run can exceed."""

    flops: float
    """Per second, with the kernel variant in use; a multiply-add counts as two."""
    bytes: float
    """Read per second from memory, past all caches."""


def roof(threads: int | None = None) -> Roof:
    """Measure the roof with as many threads as a run would use, in about 0.25 s.

    Raises OutOfMemory, and what `kernels` and `thread_count` raise.
    """
    return Roof(*_core.roof(thread_count(threads)))


def cpu_name() -> str:
    """The CPU's own name, with family and model where that is vague ("AMD EPYC")."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            cpu = dict(re.findall(r"^([^:\n]*?)\s*:\s*(.*?)\s*$", file.read(), re.MULTILINE))
    except OSError:
        cpu = {}
    name = cpu.get("model name") or _brand() or platform.processor() or platform.machine()
    numbers = [
        f"{what} {cpu[key]}"
        for what, key in (("family", "cpu family"), ("model", "model"))
        + (("implementer", "CPU implementer"), ("part", "CPU part"))
        if key in cpu
    ]
    vague = not re.search(r"\d\d", name) or "model name" not in cpu
    return f"{name} ({', '.join(numbers)})" if vague and numbers else name


def _brand() -> str:
    """What macOS calls the CPU; "" elsewhere."""
    if sys.platform != "darwin":
        return ""
    import subprocess

    try:
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _at_least_one(count: int, name: str) -> int:
    if not is_whole(count) or count.__index__() < 1:
        raise ArgumentError(f"{name} is {shown(count, 40)}; it must be an integer of at least 1")
    return min(count.__index__(), 2**31 - 1)  # the core caps it again
