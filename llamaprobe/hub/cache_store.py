"""The hub's cache, in the layout that huggingface_hub reads and writes.

    CACHE/models--org--name/blobs/<etag>                          the bytes, once per content
    CACHE/models--org--name/snapshots/<commit>/config.json        -> ../../blobs/<etag>
    CACHE/models--org--name/refs/main                             the commit
    CACHE/models--org--name/.llamaprobe/<commit>.json             the listing
    CACHE/.locks/models--org--name/<etag>.lock

Any of these folders may be a link that its owner made, to another disk say; what is below
snapshots/<commit> comes from a server, and no link to a folder is followed there.

So each finds what the other one fetched. The ref is written last: until everything of a new commit
is there, the revision is what it was. The listing has a place of our own: in theirs it would make
their client refuse, offline, a snapshot that lacks files which llamaprobe does not need.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from .folder import Folder
from .listing import MAX_LISTING, Listing, RepoFile, parse, serialize
from .names import is_commit
from .store import TAG, Check, Note, Pause, hold, looking, unfinished_name

_OURS = ".llamaprobe"
_RELATIVE_POINTER = re.compile(r"\.\./\.\./blobs/([0-9a-f]{40}|[0-9a-f]{64})")
# The hub's client keeps one copy for all repositories beside them, under a name of its own making.
_SHARED_BLOB = re.compile(r"\.\./\.\./blobs/[0-9a-f]{2}/[0-9a-f]{64}")


class CacheStore:
    """One snapshot in the hub's cache."""

    def __init__(self, cache_dir: Path, repo_id: str, commit: str) -> None:
        self._cache_dir = cache_dir
        self._name = repo_folder(repo_id)
        self._commit = commit
        self.root = cache_dir / self._name
        self.path = self.root / "snapshots" / commit

    def has(self, file: RepoFile) -> bool:
        *folders, name = file.path.split("/")
        with looking(), self._open() as root:
            with root.inside("snapshots", self._commit, *folders, moved=True) as folder:
                found = folder.stat(name)
                if found is None:
                    return False
                if stat.S_ISREG(found.st_mode):  # a file system without links
                    return found.st_size == file.size
                return self._has_blob(root, file) and self._leads(root, folder, name, file)
        return False

    def adopt(self, file: RepoFile, check: Check) -> bool:
        with self._open(create=True) as root:
            if not self._has_blob(root, file):
                return False
            self._point(root, file)
        return True

    def proves(self, file: RepoFile) -> bool:
        return False  # a name here is a promise about the bytes: there is no more to be found out

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
        with (
            self._open(create=True) as root,
            root.inside("blobs", create=True, moved=True) as blobs,
        ):
            yield blobs, unfinished_name(blobs, file.etag, is_locked)

    def publish(self, file: RepoFile, name: str) -> None:
        with self._open(create=True) as root:
            with root.inside("blobs", create=True, moved=True) as blobs:
                blobs.replace(name, blobs, file.etag)
                blobs.sync()
            self._point(root, file)

    def read(self, file: RepoFile, limit: int) -> bytes | None:
        *folders, name = file.path.split("/")
        fd = self.open_blob(file)
        if fd is not None:
            with open(fd, "rb") as stream:
                data = stream.read(limit + 1)
            return data if len(data) <= limit else None
        with (
            looking(),
            self._open() as root,
            root.inside("snapshots", self._commit, *folders, moved=True) as folder,
        ):
            return folder.read(name, limit)
        return None

    def open_blob(self, file: RepoFile) -> int | None:
        """A descriptor of the bytes, None if they are not here."""
        with looking(), self._open() as root:
            if self._has_blob(root, file):
                with root.inside("blobs", moved=True) as blobs:
                    return os.open(file.etag, os.O_RDONLY | os.O_CLOEXEC, dir_fd=blobs.fd)
        return None

    def listing(self) -> Listing | None:
        for place in (_OURS, "trees"):
            with looking(), self._open() as root, root.inside(place, moved=True) as folder:
                found = parse(folder.read(f"{self._commit}.json", MAX_LISTING) or b"")
                if found is not None:
                    return found
        return None

    def save_listing(self, listing: Listing) -> None:
        with (
            self._open(create=True) as root,
            root.inside(_OURS, create=True, moved=True) as folder,
        ):
            folder.write(f"{self._commit}.json", serialize(listing))

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
        """Makes the links of a snapshot lead to the blobs again when `snapshots` was moved, with a
        link in its place, and `blobs` was not: the way between them is relative."""
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

    def _leads(self, root: Folder, folder: Folder, name: str, file: RepoFile) -> bool:
        """Whether a link leads to the blob. From a `snapshots` that was moved the usual one may
        not."""
        if os.path.basename(folder.readlink(name) or "") != file.etag:
            return False
        with looking(), root.inside("blobs", moved=True) as blobs:
            there, blob = os.stat(name, dir_fd=folder.fd), os.stat(file.etag, dir_fd=blobs.fd)
            return os.path.samestat(there, blob)
        return False

    def _point(self, root: Folder, file: RepoFile) -> None:
        *folders, name = file.path.split("/")
        with root.inside("snapshots", self._commit, *folders, create=True, moved=True) as folder:
            if self._leads(root, folder, name, file):
                return
            if folder.link(name, _pointer(file)):
                if not self._leads(root, folder, name, file):
                    folder.link(name, os.path.realpath(self.root / "blobs" / file.etag))
            else:
                # No links here: the bytes move to the snapshot.
                with root.inside("blobs", moved=True) as blobs:
                    blobs.replace(file.etag, folder, name)
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

    Where `v` is a file there is no room for `v/1`, nor the other way round: a repository may have
    had both, one after the other. The second one goes to a place of our own.
    """
    *folders, name = revision.split("/")
    refs = root / "refs"
    above = (os.path.join(refs, *folders[:n]) for n in range(1, len(folders) + 1))
    if any(map(os.path.isfile, above)) or os.path.isdir(refs / revision):
        return [_OURS, "refs"], [], hashlib.sha256(revision.encode()).hexdigest()
    return ["refs"], folders, name


def _pointer(file: RepoFile) -> str:
    return "../" * (2 + file.path.count("/")) + f"blobs/{file.etag}"
