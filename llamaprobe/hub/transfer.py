"""The bytes of one file, from where they are to a Partial: in order, tried again where that helps,
as fast as they come.

A source gives bytes from any place on. A small file is one stream. A large one is fetched in ranges
by several connections at once, and handed on in order: the file on disk stays a prefix, so that a
kill at any moment costs no more than what is in memory (a window of a few ranges). A server that
ignores ranges is read from its beginning, and what we have already is skipped.
"""

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Protocol

from ..files.atomic import file_error
from ..errors import FormatError
from .client import MAX_TRIES, PIECE, Client, check_identity, content_length
from .errors import CaptivePortalError, ChecksumError, TransferError, shown_url
from .failure import Broken, web_page_instead
from .listing import RepoFile
from .names import clean_etag, is_etag
from .partial import Partial, new_hash
from .repo import Repo
from .selection import MAX_INDEX

if TYPE_CHECKING:
    from requests import Response

RANGE = 8 << 20
"""Bytes of one range."""
PARALLEL_FROM = 32 << 20
"""Bytes that must be left for it to be worth several connections."""
WINDOW = 4
"""Ranges of one file that are on their way or wait in memory for their turn."""
ENOUGH = 64 << 10
"""Bytes that a try must bring to count as one that got us further: a byte at a time is no way to
fetch a model."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")

Advance = Callable[[int], None]


class NoRanges(Exception):
    """The server sends the whole file, whatever is requested, or parts without saying which."""


class Source(Protocol):
    """Where the bytes of one file come from."""

    parallel: bool
    """Several ranges at once are welcome."""

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        """Exactly the bytes from `start` up to `end`, in pieces. Raises Broken, and NoRanges before
        the first one."""


class HubSource:
    """A file of the hub, wherever it sends us for it."""

    def __init__(self, repo: Repo, file: RepoFile, commit: str) -> None:
        self.parallel = True
        self._repo = repo
        self._file = file
        self._commit = commit
        self._url: str | None = None
        self._lock = threading.Lock()

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        asked, client = self._repo.about(self._file), self._repo.client
        url = self._locate()
        whole = start == 0 and end == self._file.size
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        try:
            with client.request("GET", url, asked, headers=headers) as response:
                check_identity(response, asked)
                if not whole and response.status_code == 200 and end < self._file.size:
                    raise NoRanges
                skip = self._check(response, start, end)
                yield from _exactly(client.pieces(response), skip, end - start, self._file.path)
        except Broken:
            self._forget(url)  # a signed address may have gone stale
            raise

    def _locate(self) -> str:
        with self._lock:
            if self._url is None:
                self._url = self._repo.locate(self._file, self._commit)
            return self._url

    def _forget(self, url: str) -> None:
        with self._lock:
            if self._url == url:
                self._url = None

    def _check(self, response: "Response", start: int, end: int) -> int:
        """How many bytes of the body to skip. Broken when it is not the part of the file that was
        asked for."""
        file, headers, where = self._file, response.headers, shown_url(response.url)
        length = content_length(response)
        if response.status_code == 416:
            raise Broken(
                TransferError(f"{file.path}: {where} has no bytes from {start} on"), restart=True
            )
        etag = clean_etag(headers.get("ETag")) if "X-Repo-Commit" in headers else ""
        if is_etag(etag) and etag != file.etag:
            raise Broken(
                TransferError(f"{file.path}: the etag changed from {file.etag} to {etag}"),
                restart=True,
            )
        if response.status_code == 206:
            wanted = f"{file.path}: asked for bytes {start}-{end - 1}/{file.size}, {where} sends"
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            if match is None and end < file.size:
                raise NoRanges
            if match is None:
                told = f"{wanted} a part of it without saying which (no Content-Range)"
                raise Broken(TransferError(told), restart=True)
            first, last, total = map(int, match.groups())
            if (first, total) != (start, file.size) or last >= end:
                raise Broken(TransferError(f"{wanted} {first}-{last}/{total}"), restart=True)
            return 0
        if "text/html" in headers.get("Content-Type", "").lower() and not file.path.endswith(
            (".html", ".htm")
        ):
            raise CaptivePortalError(web_page_instead(file.path, response.url))
        if length is not None and length != str(file.size):
            raise Broken(
                TransferError(
                    f"{file.path}: {where} announces {length[:20]} bytes, not {file.size}"
                )
            )
        return start


class FileSource:
    """The same bytes, on this disk already. Owns the descriptor."""

    parallel = False

    def __init__(self, fd: int, file: RepoFile) -> None:
        self._fd = fd
        self._file = file

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        while start < end:
            try:
                data = os.pread(self._fd, min(PIECE, end - start), start)
            except OSError as error:
                raise file_error(error, self._file.path) from error
            if not data:
                raise TransferError(f"{self._file.path}: the copy on this disk is too short")
            start += len(data)
            yield data

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._fd)


def fetch(
    source: Source,
    file: RepoFile,
    partial: Partial,
    client: Client,
    ranges: Executor,
    advance: Advance,
) -> None:
    """Fills and proves a partial file. A wrong hash is given one more chance, from the first
    byte."""
    advance(partial.take_up(client.check))
    for _ in range(2):
        _fill(source, file, partial, client, ranges, advance)
        try:
            partial.finish()
            return
        except ChecksumError as wrong:
            failed = wrong
        advance(-partial.length)
        partial.restart()
    raise failed


def read_remote(repo: Repo, file: RepoFile, commit: str, limit: int = MAX_INDEX) -> bytes:
    """All of a small file, verified, in memory. FormatError for one of over `limit` bytes."""
    if file.size > limit:
        raise FormatError(f"{repo.repo_id}: {file.path}: has {file.size} bytes, over {limit}")
    source, client = HubSource(repo, file, commit), repo.client

    def attempt() -> bytes:
        return b"".join(source.read(0, file.size))

    data = client.patiently(attempt)
    digest = new_hash(file)
    digest.update(data)
    if digest.hexdigest() != file.etag:
        raise ChecksumError(
            f"{file.path}: all {file.size} bytes came, but their hash is not {file.etag}"
        )
    return data


def _fill(
    source: Source,
    file: RepoFile,
    partial: Partial,
    client: Client,
    ranges: Executor,
    advance: Advance,
) -> None:
    """Appends what is missing. Gives up after MAX_TRIES tries in a row that brought little, or as
    many restarts."""
    failures = restarts = 0
    while partial.length < file.size:
        before, failed = partial.length, None
        try:
            with contextlib.closing(_stream(source, before, file.size, client, ranges)) as pieces:
                for piece in pieces:
                    client.check()
                    partial.append(piece)
                    advance(len(piece))
        except NoRanges:
            source.parallel = False
        except Broken as broken:
            failed = broken
        if failed is None:
            continue
        failures = 1 if partial.length - before >= ENOUGH else failures + 1
        if failed.restart:
            restarts += 1
            advance(-partial.length)
            partial.restart()
        if max(failures, restarts) >= MAX_TRIES:
            raise failed.error
        client.wait_after(failed, failures)


def _stream(
    source: Source, start: int, end: int, client: Client, ranges: Executor
) -> Generator[bytes, None, None]:
    if source.parallel and end - start >= PARALLEL_FROM:
        return _in_parallel(source, start, end, client, ranges)
    return source.read(start, end)


def _in_parallel(
    source: Source, start: int, end: int, client: Client, ranges: Executor
) -> Generator[bytes, None, None]:
    """As `source.read`, by several ranges at once. They are handed on in order."""
    window: deque[Future[list[bytes]]] = deque()
    try:
        while start < end or window:
            while start < end and len(window) < WINDOW:
                stop = min(start + RANGE, end)
                window.append(ranges.submit(_one_range, source, start, stop, client))
                start = stop
            yield from window.popleft().result()
    finally:
        for future in window:
            future.cancel()


def _one_range(source: Source, start: int, end: int, client: Client) -> list[bytes]:
    """All of one range; a broken connection is taken up where it broke."""
    pieces: list[bytes] = []
    failures = 0
    while start < end:
        before, failed = start, None
        try:
            with contextlib.closing(source.read(start, end)) as stream:
                for piece in stream:
                    pieces.append(piece)
                    start += len(piece)
        except Broken as broken:
            failed = broken
        if failed is None:
            continue
        failures = 1 if start - before >= ENOUGH else failures + 1
        if failed.restart or failures >= MAX_TRIES:
            raise failed
        client.wait_after(failed, failures)
    return pieces


def _exactly(
    pieces: Iterator[bytes], skip: int, count: int, path: str
) -> Generator[bytes, None, None]:
    """The `count` bytes after the first `skip`. Broken when there are fewer, or more.

    The last piece is held back until the end has come: what is too long must be refused however
    the network cuts it.
    """
    total, last = count, b""
    for piece in pieces:
        if skip:
            skip, piece = max(0, skip - len(piece)), piece[skip:]
        if len(piece) > count:
            raise Broken(
                TransferError(f"{path}: more bytes come than the {total} that were asked for")
            )
        count -= len(piece)
        if count == 0:
            last = last or piece
        elif piece:
            yield piece
    if count:
        raise Broken(TransferError(f"{path}: the connection ended {count} bytes early"))
    if last:
        yield last
