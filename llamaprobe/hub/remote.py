"""The tensors of a model on the hub, from the headers of its weight files: nothing is stored.

Of each file the first bytes are fetched, by ranges, several files at a time. Whether such a header
is right is for the reader of files to say: it gets a file of the right size that holds the header
and is a hole behind it.
"""

import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..errors import ArgumentError, FormatError
from .fetch import Choice, Job
from .listing import RepoFile
from .repo import Repo
from .selection import INDEX, needs_index
from .settings import Token, hide
from .transfer import HubSource, NoRanges, read_remote

FIRST_BYTES = 64 << 10
MAX_HEADER = 100_000_000
N_FILES = 16


class RemoteTensor(NamedTuple):
    """A tensor that is on the hub."""

    name: str
    dtype: str
    """As safetensors spells it: "BF16"."""
    shape: tuple[int, ...]
    n_bytes: int
    file: str


class RemoteModel(NamedTuple):
    """What a repository says of its model."""

    repo_id: str
    commit: str
    config: bytes | None
    """config.json, if there is one."""
    tensors: list[RemoteTensor]
    """File by file, in the order of the data."""
    files: dict[str, int]
    """Bytes of each weight file."""


def inspect_remote(
    repo_id: str,
    *,
    revision: str = "main",
    token: str | bool | Token | None = None,
    layers: Iterable[int] | None = None,
) -> RemoteModel:
    """The config and the tensors of a model on the hub, by a few small requests per weight file.

    Raises as `download`, and FormatError for a weight file whose header is broken.
    """
    token = hide(token)
    choice = Choice(layers=None if layers is None else frozenset(layers), head=layers is not None)
    job = Job(repo_id, revision, None, None, choice)
    job.check_online()
    with job.client(token) as client:
        repo = job.repo(client)
        commit = repo.resolve()
        listing = repo.list_files(commit)
        index = read_remote(repo, listing[INDEX], commit) if needs_index(listing, None) else None
        files = [file for file in job.choose(listing, index) if file.path.endswith(".safetensors")]
        if not files:
            raise ArgumentError(f"{repo_id} at {revision}: has no weights in safetensors")
        config = (
            read_remote(repo, listing["config.json"], commit) if "config.json" in listing else None
        )
        with ThreadPoolExecutor(N_FILES) as pool:
            try:
                found = list(
                    pool.map(lambda file: _tensors(repo, file, commit), sorted(files, key=_by_name))
                )
            except BaseException:
                client.abort()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    tensors = [tensor for tensors in found for tensor in tensors]
    return RemoteModel(repo_id, commit, config, tensors, {file.path: file.size for file in files})


def _by_name(file: RepoFile) -> str:
    return file.path


def _tensors(repo: Repo, file: RepoFile, commit: str) -> list[RemoteTensor]:
    from .. import _core

    head = _header(repo, file, commit)
    with tempfile.TemporaryDirectory(prefix="llamaprobe-") as folder:
        path = Path(folder) / os.path.basename(file.path)
        with open(path, "wb") as stream:
            stream.write(head)
            stream.truncate(file.size)
        found = _core.Safetensors(path).tensors()
    return [
        RemoteTensor(name, dtype, tuple(shape), n_bytes, file.path)
        for name, dtype, shape, _, n_bytes in found
    ]


def _header(repo: Repo, file: RepoFile, commit: str) -> bytes:
    """The length and the header of a weight file."""
    source = HubSource(repo, file, commit)

    def read(start: int, end: int) -> bytes:
        try:
            return b"".join(source.read(start, end))
        except NoRanges:
            pass
        raise FormatError(
            f"{file.path}: the server does not send parts of a file; download it instead"
        )

    head = repo.client.patiently(lambda: read(0, min(FIRST_BYTES, file.size)))
    n_bytes = int.from_bytes(head[:8], "little") + 8
    if not 8 < n_bytes <= min(file.size, MAX_HEADER + 8):
        raise FormatError(
            f"{file.path}: says that its header has {n_bytes - 8} bytes of {file.size}"
        )
    if n_bytes > len(head):
        head += repo.client.patiently(lambda: read(len(head), n_bytes))
    return head[:n_bytes]
