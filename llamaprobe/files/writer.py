"""Tables to files: formatted here, written, hashed and fsynced each on a thread of its own.

A block of text goes down a line of stages, each of which works while the others do: the caller
formats it (the pool's threads help), the next writes it, the next hashes it and gives the scratch
memory back; a file that is complete is fsynced and renamed by the last stage while the next ones
are being formatted. So a disk, a hash and a formatter that are each as fast as they can be are
together as slow as the slowest.

The first failure stops the line: later work is passed through undone, temporary files are removed,
and the caller gets the error, which names the file. The caller never leaves before the last stage
has ended, however often Ctrl-C comes: descriptors and temporary files are the stages' until then.
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
from .encode import BLOCK, Table, new_scratch, scratch_bytes

_N_SCRATCHES = 4
_MAX_UNSYNCED = 16  # files that are not yet fsynced, each with an open descriptor


@dataclass
class Written:
    """A file on its way, and, once it is whole, what the manifest says of it."""

    path: Path
    table: Table
    open: io.FileIO
    temporary: Path
    n_bytes: int = 0
    sha256: str = ""
    hasher: Any = field(default_factory=hashlib.sha256)


@dataclass
class _Block:
    """Bytes for a file; without parts it says that the file is complete."""

    file: Written
    parts: list[memoryview] | None
    scratch: memoryview | None


class Writer:
    """Use as a context: `with Writer(folder) as writer: writer.add(name, table)`. Leaving the block
    waits until every file is whole under its final name; `files` then lists them. Existing files
    are replaced.

    on_whole(file) is called, on the last stage's thread, when a file is fsynced and before it gets
    its name; on_bytes(n) on the writing thread, after n bytes were written.
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
            self._scratches.put(new_scratch(0))  # as long as the largest table so far needs
        stages = (self._write, self._hash, self._publish)
        # Simple queues alone: Ctrl-C inside queue.Queue may leave its lock held for ever.
        self._inboxes: list[queue.SimpleQueue[_Block | None]] = [
            queue.SimpleQueue() for _ in stages
        ]
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_MAX_UNSYNCED):
            self._slots.put(None)
        self._has_ended = False  # set by the last stage, before it puts the one token into _end
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
        except BaseException:  # Ctrl-C, or there is no thread to be had: __exit__ is not called
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
        """Waits until no stage works any more. Ctrl-C meanwhile stops the line, and is raised when
        that has stopped.

        Thread.join will not do: once it was interrupted, it takes a thread for ended that is not.
        """
        interrupt: BaseException | None = None
        while not self._has_ended:
            try:
                self._inboxes[0].put(None)  # a second one is read by nobody
                self._end.get()
            except BaseException as error:
                self._failure = self._failure or error
                interrupt = interrupt or error
        if interrupt is not None:
            raise interrupt

    def add(self, name: str, table: Table) -> None:
        """Formats the whole table and sends it down the line. Raises what any stage has met so
        far."""
        path = self.folder / name
        self._slots.get()
        try:
            opened, temporary = open_temporary(self.folder)
        except OSError as error:
            raise file_error(error, path) from error
        file = Written(path, table, opened, temporary)
        self.files.append(file)
        self._send(_Block(file, [memoryview(table.header)], None))
        n_scratch = scratch_bytes(table)
        for first in range(0, table.n_elements, BLOCK):
            scratch = self._scratches.get()
            try:
                if len(scratch) < n_scratch:
                    scratch = new_scratch(n_scratch)
                parts = table.encode(scratch, first, min(BLOCK, table.n_elements - first))
            except BaseException:
                self._scratches.put(scratch)
                raise
            self._send(_Block(file, [memoryview(part) for part in parts], scratch))
        self._send(_Block(file, None, None))

    def _send(self, block: _Block) -> None:
        self._inboxes[0].put(block)
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _stage(self, i: int, work: Callable[[_Block], None]) -> None:
        """Takes blocks until None comes; passes on those that the next stage needs to see."""
        onward = self._inboxes[i + 1] if i + 1 < len(self._inboxes) else None
        try:
            while (block := self._inboxes[i].get()) is not None:
                try:
                    self._try(work, block)
                    if work == self._hash and block.scratch is not None:
                        self._scratches.put(block.scratch)
                    if onward is None:
                        self._slots.put(None)
                    elif work == self._write or block.parts is None:
                        onward.put(block)
                except BaseException as error:  # no memory for a queue: a stage never ends early
                    self._failure = self._failure or error
        finally:
            if onward is None:
                self._has_ended = True
            (onward or self._end).put(None)

    def _try(self, work: Callable[[_Block], None], block: _Block) -> None:
        """Does the work, unless something has failed already."""
        if self._failure is not None:
            return
        try:
            work(block)
        except OSError as error:
            self._failure = file_error(error, block.file.path)
        except BaseException as error:  # the caller raises it
            self._failure = error

    def _write(self, block: _Block) -> None:
        n_bytes = write_all(block.file.open.fileno(), block.parts or [])
        block.file.n_bytes += n_bytes
        if self._on_bytes is not None and n_bytes:
            self._on_bytes(n_bytes)

    def _hash(self, block: _Block) -> None:
        for part in block.parts or []:
            block.file.hasher.update(part)

    def _publish(self, block: _Block) -> None:
        file = block.file
        file.sha256 = file.hasher.hexdigest()
        os.fsync(file.open.fileno())
        if self._on_whole is not None:
            self._on_whole(file)
        os.replace(file.temporary, file.path)
        file.open.close()  # not before: an open one is locked, so nobody takes it for left behind

    def _discard(self, file: Written) -> None:
        """Removes what is left of a file that did not become whole; nothing is left of those that
        did."""
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
