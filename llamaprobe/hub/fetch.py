"""From a repository id to a folder that a model can be loaded from.

`download` asks the hub what the revision is now, and fetches what is missing. `snapshot` is for
loading: it takes what the cache holds, without a request, and asks the hub only when something is
missing. Both end with the same folder.

Order of work: the commit, once; the listing of that commit; the index of the shards, if it is
needed to choose them; room on the disk; then the files, several at a time, each under its lock,
verified before it gets its name; last the ref. Every step can be killed, and is done or found done
the next time.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from .. import log
from ..errors import ArgumentError, Error, FileError
from .cache_store import CacheStore, read_ref, repo_folder
from .errors import (
    EntryNotFoundError,
    NetworkError,
    OfflineError,
    ServerError,
    TokenError,
)
from .listing import Listing, RepoFile
from .local_store import LocalStore, check_local_names, read_marker
from .names import check_chosen, check_repo_id, check_revision, is_commit
from .selection import INDEX, MAX_INDEX, looks_complete, missing, needs_index, select
from .settings import Settings, Token, hide, read_settings, read_token
from .store import Store

if TYPE_CHECKING:
    from .client import Client
    from .repo import Repo


@dataclass(frozen=True)
class Choice:
    """Which files of a repository."""

    include: Collection[str] | None = None
    exclude: Collection[str] | None = None
    layers: Collection[int] | None = None
    head: bool = False

    def of(self, listing: Listing, index: bytes | None) -> list[RepoFile]:
        """See `selection.select`."""
        return select(
            listing,
            index,
            include=self.include,
            exclude=self.exclude,
            layers=self.layers,
            head=self.head,
        )


def download(
    repo_id: str,
    *,
    revision: str = "main",
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | Token | None = None,
    include: str | Collection[str] | None = None,
    exclude: str | Collection[str] | None = None,
    force: bool = False,
    local_files_only: bool = False,
    progress: bool = True,
    layers: Iterable[int] | None = None,
    head: bool = False,
) -> Path:
    """Fetch what llamaprobe needs of a model on the hub, and return the folder it is in.

    revision: a branch, tag or commit; it is looked up once and all files are of that commit.
    local_dir: a plain folder instead of the cache of the hub's client (cache_dir, HF_HUB_CACHE).
    token: a string, True (there must be one), False (use none), None (HF_TOKEN or the token file,
    if any). include, exclude: globs over file names that choose other files than the default set.
    force: fetch again what is here, and do not check the room on the disk. local_files_only: ask
    nobody. layers, head: of a sharded model only the shards with these layers; with layer 0 come
    the embeddings, with `head` the last norm and the head.

    What is here is not fetched again, what was begun is taken up, every byte is verified before a
    file gets its name. If the hub cannot be reached and everything is here, that is used, with a
    warning.

    Raises ArgumentError for a bad argument, FileError, and HubError: RepoNotFoundError, GatedError,
    RevisionNotFoundError, TokenError, OfflineError, NetworkError, ServerError, ChecksumError,
    DiskFullError ...
    """
    token = hide(token)
    job = _job(repo_id, revision, local_dir, cache_dir, include, exclude, layers, head)
    if local_files_only or job.settings.offline:
        return job.offline(
            "local_files_only is set" if local_files_only else "HF_HUB_OFFLINE is set"
        )
    if is_commit(revision) and not force and (found := job.complete(revision)):
        return found
    return _online_or_here(job, token, force, progress)


def _online_or_here(job: "Job", token: bool | Token | None, force: bool, progress: bool) -> Path:
    """What the hub has now; if it cannot be reached, what is here, with a warning."""
    failed: Error | None = None
    try:
        return job.online(token, force, progress)
    except (NetworkError, ServerError) as error:
        # Once the hub has named a commit, an older one will not do.
        found = None if force or job.commit else job.here(strict=False)
        if found is None:
            raise
        failed = error
    log.info("%s: used instead of asking the hub", found)
    log.warn(f"{failed}; using what is on this disk, which may be older", stacklevel=3)
    return found


class Wanted(TypedDict, total=False):
    """What `download`, `snapshot` and `plan` take alike; `download` says what it means."""

    revision: str
    local_dir: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    include: str | Collection[str] | None
    exclude: str | Collection[str] | None
    layers: Iterable[int] | None
    head: bool


def snapshot(
    repo_id: str,
    *,
    token: str | bool | Token | None = None,
    local_files_only: bool = False,
    progress: bool = True,
    **wanted: Unpack[Wanted],
) -> Path:
    """The folder of a model for loading: from the cache without any request if it is complete
    there, else `download`.

    A branch that moved on the hub is not noticed here; `download` notices.
    """
    token = hide(token)
    if wanted.get("layers") is not None:
        wanted["layers"] = _layers(wanted["layers"])  # an iterator would be used up
    return _job(repo_id, **wanted).here() or download(
        repo_id, token=token, local_files_only=local_files_only, progress=progress, **wanted
    )


def find_cached(repo_id: str, *, revision: str = "main") -> Path | None:
    """The folder of a model in the cache if its config and weights are all there. Asks nobody.
    OfflineError if it is not, and the hub may not be asked either."""
    job = _job(repo_id, revision)
    return job.offline("HF_HUB_OFFLINE is set") if job.settings.offline else job.here(strict=False)


def plan(
    repo_id: str, *, token: str | bool | Token | None = None, **wanted: Unpack[Wanted]
) -> list[tuple[RepoFile, bool]]:
    """What `download` would have in the end: (file, is it here already). Writes nothing. Arguments
    and errors as `download`."""
    token = hide(token)
    job = _job(repo_id, **wanted)
    job.check_online()
    from .transfer import read_remote

    with job.client(token) as client:
        repo = job.repo(client)
        commit = repo.resolve()
        store = job.store(commit)
        listing = store.listing() or repo.list_files(commit)
        index = None
        if needs_index(listing, job.choice.include):
            index = _read(store, listing[INDEX]) or read_remote(repo, listing[INDEX], commit)
        return [(file, store.has(file)) for file in job.choose(listing, index)]


def _job(
    repo_id: str,
    revision: str = "main",
    local_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    include: str | Collection[str] | None = None,
    exclude: str | Collection[str] | None = None,
    layers: Iterable[int] | None = None,
    head: bool = False,
) -> "Job":
    """ArgumentError for what makes no sense."""
    choice = Choice(_globs(include), _globs(exclude), _layers(layers), head)
    return Job(repo_id, revision, local_dir, cache_dir, choice)


class Job:
    """One repository at one revision, to one place."""

    def __init__(
        self,
        repo_id: str,
        revision: str,
        local_dir: str | os.PathLike[str] | None,
        cache_dir: str | os.PathLike[str] | None,
        choice: Choice,
    ) -> None:
        self.repo_id = check_repo_id(repo_id)
        self.revision = check_revision(revision)
        self.settings: Settings = read_settings(cache_dir)
        self.local_dir = None if local_dir is None else Path(local_dir).expanduser()
        self.choice = choice
        self.commit: str | None = None
        """What the revision is, once the hub has told."""

    # ---- what is here ----

    def store(self, commit: str) -> Store:
        """The place of a commit's files."""
        if self.local_dir is not None:
            return LocalStore(self.local_dir, self.repo_id, commit)
        return CacheStore(self.settings.cache_dir, self.repo_id, commit)

    def here(self, strict: bool = True) -> Path | None:
        """The folder, if all of the revision is here as far as it was last known."""
        if self.local_dir is not None:
            marker = read_marker(self.local_dir)
            same = marker.get("repo_id") == self.repo_id and self.revision in (
                marker.get("revision"),
                marker.get("commit"),
            )
            commit = marker.get("commit") if same else None
        else:
            commit = read_ref(self.settings.cache_dir / repo_folder(self.repo_id), self.revision)
        return self.complete(commit, strict) if commit is not None and is_commit(commit) else None

    def complete(self, commit: str, strict: bool = True) -> Path | None:
        """The folder of a commit, if all chosen files are in it. `strict`: see
        `selection.looks_complete`; without it what is in doubt is read and hashed."""
        found = self._complete(commit, strict)
        if found is not None:
            log.info(f"{self.repo_id} at {self.revision}: all is in {found}; the hub is not asked")
        return found

    def _complete(self, commit: str, strict: bool) -> Path | None:
        store = self.store(commit)
        if isinstance(store, CacheStore):
            store.mend()
        listing = store.listing()
        if listing is None:
            plain = not self.choice.include and not self.choice.exclude
            return (
                store.path
                if plain and looks_complete(store.path, self.choice.layers, strict)
                else None
            )
        index = None
        if needs_index(listing, self.choice.include):
            index = _read(store, listing[INDEX])
            if index is None:
                return None
        files = self.choice.of(listing, index)
        found = all(store.has(file) or (not strict and store.proves(file)) for file in files)
        return store.path if files and found else None

    def offline(self, why: str) -> Path:
        """The folder, or an OfflineError."""
        found = self.here(strict=False)
        if found is None and self.local_dir and not read_marker(self.local_dir):
            # Another client's folder, or the user's own: it does not say what it holds.
            if looks_complete(self.local_dir, self.choice.layers, strict=False):
                return self.local_dir
        if found is None:
            where = self.local_dir or self.settings.cache_dir
            raise OfflineError(
                f"{self.repo_id} at {self.revision}: not complete in {where}{self._missing()}, and"
                f" {why}; run it once with a connection"
            )
        return found

    def _missing(self) -> str:
        """What is missing, where some of the model is here: " (config.json is not there)"."""
        folder = self.local_dir
        if folder is None:
            commit = read_ref(self.settings.cache_dir / repo_folder(self.repo_id), self.revision)
            folder = self.store(commit).path if commit is not None and is_commit(commit) else None
        fact = missing(folder, self.choice.layers) if folder is not None else ""
        return f" ({fact})" if fact else ""

    # ---- what the hub has ----

    def check_online(self) -> None:
        """OfflineError if the hub may not be asked."""
        if self.settings.offline:
            raise OfflineError(
                f"{self.repo_id}: HF_HUB_OFFLINE is set; unset it to see what the hub has"
            )

    @contextlib.contextmanager
    def client(self, token: bool | Token | None, progress: bool = True) -> "Iterator[Client]":
        """A connection to the hub, which tells on stderr when it tries again. TokenError for an
        explicit token that would go over plain http."""
        from .client import Client
        from .origin import may_carry_token
        from .progress import say

        secret = read_token(token)
        if secret is not None and not may_carry_token(self.settings.endpoint):
            if token:
                raise TokenError(
                    "HF_ENDPOINT is plain http to another machine; a token goes over https only"
                )
            secret = None
        shown = progress and self.settings.show_progress
        client = Client(self.settings, secret, say if shown else None)
        try:
            yield client
        finally:
            client.close()

    def repo(self, client: "Client") -> "Repo":
        """The repository on the hub."""
        from .repo import Repo

        return Repo(client, self.repo_id, self.revision)

    def choose(self, listing: Listing, index: bytes | None) -> list[RepoFile]:
        """The files to have, their names checked. EntryNotFoundError when there are none."""
        files = self.choice.of(listing, index)
        if not files:
            raise EntryNotFoundError(
                f"{self.repo_id} at {self.revision}: none of its {len(listing)} files is wanted;"
                f" see --include"
            )
        check_chosen(file.path for file in files)
        if self.local_dir is not None:
            check_local_names(files)
        return files

    def online(self, token: bool | Token | None, force: bool, progress: bool) -> Path:
        """Fetches what is missing."""
        from .work import Work

        self._check_marker(force)
        with self.client(token, progress) as client:
            repo = self.repo(client)
            commit = self.commit = repo.resolve()
            log.info(f"{self.repo_id} at {self.revision}: the hub has commit {commit}")
            store = self.store(commit)
            listing = store.listing()
            if listing is None:
                listing = repo.list_files(commit)
                check_chosen(file.path for file in self.choice.of(listing, None))
                store.save_listing(listing)
            cache = (
                None
                if self.local_dir is None
                else CacheStore(self.settings.cache_dir, self.repo_id, commit)
            )
            work = Work(
                client, repo, store, cache, commit, force, progress and self.settings.show_progress
            )
            index = None
            if needs_index(listing, self.choice.include):
                work.run([listing[INDEX]])
                index = _read(store, listing[INDEX])
            work.run(self.choose(listing, index))
            store.finish(self.revision)
        log.info(f"{self.repo_id} at {self.revision}: all is in {store.path}")
        return store.path

    def _check_marker(self, force: bool) -> None:
        """Refuses to mix two repositories in one plain folder."""
        if self.local_dir is None or force:
            return
        other = read_marker(self.local_dir).get("repo_id", self.repo_id)
        if other != self.repo_id:
            raise FileError(
                f"{self.local_dir}: holds {other!r}, not {self.repo_id!r}; choose another folder"
            )


def _read(store: Store, file: RepoFile) -> bytes | None:
    return store.read(file, MAX_INDEX) if store.has(file) else None


def _globs(globs: str | Collection[str] | None) -> list[str] | None:
    if globs is None or isinstance(globs, str):
        return None if globs is None else [globs]
    if not all(isinstance(glob, str) for glob in globs):
        raise ArgumentError("include and exclude take a glob or a list of globs")
    return list(globs) or None


def _layers(layers: Iterable[int] | None) -> frozenset[int] | None:
    if layers is None:
        return None
    wanted = list(layers)
    if not all(
        hasattr(n, "__index__") and not isinstance(n, bool) and n.__index__() >= 0 for n in wanted
    ):
        raise ArgumentError(f"layers {wanted[:5]}: must be layer numbers from 0 on")
    return frozenset(n.__index__() for n in wanted)
