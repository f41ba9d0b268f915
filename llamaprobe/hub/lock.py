"""A lock that two processes can share and that dies with its process: flock on a file that stays.

It is the lock that the hub's own client takes on the same file, so both wait for each other. Where
there are no locks, whoever holds this is told so, and must share nothing: the worst is then that
the work is done twice.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from ..errors import FileError
from .folder import Folder

_POLL = 0.05  # seconds
_NOTE_AFTER = 20  # polls: a lock that is free again in a second is not worth a word


@contextlib.contextmanager
def hold(
    folder: Folder, name: str, pause: Callable[[float], None], note: Callable[[], None]
) -> Iterator[bool]:
    """Waits for the lock file `name` and holds it; False when there is none to be had. `pause`
    sleeps or raises; `note` is called once if that takes long."""
    n_polls = 0
    while True:
        fd = _open(folder, name)
        if fd is None:
            yield False
            return
        try:
            state = _try(fd)
            if state is not False and _is_current(folder, name, fd):
                yield state is True
                return
        finally:
            os.close(fd)
        if state is False:
            n_polls += 1
            if n_polls == _NOTE_AFTER:
                note()
            pause(_POLL)


def _open(folder: Folder, name: str) -> int | None:
    try:
        return folder.open_file(name, os.O_RDWR | os.O_CREAT)
    except FileError as error:
        if error.errno is None:
            raise
        return None  # a cache of somebody else's: its lock file cannot be opened for writing


def _try(fd: int) -> bool | None:
    """True: ours. False: somebody else's. None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_current(folder: Folder, name: str, fd: int) -> bool:
    """False when the name was removed or made anew since we opened it: then others lock another
    file."""
    mine, there = os.fstat(fd), folder.stat(name)
    return there is not None and (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
