"""Notes, progress and failures on stderr.

stderr may be missing (in a service), closed or full: then the text is dropped, and the work goes
on. `quiet` suppresses all but failures.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

from .arguments import flag
from .messages import hide_tokens, printable

_MAX_LINE = 2000  # characters

quiet = False
"""Set by the command line for --quiet."""


def one_line(text: str) -> str:
    """A text as one line for the screen: printable, cut, without hub tokens."""
    return printable(hide_tokens(" ".join(text.splitlines())), _MAX_LINE)


def say(line: str) -> None:
    """One line, unless `quiet`."""
    if not quiet:
        fail(line)


def fail(line: str) -> None:
    """One line, also when `quiet`."""
    if sys.stderr is not None:  # print would take None for stdout
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


class _Stream:
    """stderr for tqdm; looks up sys.stderr at every call."""

    encoding = property(lambda self: getattr(sys.stderr, "encoding", None))

    def write(self, text: str) -> None:
        if sys.stderr is not None and not quiet:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(text)

    def flush(self) -> None:
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()

    def isatty(self) -> bool:
        try:
            return sys.stderr is not None and not quiet and sys.stderr.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        if sys.stderr is None:
            raise OSError("there is no stderr")
        return sys.stderr.fileno()


STREAM = _Stream()


@contextlib.contextmanager
def bar(shown: bool, unit: str = "step") -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar: a function of (units done, units in all); None without a bar."""
    if not flag("progress", shown):
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=1, unit=unit, leave=False, dynamic_ncols=True, file=STREAM) as shown_bar:

        def report(done: int, total: int) -> None:
            shown_bar.total = total
            shown_bar.update(done - shown_bar.n)

        yield report
