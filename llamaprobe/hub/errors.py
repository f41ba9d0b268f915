"""What can go wrong between here and the hub: one class per remedy, and the hub's answers in words.

A message is one line: what was requested, what is the matter, what to do; where the remedy is the
same for a whole class, the class adds it. A message never holds a token, a header, or the query of
a signed address; text from a server is stripped of control characters and cut.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from ..errors import HubError
from ..messages import printable

__all__ = [
    "CaptivePortalError",
    "ChecksumError",
    "DisabledError",
    "DiskFullError",
    "EntryNotFoundError",
    "GatedError",
    "MetadataError",
    "NetworkError",
    "OfflineError",
    "RedirectError",
    "RepoNotFoundError",
    "RevisionNotFoundError",
    "ServerError",
    "TokenError",
    "TransferError",
    "UnsafeNameError",
]


class _SameRemedyError(HubError):
    """An error whose message always ends in the same remedy."""

    remedy = ""

    def __init__(self, what: str) -> None:
        super().__init__(what if self.remedy in what else f"{what}; {self.remedy}")


class RepoNotFoundError(HubError):
    """No such repository, or a private one that this token cannot see (the hub does not say
    which)."""


class RevisionNotFoundError(HubError):
    """The repository has no such branch, tag or commit."""


class EntryNotFoundError(HubError):
    """The repository has no such file at this revision."""


class GatedError(HubError):
    """The licence has to be accepted on the hub's web page first."""


class DisabledError(HubError):
    """The hub's owners have closed the repository."""


class TokenError(HubError):
    """The token is missing, malformed, or not allowed to read this."""


class OfflineError(HubError):
    """Not on this disk, and the hub must not be contacted."""


class NetworkError(HubError):
    """The hub cannot be reached, or the connection broke more often than we retry."""


class ServerError(HubError):
    """The hub answered with an error, also after several tries."""


class CaptivePortalError(HubError):
    """Something between here and the hub answered with a web page, such as a login form."""


class RedirectError(_SameRemedyError):
    """A redirect that is not followed: to another scheme, to plain http, in circles."""

    remedy = "check HF_ENDPOINT, and log in to your network if it requires that"


class MetadataError(_SameRemedyError):
    """The hub's answer lacks a commit, an etag or a size, or contradicts itself."""

    remedy = "check HF_ENDPOINT and the proxy, or try again later"


class UnsafeNameError(HubError):
    """A name from the server that could reach outside the folder, or that two files share."""


class TransferError(_SameRemedyError):
    """A file arrived too short, too long, or from the wrong offset, in every try."""

    remedy = "run it again: it resumes where it stopped"


class ChecksumError(_SameRemedyError):
    """All bytes arrived, and their hash is not the one that the hub listed."""

    remedy = "run it again; if that does not help, the repository or a proxy is broken"


class DiskFullError(HubError):
    """The disk cannot hold the files; what has arrived is kept and resumed."""


def shown_url(url: str) -> str:
    """An address without its query, which may hold a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be parsed"
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}", 160)


def explain(
    status: int, headers: Mapping[str, str], body: str, what: str, page: str, with_token: bool
) -> HubError:
    """The error for an answer of the hub with a status of 4xx or 5xx.

    `body` is the error text of its JSON, `what` begins the message ("meta-llama/X at main"), `page`
    is the repository's web page.
    """
    code = headers.get("X-Error-Code", "")
    said = printable(headers.get("X-Error-Message") or body, 200)
    if code == "GatedRepo":
        return GatedError(f"{what}: gated; {_gated_remedy(page, with_token)}")
    if said == "Access to this resource is disabled.":
        return DisabledError(f"{what}: the hub has disabled this repository; see {page}")
    if code == "RevisionNotFound":
        return RevisionNotFoundError(f"{what}: no such branch, tag or commit; see {page}/tree/main")
    if code == "EntryNotFound":
        return EntryNotFoundError(f"{what}: no such file in this repository; see {page}/tree/main")
    if status == 401 and said == "Invalid credentials in Authorization header":
        return TokenError(
            f"{what}: the hub does not know this token; set HF_TOKEN to a valid one or unset it"
        )
    if code == "RepoNotFound" or status in (401, 404):
        hint = "the token may lack access to it" if with_token else "for a private one set HF_TOKEN"
        return RepoNotFoundError(f"{what}: not found, or private; check the spelling, {hint}")
    if status == 403:
        return TokenError(
            f"{what}: the hub refuses (403{_said(said)}); check that the token may read this"
            f" repository"
        )
    if status == 429:
        hint = "" if with_token else ", or set HF_TOKEN for a higher limit"
        return ServerError(f"{what}: too many requests (429); wait some minutes{hint}")
    return ServerError(f"{what}: the server answers {status}{_said(said)}; try again later")


def _gated_remedy(page: str, with_token: bool) -> str:
    if with_token:
        return (
            f"the account of this token has no access yet: accept the licence at {page}, then wait"
        )
    return f"accept the licence at {page}, then set HF_TOKEN to a token of that account"


def _said(text: str) -> str:
    return f": {text}" if text else ""
