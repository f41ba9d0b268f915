"""An open folder, and the unfinished file in it that a download appends to.

Every name in a `Folder` is reached from its descriptor, one segment at a time, and no link is
followed: whatever a name from the server says, and whoever replaces a folder by a link meanwhile,
nothing outside is read or written. The path of the folder itself is the user's own, and links in it
are followed.

A `Partial` is a file on disk that is always a prefix of the whole, and the hash of it. The hash
runs along as bytes are appended; after an interruption the prefix is read once and hashed. Whether
it is the promised file is decided once, in `finish`, before it gets its final name, and only while
its name still is that of the file that was hashed. Bytes on disk are never overwritten: to start
again is to make a new file.
"""

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import FileError, HubError
from ..files.atomic import file_error
from ..files.lock import is_at, try_lock
from .errors import ChecksumError, DiskFullError, TransferError
from .listing import RepoFile

Check = Callable[[], None]
"""Raises when the download is to end."""
Pause = Callable[[float], None]
"""Sleeps for some seconds; raises when the download is to end."""

_BLOCK = 4 << 20
_POLL = 0.05  # seconds between two looks at a lock
_NOTE_AFTER = 20  # polls: waiting for under a second is not worth a message
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
        """The folder at a path of the user's. FileError; FileNotFoundError if it does not exist
        and `create` is not set."""
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
        as in `open`. `moved`: the first segment is not a name from outside and may be a link, as
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
        """The status of the name itself, a link not followed; None if it does not exist."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refused(error, self.path / name) from error

    def readlink(self, name: str) -> str | None:
        """Where a link leads; None if it is not a link."""
        try:
            return os.readlink(name, dir_fd=self.fd)
        except OSError:
            return None

    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of a regular file. FileError for anything else; FileNotFoundError."""
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
        """All of a small file; None if it does not exist or has more than `limit` bytes."""
        try:
            fd = self.open_file(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            data = file.read(limit + 1)
        return data if len(data) <= limit else None

    def write(self, name: str, data: bytes, scratch: "Folder | None" = None) -> None:
        """Writes a small file that is whole or absent. `scratch`: where a kill may leave an
        unfinished one, if not here; ignored when it is on another file system."""
        if scratch is None or os.fstat(scratch.fd).st_dev != os.fstat(self.fd).st_dev:
            scratch = self
        temporary = _temporary_name()
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
        """Makes a symbolic link `name`, in place of a file or link of that name. False where the
        file system has no links."""
        try:
            os.symlink(target, name, dir_fd=self.fd)
        except FileExistsError:
            if self.readlink(name) != target:
                self._replace_by_link(name, target)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise refused(error, self.path / name) from error
        return True

    def _replace_by_link(self, name: str, target: str) -> None:
        """In one step: at no moment is there nothing under this name."""
        temporary = _temporary_name()
        try:
            os.symlink(target, temporary, dir_fd=self.fd)
            self.replace(temporary, self, name)
        except OSError as error:
            self.remove(temporary)
            raise refused(error, self.path / name) from error

    def replace(self, name: str, to: "Folder", new_name: str) -> None:
        """Renames into `to`, replacing what is there."""
        try:
            os.replace(name, new_name, src_dir_fd=self.fd, dst_dir_fd=to.fd)
        except OSError as error:
            raise refused(error, to.path / new_name) from error

    def remove(self, name: str) -> None:
        """Removes a file or link, if it exists."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Makes the names in the folder durable."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise refused(error, self.path) from error

    @contextlib.contextmanager
    def hold(self, name: str, pause: Pause, note: Callable[[], None]) -> Iterator[bool]:
        """Waits for the lock file `name` and holds it; False where nothing can be locked, and
        nothing may be shared. `note` is called once if that takes long."""
        n_polls = 0
        while True:
            fd = self._open_lock(name)
            if fd is None:
                yield False
                return
            try:
                state = try_lock(fd)
                if state is not False and is_at(name, fd, self.fd):
                    yield state is True
                    return
            finally:
                os.close(fd)
            if state is False:
                n_polls += 1
                if n_polls == _NOTE_AFTER:
                    note()
                pause(_POLL)

    def _open_lock(self, name: str) -> int | None:
        """None: the lock file in a cache of another user cannot be opened for writing."""
        try:
            return self.open_file(name, os.O_RDWR | os.O_CREAT)
        except FileError as error:
            if error.errno is None:
                raise
            return None


class Partial:
    """An open `.incomplete` file, in a folder that stays open. Used by one thread.

    `is_new`: the name must be free. FileError, DiskFullError.
    """

    def __init__(self, folder: Folder, name: str, file: RepoFile, is_new: bool = False) -> None:
        self.file = file
        self._folder, self._name, self._path = folder, name, folder.path / name
        self._fd = folder.open_file(name, os.O_RDWR | os.O_CREAT | (os.O_EXCL if is_new else 0))
        self._hash = file.new_hash()
        self.length = 0

    def close(self) -> None:
        """Keeps what was appended for the next time."""
        os.close(self._fd)

    def resume(self, check: Check) -> int:
        """Hashes what an earlier run has left, and returns its length. `check` may raise to end it.
        FileError."""
        size = os.fstat(self._fd).st_size
        if size > self.file.size:
            self.restart()
            return 0
        while self.length < size:
            check()
            try:
                data = os.pread(self._fd, min(_BLOCK, size - self.length), self.length)
            except OSError as error:
                raise refused(error, self._path) from error
            if not data:
                break
            self._hash.update(data)
            self.length += len(data)
        return self.length

    def append(self, data: bytes) -> None:
        """Writes and hashes. TransferError when the file would become too long; DiskFullError,
        FileError."""
        if self.length + len(data) > self.file.size:
            raise TransferError(
                f"{self.file.path}: the server sends more than its {self.file.size} bytes"
            )
        view = memoryview(data)
        while view:
            try:
                n = os.pwrite(self._fd, view, self.length)
            except OSError as error:
                raise refused(error, self._path) from error
            self._hash.update(view[:n])
            self.length += n
            view = view[n:]

    def restart(self) -> None:
        """Starts again in a new file: the old one may be in use elsewhere by now. FileError,
        DiskFullError."""
        self._folder.remove(self._name)
        fd = self._folder.open_file(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._fd, old = fd, self._fd
        os.close(old)
        self._hash = self.file.new_hash()
        self.length = 0

    def finish(self) -> None:
        """Verifies the whole file and makes it durable. ChecksumError, TransferError;
        DiskFullError, FileError."""
        if not is_at(self._name, self._fd, self._folder.fd):
            raise TransferError(f"{self._path}: was removed or replaced while it was written")
        size = os.fstat(self._fd).st_size
        if not self.length == size == self.file.size:
            raise TransferError(f"{self.file.path}: has {size} bytes, must have {self.file.size}")
        if (found := self._hash.hexdigest()) != self.file.etag:
            raise ChecksumError(
                f"{self.file.path}: all {size} bytes arrived, but their hash is {found} and not"
                f" {self.file.etag}; nothing of it is kept"
            )
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise refused(error, self._path) from error


def refused(error: OSError | ValueError, path: Path) -> FileError | HubError:
    """A refusal of the system, as a DiskFullError or a FileError that names `path`."""
    if isinstance(error, FileError | HubError):
        return error
    if not isinstance(error, OSError):
        return FileError(f"{str(path)!r}: {error}")
    if error.errno in _NO_SPACE:
        return DiskFullError(
            f"{path}: {error.strerror}; free some space and run it again to resume",
            error.errno,
            path,
        )
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        message = f"{path}: a link, a file or a folder is in the way; remove it and run again"
        return FileError(message, error.errno, path)
    return file_error(error, path)


def _temporary_name() -> str:
    return f".{os.getpid()}-{next(_counter)}.tmp"


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
