"""A plain folder of the user's with one repository in it, with the bookkeeping of `hf download
--local-dir`.

    DIR/config.json
    DIR/.cache/huggingface/download/config.json.metadata          commit, etag, seconds: three lines
    DIR/.cache/huggingface/download/config.json.lock
    DIR/.cache/huggingface/download/<sha1 of that name>.<etag>.llamaprobe.incomplete
    DIR/.cache/huggingface/llamaprobe/<commit>.json               the listing; theirs is in trees/
    DIR/.cache/huggingface/llamaprobe.json                        which repository this is

A file that the user put there or changed is hashed before it is used. Changes are recognised by the
system's own time of change (ctime): the other one (mtime) is copied along with a file.
"""

import base64
import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import FormatError
from ..files.json_file import parse_object
from ..messages import printable
from .errors import UnsafeNameError
from .folder import Check, Folder, Pause
from .listing import Listing, RepoFile
from .store import TAG, Note, Store, hold, looking, unfinished_name

_BOOKS = (".cache", "huggingface")
_OURS = "llamaprobe"
_MAX_NAME = 255 - len(".metadata")
_DOWNLOAD = (*_BOOKS, "download")


class LocalStore(Store):
    """A plain folder of the user's, with one repository in it."""

    _listings = (_OURS, "trees")

    def __init__(self, path: Path, repo_id: str, commit: str) -> None:
        self.path = path
        self._repo_id = repo_id
        self._commit = commit

    def has(self, file: RepoFile) -> bool:
        with looking(), Folder.open(self.path) as root:
            with root.inside(*file.folders) as folder:
                found = folder.stat(file.name)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                return False
            noted = self._metadata(root, file)
            return (
                noted is not None
                and noted[:2] == (self._commit, file.etag)
                and _is_untouched(found, noted[2])
            )
        return False

    def adopt(self, file: RepoFile, check: Check) -> bool:
        with self._open() as root:
            if not self._is_proved(root, file, check):
                return False
            self._write_metadata(root, file)
        return True

    def proves(self, file: RepoFile) -> bool:
        with looking(), Folder.open(self.path) as root:
            return self._is_proved(root, file, lambda: None)
        return False

    @contextlib.contextmanager
    def hold(self, file: RepoFile, pause: Pause, note: Note) -> Iterator[bool]:
        with self._open() as root, root.inside(*_DOWNLOAD, *file.folders, create=True) as locks:
            with hold(locks, f"{file.name}.lock", file, pause, note) as is_locked:
                yield is_locked

    @contextlib.contextmanager
    def incomplete(self, file: RepoFile, is_locked: bool = True) -> Iterator[tuple[Folder, str]]:
        with self._open() as root, root.inside(*_DOWNLOAD, *file.folders, create=True) as folder:
            yield folder, unfinished_name(folder, _stem(file), is_locked)

    def publish(self, file: RepoFile, name: str) -> None:
        with self._open() as root:
            with (
                root.inside(*_DOWNLOAD, *file.folders) as download,
                root.inside(*file.folders, create=True) as folder,
            ):
                download.remove(f"{file.name}.metadata")  # it is about to be wrong
                download.replace(name, folder, file.name)
                folder.sync()
            self._write_metadata(root, file)

    def read(self, file: RepoFile, limit: int) -> bytes | None:
        with looking(), Folder.open(self.path) as root, root.inside(*file.folders) as folder:
            return folder.read(file.name, limit)
        return None

    def save_listing(self, listing: Listing) -> None:
        self._prepare()
        super().save_listing(listing)

    def finish(self, revision: str) -> None:
        marker = {"repo_id": self._repo_id, "revision": revision, "commit": self._commit}
        with self._open() as root, root.inside(*_BOOKS, create=True) as books:
            books.write("llamaprobe.json", json.dumps(marker).encode())

    def _open(self) -> Folder:
        return Folder.open(self.path, create=True)

    @contextlib.contextmanager
    def _books(self, place: str, create: bool = False) -> Iterator[Folder]:
        with (
            Folder.open(self.path, create=create) as root,
            root.inside(*_BOOKS, place, create=create) as folder,
        ):
            yield folder

    def _prepare(self) -> None:
        """The bookkeeping folder, kept out of git and backups, and marked with the repository's
        id."""
        with self._open() as root, root.inside(*_BOOKS, create=True) as books:
            for name, data in ((".gitignore", b"*"), ("CACHEDIR.TAG", TAG)):
                if books.stat(name) is None:
                    books.write(name, data)
            if read_marker(self.path).get("repo_id") != self._repo_id:
                books.write("llamaprobe.json", json.dumps({"repo_id": self._repo_id}).encode())

    def _is_proved(self, root: Folder, file: RepoFile, check: Check) -> bool:
        """The file in place is this one: by its metadata, if it was not touched since, or by its
        hash."""
        with looking(), root.inside(*file.folders) as folder:
            found = folder.stat(file.name)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                return False
            noted = self._metadata(root, file)
            if noted is not None and noted[1] == file.etag and _is_untouched(found, noted[2]):
                return True
            fd = folder.open_file(file.name, os.O_RDONLY)
            try:
                return file.matches(fd, check)
            finally:
                os.close(fd)
        return False

    def _metadata(self, root: Folder, file: RepoFile) -> tuple[str, str, float] | None:
        with looking(), root.inside(*_DOWNLOAD, *file.folders) as download:
            return parse_metadata(download.read(f"{file.name}.metadata", 1000))
        return None

    def _write_metadata(self, root: Folder, file: RepoFile) -> None:
        with root.inside(*_DOWNLOAD, *file.folders, create=True) as download:
            download.write(
                f"{file.name}.metadata", f"{self._commit}\n{file.etag}\n{time.time()}\n".encode()
            )
            download.sync()


def read_marker(path: Path) -> dict[str, str]:
    """The repo_id, revision and commit that a plain folder records; empty if it has no record."""
    with looking(), Folder.open(path) as root, root.inside(*_BOOKS) as books:
        with contextlib.suppress(FormatError):
            name = "llamaprobe.json"
            value = parse_object(books.read(name, 10_000) or b"{}", name, FormatError)
            if all(isinstance(text, str) for text in value.values()):
                return value
    return {}


def parse_metadata(data: bytes | None) -> tuple[str, str, float] | None:
    """Commit, etag and time of a `.metadata` file; None for anything else."""
    lines = (data or b"").decode("ascii", "replace").split("\n")
    with contextlib.suppress(ValueError, IndexError):
        return lines[0].strip(), lines[1].strip(), float(lines[2])
    return None


def check_local_names(files: list[RepoFile]) -> None:
    """UnsafeNameError for a file whose name lies in the bookkeeping of a plain folder, or is too
    long for the names there."""
    for file in files:
        if file.path.split("/")[0].casefold() == _BOOKS[0]:
            raise UnsafeNameError(
                f"file name {printable(repr(file.path), 120)}: .cache holds the bookkeeping;"
                " leave it out with --exclude"
            )
        if len(file.name.encode()) > _MAX_NAME:
            raise UnsafeNameError(
                f"file name {printable(repr(file.path), 120)}: over {_MAX_NAME} bytes, which leaves"
                " none for its bookkeeping; leave it out with --exclude"
            )


def _is_untouched(found: os.stat_result, since: float) -> bool:
    """Whether bytes and name are unchanged since a second after `since`."""
    return max(found.st_mtime, found.st_ctime) - 1 <= since


def _stem(file: RepoFile) -> str:
    short = base64.urlsafe_b64encode(hashlib.sha1(f"{file.name}.metadata".encode()).digest())
    return f"{short.decode()}.{file.etag}"
