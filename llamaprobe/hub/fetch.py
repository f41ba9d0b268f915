"""From a repository id to a folder that a model can be loaded from.

`download` looks up the revision on the hub and fetches what is missing. `snapshot`, for
loading, takes what the cache holds, without a request, and contacts the hub only when something is
missing. Both end with the same folder. `remote_headers` shows a model through the headers of its
weight files and stores nothing.

Order of work: the commit, once; the listing of that commit; the index of the shards, if it is
needed to select them; free space; then the files, several at a time, each under its lock, verified
before it gets its name; last the ref. Every step may be killed, and is completed or found done the
next time.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

from .. import log
from ..arguments import listed, whole
from ..config import MAX_BYTES as MAX_CONFIG
from ..errors import ArgumentError, Error, FileError, UnsupportedError
from ..files.paths import checked_path
from .errors import EntryNotFoundError, NetworkError, OfflineError, ServerError, TokenError
from .folder import refused
from .listing import INDEX, MAX_INDEX, Choice, Listing, RepoFile, looks_complete, missing
from .local_store import LocalStore, check_local_names, read_marker
from .names import check_chosen, check_repo_id, check_revision, is_commit
from .settings import Settings, Token, hide, read_settings, read_token
from .store import CacheStore, Store, read_ref, repo_folder

if TYPE_CHECKING:
    from .client import Client
    from .repo import Repo

FIRST_BYTES = 64 << 10
"""Of a weight file, requested at first: most headers are shorter."""
_CONFIG = "config.json"
MAX_HEADER = 100_000_000  # the format's own limit
N_HEADERS = 16  # files at once


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
    file: str | None = None,
) -> Path:
    """Fetch what llamaprobe needs of a model on the hub, and return the folder it is in.

    revision: a branch, tag or commit; it is looked up once and all files are of that commit.
    local_dir: a plain folder instead of the cache of the hub's client (cache_dir, HF_HUB_CACHE).
    token: a string, True (there must be one), False (use none), None (HF_TOKEN or the token file,
    if any). include, exclude: globs over file names that select other files than the default set.
    force: fetch again what is here, and do not check the free space. local_files_only: send no
    request. layers, head: of a sharded model only the shards with these layers; with layer 0 come
    the embeddings, with `head` the last norm and the head. file: the model in GGUF whose file has
    this name, or is the only one that this glob matches, with all parts of a split.

    What is here is not fetched again, an unfinished file is resumed, every byte is verified before
    a file gets its name. If the hub cannot be reached and everything is here, that is used, with a
    warning.

    Raises ArgumentError for a bad argument, FileError, and HubError: RepoNotFoundError, GatedError,
    RevisionNotFoundError, TokenError, OfflineError, NetworkError, ServerError, ChecksumError,
    DiskFullError ...
    """
    token = hide(token)
    job = Job(
        repo_id,
        revision=revision,
        local_dir=local_dir,
        cache_dir=cache_dir,
        include=include,
        exclude=exclude,
        layers=layers,
        head=head,
        file=file,
    )
    if local_files_only or job.settings.offline:
        setting = "local_files_only" if local_files_only else "HF_HUB_OFFLINE"
        return job.offline(f"{setting} is set")
    if is_commit(revision) and not force and (found := job.complete(revision)):
        return found
    return _online_or_here(job, token, force, progress)


def _online_or_here(job: "Job", token: bool | Token | None, force: bool, progress: bool) -> Path:
    """What the hub has now; if it cannot be reached, what is here, with a warning."""
    try:
        return job.online(token, force, progress)
    except (NetworkError, ServerError) as error:
        # Once the hub has named a commit, an older one is not used.
        found = None if force or job.commit else job.here(strict=False)
        if found is None:
            raise
        failed = error
    log.info("%s: used instead of asking the hub", found)
    log.warn(f"{failed}; using what is on this disk, which may be older", stacklevel=3)
    return found


class Selection(TypedDict, total=False):
    """The arguments that `download`, `snapshot` and `plan` share; see `download`."""

    revision: str
    local_dir: str | os.PathLike[str] | None
    cache_dir: str | os.PathLike[str] | None
    include: str | Collection[str] | None
    exclude: str | Collection[str] | None
    layers: Iterable[int] | None
    head: bool
    file: str | None


def snapshot(
    repo_id: str,
    *,
    token: str | bool | Token | None = None,
    local_files_only: bool = False,
    progress: bool = True,
    **selection: Unpack[Selection],
) -> Path:
    """The folder of a model for loading: from the cache without any request if it is complete
    there, else `download`.

    It does not notice that a branch moved on the hub; `download` does. Raises the errors of
    `download`.
    """
    token = hide(token)
    if selection.get("layers") is not None:
        selection["layers"] = _layers(selection["layers"])  # an iterator would be used up
    return Job(repo_id, **selection).here() or download(
        repo_id, token=token, local_files_only=local_files_only, progress=progress, **selection
    )


def find_cached(repo_id: str, *, revision: str = "main") -> Path | None:
    """The folder of a model in the cache if its config and weights are all there. Sends no request.
    OfflineError if they are not, and the hub must not be contacted either."""
    job = Job(repo_id, revision=revision)
    return job.offline("HF_HUB_OFFLINE is set") if job.settings.offline else job.here(strict=False)


def plan(
    repo_id: str, *, token: str | bool | Token | None = None, **selection: Unpack[Selection]
) -> list[tuple[RepoFile, bool]]:
    """The files that `download` would bring, and whether each is here already. Writes nothing.
    Arguments and errors as `download`."""
    token = hide(token)
    job = Job(repo_id, **selection)
    job.check_online()
    from .repo import read_remote

    with job.client(token) as client:
        repo = job.repo(client)
        commit = repo.resolve()
        store = job.store(commit)
        listing = store.listing() or repo.list_files(commit)
        index = None
        if job.choice.needs_index(listing):
            index = _read(store, listing[INDEX]) or read_remote(repo, listing[INDEX], commit)
        return [(file, store.has(file)) for file in job.choose(listing, index)]


class Job:
    """One repository at one revision, to one place. ArgumentError."""

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str = "main",
        local_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        include: str | Collection[str] | None = None,
        exclude: str | Collection[str] | None = None,
        layers: Iterable[int] | None = None,
        head: bool = False,
        file: str | None = None,
    ) -> None:
        self.choice = Choice(_globs(include), _globs(exclude), _layers(layers), head, file)
        self.repo_id = check_repo_id(repo_id)
        self.revision = check_revision(revision)
        self.settings: Settings = read_settings(cache_dir)
        self.local_dir = None if local_dir is None else checked_path(local_dir)
        self.commit: str | None = None
        """What the revision is, once the hub has answered."""

    # ---- what is here ----

    def store(self, commit: str) -> Store:
        """Where the files of a commit go."""
        if self.local_dir is not None:
            return LocalStore(self.local_dir, self.repo_id, commit)
        return CacheStore(self.settings.cache_dir, self.repo_id, commit)

    def here(self, strict: bool = True) -> Path | None:
        """The folder, if the commit that the revision was when last looked up is all here."""
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
        """The folder of a commit, if all selected files are in it. `strict`: see `looks_complete`;
        without it doubtful files are read and hashed."""
        found = self._complete(commit, strict)
        if found is not None:
            log.info(f"{self.repo_id} at {self.revision}: all is in {found}; no request is sent")
        return found

    def _complete(self, commit: str, strict: bool) -> Path | None:
        store = self.store(commit)
        if isinstance(store, CacheStore):
            store.mend()
        listing = store.listing()
        if listing is None:
            by_default = not self.choice.include and not self.choice.exclude
            found = by_default and looks_complete(store.path, self.choice, strict)
            return store.path if found else None
        index = None
        if self.choice.needs_index(listing):
            index = _read(store, listing[INDEX])
            if index is None:
                return None
        files = self.choice.of(listing, index)
        found = all(store.has(file) or (not strict and store.proves(file)) for file in files)
        return store.path if files and found else None

    def offline(self, why: str) -> Path:
        """The folder, or an OfflineError."""
        found = self.here(strict=False)
        if found is not None:
            return found
        if self.local_dir and not read_marker(self.local_dir):
            # Another client's folder, or the user's own: nothing records what it holds.
            if looks_complete(self.local_dir, self.choice, strict=False):
                return self.local_dir
        where = self.local_dir or self.settings.cache_dir
        raise OfflineError(
            f"{self.repo_id} at {self.revision}: not complete in {where}{self._missing()}, and"
            f" {why}; run it once with a connection"
        )

    def _missing(self) -> str:
        """What is missing where part of the model is here: " (config.json is not there)"."""
        folder = self.local_dir
        if folder is None:
            commit = read_ref(self.settings.cache_dir / repo_folder(self.repo_id), self.revision)
            folder = self.store(commit).path if commit is not None and is_commit(commit) else None
        fact = missing(folder, self.choice.layers) if folder is not None else ""
        return f" ({fact})" if fact else ""

    # ---- what the hub has ----

    def check_online(self) -> None:
        """OfflineError if the hub must not be contacted."""
        if self.settings.offline:
            raise OfflineError(
                f"{self.repo_id}: HF_HUB_OFFLINE is set; unset it to see what the hub has"
            )

    @contextlib.contextmanager
    def client(self, token: bool | Token | None, progress: bool = True) -> "Iterator[Client]":
        """A client of the hub, which says on stderr when it tries again. TokenError for an explicit
        token that would go over plain http."""
        from .client import Client
        from .connection import may_carry_token
        from .transfer import say

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
        """The selected files, their names checked. EntryNotFoundError if there are none."""
        files = self.choice.of(listing, index)
        if not files:
            raise EntryNotFoundError(
                f"{self.repo_id} at {self.revision}: none of its {len(listing)} files is selected;"
                f" see --include"
            )
        check_chosen(file.path for file in files)
        if self.local_dir is not None:
            check_local_names(files)
        return files

    def online(self, token: bool | Token | None, force: bool, progress: bool) -> Path:
        """Fetches what is missing."""
        from .transfer import Work

        self._check_marker(force)
        with self.client(token, progress) as client:
            repo = self.repo(client)
            commit = self.commit = repo.resolve()
            log.info(f"{self.repo_id} at {self.revision}: the hub has commit {commit}")
            store = self.store(commit)
            listing = store.listing()
            if listing is None:
                listing = repo.list_files(commit)
                check_chosen(file.path for file in self.choice.of(listing))
                store.save_listing(listing)
            shown = progress and self.settings.show_progress
            cache = None
            if self.local_dir is not None:
                cache = CacheStore(self.settings.cache_dir, self.repo_id, commit)
            work = Work(client, repo, store, cache, commit, force, shown)
            index = None
            if self.choice.needs_index(listing):
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
    found = listed("include or exclude", globs, "a glob or a list of globs")
    if not all(isinstance(glob, str) for glob in found):
        raise ArgumentError("include and exclude take a glob or a list of globs")
    return found or None


def _layers(layers: Iterable[int] | None) -> frozenset[int] | None:
    if layers is None:
        return None
    way_out = "layer numbers from 0 on"
    numbers = listed("layers", layers, way_out)
    return frozenset(whole("layers", n, 0, way_out=way_out) for n in numbers)


# ---- headers alone ----


class Headers(NamedTuple):
    """What is known of a model on the hub from the headers of its weight files."""

    folder: Path
    """Opens as the model does: the config, the index, and weight files of the right size, whose
    data reads as zeros."""
    name: str
    """Such as "meta-llama/X at <commit>"."""

    def renamed(self, text: object) -> str:
        """A text about the folder as one about the model."""
        text = str(text).replace(f"{self.folder}/", f"{self.name}: ")
        return text.replace(str(self.folder), self.name)


@contextlib.contextmanager
def remote_headers(
    repo_id: str, *, revision: str = "main", token: str | bool | Token | None = None
) -> Iterator[Headers]:
    """The headers of a model on the hub, for as long as the `with` lasts.

    Raises as `download`, EntryNotFoundError without weights in safetensors, UnsupportedError when
    the server sends whole files only. Errors and warnings inside the `with` name the model instead
    of the folder.
    """
    job = Job(repo_id, revision=revision)
    job.check_online()
    with tempfile.TemporaryDirectory(prefix="llamaprobe-") as folder:
        with job.client(hide(token)) as client:
            repo = job.repo(client)
            commit = repo.resolve()
            headers = Headers(Path(folder), f"{repo_id} at {commit}")
            with _renaming(headers):
                _fetch_headers(job, repo, commit, headers.folder)
        with _renaming(headers):
            yield headers


def _fetch_headers(job: Job, repo: "Repo", commit: str, folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from .repo import read_remote

    listing = repo.list_files(commit)
    index = None
    if job.choice.needs_index(listing):
        index = read_remote(repo, listing[INDEX], commit)
    weights = [file for file in job.choose(listing, index) if file.path.endswith(".safetensors")]
    if not weights:
        raise EntryNotFoundError(
            f"{repo.subject.what}: has no weights in safetensors; see {repo.subject.page}/tree/main"
        )
    if index is not None:
        _write(folder / INDEX, index)
    if _CONFIG in listing:
        _write(folder / _CONFIG, read_remote(repo, listing[_CONFIG], commit, MAX_CONFIG))
    with ThreadPoolExecutor(N_HEADERS) as pool:
        try:
            heads = pool.map(lambda file: _head(repo, file, commit), weights)
            for file, head in zip(weights, heads, strict=True):
                _write(folder / file.path, head, file.size)
        except BaseException:
            repo.client.abort()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _head(repo: "Repo", file: RepoFile, commit: str) -> bytes:
    """The beginning of a weight file, with all of its header if that is valid."""
    from .repo import HubSource, NoRanges

    source = HubSource(repo, file, commit)

    def read(start: int, end: int) -> bytes:
        try:
            return b"".join(source.read(start, end))
        except NoRanges:
            pass
        raise UnsupportedError(
            f"{repo.repo_id}: {file.path}: the server does not send parts of a file; download it"
            f" instead"
        )

    head = repo.client.patiently(lambda: read(0, min(FIRST_BYTES, file.size)))
    end = int.from_bytes(head[:8], "little") + 8
    if len(head) < end <= min(file.size, MAX_HEADER + 8):
        head += repo.client.patiently(lambda: read(len(head), end))
    return head


def _write(path: Path, data: bytes, size: int | None = None) -> None:
    """A file of `size` bytes that begins with `data`, the rest a hole."""
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.truncate(size)
    except OSError as error:
        raise refused(error, path) from None


@contextlib.contextmanager
def _renaming(headers: Headers) -> Iterator[None]:
    """Makes errors and warnings name the model instead of the folder."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
    except Error as error:
        error.args = tuple(map(headers.renamed, error.args))
        raise
    finally:
        for warning in caught:
            warnings.warn(headers.renamed(warning.message), warning.category, stacklevel=3)
