"""What can go wrong between here and the hub, one class per next step, and the hub's own words for
it.

A message is one line: what was asked for, what is the matter, what to do. Where that is the same
for all errors of a class, the class says it. A message never holds a token, a
header, or the query of a signed address; what a server said is stripped of control characters and
cut before it is shown.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from ..errors import HubError
from ..files.naming import printable


class _SameStepError(HubError):
    """An error whose message ends in the same next step, whatever is the matter."""

    step = ""

    def __init__(self, what: str) -> None:
        super().__init__(what if self.step in what else f"{what}; {self.step}")


class RepoNotFoundError(HubError):
    """No such repository, or a private one that this token cannot see (the hub does not tell
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
    """It is not on this disk, and the hub may not be asked."""


class NetworkError(HubError):
    """The hub cannot be reached, or the connection broke more often than we retry."""


class ServerError(HubError):
    """The hub answered with an error that waiting did not cure."""


class CaptivePortalError(HubError):
    """Something between here and the hub answered with a web page, such as a login form."""


class RedirectError(_SameStepError):
    """The server sends us where we do not go: another scheme, plain http, in circles."""

    step = "check HF_ENDPOINT, and log in to your network if it asks for that"


class MetadataError(_SameStepError):
    """The hub's answer lacks a commit, an etag or a size, or contradicts itself."""

    step = "check HF_ENDPOINT and the proxy, or try again later"


class UnsafeNameError(HubError):
    """A name from the server that could reach outside the folder, or that two files share."""


class TransferError(_SameStepError):
    """A file came too short, too long, or from the wrong place of it, again and again."""

    step = "run it again: it goes on where it stopped"


class ChecksumError(_SameStepError):
    """All bytes came and they are not the file that the hub promised."""

    step = "run it again; if that does not help, the repository or a proxy is broken"


class DiskFullError(HubError):
    """The disk cannot hold the files; what came so far is kept and resumed."""


def shown_url(url: str) -> str:
    """Where an address leads, without its query: that is where signatures are."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be parsed"
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}", 160)


def explain(
    status: int, headers: Mapping[str, str], body: str, asked: str, page: str, with_token: bool
) -> HubError:
    """The error for an answer of the hub with a status of 4xx or 5xx.

    `body` is the error text of its JSON, `asked` what the message is about ("meta-llama/X at
    main"), `page` the repository's web page.
    """
    code = headers.get("X-Error-Code", "")
    said = printable(headers.get("X-Error-Message") or body, 200)
    if code == "GatedRepo":
        return GatedError(f"{asked}: gated; {_gated_step(page, with_token)}")
    if said == "Access to this resource is disabled.":
        return DisabledError(f"{asked}: the hub has disabled this repository; see {page}")
    if code == "RevisionNotFound":
        return RevisionNotFoundError(
            f"{asked}: no such branch, tag or commit; see {page}/tree/main"
        )
    if code == "EntryNotFound":
        return EntryNotFoundError(f"{asked}: no such file in this repository; see {page}/tree/main")
    if status == 401 and said == "Invalid credentials in Authorization header":
        return TokenError(
            f"{asked}: the hub does not know this token; set HF_TOKEN to a valid one or unset it"
        )
    if code == "RepoNotFound" or status in (401, 404):
        hint = "the token may lack access to it" if with_token else "for a private one set HF_TOKEN"
        return RepoNotFoundError(f"{asked}: not found, or private; check the spelling, {hint}")
    if status == 403:
        return TokenError(
            f"{asked}: the hub refuses (403{_said(said)}); check that the token may read this"
            f" repository"
        )
    if status == 429:
        hint = "" if with_token else ", or set HF_TOKEN for a higher limit"
        return ServerError(f"{asked}: too many requests (429); wait some minutes{hint}")
    return ServerError(f"{asked}: the server answers {status}{_said(said)}; try again later")


def _gated_step(page: str, with_token: bool) -> str:
    if with_token:
        return (
            f"the account of this token has no access yet: accept the licence at {page}, then wait"
        )
    return f"accept the licence at {page}, then set HF_TOKEN to a token of that account"


def _said(text: str) -> str:
    return f": {text}" if text else ""
