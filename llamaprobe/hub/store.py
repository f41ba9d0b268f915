"""Where files go: what every place offers, and the hub's cache in the layout of huggingface_hub.

    CACHE/models--org--name/blobs/<etag>                          the bytes, once per content
    CACHE/models--org--name/snapshots/<commit>/config.json        -> ../../blobs/<etag>
    CACHE/models--org--name/refs/main                             the commit
    CACHE/models--org--name/.llamaprobe/<commit>.json             the listing
    CACHE/.locks/models--org--name/<etag>.lock

A final name is a whole, verified file. Bytes are collected under `*.llamaprobe.incomplete`, always
a prefix of the file, and renamed. Lookups create nothing.

Any of these folders may be a link that its owner made, to another disk say; what is below
snapshots/<commit> comes from a server, and no link to a folder is followed there. The ref is
written last: until all of a new commit is there, the revision is what it was. The listing has a
place of our own: in theirs it would make their client refuse, offline, a snapshot without files
that llamaprobe does not need.
"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from .. import log
from .folder import Check, Folder, Pause
from .listing import MAX_LISTING, Listing, RepoFile, parse, serialize
from .names import is_commit

INCOMPLETE = ".llamaprobe.incomplete"
_OLD = 86400.0  # seconds after which a private unfinished file counts as left behind
TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Downloads that can be fetched again; backup programs may leave this folder out.\n"
)

_OURS = ".llamaprobe"
_RELATIVE_POINTER = re.compile(r"\.\./\.\./blobs/([0-9a-f]{40}|[0-9a-f]{64})")
# The hub's client can keep one copy for all repositories beside them, under another name.
_SHARED_BLOB = re.compile(r"\.\./\.\./blobs/[0-9a-f]{2}/[0-9a-f]{64}")

Note = Callable[[str], None]
"""Shows the user one line."""


class Store(ABC):
    """The files of one commit, in place or arriving."""

    path: Path
    """The folder that a model is loaded from."""
    _commit: str
    _listings: tuple[str, ...]
    """The folders that may hold the listing; the first one is ours."""

    @abstractmethod
    def has(self, file: RepoFile) -> bool:
        """Whether a file has its final name, as far as can be seen without reading it."""

    @abstractmethod
    def adopt(self, file: RepoFile, check: Check) -> bool:
        """Uses bytes that are there already, under another name or not verified. Call it locked."""

    def proves(self, file: RepoFile) -> bool:
        """Whether a file for which `has` is False is there: reads all of it where that helps."""
        return False

    @abstractmethod
    def hold(self, file: RepoFile, pause: Pause, note: Note) -> AbstractContextManager[bool]:
        """Keeps other processes from fetching the same file; False where that is impossible."""

    @abstractmethod
    def incomplete(
        self, file: RepoFile, is_locked: bool = True
    ) -> AbstractContextManager[tuple[Folder, str]]:
        """Where the bytes are collected: see `unfinished_name`."""

    @abstractmethod
    def publish(self, file: RepoFile, name: str) -> None:
        """Gives the verified bytes, collected under `name`, their final name."""

    @abstractmethod
    def read(self, file: RepoFile, limit: int) -> bytes | None:
        """A small file for which `has` is True."""

    @abstractmethod
    def finish(self, revision: str) -> None:
        """All files are there: the revision is this commit from now on."""

    @abstractmethod
    def _books(self, place: str, create: bool = False) -> AbstractContextManager[Folder]:
        """A folder of the bookkeeping."""

    def listing(self) -> Listing | None:
        """All files of the commit, if that was kept."""
        for place in self._listings:
            with looking(), self._books(place) as folder:
                found = parse(folder.read(f"{self._commit}.json", MAX_LISTING) or b"")
                if found is not None:
                    return found
        return None

    def save_listing(self, listing: Listing) -> None:
        """Keeps it for the next time."""
        with self._books(self._listings[0], create=True) as folder:
            folder.write(f"{self._commit}.json", serialize(listing))


class CacheStore(Store):
    """One snapshot in the hub's cache."""

    _listings = (_OURS, "trees")

    def __init__(self, cache_dir: Path, repo_id: str, commit: str) -> None:
        self._cache_dir = cache_dir
        self._name = repo_folder(repo_id)
        self._commit = commit
        self.root = cache_dir / self._name
        self.path = self.root / "snapshots" / commit

    def has(self, file: RepoFile) -> bool:
        with looking(), self._open() as root, self._snapshot(root, file) as folder:
            found = folder.stat(file.name)
            if found is None:
                return False
            if stat.S_ISREG(found.st_mode):  # a file system without links
                return found.st_size == file.size
            return self._has_blob(root, file) and self._leads(root, folder, file)
        return False

    def adopt(self, file: RepoFile, check: Check) -> bool:
        with self._open(create=True) as root:
            if not self._has_blob(root, file):
                return False
            self._point(root, file)
        return True

    @contextlib.contextmanager
    def hold(self, file: RepoFile, pause: Pause, note: Note) -> Iterator[bool]:
        with (
            Folder.open(self._cache_dir, create=True) as cache,
            cache.inside(".locks", self._name, create=True, moved=True) as locks,
            hold(locks, f"{file.etag}.lock", file, pause, note) as is_locked,
        ):
            yield is_locked

    @contextlib.contextmanager
    def incomplete(self, file: RepoFile, is_locked: bool = True) -> Iterator[tuple[Folder, str]]:
        with self._books("blobs", create=True) as blobs:
            yield blobs, unfinished_name(blobs, file.etag, is_locked)

    def publish(self, file: RepoFile, name: str) -> None:
        with self._open(create=True) as root:
            with root.inside("blobs", create=True, moved=True) as blobs:
                blobs.replace(name, blobs, file.etag)
                blobs.sync()
            self._point(root, file)

    def read(self, file: RepoFile, limit: int) -> bytes | None:
        fd = self.open_blob(file)
        if fd is not None:
            with open(fd, "rb") as stream:
                data = stream.read(limit + 1)
            return data if len(data) <= limit else None
        with looking(), self._open() as root, self._snapshot(root, file) as folder:
            return folder.read(file.name, limit)
        return None

    def open_blob(self, file: RepoFile) -> int | None:
        """A descriptor of the bytes; None if they are not here."""
        with looking(), self._open() as root:
            if self._has_blob(root, file):
                with root.inside("blobs", moved=True) as blobs:
                    return os.open(file.etag, os.O_RDONLY | os.O_CLOEXEC, dir_fd=blobs.fd)
        return None

    def finish(self, revision: str) -> None:
        if revision == self._commit or read_ref(self.root, revision) == self._commit:
            return
        with (
            self._open(create=True) as root,
            root.inside(_OURS, create=True, moved=True) as scratch,
        ):
            place, folders, name = _ref_place(self.root, revision)
            with root.inside(*place, *folders, create=True, moved=True) as refs:
                refs.write(name, self._commit.encode(), scratch)
            with Folder.open(self._cache_dir) as cache:
                if cache.stat("CACHEDIR.TAG") is None:
                    cache.write("CACHEDIR.TAG", TAG, scratch)

    def mend(self) -> None:
        """Makes the links of a snapshot lead to the blobs again when `snapshots` was moved and
        replaced by a link, and `blobs` was not: the links are relative."""
        if not os.path.islink(self.root / "snapshots"):
            return
        with (
            contextlib.suppress(OSError),
            self._open() as root,
            root.inside("snapshots", self._commit, moved=True) as folder,
        ):
            for name in os.listdir(folder.fd):
                blob = _RELATIVE_POINTER.fullmatch(folder.readlink(name) or "")
                if blob and not os.path.exists(folder.path / name):
                    folder.link(name, os.path.realpath(self.root / "blobs" / blob[1]))

    def _open(self, create: bool = False) -> Folder:
        return Folder.open(self.root, create=create)

    @contextlib.contextmanager
    def _books(self, place: str, create: bool = False) -> Iterator[Folder]:
        with self._open(create) as root, root.inside(place, create=create, moved=True) as folder:
            yield folder

    def _snapshot(
        self, root: Folder, file: RepoFile, create: bool = False
    ) -> AbstractContextManager[Folder]:
        """The folder of a file in the snapshot."""
        place = ("snapshots", self._commit, *file.folders)
        return root.inside(*place, create=create, moved=True)

    def _has_blob(self, root: Folder, file: RepoFile) -> bool:
        with looking(), root.inside("blobs", moved=True) as blobs:
            found = blobs.stat(file.etag)
            if found is not None and stat.S_ISLNK(found.st_mode):
                target = blobs.readlink(file.etag) or ""
                # The owner may have put it on another disk; its name is what promises the bytes.
                if not _SHARED_BLOB.fullmatch(target) and os.path.basename(target) != file.etag:
                    return False
                found = os.stat(file.etag, dir_fd=blobs.fd)
            return found is not None and stat.S_ISREG(found.st_mode) and found.st_size == file.size
        return False

    def _leads(self, root: Folder, folder: Folder, file: RepoFile) -> bool:
        """Whether a link leads to the blob; the usual one may not from a `snapshots` that was
        moved."""
        if os.path.basename(folder.readlink(file.name) or "") != file.etag:
            return False
        with looking(), root.inside("blobs", moved=True) as blobs:
            before = os.stat(file.etag, dir_fd=blobs.fd)
            there = os.stat(file.name, dir_fd=folder.fd)
            after = os.stat(file.etag, dir_fd=blobs.fd)  # another writer may replace it meanwhile
            return os.path.samestat(there, before) or os.path.samestat(there, after)
        return False

    def _point(self, root: Folder, file: RepoFile) -> None:
        """Makes the snapshot's link to the blob."""
        with self._snapshot(root, file, create=True) as folder:
            if self._leads(root, folder, file):
                return
            pointer = "../" * (2 + file.path.count("/")) + f"blobs/{file.etag}"
            if folder.link(file.name, pointer):
                if not self._leads(root, folder, file):
                    folder.link(file.name, os.path.realpath(self.root / "blobs" / file.etag))
            else:  # a file system without links: the bytes move to the snapshot
                with root.inside("blobs", moved=True) as blobs:
                    blobs.replace(file.etag, folder, file.name)
            folder.sync()


