"""Several files at once: threads, locks, room on the disk, and one way out when something fails.

The first error ends the others, quietly and soon; what they have fetched stays for the next time.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from pathlib import Path

from .. import log
from ..files.atomic import show_bytes
from .cache_store import CacheStore
from .client import Client, Stopped
from .errors import ChecksumError, DiskFullError, TransferError
from .listing import RepoFile
from .partial import Partial
from .progress import Progress
from .repo import Repo
from .store import Store
from .transfer import Advance, FileSource, HubSource, fetch

N_FILES = 4
"""Files at once."""
N_RANGES = 4
"""Ranges at once, of all files together."""
_SPARE = 16 << 20  # bytes of the disk that are left alone


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
    """Fetch what is here too, and do not look whether there is room."""
    shown: bool
    """Progress on stderr."""
    _fresh: set[str] = field(default_factory=set)

    def run(self, files: Sequence[RepoFile]) -> None:
        """Returns when all are there. The first error is raised, after all threads have ended."""
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
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = _first_error(futures)
                if failed is not None:
                    raise failed
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
                progress.have(file)
                return
            self._fetch(file, is_locked, ranges, progress)

    def _fetch(
        self, file: RepoFile, is_locked: bool, ranges: Executor, progress: Progress
    ) -> None:
        """All of a file, proved and under its final name. What comes is kept for the next time only
        where it can be locked."""
        bar, done = progress.file(file), False
        with self.store.incomplete(file, is_locked) as (folder, name):
            if self.force:
                folder.remove(name)
            partial = Partial(folder, name, file, is_new=not is_locked)
            try:
                copied = self._copy(file, partial, ranges, bar.advance)
                if not copied:
                    fetch(
                        HubSource(self.repo, file, self.commit),
                        file,
                        partial,
                        self.client,
                        ranges,
                        bar.advance,
                    )
                self.store.publish(file, name)
                how = "copied from the cache" if copied else "downloaded"
                log.info(f"{self.repo.repo_id}: {file.path}: {how}, {file.size} bytes")
                done = True
            finally:
                # nothing to take up, or nothing to be trusted, or nobody who finds it
                if not done and (partial.length == 0 or not is_locked):
                    folder.remove(name)
                partial.close()
                bar.close(done)

    def _copy(self, file: RepoFile, partial: Partial, ranges: Executor, advance: Advance) -> bool:
        """The bytes are on this disk already: True if that was all."""
        fd = self.cache.open_blob(file) if self.cache is not None and not self.force else None
        if fd is None:
            return False
        source = FileSource(fd, file)
        try:
            fetch(source, file, partial, self.client, ranges, advance)
        except (ChecksumError, TransferError):
            return False
        finally:
            source.close()
        return True

    def _check_room(self, files: list[RepoFile]) -> None:
        """DiskFullError if what is missing cannot fit."""
        need = 0
        for file in files:
            with self.store.incomplete(file) as (folder, name):
                found = folder.stat(name)
                need += file.size - min(file.size, found.st_size if found else 0)
        free = shutil.disk_usage(_existing(self.store.path)).free
        if need > max(0, free - _SPARE):
            raise DiskFullError(
                f"{self.repo.repo_id}: {show_bytes(need)} are missing and {show_bytes(free)} are"
                f" free at"
                f" {self.store.path}; free some, choose another --cache-dir or --local-dir, or"
                f" --force"
            )


def _existing(path: Path) -> Path:
    while not os.path.isdir(path) and path != path.parent:
        path = path.parent
    return path


def _first_error(futures: "list[Future[None]]") -> BaseException | None:
    errors = [future.exception() for future in futures if future.done() and not future.cancelled()]
    return next(
        (error for error in errors if error is not None and not isinstance(error, Stopped)), None
    )
