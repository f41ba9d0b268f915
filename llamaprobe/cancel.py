"""Ending a run early: a deadline, or a token that another thread sets.

Both are checked between the prompts of a batch while they are encoded, and by the core about every
20 ms. Ctrl-C is separate: it stays KeyboardInterrupt.
"""

import contextlib
import time
from collections.abc import Callable
from numbers import Real
from typing import NoReturn

from .arguments import refusal
from .errors import ArgumentError, Cancelled, Timeout


class Cancel:
    """A token that stops runs: `run(..., cancel=token)` here, `token.set()` in another thread.

    Any number of runs may share one. A run that is stopped, or begins while the token is set,
    raises Cancelled; after `clear()` the token can be used again.
    """

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Stop every run with this token, within about 50 ms. May be called in any thread."""
        self._is_set = True

    def clear(self) -> None:
        """Undo `set`."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether `set` was called since the last `clear`."""
        return self._is_set

    def __reduce__(self) -> NoReturn:
        raise ArgumentError("a Cancel works within its process and cannot be pickled or copied")

    def __repr__(self) -> str:
        return f"<Cancel: {'set' if self._is_set else 'not set'}>"


class Stop:
    """The deadline and the token of one call; `check` raises when it must end."""

    def __init__(self, timeout: float | None = None, cancel: Cancel | None = None) -> None:
        """ArgumentError: a timeout that is not a number from 0 up, a cancel of another type."""
        self._seconds = None if timeout is None else _seconds(timeout)
        self._deadline = None if self._seconds is None else time.monotonic() + self._seconds
        if cancel is not None and not isinstance(cancel, Cancel):
            raise refusal("cancel", cancel, "a llamaprobe.Cancel()")
        self._cancel = cancel

    def check(self) -> None:
        """Timeout, Cancelled."""
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("the run was stopped by its cancel token")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise Timeout(f"the run took longer than its timeout of {self._seconds:g} seconds")

    def then(
        self, report: Callable[[int, int], object] | None
    ) -> Callable[[int, int], object] | None:
        """The core's callback, with (steps done, steps in all): `check`, then `report` once the
        number of steps is known. None if neither is needed."""
        if self._deadline is None and self._cancel is None and report is None:
            return None

        def both(done: int, total: int) -> None:
            if done < total or not total:  # keep what is finished in time
                self.check()
            if report is not None and total:
                report(done, total)

        return both


def _seconds(timeout: object) -> float:
    if isinstance(timeout, Real) and not isinstance(timeout, bool):
        with contextlib.suppress(OverflowError):
            if float(timeout) >= 0:
                return float(timeout)
    raise refusal("timeout", timeout, "seconds, a number from 0 up, or None")
