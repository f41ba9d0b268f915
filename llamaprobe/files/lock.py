"""The kernel's lock on an open file. It ends with its process, also by a kill, and the hub's own
client takes the same one on the same files."""

import fcntl
import os


def try_lock(fd: int) -> bool | None:
    """True: ours until the descriptor is closed. False: held by another process. None: this file
    system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_at(name: str | os.PathLike[str], fd: int, dir_fd: int | None = None) -> bool:
    """Whether `name` still is the open file: False once it was removed or replaced, and others lock
    another file. Raises OSError."""
    try:
        named = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))
