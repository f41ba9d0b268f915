"""KeyboardInterrupt after a delay, for tests that stop work at any moment."""

import signal
from collections.abc import Callable


def interrupted_after(seconds: float, work: Callable[[], object]) -> bool:
    """Whether KeyboardInterrupt came before `work` ended and the timer was off. Never raises it:
    the signal, which is one, comes within the outer `try` wherever it comes."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGALRM, before)
    return False
