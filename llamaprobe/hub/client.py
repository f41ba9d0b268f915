"""Requests to the hub and to where it sends us: who gets the token, which redirects are followed,
when to try again.

Two sessions. The hub's adds the token, and only to addresses of the hub's own origin; the other
one, for CDNs, has none. Both pass an auth object with every request, which keeps requests from
taking a password out of a netrc file or an address. Redirects are never followed by requests but
here, hop by hop: once off the hub, the token does not come back; https does not become http;
nothing but http and https is spoken.

Every wait is bounded: connecting, each silence while reading, the headers of an answer and each
piece of its body however slowly they come (connection.py), the server's own wishes, the number of
tries, which is small while no server has answered and names cannot be looked up. `abort` and
Ctrl-C end them all at once: what cannot be interrupted, such as looking up a name, is left to a
thread of its own, which nobody waits for any more. What requests raises is turned into our own
errors outside of its `except`, so that no exception chain holds a request and its headers. What a
server says is masked before it is used (secret.py).
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from .. import log
from ..errors import HubError
from .connection import MAX_HEAD_SECONDS, allow, timed_adapter
from .errors import (
    CaptivePortalError,
    MetadataError,
    NetworkError,
    RedirectError,
    ServerError,
    explain,
    shown_url,
)
from .failure import (
    Broken,
    error_text,
    failure_of,
    next_wait,
    told_wait,
    web_page_instead,
)
from .origin import Origin, check_redirect, join, origin
from .secret import Secret
from .settings import Settings, Token

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

MAX_TRIES = 5
LOOKUP_TRIES = 2  # of a name that cannot be looked up, before any server has answered
MAX_JSON = 32 << 20
MAX_ERROR_BODY = 64 << 10
MAX_HOPS = 5
MAX_BODY_SECONDS = 120.0  # for a whole JSON answer, however slowly it drips
SLOW_SECONDS = 60.0  # a body that brings less than SLOW_BYTES in so long a time is given up
SLOW_BYTES = 32 << 10
PIECE = 512 << 10  # bytes asked of a socket at once

_RETRY = {408, 429, 500, 502, 503, 504}
_REDIRECT = {301, 302, 303, 307, 308}
_T = TypeVar("_T")


class Stopped(Exception):
    """Another part of the download has failed, or Ctrl-C came: end quietly."""


class Asked(NamedTuple):
    """What a request is about, for messages."""

    what: str
    """Such as "meta-llama/X at main"."""
    page: str
    """The repository's web page."""


