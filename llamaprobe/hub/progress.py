"""What the user sees of a download, on stderr: a bar per file and one for all on a terminal, else a
line per file.

Methods may be called from several threads. Nothing is shown when progress is off.
"""

import sys
import threading
import time
from typing import Any

from ..files.atomic import show_bytes
from ..files.naming import printable
from ..cli.stderr import STREAM
from ..cli.stderr import say as say_line
from .listing import RepoFile


def say(line: str) -> None:
    """One line for the user, between bars if there are any."""
    _write(printable(line, 400), STREAM.isatty() and "tqdm" in sys.modules)


def _write(line: str, has_bars: bool) -> None:
    if has_bars:
        from tqdm import tqdm

        tqdm.write(line, file=STREAM)
    else:
        say_line(line)


class Progress:
    """One download's progress. `close` it."""

    def __init__(self, title: str, files: list[RepoFile], shown: bool) -> None:
        self._title = printable(title, 80)
        self._total = sum(file.size for file in files)
        self._shown = shown
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._fetched = 0
        self._bars = shown and STREAM.isatty()
        self._all = self._bar(self._title, self._total) if self._bars and files else None

    def file(self, file: RepoFile) -> "FileProgress":
        """The progress of one file that is about to be fetched."""
        return FileProgress(self, file)

    def have(self, file: RepoFile) -> None:
        """This file is here already."""
        self.advance(file.size, fetched=False)

    def advance(self, n: int, fetched: bool = True) -> None:
        """`n` more bytes of the whole."""
        with self._lock:
            self._fetched += n if fetched else 0
            if self._all is not None:
                self._all.update(n)

    def note(self, text: str) -> None:
        """One line for the user."""
        if self._shown:
            self._write(f"{self._title}: {text}")

    def close(self, done: bool) -> None:
        """Ends the bars; with `done` says what was fetched and how fast."""
        if self._all is not None:
            self._all.close()
        if done and self._shown and self._fetched > 0:
            seconds = max(time.monotonic() - self._start, 1e-3)
            rate = show_bytes(self._fetched / seconds)
            self._write(f"{self._title}: {show_bytes(self._fetched)} in {seconds:.1f} s, {rate}/s")

    def _write(self, line: str) -> None:
        with self._lock:
            _write(line, self._bars)

    def _bar(self, title: str, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=title,
            unit="B",
            unit_scale=True,
            file=STREAM,
            leave=False,
            dynamic_ncols=True,
        )


class FileProgress:
    """One file of it."""

    def __init__(self, whole: Progress, file: RepoFile) -> None:
        self._whole = whole
        self._file = file
        self._bar = whole._bar(printable(file.path, 40), file.size) if whole._bars else None

    def advance(self, n: int) -> None:
        """`n` more bytes; fewer when it starts again."""
        if self._bar is not None:
            self._bar.update(n)
        self._whole.advance(n)

    def close(self, done: bool) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
        elif done:
            self._whole.note(f"{self._file.path}: {show_bytes(self._file.size)}")
