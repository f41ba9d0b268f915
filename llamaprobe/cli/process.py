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

from . import stderr


class Interrupts:
    """SIGINT while a command runs. Until `ended` it raises KeyboardInterrupt, from then on it
    raises nothing, so that neither the command's last lines nor the interpreter's own end can be
    interrupted: an exit code that was decided stays.
    """

    def __init__(self) -> None:
        self.came = False
        self.ended = False
        """Set it without a call, which could be interrupted, when the exit code is decided."""
        self._is_installed = False

    def install(self) -> None:
        """Takes SIGINT over, unless the process was started to ignore it or a program has a handler
        of its own."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with contextlib.suppress(ValueError):  # not the main thread: Ctrl-C is not ours
                signal.signal(signal.SIGINT, self._handle)
                self._excepthook, self._unraisablehook = sys.excepthook, sys.unraisablehook
                sys.excepthook, sys.unraisablehook = self._show, self._retry
                self._is_installed = True

    def close(self, for_good: bool) -> None:
        """Gives SIGINT back, or ignores it `for_good` when the process is about to end: the
        interpreter would else restore the default meanwhile, and the signal be the status."""
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
        if self.came:  # a second one: the reader of our last lines is stuck
            drop(sys.stdout)

    def _show(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """C code prints what it drops when it turns it into an error of its own."""
        if not issubclass(kind, KeyboardInterrupt):
            self._excepthook(kind, error, trace)

    def _retry(self, unraisable: Any) -> None:
        """A KeyboardInterrupt raised in a destructor or a weakref callback is lost: raise another
        one soon."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._unraisablehook(unraisable)
        elif not self.ended:
            _thread.start_new_thread(_interrupt_soon, ())


def _interrupt_soon() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()


def open_descriptors() -> None:
    """Opens /dev/null in place of standard descriptors that are closed: a file of ours would get
    the number, and whatever writes to stderr would write into it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


class Output(io.TextIOBase):
    """Stands in for a stdout that is missing or closed."""

    lost = False
    """Something was printed to it."""

    def write(self, text: str) -> int:
        self.lost = True
        return len(text)


@contextlib.contextmanager
def standard_streams() -> Iterator[Output]:
    """Has sys.stdout and sys.stderr be streams that can be written to, whatever they are outside.
    `lost` of what this gives tells whether stdout would have been needed."""
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
    """Warnings are notes of one line, which --quiet leaves out."""

    def show(message: Warning | str, *_: object) -> None:
        stderr.say(f"llamaprobe: warning: {stderr.one_line(str(message))}")

    before, warnings.showwarning = warnings.showwarning, show  # type: ignore[assignment]
    stderr.quiet = False
    try:
        yield
    finally:
        warnings.showwarning, stderr.quiet = before, False


def drop(stream: Any) -> None:
    """Nothing more can be written to it; without this the interpreter would fail at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def flush_or_drop(stream: Any) -> None:
    """Writes what is pending, or drops it where that cannot be done or is interrupted."""
    if _is_missing(stream):
        return
    try:
        stream.flush()
    except (OSError, ValueError, KeyboardInterrupt):
        drop(stream)


def _is_missing(stream: Any) -> bool:
    return stream is None or getattr(stream, "closed", False)
