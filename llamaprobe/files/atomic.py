"""Files that are whole or not there.

A file is written under a temporary name in the folder where it will live, flushed, fsynced, and
only then renamed: under its final name a file is whole, even after a crash. The folder is fsynced
once at the end. An error of the system becomes a FileError that names the final path, and the
temporary file is removed.

An open temporary file is locked, so that the next writer recognises what a kill or a badly timed
Ctrl-C left behind. The process id in its name only avoids collisions: the same id may be in use in
another container.
"""

import contextlib
import errno
import io
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .. import log
from ..errors import FileError
from ..messages import show_bytes, shown_path
from .lock import is_at, try_lock
from .paths import checked_path

_TEMPORARY = re.compile(r"\.llamaprobe-[0-9]+-[0-9]+\.part")
_NOT_REPLACED = re.compile(r"/dev/[^/]+|/proc/.+")  # devices, and descriptors of processes
_MAX_LINKS = 40  # as the system itself follows
_counter = itertools.count()


def file_error(error: OSError, path: str | os.PathLike[str], fact: str | None = None) -> FileError:
    """The system's error as a FileError that names `path`, of the class of its `errno`, which is
    kept. `fact` replaces the system's message."""
    message = f"{shown_path(path)}: {fact or error.strerror or error}"
    return FileError(message, error.errno, os.fsdecode(path))


def no_such(path: str | os.PathLike[str], fact: str) -> FileError:
    """A FileError for what does not exist."""
    return file_error(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), path, fact)


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a regular file, or a link to one, for reading. FileError for a FIFO, a device, a socket
    or a folder, without waiting for it, and for errors of the system, also in the block."""
    path = checked_path(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(mode := os.fstat(fd).st_mode):
                code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
                raise FileError(f"{shown_path(path)}: is not a regular file", code, path)
            with open(fd, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(fd)
    except FileError:
        raise
    except OSError as error:
        raise file_error(error, path) from error


def open_temporary(folder: Path) -> tuple[io.FileIO, Path]:
    """A new empty file in `folder`, open for writing and locked, and its path. Rename it before it
    is closed. Raises OSError.

    Not a bare descriptor: Ctrl-C between two lines would leave that open, and the file locked.
    """
    while True:
        path = folder / f".llamaprobe-{os.getpid()}-{next(_counter)}.part"
        with contextlib.suppress(FileExistsError):
            file = open(path, "x+b", buffering=0)
            if try_lock(file.fileno()) is not False and is_at(path, file.fileno()):
                return file, path
            file.close()  # another process took it for abandoned before it was locked


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` if the block succeeds, and leaves no trace if not.

    What was at `path` is replaced; a symbolic link is replaced, not followed. A device, a pipe or a
    descriptor (/dev/stdout, even if it is a file) cannot be replaced and is written in place.
    FileError names `path`.
    """
    final = checked_path(path)
    try:
        if (special := _open_special(final)) is not None:
            with open(special, "wb") as file:
                yield file
            return
        raw, temporary = open_temporary(final.parent)
        try:
            with io.BufferedWriter(raw) as file:
                yield file
                file.flush()
                os.fsync(raw.fileno())
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


def _open_special(path: Path) -> int | None:
    """Opens `path` for writing if it cannot be replaced by a file: a device, a pipe, a name below
    /proc. Returns the descriptor, else None. Raises OSError.

    A descriptor of this process is duplicated: opened again it would start at byte 0.
    """
    place = _last_link(path)
    if (own := _own_descriptor(place)) is not None:
        return os.dup(own)
    if not _NOT_REPLACED.fullmatch(place):
        try:
            mode = os.stat(place).st_mode
        except OSError:
            return None
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return None
    return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def _own_descriptor(place: str) -> int | None:
    """The number in a path that names a descriptor of this process: below /proc on Linux, where
    /dev/fd is a link to that, and in /dev/fd itself on macOS."""
    own = re.escape(os.path.realpath("/proc/self"))  # not getpid: the container may differ
    match = re.fullmatch(rf"(?:{own}(?:/task/[0-9]+)?|/dev)/fd/([0-9]+)", place)
    return int(match[1]) if match else None


def _last_link(path: Path) -> str:
    """The absolute path at the end of a chain of links. Links below /proc are not followed: they do
    not lead to paths."""
    place = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(place)
        place = os.path.join(os.path.realpath(folder), name)
        if place.startswith("/proc/") or not os.path.islink(place):
            break
        place = os.path.join(os.path.dirname(place), os.readlink(place))
    return place


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable, on file systems that can."""
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
    """Creates `folder`, locks out other llamaprobe writers, removes what a killed one left, and
    syncs it at the end.

    FileError when it cannot be created, is not a folder, or another process is writing to it. The
    lock is the kernel's and ends with its process; on a file system without locks a warning is
    given. A folder that was created here and is still empty after an error is removed.
    """
    path = checked_path(folder)
    try:
        with _locked_folder(path) as is_alone:
            if is_alone:
                remove_leftovers(path)
            yield path
            sync_folder(path)
    except FileError:
        raise
    except OSError as error:
        raise file_error(error, error.filename or path) from error


def _missing_folders(path: Path) -> list[Path]:
    """The folders that `mkdir(parents=True)` would create, the deepest first."""
    return [each for each in (path, *path.parents) if not os.path.lexists(each)]


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[bool]:
    """Creates the folder and locks it; yields whether the file system has locks."""
    made = _missing_folders(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise file_error(error, path, "exists and is not a folder; choose another one") from error
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_alone = try_lock(fd)
        if is_alone is False:
            raise FileError(
                f"{shown_path(path)}: another llamaprobe is writing to this folder; wait for it"
            )
        if is_alone is None:
            log.warn(
                f"{shown_path(path)}: this file system has no locks; make sure that no other"
                " program writes there",
                stacklevel=4,
            )
        with _removed_on_error(made):
            yield bool(is_alone)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _removed_on_error(folders: list[Path]) -> Iterator[None]:
    """If the block fails, removes those of the folders that are empty."""
    try:
        yield
    except BaseException:
        for folder in folders:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writers that were killed, where the file system has locks.
    Raises OSError."""
    for entry in os.scandir(folder):
        if _TEMPORARY.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    """Removes a temporary file unless a writer has it open. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if try_lock(fd):
            os.unlink(path)
    finally:
        os.close(fd)


def check_space(folder: Path, n_bytes: int, way_out: str) -> None:
    """FileError, ending in `way_out`, when `n_bytes` more do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise FileError(
            f"{shown_path(folder)}: about {show_bytes(n_bytes)} are to be written and"
            f" {show_bytes(free)} are free; {way_out}",
            errno.ENOSPC,
            folder,
        )
