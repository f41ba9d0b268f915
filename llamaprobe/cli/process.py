"""The process around a command: its Ctrl-C, and its standard streams where they are missing."""

import _thread
import contextlib
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from .. import stderr


class Interrupts:
    """SIGINT while a command runs: KeyboardInterrupt until `ended`, then nothing, so that neither
    the command's last lines nor the interpreter's exit can be interrupted and change the exit code.
    """

    def __init__(self) -> None:
        self.came = False
        self.ended = False
        """Set by plain assignment once the exit code is decided: a call could be interrupted."""
        self._is_installed = False

    def install(self) -> None:
        """Handle SIGINT, unless the process ignores it or the program has its own handler."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with contextlib.suppress(ValueError):  # not the main thread: Ctrl-C is not ours
                signal.signal(signal.SIGINT, self._handle)
                self._excepthook, self._unraisablehook = sys.excepthook, sys.unraisablehook
                sys.excepthook, sys.unraisablehook = self._show, self._retry
                self._is_installed = True

    def close(self, for_good: bool) -> None:
        """Restore Python's handler, or ignore SIGINT `for_good` before the process ends: at exit
        the interpreter restores the default action, and the signal would become the exit status."""
        if not self._is_installed:
            return
        if for_good:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.excepthook, sys.unraisablehook = self._excepthook, self._unraisablehook

    def _handle(self, *_: object) -> None:
        if not self.ended:
            self.came = True
            raise KeyboardInterrupt
        if self.came:  # a second one: whoever reads the last lines hangs
            drop(sys.stdout)

    def _show(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """C code that replaces an exception by its own prints the old one: not this one."""
        if not issubclass(kind, KeyboardInterrupt):
            self._excepthook(kind, error, trace)

    def _retry(self, unraisable: Any) -> None:
        """A KeyboardInterrupt in a destructor or a weakref callback is lost: raise another soon."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._unraisablehook(unraisable)
        elif not self.ended:
            _thread.start_new_thread(_interrupt_soon, ())


def _interrupt_soon() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()


def open_descriptors() -> None:
    """Open /dev/null for closed standard descriptors: else a file of ours would get the number of
    stderr, and its messages."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


class Output(io.TextIOBase):
    """In place of a stdout that is missing or closed."""

    lost = False
    """Whether anything was printed."""

    def write(self, text: str) -> int:
        self.lost = True
        return len(text)


@contextlib.contextmanager
def standard_streams() -> Iterator[Output]:
    """Make sys.stdout and sys.stderr writable, missing or closed as they may be. `lost` of the
    result says whether output was dropped."""
    output = Output()
    with contextlib.ExitStack() as stack:
        if _is_missing(sys.stdout):
            stack.enter_context(contextlib.redirect_stdout(output))
        else:
            with contextlib.suppress(AttributeError, ValueError):  # paths may not be UTF-8
                sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        if _is_missing(sys.stderr):
            null = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stderr(null))
        try:
            yield output
        finally:
            flush_or_drop(sys.stderr)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print warnings as one-line notes, which --quiet suppresses."""

    def show(message: Warning | str, *_: object) -> None:
        stderr.say(f"llamaprobe: warning: {stderr.one_line(str(message))}")

    before, warnings.showwarning = warnings.showwarning, show  # type: ignore[assignment]
    stderr.quiet = False
    try:
        yield
    finally:
        warnings.showwarning, stderr.quiet = before, False


def drop(stream: Any) -> None:
    """Discard what is written to a broken stream: else the interpreter's flush at exit fails."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def flush_or_drop(stream: Any) -> None:
    """Flush, or drop the output where that fails or is interrupted."""
    if _is_missing(stream):
        return
    try:
        stream.flush()
    except (OSError, ValueError, KeyboardInterrupt):
        drop(stream)


def _is_missing(stream: Any) -> bool:
    return stream is None or getattr(stream, "closed", False)
