"""Verifies what is on disk against the etags that the hub gave when it was fetched. Sends no
request, changes nothing.

Every file is read and hashed. In the cache the etag is the name of the blob, in a plain folder it
is in the metadata; a listing, where there is one, shows what is missing.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import ArgumentError, Error
from .errors import OfflineError
from .listing import INDEX, MAX_INDEX, MAX_LISTING, Choice, Listing, RepoFile, parse
from .local_store import parse_metadata, read_marker
from .names import check_repo_id, check_revision, is_commit, is_etag
from .settings import read_settings
from .store import read_ref, repo_folder


class Finding(NamedTuple):
    """One file of a check."""

    path: str
    state: str
    """"ok", "damaged", "missing" or "unknown" (no etag is recorded for it)."""


def check(
    source: str | os.PathLike[str],
    *,
    revision: str = "main",
    cache_dir: str | os.PathLike[str] | None = None,
    choice: Choice | None = None,
) -> list[Finding]:
    """Hash every file of a folder that a download made, or of a repository in the cache.

    An existing folder wins over a repository id. "missing" are the files of `choice` that are in
    the listing and not on the disk. ArgumentError; OfflineError if it is not on this disk.
    """
    choice = choice or Choice()
    folder = Path(source)
    if os.path.isdir(folder):
        folder = folder.resolve()
        if os.path.isdir(folder / ".cache" / "huggingface"):
            return _check_local(folder, choice)
        if folder.parent.name == "snapshots":
            return _check_snapshot(folder, choice)
        raise ArgumentError(
            f"{folder}: was not made by a download, so there is nothing to check it against"
        )
    root = read_settings(cache_dir).cache_dir / repo_folder(check_repo_id(os.fspath(source)))
    commit = read_ref(root, check_revision(revision))
    snapshot = root / "snapshots" / commit if commit else None
    if snapshot is None or not os.path.isdir(snapshot):
        raise OfflineError(f"{source} at {revision}: not in the cache at {root.parent}")
    return _check_snapshot(snapshot, choice)


def _check_snapshot(folder: Path, choice: Choice) -> list[Finding]:
    root = folder.parent.parent
    listing = _read_listing(root / ".llamaprobe", root / "trees", folder.name)

    def etag_of(path: str) -> str:
        if os.path.islink(folder / path):
            return os.path.basename(os.readlink(folder / path))
        return listing[path].etag if path in listing else ""

    return _check(folder, listing, etag_of, choice)


def _check_local(folder: Path, choice: Choice) -> list[Finding]:
    books = folder / ".cache" / "huggingface"
    commit = read_marker(folder).get("commit")
    listing: Listing = {}
    if commit is not None and is_commit(commit):
        listing = _read_listing(books / "llamaprobe", books / "trees", commit)

    def etag_of(path: str) -> str:
        noted = parse_metadata(_read(books / "download" / f"{path}.metadata", 1000))
        return listing[path].etag if path in listing else noted[1] if noted else ""

    return _check(folder, listing, etag_of, choice)


def _check(
    folder: Path, listing: Listing, etag_of: Callable[[str], str], choice: Choice
) -> list[Finding]:
    findings = [
        Finding(path, _state(folder / path, path, etag_of(path), listing)) for path in _walk(folder)
    ]
    index = _read(folder / INDEX, MAX_INDEX) if choice.needs_index(listing) else None
    selected = [file.path for file in choice.of(listing, index)] if listing else []
    absent = [path for path in selected if not os.path.lexists(folder / path)]
    return findings + [Finding(path, "missing") for path in absent]


def _state(where: Path, path: str, etag: str, listing: Listing) -> str:
    """The state of a file that should have this etag."""
    if not is_etag(etag) or (path in listing and listing[path].etag != etag):
        return "damaged" if path in listing else "unknown"
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return "missing"
    try:
        size = os.fstat(fd).st_size
        file = RepoFile(path, size, etag[:40], etag if len(etag) == 64 else None)
        return "ok" if file.matches(fd) else "damaged"
    except Error:
        return "damaged"
    finally:
        os.close(fd)


def _walk(folder: Path) -> Iterator[str]:
    """The files below a folder, without the bookkeeping; links to folders are not entered."""
    for root, folders, names in os.walk(folder):
        if Path(root) == folder and ".cache" in folders:
            folders.remove(".cache")
        folders.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(root, name), folder)


def _read_listing(ours: Path, theirs: Path, commit: str) -> Listing:
    found = [parse(_read(place / f"{commit}.json", MAX_LISTING) or b"") for place in (ours, theirs)]
    return found[0] or found[1] or {}


def _read(path: Path, limit: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return None
