"""The bytes of one file on their way: a file on disk that is always a prefix of the whole, and the
hash of it.

The hash runs along as bytes are appended. Taken up again after an interruption, the prefix is read
once and hashed; what was written past it by a crash cannot be, because there is no past: appending
is the only way to grow. Whether it all is the promised file is decided once, in `finish`, before
anybody gives it a final name, and only while the name still is that of the file that was hashed.
Bytes that are there are never written over: to start again is to make another file.
"""

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..files.atomic import file_error
from .errors import ChecksumError, TransferError
from .folder import Folder, refused
from .listing import RepoFile

if TYPE_CHECKING:
    from hashlib import _Hash

_BLOCK = 4 << 20


class Partial:
    """An open `.incomplete` file in a folder that stays open. Used by one thread.

    `is_new`: the name must be free. FileError, DiskFullError.
    """

    def __init__(self, folder: Folder, name: str, file: RepoFile, is_new: bool = False) -> None:
        self._file = file
        self._folder, self._name, self._path = folder, name, folder.path / name
        self._fd = folder.open_file(name, os.O_RDWR | os.O_CREAT | (os.O_EXCL if is_new else 0))
        self._hash = new_hash(file)
        self.length = 0

    def close(self) -> None:
        """What was appended stays for the next time."""
        os.close(self._fd)

    def take_up(self, check: Callable[[], None]) -> int:
        """Hashes what an earlier run has left, and returns how much that is. `check` may raise to
        end it. FileError."""
        size = os.fstat(self._fd).st_size
        if size > self._file.size:
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
        """Writes and hashes. TransferError when the file would get too long; DiskFullError,
        FileError."""
        if self.length + len(data) > self._file.size:
            raise TransferError(
                f"{self._file.path}: more than its {self._file.size} bytes come from the server"
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
        """Forgets everything, in a new file: the old one may be somebody else's by now. FileError,
        DiskFullError."""
        self._folder.remove(self._name)
        fd = self._folder.open_file(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._fd, old = fd, self._fd
        os.close(old)
        self._hash = new_hash(self._file)
        self.length = 0

    def finish(self) -> None:
        """Proves it whole and makes it durable. ChecksumError, TransferError; DiskFullError,
        FileError."""
        found, named = os.fstat(self._fd), self._folder.stat(self._name)
        if named is None or (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino):
            raise TransferError(f"{self._path}: was removed or replaced while it was written")
        size = found.st_size
        if not self.length == size == self._file.size:
            raise TransferError(f"{self._file.path}: has {size} bytes, must have {self._file.size}")
        if self._hash.hexdigest() != self._file.etag:
            raise ChecksumError(
                f"{self._file.path}: all {size} bytes came, but their hash is"
                f" {self._hash.hexdigest()} and not {self._file.etag}; nothing of it is kept"
            )
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise refused(error, self._path) from error


def new_hash(file: RepoFile) -> "_Hash":
    """The hash whose hex digits are the file's etag: sha256, or git's sha1 of a blob."""
    if file.sha256:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)


def hash_matches(fd: int, file: RepoFile, check: Callable[[], None] = lambda: None) -> bool:
    """Reads a whole file and compares. FileError when the disk cannot be read."""
    total, digest = 0, new_hash(file)
    while total <= file.size:
        check()
        try:
            data = os.pread(fd, _BLOCK, total)
        except OSError as error:
            raise file_error(error, file.path) from error
        if not data:
            break
        digest.update(data)
        total += len(data)
    return total == file.size and digest.hexdigest() == file.etag