class Client:
    """All that a download asks of the network. Its methods may be called from several threads."""

    def __init__(
        self, settings: Settings, token: Token | None, note: Callable[[str], None] | None = None
    ) -> None:
        """`note` tells the user, in one line, that a question is asked again, and why."""
        self.endpoint = settings.endpoint
        self.has_token = token is not None
        self._secret = Secret(None) if token is None else token.secret()
        self._origin = origin(settings.endpoint)
        self._timeout = (settings.connect_timeout, settings.read_timeout)
        self._patience = sum(self._timeout) + MAX_HEAD_SECONDS
        self._hub = _session(_HubAuth(token, self._origin), settings.user_agent)
        self._cdn = _session(_NoAuth(), settings.user_agent)
        self._note, self._noted = note, set[str]()
        self._has_answer = False
        self._stop = threading.Event()
        self._asked: set[Future[Response]] = set()
        self._live: set[Response] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drops the connections."""
        self._hub.close()
        self._cdn.close()

    def abort(self) -> None:
        """Makes every thread that asks, reads or waits end at once, with Stopped."""
        self._stop.set()
        with self._lock:
            asked, live = list(self._asked), list(self._live)
        for answer in asked:
            answer.cancel()
        for response in live:
            with contextlib.suppress(Exception):  # one that has just ended has no socket any more
                response.raw.shutdown()

    def check(self) -> None:
        """Raises Stopped once `abort` was called."""
        if self._stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Sleeps, unless `abort` is called: then Stopped."""
        if self._stop.wait(seconds):
            raise Stopped

    def url(self, *segments: str) -> str:
        """An address of the hub. Each segment is quoted, slashes in it too."""
        return "/".join([self.endpoint, *(quote(segment, safe="") for segment in segments)])

    # ---- one question, asked as often as is sensible ----

    def patiently(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt` returns, at the latest with the last of MAX_TRIES tries; else the error of
        its Broken."""
        n = 0
        while True:
            self.check()
            try:
                return attempt()
            except Broken as broken:
                failed = broken
            n += 1
            hopeless = failed.no_name and not self._has_answer
            if n >= (LOOKUP_TRIES if hopeless else MAX_TRIES):
                raise failed.error
            self._tell(failed.error)
            self.wait_after(failed, n)

    def wait_after(self, failed: Broken, n: int) -> None:
        """Sleeps before the next try, after `n` that failed, unless `abort` is called: then
        Stopped."""
        seconds = next_wait(n - 1, failed.wait)
        log.warning(f"{failed.error}; trying again in {seconds:.1f} s")
        self.pause(seconds)

    def _tell(self, error: HubError) -> None:
        """That it is tried again, once for each reason."""
        reason = str(error).split("; ")[0]
        if self._note is not None and reason not in self._noted:
            self._noted.add(reason)
            self._note(f"{reason}; trying again")

    def get_json(self, url: str, asked: Asked) -> tuple[Any, str | None]:
        """The JSON at an address of the hub, and the Link header that comes with it."""
        return self.patiently(lambda: self._get_json(url, asked))

    def head(self, url: str, asked: Asked) -> "Response":
        """The headers at an address of the hub, or of the first answer that leads off the hub."""

        def attempt() -> "Response":
            with self.request("HEAD", url, asked, off_hub=False) as response:
                return response

        return self.patiently(attempt)

    # ---- one try ----

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        asked: Asked,
        *,
        headers: dict[str, str] | None = None,
        off_hub: bool = True,
    ) -> Iterator["Response"]:
        """An answer whose status is 2xx or 416, its body not read yet.

        Redirects are followed; with `off_hub=False` one that leaves the hub is the answer, not
        followed. Raises Broken, Stopped or a HubError.
        """
        response = self._follow(method, url, asked, headers or {}, off_hub)
        with self._lock:
            self._live.add(response)
        try:
            self.check()  # `abort` may have looked for live ones just before
            if response.status_code >= 400 and response.status_code != 416:
                self._refuse(response, asked)
            yield response
        finally:
            with self._lock:
                self._live.discard(response)
            response.close()

    def pieces(self, response: "Response") -> Iterator[bytes]:
        """The body as it comes off the wire, never decoded. Raises Broken, also when it only drips;
        Stopped."""
        read1 = getattr(response.raw, "read1", None)  # of urllib3 2; the other one fills its piece
        read = read1 or response.raw.read
        since, count = time.monotonic(), 0
        while True:
            piece, failure = b"", None
            if read1 is not None:
                allow(response, SLOW_SECONDS)
            try:
                piece = read(PIECE, decode_content=False)
            except Exception as error:  # urllib3's, http.client's, ssl's or the system's
                failure = failure_of(error, response.url)
            self.check()
            if failure is not None:
                raise failure
            if not piece:
                return
            yield piece
            count += len(piece)
            if time.monotonic() - since > SLOW_SECONDS:
                if count < SLOW_BYTES:
                    raise Broken(
                        NetworkError(
                            f"{shown_url(response.url)}: {count} bytes in {SLOW_SECONDS:.0f} s; too"
                            f" slow"
                        )
                    )
                since, count = time.monotonic(), 0

    def _follow(
        self, method: str, url: str, asked: Asked, headers: dict[str, str], off_hub: bool
    ) -> "Response":
        trusted = True
        for _ in range(MAX_HOPS + 1):
            trusted = trusted and origin(url) == self._origin
            response = self._once(method, url, headers, trusted)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECT or location is None:
                break
            target = join(url, location)
            fault = check_redirect(url, target)
            leaves = not fault and origin(target) != self._origin
            if leaves and trusted and not off_hub:
                return response
            response.close()
            if fault:
                raise RedirectError(
                    f"{asked.what}: {shown_url(url)} sends us to {shown_url(target)}: {fault};"
                    f" refused"
                )
            url = target
        else:
            raise RedirectError(
                f"{asked.what}: more than {MAX_HOPS} redirects, the last to {shown_url(url)}"
            )
        if 300 <= response.status_code < 400:
            response.close()
            raise ServerError(
                f"{asked.what}: {shown_url(url)} answers {response.status_code} and leads nowhere"
            )
        return response

    def _once(self, method: str, url: str, headers: dict[str, str], trusted: bool) -> "Response":
        answer: Future[Response] = Future()
        late: Exception = Stopped()
        with self._lock:
            self._asked.add(answer)
        try:
            self.check()  # `abort` may have looked for those who ask just before
            session = self._hub if trusted else self._cdn
            threading.Thread(
                target=self._ask, args=(answer, session, method, url, headers), daemon=True
            ).start()
            return answer.result(self._patience)
        except CancelledError:
            pass
        except TimeoutError:
            late = failure_of(TimeoutError("timed out"), url)
        finally:
            answer.cancel()  # Ctrl-C: whatever comes now is nobody's
            with self._lock:
                self._asked.discard(answer)
        raise late

    def _ask(
        self,
        answer: "Future[Response]",
        session: "Session",
        method: str,
        url: str,
        headers: dict[str, str],
    ) -> None:
        """Fills in `answer`, unless nobody waits for it any more."""
        response, failure = None, None
        try:
            response = session.request(
                method,
                url,
                headers=headers,
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
            )
        except Exception as error:  # what it is decides whether to try again
            failure = failure_of(error, url)
        self._has_answer = self._has_answer or response is not None
        if response is not None:
            response.reason = self._secret.mask(str(response.reason))
            if self._secret.mask_headers(response.headers):
                response.close()
                response, failure = None, _echoes(url)
        if not answer.set_running_or_notify_cancel():
            if response is not None:
                response.close()
        elif response is not None:
            answer.set_result(response)
        else:
            answer.set_exception(failure)

    def _refuse(self, response: "Response", asked: Asked) -> None:
        """Raises what an answer of 4xx or 5xx means."""
        status, headers = response.status_code, response.headers
        said = self._secret.mask(error_text(self._bounded(response, MAX_ERROR_BODY) or b""))
        on_hub = origin(response.url) == self._origin
        if not on_hub and status not in _RETRY:
            # A signed address has a short life: the hub gives out another one.
            raise Broken(
                ServerError(
                    f"{asked.what}: {shown_url(response.url)} answers {status}; try again later"
                )
            )
        error = explain(status, headers, said, asked.what, asked.page, self.has_token)
        if status in _RETRY:
            raise Broken(error, told_wait(headers))
        raise error

    def _get_json(self, url: str, asked: Asked) -> tuple[Any, str | None]:
        with self.request("GET", url, asked, off_hub=False) as response:
            if response.status_code in _REDIRECT:
                where = shown_url(join(url, response.headers["Location"]))
                raise RedirectError(
                    f"{asked.what}: the hub sends us away, to {where}, maybe a login page"
                )
            if "text/html" in response.headers.get("Content-Type", "").lower():
                raise CaptivePortalError(web_page_instead(asked.what, url))
            check_identity(response, asked)
            fault, value = self._read_json(response)
            if fault is None:
                return value, response.headers.get("Link")
        told = f"{asked.what}: {shown_url(url)} {fault}"
        raise MetadataError(told) if value is None else Broken(MetadataError(told))

    def _read_json(self, response: "Response") -> tuple[str | None, Any]:
        """(None, the masked value), or what is wrong and whether another try may cure it."""
        body = self._bounded(response, MAX_JSON)
        if body is None:
            return f"sends over {MAX_JSON} bytes of JSON or takes too long", None
        try:
            return None, self._secret.mask_json(json.loads(body.decode("utf-8")))
        except (ValueError, RecursionError):
            return "answers with something that is not JSON", True

    def _bounded(self, response: "Response", limit: int) -> bytes | None:
        """The body, None if it is over `limit` bytes or takes longer than MAX_BODY_SECONDS."""
        body, deadline = bytearray(), time.monotonic() + MAX_BODY_SECONDS
        for piece in self.pieces(response):
            body += piece
            if len(body) > limit or time.monotonic() > deadline:
                return None
        return bytes(body)


class _NoAuth:
    """No token; the presence of an auth object keeps a netrc file out of it."""

    def __call__(self, request: "PreparedRequest") -> "PreparedRequest":
        return request


class _HubAuth:
    """The token, for the hub's own origin."""

    def __init__(self, token: Token | None, home: Origin) -> None:
        self._token = token
        self._home = home

    def __call__(self, request: "PreparedRequest") -> "PreparedRequest":
        if self._token is not None and origin(request.url or "") == self._home:
            request.headers["Authorization"] = self._token.header()
        return request


def _session(auth: _NoAuth | _HubAuth, user_agent: str) -> "Session":
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: "Response") -> None:
            """No redirect is the session's business: it would read the whole body of one, however
            long, before it asks whether to follow."""

    session = Session()
    session.auth = auth
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = user_agent
    session.headers["Accept-Encoding"] = "identity"
    session.headers["Accept"] = "*/*"
    for scheme in ("http://", "https://"):
        session.mount(scheme, timed_adapter(pool_connections=8, pool_maxsize=32, max_retries=0))
    return session


def _echoes(url: str) -> RedirectError:
    return RedirectError(
        f"{shown_url(url)} redirects to an address that holds the token; it is not followed"
    )


def content_length(response: "Response") -> str | None:
    """The number in Content-Length, also where it is said twice; None where there is none."""
    told = {part.strip() for part in response.headers.get("Content-Length", "").split(",")}
    return (told.pop() or None) if len(told) == 1 else None


def check_identity(response: "Response", asked: Asked) -> None:
    """MetadataError for a compressed body: we asked for none, and sizes and ranges would not be the
    file's."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise MetadataError(
            f"{asked.what}: {shown_url(response.url)} sends a compressed body that nobody asked for"
        )
