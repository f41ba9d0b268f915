"""A folder held open by its descriptor. Every name in it is reached from there, one segment at a
time, and no link is followed: whatever a name from the server says, and whoever swaps a folder for
a link meanwhile, nothing outside is read or written.

The way to the folder itself is the user's own, and links in it are followed.
"""

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..files.atomic import file_error
from ..errors import FileError, HubError
from .errors import DiskFullError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
_counter = itertools.count()


class Folder:
    """An open folder. Close it, or use it in a `with`."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        """For messages."""

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> "Folder":
        """The folder at a path of the user's. FileError; FileNotFoundError passes if it is not
        there to be read."""
        try:
            if create:
                path.mkdir(parents=True, exist_ok=True)
            return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise refused(error, path) from error

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def inside(
        self, *segments: str, create: bool = False, moved: bool = False
    ) -> Iterator["Folder"]:
        """A folder below this one. FileError when a link or a file is in the way; FileNotFoundError
        as in `open`. `moved`: the first segment is no name from the outside, and may be a link, as
        its owner leaves one who moves the folder to another disk."""
        fd, path = os.dup(self.fd), self.path
        try:
            for number, segment in enumerate(segments):
                path = path / segment
                below = _open_below(fd, segment, path, create, moved and number == 0)
                os.close(fd)
                fd = below
            yield Folder(fd, path)
        finally:
            os.close(fd)

    def stat(self, name: str) -> os.stat_result | None:
        """Of the name itself, a link not followed; None if there is none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refused(error, self.path / name) from error

    def readlink(self, name: str) -> str | None:
        """Where a link leads, None if it is none."""
        try:
            return os.readlink(name, dir_fd=self.fd)
        except OSError:
            return None

    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of a regular file. FileError for anything else; FileNotFoundError passes."""
        try:
            fd = os.open(
                name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666, dir_fd=self.fd
            )
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refused(error, self.path / name) from error
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise FileError(f"{self.path / name}: not a regular file; remove it and run again")

    def read(self, name: str, limit: int) -> bytes | None:
        """All of a small file; None if there is none, or it has more than `limit` bytes."""
        try:
            fd = self.open_file(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        return data if len(data) <= limit else None

    def write(self, name: str, data: bytes, scratch: "Folder | None" = None) -> None:
        """A small file that is whole or not there. `scratch`: where a kill may leave its beginning,
        if not here; on another file system it is of no use."""
        if scratch is None or os.fstat(scratch.fd).st_dev != os.fstat(self.fd).st_dev:
            scratch = self
        temporary = f".{os.getpid()}-{next(_counter)}.tmp"
        try:
            fd = scratch.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                with open(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(fd)
                scratch.replace(temporary, self, name)
            except BaseException:
                scratch.remove(temporary)
                raise
        except OSError as error:
            raise refused(error, self.path / name) from error

    def link(self, name: str, target: str) -> bool:
        """A symbolic link `name`, in place of a file or link that was there. False where the file
        system has no links."""
        for _ in range(2):
            try:
                os.symlink(target, name, dir_fd=self.fd)
                return True
            except FileExistsError:
                if self.readlink(name) == target:
                    return True
                self.remove(name)
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return False
                raise refused(error, self.path / name) from error
        raise FileError(f"{self.path / name}: cannot be replaced; remove it and run again")

    def replace(self, name: str, to: "Folder", new_name: str) -> None:
        """Renames into `to`, over what is there."""
        try:
            os.replace(name, new_name, src_dir_fd=self.fd, dst_dir_fd=to.fd)
        except OSError as error:
            raise refused(error, to.path / new_name) from error

    def remove(self, name: str) -> None:
        """Removes a file or link, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Makes the names in it durable."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise refused(error, self.path) from error


def refused(error: OSError | ValueError, path: Path) -> FileError | HubError:
    """What the system refuses, as a DiskFullError or a FileError that names `path`."""
    if isinstance(error, FileError | HubError):
        return error
    if not isinstance(error, OSError):
        return FileError(f"{str(path)!r}: {error}")
    if error.errno in _NO_SPACE:
        return DiskFullError(
            f"{path}: {error.strerror}; free some space and run it again: it goes on from where it"
            f" stopped",
            error.errno,
            path,
        )
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST):
        message = f"{path}: a link or a file is in the way; remove it and run again"
        return FileError(message, error.errno, path)
    return file_error(error, path)


def _open_below(fd: int, segment: str, path: Path, create: bool, follow: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(segment, dir_fd=fd)
        return os.open(segment, flags, dir_fd=fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refused(error, path) from error