def repo_folder(repo_id: str) -> str:
    """The name of a repository's folder in the cache."""
    return "--".join(["models", *repo_id.split("/")])


def read_ref(root: Path, revision: str) -> str | None:
    """The commit that a revision was when it was last looked up; a commit is itself."""
    if is_commit(revision):
        return revision
    place, folders, name = _ref_place(root, revision)
    with looking(), Folder.open(root) as folder:
        with folder.inside(*place, *folders, moved=True) as refs:
            commit = (refs.read(name, 100) or b"").decode("ascii", "replace").strip()
            return commit if is_commit(commit) else None
    return None


def _ref_place(root: Path, revision: str) -> tuple[list[str], list[str], str]:
    """(folders of the layout, folders of the revision, name) of the file with its commit.

    Beside a file `v` there is no room for `v/1`, nor the other way round: a repository may have had
    both, one after the other. The second one goes to a place of our own.
    """
    *folders, name = revision.split("/")
    refs = root / "refs"
    above = (os.path.join(refs, *folders[:n]) for n in range(1, len(folders) + 1))
    if any(map(os.path.isfile, above)) or os.path.isdir(refs / revision):
        return [_OURS, "refs"], [], hashlib.sha256(revision.encode()).hexdigest()
    return ["refs"], folders, name


# ---- for every store ----


def hold(
    locks: Folder, name: str, file: RepoFile, pause: Pause, note: Note
) -> AbstractContextManager[bool]:
    """The lock file `name`, with a message to the user if it takes time."""

    def note_wait() -> None:
        message = f"{file.path}: is being fetched elsewhere; waiting"
        log.info(message)
        note(message)

    return locks.hold(name, pause, note_wait)


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """For lookups: what cannot be opened counts as absent."""
    with contextlib.suppress(OSError):
        yield


def unfinished_name(folder: Folder, stem: str, is_locked: bool) -> str:
    """The name under which the bytes of a file are collected: the same in every run under a lock,
    else a private one. Private ones that were left behind long ago are removed."""
    if is_locked:
        return stem + INCOMPLETE
    private = re.compile(rf"{re.escape(stem)}\.[0-9]+-[0-9a-f]+{re.escape(INCOMPLETE)}")
    with looking():
        for name in filter(private.fullmatch, os.listdir(folder.fd)):
            found = folder.stat(name)
            if found and stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _OLD:
                folder.remove(name)
    return f"{stem}.{os.getpid()}-{secrets.token_hex(6)}{INCOMPLETE}"
