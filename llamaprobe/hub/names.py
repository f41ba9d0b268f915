"""Which names may become addresses and paths.

Repository ids and revisions come from the user, all others from a server that is not trusted: file
names, commits, etags. A name is refused before anything is written and before any request is made
with it.

`check_entry` is for every name in a listing: no honest repository has such names, so the whole
listing is refused. `check_chosen` is for the files that are to be written: it refuses names that
some system cannot hold, and pairs that are one file where case or Unicode form does not count.
"""

import contextlib
import re
import unicodedata
from collections.abc import Iterable

from ..arguments import shown
from ..errors import ArgumentError
from ..messages import printable
from .errors import MetadataError, TokenError, UnsafeNameError
from .settings import read_token

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?:{_PART}/)?{_PART}")
_TOKEN_LIKE = re.compile(r"hf_[A-Za-z0-9]{16,}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_URL = re.compile(r"https?://[^/?#]+/([^?#]*)", re.IGNORECASE)
_BELOW_REPO = {"tree", "blob", "resolve", "raw", "commits", "discussions"}
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_MAX_PATH = 1024
_MAX_SEGMENT = 255


def check_repo_id(repo_id: str) -> str:
    """`owner/name` or `name`, as the hub allows them; ArgumentError otherwise."""
    check_no_token(repo_id, "a repository id must be owner/name; this")
    if isinstance(repo_id, str) and repo_id == "demo":
        raise ArgumentError("demo comes with llamaprobe: there is nothing to download")
    if isinstance(repo_id, str) and (inside := repo_in_url(repo_id)):
        raise ArgumentError(f"this is an address, not a repository id; give {inside}")
    fine = isinstance(repo_id, str) and _REPO.fullmatch(repo_id) and not repo_id.endswith(".git")
    if not fine or "--" in repo_id or ".." in repo_id:
        raise ArgumentError(
            f"repository id {shown(repo_id, 120)}: must be owner/name, of letters,"
            f" digits, '-', '_' and '.', at most 96 each, without '--', '..' or a '.git' at the end"
        )
    return repo_id


def check_no_token(text: object, what: str) -> None:
    """ArgumentError for a name that holds a token, without showing it: one of the hub's form, or
    the one that is set."""
    if not isinstance(text, str):
        return
    found = any(_TOKEN_LIKE.fullmatch(part) for part in re.split(r"[^A-Za-z0-9_]", text))
    if not found:
        with contextlib.suppress(TokenError):
            token = read_token(None)
            found = token is not None and token.is_in(text)
    if found:
        raise ArgumentError(
            f"{what} looks like a token; it is not sent. Set HF_TOKEN instead, and revoke it"
        )


def repo_in_url(text: str) -> str | None:
    """The repository of a web page of the hub; None for any other text."""
    match = _URL.match(text)
    if match is None:
        return None
    segments = [segment for segment in match[1].split("/") if segment]
    below = [i for i, segment in enumerate(segments) if segment in _BELOW_REPO]
    inside = "/".join(segments[: below[0] if below else None][-2:])
    return inside if _REPO.fullmatch(inside) and not _TOKEN_LIKE.search(inside) else None


def check_revision(revision: str) -> str:
    """A branch, tag or commit that can be a path below refs/; ArgumentError otherwise."""
    check_no_token(revision, "a revision")
    fault = "not a string" if not isinstance(revision, str) else _fault(revision)
    if fault or len(revision) > 255:
        raise ArgumentError(
            f"revision {shown(revision, 120)}: {fault or 'longer than 255 characters'}"
        )
    return revision


def is_commit(text: object) -> bool:
    """A full commit hash: 40 lower-case hex digits."""
    return isinstance(text, str) and bool(_COMMIT.fullmatch(text))


def check_commit(text: object, what: str) -> str:
    """`text` if it is a commit hash; MetadataError otherwise."""
    if not is_commit(text):
        raise MetadataError(
            f"{what}: the server gives commit {printable(repr(text), 80)}; it must be 40 hex digits"
        )
    return str(text)


def is_etag(text: object) -> bool:
    """A git sha1 or a sha256: the etags of the hub, which become file names."""
    return isinstance(text, str) and bool(_ETAG.fullmatch(text))


def clean_etag(header: str | None) -> str:
    """The etag in an HTTP header, without `W/` and quotes; "" if there is none."""
    return (header or "").removeprefix("W/").strip('"')


def check_entry(path: object) -> str:
    """A file name from a listing that cannot lead outside a folder; UnsafeNameError otherwise."""
    fault = "not a string" if not isinstance(path, str) else _fault(path)
    if fault:
        raise UnsafeNameError(
            f"file name {printable(repr(path), 120)} from the server: {fault}; nothing is"
            f" downloaded, and this repository is not to be trusted"
        )
    return str(path)


def check_chosen(paths: Iterable[str]) -> None:
    """UnsafeNameError unless these files can all be written on any system."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        segments = path.split("/")
        for segment in segments:
            if segment[-1] in ". " or _DEVICE.match(segment):
                raise UnsafeNameError(
                    f"file name {printable(repr(path), 120)}: not every system can hold"
                    f" {segment!r}; leave it out with --exclude"
                )
        if (other := files.setdefault(_fold(path), path)) is not path:
            raise _clash(path, other)
        for n in range(1, len(segments)):
            folder = "/".join(segments[:n])
            if (other := folders.setdefault(_fold(folder), folder)) != folder:
                raise _clash(folder, other)
    for folded in files.keys() & folders.keys():
        raise _clash(files[folded], folders[folded] + "/")


def _clash(name: str, other: str) -> UnsafeNameError:
    return UnsafeNameError(
        f"file names {printable(repr(name), 120)} and {printable(repr(other), 120)} from the"
        f" server: one name where case does not count; leave one out with --exclude"
    )


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _fault(path: str) -> str | None:
    """What is wrong with a relative path with '/' between its segments; None if nothing is."""
    if not path or len(path) > _MAX_PATH:
        return f"{len(path)} characters long"
    if "\\" in path:
        return "has a backslash"
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in path):
        return "has a control character or half of a surrogate pair"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return "has an empty or dot segment"
        if _DRIVE.match(segment):
            return "begins with a drive letter"
        if len(segment.encode()) > _MAX_SEGMENT:
            return f"has a segment of over {_MAX_SEGMENT} bytes"
    return None
