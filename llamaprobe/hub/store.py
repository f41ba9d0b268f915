"""What a place for files must offer, whatever its layout: the hub's cache, or a plain folder.

A final name is a whole and verified file. Bytes are collected under `*.llamaprobe.incomplete`,
always a prefix of the file, and renamed. Looking things up creates nothing and imports nothing
heavy.
"""

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from .. import log
from . import lock
from .folder import Folder
from .listing import Listing, RepoFile

INCOMPLETE = ".llamaprobe.incomplete"
_OLD = 86400.0  # seconds after which a private unfinished file is nobody's any more
TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Downloads that can be fetched again; backup programs may leave this folder out.\n"
)

Check = Callable[[], None]
"""Raises when the download is to end."""
Pause = Callable[[float], None]
"""Sleeps so many seconds, or raises when the download is to end."""
Note = Callable[[str], None]
"""Tells the user one line."""


class Store(Protocol):
    """The files of one commit, in place or on their way."""

    path: Path
    """The folder that a model is loaded from."""

    def has(self, file: RepoFile) -> bool:
        """It is there under its final name, as far as can be told without reading it."""

    def adopt(self, file: RepoFile, check: Check) -> bool:
        """Makes use of bytes that are there already, under another name or unproved. Call it
        locked."""

    def proves(self, file: RepoFile) -> bool:
        """It is there, although `has` cannot tell: reads all of it where that helps."""

    def hold(
        self, file: RepoFile, pause: Pause, note: Note
    ) -> contextlib.AbstractContextManager[bool]:
        """Keeps other processes from fetching the same file: whether that can be done here."""

    def incomplete(
        self, file: RepoFile, is_locked: bool = True
    ) -> contextlib.AbstractContextManager[tuple[Folder, str]]:
        """Where the bytes are collected: see `unfinished_name`."""

    def publish(self, file: RepoFile, name: str) -> None:
        """Gives the verified bytes, collected under `name`, their final one."""

    def read(self, file: RepoFile, limit: int) -> bytes | None:
        """A small file that `has` says is there."""

    def listing(self) -> Listing | None:
        """All files of the commit, if that was kept."""

    def save_listing(self, listing: Listing) -> None:
        """Keeps it for the next time."""

    def finish(self, revision: str) -> None:
        """All files are there: the revision is this commit from now on."""


def hold(
    locks: Folder, name: str, file: RepoFile, pause: Pause, note: Note
) -> contextlib.AbstractContextManager[bool]:
    """The lock file `name`, with a word to the user if it takes time."""

    def tell() -> None:
        told = f"{file.path}: is being fetched elsewhere; waiting"
        log.info(told)
        note(told)

    return lock.hold(locks, name, pause, tell)


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """For questions about what is there: what cannot be opened is not there."""
    with contextlib.suppress(OSError):
        yield


def unfinished_name(folder: Folder, stem: str, is_locked: bool) -> str:
    """The name under which the bytes of a file are collected: one that is taken up the next time
    when a lock keeps others off it, else one that nobody else has. Private ones that were left
    behind long ago are removed."""
    if is_locked:
        return stem + INCOMPLETE
    private = re.compile(rf"{re.escape(stem)}\.[0-9]+-[0-9a-f]+{re.escape(INCOMPLETE)}")
    with looking():
        for name in filter(private.fullmatch, os.listdir(folder.fd)):
            found = folder.stat(name)
            if found and stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _OLD:
                folder.remove(name)
    return f"{stem}.{os.getpid()}-{secrets.token_hex(6)}{INCOMPLETE}"
