"""A model on the hub, seen through the headers of its weight files: nothing of it is stored.

Of each file the first bytes are fetched, by ranges, several files at a time. What they say is for
the readers of models to find out, who know nothing of a hub: they get a folder with the config, the
index, and weight files of the right size that hold a header and are a hole behind it. It goes when
they have seen it.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..config import MAX_BYTES as MAX_CONFIG
from ..errors import Error, UnsupportedError
from .errors import EntryNotFoundError
from .fetch import Choice, Job
from .folder import refused
from .listing import RepoFile
from .repo import Repo
from .selection import INDEX, needs_index
from .settings import Token, hide
from .transfer import HubSource, NoRanges, read_remote

FIRST_BYTES = 64 << 10
"""Asked for at first: most headers are shorter."""
MAX_HEADER = 100_000_000  # the format's own limit
N_FILES = 16
_CONFIG = "config.json"


class Headers(NamedTuple):
    """What the readers of models may look at for a while."""

    folder: Path
    """Opens as the model does; its data reads as zeros."""
    name: str
    """What it is: "meta-llama/X at <commit>"."""

    def renamed(self, text: object) -> str:
        """What is said of the folder, said of the model."""
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
    job = Job(repo_id, revision, None, None, Choice())
    job.check_online()
    with tempfile.TemporaryDirectory(prefix="llamaprobe-") as folder:
        with job.client(hide(token)) as client:
            repo = job.repo(client)
            commit = repo.resolve()
            headers = Headers(Path(folder), f"{repo_id} at {commit}")
            with _renaming(headers):
                _fetch(job, repo, commit, headers.folder)
        with _renaming(headers):
            yield headers


def _fetch(job: Job, repo: Repo, commit: str, folder: Path) -> None:
    listing = repo.list_files(commit)
    index = read_remote(repo, listing[INDEX], commit) if needs_index(listing, None) else None
    weights = [file for file in job.choose(listing, index) if file.path.endswith(".safetensors")]
    if not weights:
        raise EntryNotFoundError(
            f"{repo.asked.what}: has no weights in safetensors; see {repo.asked.page}/tree/main"
        )
    if index is not None:
        _write(folder / INDEX, index)
    if _CONFIG in listing:
        _write(folder / _CONFIG, read_remote(repo, listing[_CONFIG], commit, MAX_CONFIG))
    with ThreadPoolExecutor(N_FILES) as pool:
        try:
            heads = pool.map(lambda file: _head(repo, file, commit), weights)
            for file, head in zip(weights, heads, strict=True):
                _write(folder / file.path, head, file.size)
        except BaseException:
            repo.client.abort()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _head(repo: Repo, file: RepoFile, commit: str) -> bytes:
    """The beginning of a weight file, with all of its header if that can be one."""
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
    """A file of `size` bytes that begins with `data`, and takes no more room than that."""
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.truncate(size)
    except OSError as error:
        raise refused(error, path) from None


@contextlib.contextmanager
def _renaming(headers: Headers) -> Iterator[None]:
    """Has errors and warnings name the model instead of the folder."""
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
