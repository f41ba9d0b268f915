"""Files that are whole or not there.

A file is written under a temporary name in the folder where it will live, flushed, fsynced, and
only then renamed: whoever sees the final name sees all of it, also after a crash. The folder is
fsynced once at the end. Whatever the system refuses becomes a FileError that names the final path,
and the temporary file is removed.

Temporary names carry the process id, so that the next writer can tell what a killed one left
behind.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import FileError
from .names import printable

_TEMPORARY = re.compile(r"\.llamaprobe-([0-9]+)-[0-9]+\.part")
_counter = itertools.count()


def file_error(error: OSError, path: str | os.PathLike[str]) -> FileError:
    """The system's refusal as a FileError that names `path`; `errno` is kept."""
    told = FileError(f"{os.fspath(path)}: {error.strerror or error}")
    told.errno = error.errno
    return told


def checked_path(path: str | os.PathLike[str]) -> Path:
    """A path that the system can take; FileError for one with a NUL in it."""
    if "\0" in (name := os.fsdecode(path)):
        raise FileError(f"{printable(name)}: a path cannot hold a NUL")
    return Path(name)


def open_temporary(folder: Path) -> tuple[int, Path]:
    """A new empty file in `folder`, open for writing: (descriptor, path). Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        path = folder / f".llamaprobe-{os.getpid()}-{next(_counter)}.part"
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags, 0o666), path


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` when the block ends well, and leaves no trace when it
    does not.

    What was at `path` is replaced; a symbolic link is replaced, not followed. A device or a pipe
    (/dev/stdout) cannot be replaced and is written as it is. FileError names `path`.
    """
    final = checked_path(path)
    try:
        if _is_special(final):
            with open(final, "wb") as file:
                yield file
            return
        fd, temporary = open_temporary(final.parent)
        try:
            with open(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(fd)
            os.replace(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(final.parent)
    except FileError:
        raise
    except OSError as error:
        raise file_error(error, final) from error


def _is_special(path: Path) -> bool:
    """Something at `path` that is neither a file nor a folder; a link counts as what it leads
    to."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable. File systems that cannot are left alone."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Makes `folder`, keeps other llamaprobe writers out of it, clears what a killed one left,
    syncs it at the end.

    FileError when it cannot be made, is not a folder, or another process is writing to it. The lock
    is the kernel's: it is gone with its process. File systems without locks are used without.
    """
    path = checked_path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileExistsError as error:
        raise FileError(f"{path}: exists and is not a folder; choose another --out") from error
    except OSError as error:
        raise file_error(error, path) from error
    try:
        if _lock(fd, path):
            _remove_leftovers(path)
        yield path
        sync_folder(path)
    except FileError:
        raise
    except OSError as error:
        raise file_error(error, error.filename or path) from error
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileError(
            f"{path}: another llamaprobe is writing to this folder; wait for it"
        ) from error
    except OSError:
        return False
    return True


def _remove_leftovers(folder: Path) -> None:
    for entry in os.scandir(folder):
        match = _TEMPORARY.fullmatch(entry.name)
        if match and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def check_space(folder: Path, n_bytes: int) -> None:
    """FileError when `n_bytes` more do not fit the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise FileError(
            f"{folder}: about {show_bytes(n_bytes)} are to be written and {show_bytes(free)} are "
            "free; ask for less, or for --format npy"
        )


def show_bytes(n_bytes: float) -> str:
    """12345678 -> '12.3 MB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} bytes" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
