"""One repository as the hub shows it: which commit a revision is, what files there are, where each
one's bytes are.

A revision becomes a commit once, and everything else is asked of that commit. What the hub says
about a file when it is fetched must agree with what it said in the listing: commit, etag and size.
"""

import re
from urllib.parse import quote

from .client import Asked, Client, content_length
from .errors import CaptivePortalError, MetadataError, RedirectError, UnsafeNameError
from .failure import Broken, web_page_instead
from .listing import Listing, RepoFile, from_api
from .names import check_commit, clean_etag, is_commit, is_etag
from .origin import join, origin
from .secret import MASK

MAX_PAGES = 1000
_MAX_FILES = 200_000
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel="?next"?')


class Repo:
    """A repository at one revision. Made without a request."""

    def __init__(self, client: Client, repo_id: str, revision: str) -> None:
        self.client = client
        self.repo_id = repo_id
        self.revision = revision
        self.asked = Asked(f"{repo_id} at {revision}", f"{client.endpoint}/{repo_id}")
        self._api = client.url("api", "models", *repo_id.split("/"))

    def resolve(self) -> str:
        """The commit that the revision is now. A commit is itself, without a request."""
        if is_commit(self.revision):
            return self.revision
        value, _ = self.client.get_json(
            f"{self._api}/revision/{quote(self.revision, safe='')}", self.asked
        )
        return check_commit(value.get("sha") if isinstance(value, dict) else None, self.asked.what)

    def list_files(self, commit: str) -> Listing:
        """All files of a commit. UnsafeNameError when the names in it could reach outside a
        folder."""
        files: dict[str, RepoFile] = {}
        url: str | None = f"{self._api}/tree/{commit}?recursive=True"
        seen: set[str] = set()
        while url is not None:
            seen.add(url)
            page, link = self.client.get_json(url, self.asked)
            if not isinstance(page, list):
                raise MetadataError(f"{self.asked.what}: the hub's list of files is no list")
            for entry in page:
                self._check_echo(entry)
                file = from_api(entry, self.asked.what)
                if file is not None and files.setdefault(file.path, file) is not file:
                    raise MetadataError(f"{self.asked.what}: the hub lists {file.path!r} twice")
            url = self._next_page(url, link)
            if url in seen or len(seen) > MAX_PAGES or len(files) > _MAX_FILES:
                raise MetadataError(
                    f"{self.asked.what}: the hub's list of files does not end ({len(files)} so far)"
                )
        return files

    def _check_echo(self, entry: object) -> None:
        path = entry.get("path") if isinstance(entry, dict) else None
        if self.client.has_token and isinstance(path, str) and MASK in path:
            raise UnsafeNameError(
                f"{self.asked.what}: a file name from the server holds the token; nothing is"
                f" downloaded, and this repository is not to be trusted"
            )

    def _next_page(self, url: str, link: str | None) -> str | None:
        match = _NEXT.search(link or "")
        if match is None:
            return None
        following = join(url, match[1])
        if origin(following) != origin(self.client.endpoint):
            raise RedirectError(
                f"{self.asked.what}: the hub's list of files goes on at another server; refused"
            )
        return following

    def locate(self, file: RepoFile, commit: str) -> str:
        """The address of a file's bytes. MetadataError when the hub contradicts its listing."""
        path = "/".join(quote(segment, safe="") for segment in file.path.split("/"))
        asked = self.about(file)
        url = f"{self.client.url(*self.repo_id.split('/'), 'resolve', commit)}/{path}"
        return self.client.patiently(lambda: self._locate(url, file, commit, asked))

    def about(self, file: RepoFile) -> Asked:
        """For messages about one file."""
        return Asked(f"{self.repo_id}: {file.path}", self.asked.page)

    def _locate(self, url: str, file: RepoFile, commit: str, asked: Asked) -> str:
        response = self.client.head(url, asked)
        headers, redirected = response.headers, 300 <= response.status_code < 400
        if (
            "X-Repo-Commit" not in headers
            and "text/html" in headers.get("Content-Type", "").lower()
        ):
            raise CaptivePortalError(web_page_instead(asked.what, url))
        if check_commit(headers.get("X-Repo-Commit"), asked.what) != commit:
            raise MetadataError(f"{asked.what}: the hub answers with another commit than {commit}")
        etag = clean_etag(headers.get("X-Linked-Etag") or headers.get("ETag"))
        if not is_etag(etag):
            raise MetadataError(
                f"{asked.what}: the hub sends no usable etag; without one it cannot be verified"
            )
        size = headers.get("X-Linked-Size") or (
            None if redirected else content_length(response)
        )
        if size is None or not (size.isascii() and size.isdigit()):
            raise MetadataError(f"{asked.what}: the hub sends no size")
        if etag != file.etag or int(size[:20]) != file.size:
            raise Broken(
                MetadataError(
                    f"{asked.what}: the hub lists {file.size} bytes, etag {file.etag}, and then"
                    f" sends {size[:20]}, {etag}"
                )
            )
        return join(response.url, headers["Location"]) if redirected else str(response.url)
