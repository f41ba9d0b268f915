"""Arrays to files: formatted by the caller, then written, hashed and fsynced on a thread each.

A chunk passes through a pipeline whose stages work at the same time: the caller formats it (the
pool's threads help), the next stage writes it, the next hashes it and returns its scratch; the last
fsyncs and renames each complete file while later ones are being formatted. The whole is as slow as
its slowest stage, not as all of them together.

The first failure stops the pipeline: later chunks pass through undone, temporary files are removed,
and the caller gets the error, which names the file. The caller never leaves before the last stage
has ended, however often Ctrl-C comes: until then descriptors and temporary files belong to the
stages.
"""

import contextlib
import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .atomic import file_error, open_temporary
from .encode import Encoder, new_scratch

_N_SCRATCHES = 4
_MAX_UNSYNCED = 16  # files that are not yet fsynced, each with an open descriptor


@dataclass
class Written:
    """A file being written; once it is whole, what the manifest says of it."""

    path: Path
    encoder: Encoder
    open: io.FileIO
    temporary: Path
    n_bytes: int = 0
    sha256: str = ""
    hasher: Any = field(default_factory=hashlib.sha256)


@dataclass
class _Chunk:
    """Bytes for a file; `parts` None: the file is complete."""

    file: Written
    parts: list[memoryview] | None
    scratch: memoryview | None


class Writer:
    """`with Writer(folder) as writer: writer.add(name, encoder)`. Leaving the block waits until
    every file is whole under its final name; `files` then lists them. Existing files are replaced.

    on_whole(file) is called on the last stage's thread, after the fsync of a file and before its
    rename; on_bytes(n) on the writing thread, after n bytes were written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_whole: Callable[[Written], object] | None = None,
        on_bytes: Callable[[int], object] | None = None,
    ) -> None:
        self.folder = folder
        self.files: list[Written] = []
        self._on_whole, self._on_bytes = on_whole, on_bytes
        self._failure: BaseException | None = None
        self._scratches: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_N_SCRATCHES):
            self._scratches.put(new_scratch(0))  # grow to what the largest file so far needs
        stages = (self._write, self._hash, self._publish)
        # Simple queues alone: Ctrl-C inside queue.Queue may leave its lock held forever.
        self._inboxes: list[queue.SimpleQueue[_Chunk | None]] = [
            queue.SimpleQueue() for _ in stages
        ]
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_MAX_UNSYNCED):
            self._slots.put(None)
        self._has_ended = False  # set by the last stage, before it puts the only None into _end
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._stage, args=(i, work), name=f"llamaprobe{work.__name__}", daemon=True
            )
            for i, work in enumerate(stages)
        ]

    def __enter__(self) -> "Writer":
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # Ctrl-C, or no thread can start: __exit__ is not called
            for inbox in self._inboxes:
                inbox.put(None)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._failure is None:
            self._failure = error
        try:
            self._join()
        finally:
            if self._has_ended:
                for file in self.files:
                    self._discard(file)
        if error is None:
            self._check()

    def _join(self) -> None:
        """Waits until every stage has ended. Ctrl-C meanwhile stops the pipeline, and is raised
        once that has ended.

        Not Thread.join: once interrupted, it takes a running thread for ended.
        """
        interrupt: BaseException | None = None
        while not self._has_ended:
            try:
                self._inboxes[0].put(None)  # a second one is never read
                self._end.get()
            except BaseException as error:
                self._failure = self._failure or error
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt

    def add(self, name: str, encoder: Encoder) -> None:
        """Formats a file and hands it to the stages. Raises the failure of any stage so far."""
        path = self.folder / name
        self._slots.get()
        try:
            opened, temporary = open_temporary(self.folder)
        except OSError as error:
            raise file_error(error, path) from error
        file = Written(path, encoder, opened, temporary)
        self.files.append(file)
        self._send(_Chunk(file, [memoryview(encoder.header)], None))
        n_scratch = encoder.scratch_bytes()
        for first, count in encoder.ranges():
            scratch = self._scratches.get()
            try:
                if len(scratch) < n_scratch:
                    scratch = new_scratch(n_scratch)
                parts = encoder.encode(scratch, first, count)
            except BaseException:
                self._scratches.put(scratch)
                raise
            self._send(_Chunk(file, [memoryview(part) for part in parts], scratch))
        self._send(_Chunk(file, None, None))

    def _send(self, chunk: _Chunk) -> None:
        self._inboxes[0].put(chunk)
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _stage(self, i: int, work: Callable[[_Chunk], None]) -> None:
        """Takes chunks until None; passes on those that the next stage needs."""
        onward = self._inboxes[i + 1] if i + 1 < len(self._inboxes) else None
        try:
            while (chunk := self._inboxes[i].get()) is not None:
                try:
                    self._try(work, chunk)
                    if work == self._hash and chunk.scratch is not None:
                        self._scratches.put(chunk.scratch)
                    if onward is None:
                        self._slots.put(None)
                    elif work == self._write or chunk.parts is None:
                        onward.put(chunk)
                except BaseException as error:  # no memory for a queue: a stage never ends early
                    self._failure = self._failure or error
        finally:
            if onward is None:
                self._has_ended = True
            (onward or self._end).put(None)

    def _try(self, work: Callable[[_Chunk], None], chunk: _Chunk) -> None:
        """Does the work, unless a stage has failed."""
        if self._failure is not None:
            return
        try:
            work(chunk)
        except OSError as error:
            self._failure = file_error(error, chunk.file.path)
        except BaseException as error:  # the caller raises it
            self._failure = error

    def _write(self, chunk: _Chunk) -> None:
        n_bytes = write_all(chunk.file.open.fileno(), chunk.parts or [])
        chunk.file.n_bytes += n_bytes
        if self._on_bytes is not None and n_bytes:
            self._on_bytes(n_bytes)

    def _hash(self, chunk: _Chunk) -> None:
        for part in chunk.parts or []:
            chunk.file.hasher.update(part)

    def _publish(self, chunk: _Chunk) -> None:
        file = chunk.file
        file.sha256 = file.hasher.hexdigest()
        os.fsync(file.open.fileno())
        if self._on_whole is not None:
            self._on_whole(file)
        os.replace(file.temporary, file.path)
        file.open.close()  # not before: while open it is locked, so no other writer removes it

    def _discard(self, file: Written) -> None:
        """Removes the temporary file of one that did not become whole."""
        with contextlib.suppress(OSError):
            file.open.close()
        if self._failure is not None:
            with contextlib.suppress(OSError):
                os.unlink(file.temporary)


def write_all(fd: int, parts: list[memoryview]) -> int:
    """Writes all of the parts, in one call when the system takes them so; returns their bytes.
    Raises OSError."""
    left = [part for part in parts if len(part)]
    n_bytes = sum(len(part) for part in left)
    while left:
        n = os.writev(fd, left)
        while left and n >= len(left[0]):
            n -= len(left.pop(0))
        if n:
            left[0] = left[0][n:]
    return n_bytes
