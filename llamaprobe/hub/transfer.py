"""Files on their way: several at once, each in order and tried again where that helps, with
progress.

A small file is one stream. A large one is fetched in ranges by several connections at once and
handed on in order: the file on disk stays a prefix, so that a kill costs no more than what is in
memory (a window of a few ranges). A server that ignores ranges is read from its beginning, and what
is on disk is skipped. The first error ends all files, quietly and soon; what has arrived stays for
the next time.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .. import log
from ..files.atomic import file_error
from ..messages import printable, show_bytes
from ..stderr import STREAM
from ..stderr import say as say_line
from .client import MAX_TRIES, PIECE, Client, Stopped
from .connection import Broken
from .errors import ChecksumError, DiskFullError, TransferError
from .folder import Partial
from .listing import RepoFile
from .repo import HubSource, NoRanges, Repo
from .store import CacheStore, Store

N_FILES = 4
"""Files at once."""
N_RANGES = 4
"""Ranges at once, of all files together."""
_SPARE = 16 << 20  # bytes of the disk that are left free
RANGE = 8 << 20
"""Bytes of one range."""
PARALLEL_FROM = 32 << 20
"""Bytes that must be missing for several connections to be worth it."""
WINDOW = 4
"""Ranges of one file that are arriving or wait in memory for their turn."""
ENOUGH = 64 << 10
"""Bytes that a try must bring to count as progress."""

Advance = Callable[[int], None]


# ---- one file ----


class Source(Protocol):
    """Where the bytes of one file come from."""

    parallel: bool
    """Several ranges at once are welcome."""

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        """Exactly the bytes from `start` up to `end`, in pieces. Raises Broken, and NoRanges before
        the first piece."""


class FileSource:
    """The same bytes, already on this disk. Owns the descriptor."""

    parallel = False

    def __init__(self, fd: int, file: RepoFile) -> None:
        self._fd = fd
        self._file = file

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        while start < end:
            try:
                data = os.pread(self._fd, min(PIECE, end - start), start)
            except OSError as error:
                raise file_error(error, self._file.path) from error
            if not data:
                raise TransferError(f"{self._file.path}: the copy on this disk is too short")
            start += len(data)
            yield data

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._fd)


@dataclass
class Transfer:
    """The bytes of one file, from a source to a partial file."""

    source: Source
    partial: Partial
    client: Client
    ranges: Executor
    advance: Advance

    def run(self) -> None:
        """Fills and verifies the partial file. After a wrong hash it is fetched once more, from the
        first byte."""
        self.advance(self.partial.resume(self.client.check))
        for _ in range(2):
            self._fill()
            try:
                self.partial.finish()
                return
            except ChecksumError as wrong:
                failed = wrong
            self._restart()
        raise failed

    def _restart(self) -> None:
        self.advance(-self.partial.length)
        self.partial.restart()

    def _fill(self) -> None:
        """Appends what is missing. Gives up after MAX_TRIES tries in a row with less than ENOUGH
        bytes, or as many restarts."""
        failures = restarts = 0
        while self.partial.length < self.partial.file.size:
            before, failed = self.partial.length, None
            try:
                with contextlib.closing(self._pieces(before, self.partial.file.size)) as pieces:
                    for piece in pieces:
                        self.client.check()
                        self.partial.append(piece)
                        self.advance(len(piece))
            except NoRanges:
                self.source.parallel = False
            except Broken as broken:
                failed = broken
            if failed is None:
                continue
            failures = 1 if self.partial.length - before >= ENOUGH else failures + 1
            if failed.restart:
                restarts += 1
                self._restart()
            if max(failures, restarts) >= MAX_TRIES:
                raise failed.error
            self.client.wait_after(failed, failures)

    def _pieces(self, start: int, end: int) -> Generator[bytes, None, None]:
        """As `source.read`; of a large part several ranges at once, handed on in order."""
        if not self.source.parallel or end - start < PARALLEL_FROM:
            yield from self.source.read(start, end)
            return
        window: deque[Future[list[bytes]]] = deque()
        try:
            while start < end or window:
                while start < end and len(window) < WINDOW:
                    stop = min(start + RANGE, end)
                    window.append(self.ranges.submit(self._one_range, start, stop))
                    start = stop
                yield from window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def _one_range(self, start: int, end: int) -> list[bytes]:
        """All of one range; after a broken connection it resumes there."""
        pieces: list[bytes] = []
        failures = 0
        while start < end:
            before, failed = start, None
            try:
                with contextlib.closing(self.source.read(start, end)) as stream:
                    for piece in stream:
                        pieces.append(piece)
                        start += len(piece)
            except Broken as broken:
                failed = broken
            if failed is None:
                continue
            failures = 1 if start - before >= ENOUGH else failures + 1
            if failed.restart or failures >= MAX_TRIES:
                raise failed
            self.client.wait_after(failed, failures)
        return pieces


# ---- progress ----


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
    """The progress of one download, on stderr: a bar per file and one for all on a terminal, else a
    line per file. Methods may be called from several threads. Close it."""

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
        """The progress of a file that is about to be fetched."""
        return FileProgress(self, file)

    def advance(self, n: int, fetched: bool = True) -> None:
        """`n` more bytes of all files."""
        with self._lock:
            self._fetched += n if fetched else 0
            if self._all is not None:
                self._all.update(n)

    def note(self, text: str) -> None:
        """One line for the user."""
        if self._shown:
            self._write(f"{self._title}: {text}")

    def close(self, done: bool) -> None:
        """Ends the bars; with `done` shows what was fetched and how fast."""
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
    """The progress of one file."""

    def __init__(self, whole: Progress, file: RepoFile) -> None:
        self._whole = whole
        self._file = file
        self._bar = whole._bar(printable(file.path, 40), file.size) if whole._bars else None

    def advance(self, n: int) -> None:
        """`n` more bytes; negative when it starts again."""
        if self._bar is not None:
            self._bar.update(n)
        self._whole.advance(n)

    def close(self, done: bool) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
        elif done:
            self._whole.note(f"{self._file.path}: {show_bytes(self._file.size)}")


# ---- several files ----


@dataclass
class Work:
    """Brings files of one commit into a store."""

    client: Client
    repo: Repo
    store: Store
    cache: CacheStore | None
    """Where the bytes may be already, if the store is a plain folder."""
    commit: str
    force: bool
    """Fetch what is here too, and do not check the free space."""
    shown: bool
    """Show progress on stderr."""
    _fresh: set[str] = field(default_factory=set)

    def run(self, files: Sequence[RepoFile]) -> None:
        """Returns when all files are there. Raises the first error when all threads have ended."""
        missing = [
            file
            for file in files
            if file.path not in self._fresh and (self.force or not self.store.has(file))
        ]
        log.info(f"{self.repo.repo_id}: {len(files) - len(missing)} of {len(files)} files are here")
        if not missing:
            return
        if not self.force:
            self._check_room(missing)
        progress = Progress(self.repo.repo_id, missing, self.shown)
        done = False
        try:
            self._run(missing, progress)
            done = True
        finally:
            progress.close(done)
        self._fresh.update(file.path for file in missing)

    def _run(self, files: list[RepoFile], progress: Progress) -> None:
        with ThreadPoolExecutor(N_FILES) as pool, ThreadPoolExecutor(N_RANGES) as ranges:
            try:
                futures = [pool.submit(self._one, file, ranges, progress) for file in files]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    if not isinstance(future.exception(), Stopped):
                        future.result()
            except BaseException:
                self.client.abort()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, file: RepoFile, ranges: Executor, progress: Progress) -> None:
        with self.store.hold(file, self.client.pause, progress.note) as is_locked:
            if not self.force and (
                self.store.has(file) or self.store.adopt(file, self.client.check)
            ):
                log.info(f"{self.repo.repo_id}: {file.path}: found on this disk")
                progress.advance(file.size, fetched=False)
                return
            self._fetch(file, is_locked, ranges, progress)

    def _fetch(self, file: RepoFile, is_locked: bool, ranges: Executor, progress: Progress) -> None:
        """All of a file, verified and under its final name. An unfinished one is kept for the next
        time only where it can be locked."""
        bar, done = progress.file(file), False
        with self.store.incomplete(file, is_locked) as (folder, name):
            if self.force:
                folder.remove(name)
            partial = Partial(folder, name, file, is_new=not is_locked)
            try:
                copied = self._copy(file, partial, ranges, bar.advance)
                if not copied:
                    source = HubSource(self.repo, file, self.commit)
                    Transfer(source, partial, self.client, ranges, bar.advance).run()
                self.store.publish(file, name)
                how = "copied from the cache" if copied else "downloaded"
                log.info(f"{self.repo.repo_id}: {file.path}: {how}, {file.size} bytes")
                done = True
            finally:
                # nothing to resume, or a private file, which no later run would find
                if not done and (partial.length == 0 or not is_locked):
                    folder.remove(name)
                partial.close()
                bar.close(done)

    def _copy(self, file: RepoFile, partial: Partial, ranges: Executor, advance: Advance) -> bool:
        """Copies what the cache has: True if the file is complete then."""
        fd = self.cache.open_blob(file) if self.cache is not None and not self.force else None
        if fd is None:
            return False
        source = FileSource(fd, file)
        try:
            Transfer(source, partial, self.client, ranges, advance).run()
        except (ChecksumError, TransferError):
            return False
        finally:
            source.close()
        return True

    def _check_room(self, files: list[RepoFile]) -> None:
        """DiskFullError if what is missing does not fit."""
        need = 0
        for file in files:
            with self.store.incomplete(file) as (folder, name):
                found = folder.stat(name)
                need += file.size - min(file.size, found.st_size if found else 0)
        free = shutil.disk_usage(_existing(self.store.path)).free
        if need > max(0, free - _SPARE):
            raise DiskFullError(
                f"{self.repo.repo_id}: {show_bytes(need)} are missing and {show_bytes(free)} are"
                f" free at {self.store.path}; free some, choose another --cache-dir or"
                f" --local-dir, or --force"
            )


def _existing(path: Path) -> Path:
    while not os.path.isdir(path) and path != path.parent:
        path = path.parent
    return path
