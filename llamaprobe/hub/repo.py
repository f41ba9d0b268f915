"""One repository on the hub: which commit a revision is, what files it has, and their bytes.

A revision becomes a commit once, and every later request names that commit. What the hub says about
a file when it is fetched must agree with the listing: commit, etag and size.
"""

import re
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..errors import FormatError
from .client import Client, Subject, check_identity, content_length
from .connection import Broken, join, origin, web_page_instead
from .errors import (
    ChecksumError,
    MetadataError,
    RedirectError,
    TransferError,
    UnsafeNameError,
    shown_url,
)
from .listing import MAX_INDEX, Listing, RepoFile, from_api
from .names import check_commit, clean_etag, is_commit, is_etag
from .settings import MASK

if TYPE_CHECKING:
    from requests import Response

MAX_PAGES = 1000
_MAX_FILES = 200_000
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next"?')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class Repo:
    """A repository at one revision. Making one sends no request."""

    def __init__(self, client: Client, repo_id: str, revision: str) -> None:
        self.client = client
        self.repo_id = repo_id
        self.revision = revision
        self.subject = Subject(f"{repo_id} at {revision}", f"{client.endpoint}/{repo_id}")
        self._api = client.url("api", "models", *repo_id.split("/"))

    def resolve(self) -> str:
        """The commit that the revision is now; a commit is itself, without a request."""
        if is_commit(self.revision):
            return self.revision
        value, _ = self.client.get_json(
            f"{self._api}/revision/{quote(self.revision, safe='')}", self.subject
        )
        return check_commit(
            value.get("sha") if isinstance(value, dict) else None, self.subject.what
        )

    def list_files(self, commit: str) -> Listing:
        """All files of a commit. UnsafeNameError for names that could reach outside a folder."""
        files: dict[str, RepoFile] = {}
        url: str | None = f"{self._api}/tree/{commit}?recursive=True"
        seen: set[str] = set()
        while url is not None:
            seen.add(url)
            page, link = self.client.get_json(url, self.subject)
            if not isinstance(page, list):
                raise MetadataError(f"{self.subject.what}: the hub's list of files is not a list")
            for entry in page:
                self._check_echo(entry)
                file = from_api(entry, self.subject.what)
                if file is not None and files.setdefault(file.path, file) is not file:
                    raise MetadataError(f"{self.subject.what}: the hub lists {file.path!r} twice")
            url = self._next_page(url, link)
            if url in seen or len(seen) > MAX_PAGES or len(files) > _MAX_FILES:
                raise MetadataError(
                    f"{self.subject.what}: the hub's list of files does not end ({len(files)} yet)"
                )
        return files

    def _check_echo(self, entry: object) -> None:
        path = entry.get("path") if isinstance(entry, dict) else None
        if self.client.has_token and isinstance(path, str) and MASK in path:
            raise UnsafeNameError(
                f"{self.subject.what}: a file name from the server holds the token; nothing is"
                f" downloaded, and this repository is not to be trusted"
            )

    def _next_page(self, url: str, link: str | None) -> str | None:
        match = _NEXT.search(link or "")
        if match is None:
            return None
        following = join(url, match[1])
        if origin(following) != origin(self.client.endpoint):
            raise RedirectError(
                f"{self.subject.what}: the hub's list of files continues on another server; refused"
            )
        return following

    def locate(self, file: RepoFile, commit: str) -> str:
        """The address of a file's bytes. MetadataError when the hub contradicts its listing."""
        path = "/".join(quote(segment, safe="") for segment in file.path.split("/"))
        subject = self.about(file)
        url = f"{self.client.url(*self.repo_id.split('/'), 'resolve', commit)}/{path}"
        return self.client.patiently(lambda: self._locate(url, file, commit, subject))

    def about(self, file: RepoFile) -> Subject:
        """The subject of requests for one file."""
        return Subject(f"{self.repo_id}: {file.path}", self.subject.page)

    def _locate(self, url: str, file: RepoFile, commit: str, subject: Subject) -> str:
        response = self.client.head(url, subject)
        headers, redirected = response.headers, 300 <= response.status_code < 400
        if (
            "X-Repo-Commit" not in headers
            and "text/html" in headers.get("Content-Type", "").lower()
        ):
            raise web_page_instead(subject.what, url)
        if check_commit(headers.get("X-Repo-Commit"), subject.what) != commit:
            raise MetadataError(
                f"{subject.what}: the hub answers with a commit other than {commit}"
            )
        etag = clean_etag(headers.get("X-Linked-Etag") or headers.get("ETag"))
        if not is_etag(etag):
            raise MetadataError(
                f"{subject.what}: the hub sends no usable etag, so the file cannot be verified"
            )
        size = headers.get("X-Linked-Size") or (None if redirected else content_length(response))
        if size is None or not (size.isascii() and size.isdigit()):
            raise MetadataError(f"{subject.what}: the hub sends no size")
        if etag != file.etag or int(size[:20]) != file.size:
            raise Broken(
                MetadataError(
                    f"{subject.what}: the hub lists {file.size} bytes, etag {file.etag}, and then"
                    f" sends {size[:20]}, {etag}"
                )
            )
        return join(response.url, headers["Location"]) if redirected else str(response.url)


