"""A plain folder of the user's with one repository in it, and the bookkeeping that `hf download
--local-dir` keeps.

    DIR/config.json
    DIR/.cache/huggingface/download/config.json.metadata          commit, etag, seconds: three lines
    DIR/.cache/huggingface/download/config.json.lock
    DIR/.cache/huggingface/download/<sha1 of that name>.<etag>.llamaprobe.incomplete
    DIR/.cache/huggingface/llamaprobe/<commit>.json               the listing; theirs is in trees/
    DIR/.cache/huggingface/llamaprobe.json                        which repository this is

A file that the user put there or changed is believed only after its hash was computed. Whether it
was, the system's own time of change tells (ctime): the other one (mtime) comes along with a copy.
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

from ..files.naming import printable
from .errors import UnsafeNameError
from .folder import Folder
from .listing import MAX_LISTING, Listing, RepoFile, parse, serialize
from .partial import hash_matches
from .store import TAG, Check, Note, Pause, hold, looking, unfinished_name

_BOOKS = (".cache", "huggingface")
_OURS = "llamaprobe"
_MAX_NAME = 255 - len(".metadata")
_DOWNLOAD = (*_BOOKS, "download")


class LocalStore:
    """A plain folder of the user's, with one repository in it."""

    def __init__(self, path: Path, repo_id: str, commit: str) -> None:
        self.path = path
        self._repo_id = repo_id
        self._commit = commit

    def has(self, file: RepoFile) -> bool:
        *folders, name = file.path.split("/")
        with looking(), Folder.open(self.path) as root:
            with root.inside(*folders) as folder:
                found = folder.stat(name)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                return False
            told = self._metadata(root, file)
            return (
                told is not None
                and told[:2] == (self._commit, file.etag)
                and _is_untouched(found, told[2])
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
        *folders, name = file.path.split("/")
        with self._open() as root, root.inside(*_DOWNLOAD, *folders, create=True) as locks:
            with hold(locks, f"{name}.lock", file, pause, note) as is_locked:
                yield is_locked

    @contextlib.contextmanager
    def incomplete(self, file: RepoFile, is_locked: bool = True) -> Iterator[tuple[Folder, str]]:
        *folders, _ = file.path.split("/")
        with self._open() as root, root.inside(*_DOWNLOAD, *folders, create=True) as folder:
            yield folder, unfinished_name(folder, _stem(file), is_locked)

    def publish(self, file: RepoFile, name: str) -> None:
        *folders, final = file.path.split("/")
        with self._open() as root:
            with (
                root.inside(*_DOWNLOAD, *folders) as download,
                root.inside(*folders, create=True) as folder,
            ):
                download.remove(f"{final}.metadata")  # what it says is about to be untrue
                download.replace(name, folder, final)
                folder.sync()
            self._write_metadata(root, file)

    def read(self, file: RepoFile, limit: int) -> bytes | None:
        *folders, name = file.path.split("/")
        with looking(), Folder.open(self.path) as root, root.inside(*folders) as folder:
            return folder.read(name, limit)
        return None

    def listing(self) -> Listing | None:
        for place in (_OURS, "trees"):
            with looking(), Folder.open(self.path) as root, root.inside(*_BOOKS, place) as folder:
                found = parse(folder.read(f"{self._commit}.json", MAX_LISTING) or b"")
                if found is not None:
                    return found
        return None

    def save_listing(self, listing: Listing) -> None:
        self._prepare()
        with self._open() as root, root.inside(*_BOOKS, _OURS, create=True) as folder:
            folder.write(f"{self._commit}.json", serialize(listing))

    def finish(self, revision: str) -> None:
        told = {"repo_id": self._repo_id, "revision": revision, "commit": self._commit}
        with self._open() as root, root.inside(*_BOOKS, create=True) as books:
            books.write("llamaprobe.json", json.dumps(told).encode())

    def _open(self) -> Folder:
        return Folder.open(self.path, create=True)

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
        """The file in place is this one: its metadata says so and it was not touched since, or its
        hash does."""
        *folders, name = file.path.split("/")
        with looking(), root.inside(*folders) as folder:
            found = folder.stat(name)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
                return False
            told = self._metadata(root, file)
            if told is not None and told[1] == file.etag and _is_untouched(found, told[2]):
                return True
            fd = folder.open_file(name, os.O_RDONLY)
            try:
                return hash_matches(fd, file, check)
            finally:
                os.close(fd)
        return False

    def _metadata(self, root: Folder, file: RepoFile) -> tuple[str, str, float] | None:
        *folders, name = file.path.split("/")
        with looking(), root.inside(*_DOWNLOAD, *folders) as download:
            return parse_metadata(download.read(f"{name}.metadata", 1000))
        return None

    def _write_metadata(self, root: Folder, file: RepoFile) -> None:
        *folders, name = file.path.split("/")
        with root.inside(*_DOWNLOAD, *folders, create=True) as download:
            download.write(
                f"{name}.metadata", f"{self._commit}\n{file.etag}\n{time.time()}\n".encode()
            )
            download.sync()


def read_marker(path: Path) -> dict[str, str]:
    """What a plain folder says of itself: repo_id, revision, commit; empty if it says nothing."""
    with looking(), Folder.open(path) as root, root.inside(*_BOOKS) as books:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(books.read("llamaprobe.json", 10_000) or b"{}")
            if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
                return value
    return {}


def parse_metadata(data: bytes | None) -> tuple[str, str, float] | None:
    """Commit, etag and time of a `.metadata` file, None if it is none."""
    lines = (data or b"").decode("ascii", "replace").split("\n")
    with contextlib.suppress(ValueError, IndexError):
        return lines[0].strip(), lines[1].strip(), float(lines[2])
    return None


def check_local_names(files: list[RepoFile]) -> None:
    """UnsafeNameError for a file that would write into the bookkeeping of a plain folder, or has no
    room for its own."""
    for file in files:
        if file.path.split("/")[0].casefold() == _BOOKS[0]:
            raise UnsafeNameError(
                f"file name {printable(repr(file.path), 120)}: .cache is for the bookkeeping;"
                " leave it out with --exclude"
            )
        if len(file.path.rpartition("/")[2].encode()) > _MAX_NAME:
            raise UnsafeNameError(
                f"file name {printable(repr(file.path), 120)}: over {_MAX_NAME} bytes, which leaves"
                " none for its bookkeeping; leave it out with --exclude"
            )


def _is_untouched(found: os.stat_result, since: float) -> bool:
    """Whether neither the bytes nor the name were changed later than a second after `since`."""
    return max(found.st_mtime, found.st_ctime) - 1 <= since


def _stem(file: RepoFile) -> str:
    name = file.path.rpartition("/")[2]
    short = base64.urlsafe_b64encode(hashlib.sha1(f"{name}.metadata".encode()).digest()).decode()
    return f"{short}.{file.etag}"