# ---- bytes of a file ----


class NoRanges(Exception):
    """The server sends whole files only, or parts without saying which."""


class HubSource:
    """A file of the hub, read from where the hub redirects to. See `transfer.Source`."""

    def __init__(self, repo: Repo, file: RepoFile, commit: str) -> None:
        self.parallel = True
        self._repo = repo
        self._file = file
        self._commit = commit
        self._url: str | None = None
        self._lock = threading.Lock()

    def read(self, start: int, end: int) -> Generator[bytes, None, None]:
        subject, client = self._repo.about(self._file), self._repo.client
        url = self._locate()
        whole = start == 0 and end == self._file.size
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        try:
            with client.request("GET", url, subject, headers=headers) as response:
                check_identity(response, subject)
                if not whole and response.status_code == 200 and end < self._file.size:
                    raise NoRanges
                skip = self._check(response, start, end)
                yield from _exactly(client.pieces(response), skip, end - start, self._file.path)
        except Broken:
            self._forget(url)  # a signed address may have expired
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
        """How many bytes of the body to skip. Broken when it is not the requested part of the
        file."""
        file, headers, where = self._file, response.headers, shown_url(response.url)
        length = content_length(response)
        if response.status_code == 416:
            raise _broken(f"{file.path}: {where} has no bytes from {start} on", restart=True)
        etag = clean_etag(headers.get("ETag")) if "X-Repo-Commit" in headers else ""
        if is_etag(etag) and etag != file.etag:
            change = f"the etag changed from {file.etag} to {etag}"
            raise _broken(f"{file.path}: {change}", restart=True)
        if response.status_code == 206:
            message = f"{file.path}: requested bytes {start}-{end - 1}/{file.size}, {where} sends"
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            if match is None and end < file.size:
                raise NoRanges
            if match is None:
                message += " a part of it without saying which (no Content-Range)"
                raise _broken(message, restart=True)
            first, last, total = map(int, match.groups())
            if (first, total) != (start, file.size) or last >= end:
                raise _broken(f"{message} {first}-{last}/{total}", restart=True)
            return 0
        is_page = "text/html" in headers.get("Content-Type", "").lower()
        if is_page and not file.path.endswith((".html", ".htm")):
            raise web_page_instead(file.path, response.url)
        if length is not None and length != str(file.size):
            raise _broken(f"{file.path}: {where} announces {length[:20]} bytes, not {file.size}")
        return start


def read_remote(repo: Repo, file: RepoFile, commit: str, limit: int = MAX_INDEX) -> bytes:
    """All of a small file, verified. FormatError for one of over `limit` bytes."""
    if file.size > limit:
        raise FormatError(f"{repo.repo_id}: {file.path}: has {file.size} bytes, over {limit}")
    source = HubSource(repo, file, commit)
    data = repo.client.patiently(lambda: b"".join(source.read(0, file.size)))
    digest = file.new_hash()
    digest.update(data)
    if digest.hexdigest() != file.etag:
        raise ChecksumError(
            f"{file.path}: all {file.size} bytes arrived, but their hash is not {file.etag}"
        )
    return data


def _exactly(
    pieces: Iterator[bytes], skip: int, count: int, path: str
) -> Generator[bytes, None, None]:
    """The `count` bytes after the first `skip`. Broken when there are fewer, or more.

    The last piece is held back until the end: a body that is too long must be refused however the
    network cuts it.
    """
    total, last = count, b""
    for piece in pieces:
        if skip:
            skip, piece = max(0, skip - len(piece)), piece[skip:]
        if len(piece) > count:
            raise _broken(f"{path}: more bytes arrive than the {total} that were requested")
        count -= len(piece)
        if count == 0:
            last = last or piece
        elif piece:
            yield piece
    if count:
        raise _broken(f"{path}: the connection ended {count} bytes early")
    if last:
        yield last


def _broken(message: str, restart: bool = False) -> Broken:
    return Broken(TransferError(message), restart=restart)
