"""Requests to the hub and to where it redirects: retries, redirects, and a way to end them all.

There are two sessions. The hub's adds the token, to addresses of the hub's own origin alone; the
other one, for CDNs, has none. Redirects are followed here, hop by hop: once off the hub, the token
does not return; https does not become http; no other scheme is followed.

Every wait is bounded: connecting, each silence while reading, the headers of an answer and each
piece of its body (connection.py), the waits that a server requests, and the number of tries, which
is small while no server has answered and names cannot be looked up. `abort` and Ctrl-C end them at
once: what cannot be interrupted, such as looking up a name, runs in a thread that is abandoned.
Exceptions of requests are turned into ours outside of their `except`, so that no chain of
exceptions holds a request and its headers. What a server says is masked before it is used.
"""

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from .. import log
from ..errors import FormatError, HubError
from ..files.json_file import parse_object, parse_value
from .connection import (
    MAX_HEAD_SECONDS,
    Broken,
    allow,
    check_redirect,
    failure_of,
    join,
    new_session,
    origin,
    web_page_instead,
)
from .errors import MetadataError, NetworkError, RedirectError, ServerError, explain, shown_url
from .settings import Settings, Token

if TYPE_CHECKING:
    from requests import Response, Session

MAX_TRIES = 5
LOOKUP_TRIES = 2  # for a name that cannot be looked up, before any server has answered
FIRST_WAIT = 1.0  # seconds; doubles with every try
MAX_WAIT = 8.0
MAX_REQUESTED_WAIT = 300.0  # for a wait that the server requests
MAX_JSON = 32 << 20
MAX_ERROR_BODY = 64 << 10
MAX_HOPS = 5
MAX_BODY_SECONDS = 120.0  # for a whole JSON answer
SLOW_SECONDS = 60.0  # a body that brings less than SLOW_BYTES in this time is given up
SLOW_BYTES = 32 << 10
PIECE = 512 << 10  # bytes read from a socket at once

_RETRY = {408, 429, 500, 502, 503, 504}
_REDIRECT = {301, 302, 303, 307, 308}
_T = TypeVar("_T")


class Stopped(Exception):
    """Another part of the download has failed, or Ctrl-C was pressed: end quietly."""


class Subject(NamedTuple):
    """What a request is about, for messages."""

    what: str
    """Such as "meta-llama/X at main"."""
    page: str
    """The repository's web page."""


class Client:
    """The requests of one download. Its methods may be called from several threads."""

    def __init__(
        self, settings: Settings, token: Token | None, note: Callable[[str], None] | None = None
    ) -> None:
        """`note` shows the user a line: that a request is tried again, and why."""
        self.endpoint = settings.endpoint
        self.has_token = token is not None
        self._token = token
        if token is not None:
            token.mask_logs()
        self._origin = origin(settings.endpoint)
        self._timeout = (settings.connect_timeout, settings.read_timeout)
        self._patience = sum(self._timeout) + MAX_HEAD_SECONDS
        self._hub = new_session(token, self._origin, settings.user_agent)
        self._cdn = new_session(None, self._origin, settings.user_agent)
        self._note, self._noted = note, set[str]()
        self._has_answer = False
        self._stop = threading.Event()
        self._waiting: set[Future[Response]] = set()
        self._live: set[Response] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the connections."""
        self._hub.close()
        self._cdn.close()

    def abort(self) -> None:
        """Ends every thread that requests, reads or waits, at once, with Stopped."""
        self._stop.set()
        with self._lock:
            waiting, live = list(self._waiting), list(self._live)
        for answer in waiting:
            answer.cancel()
        for response in live:
            with contextlib.suppress(Exception):  # one that has just ended has no socket
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

    # ---- with retries ----

    def patiently(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt` returns in the first of MAX_TRIES tries that does not raise Broken; the
        error of the last Broken if none does."""
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
            self._note_retry(failed.error)
            self.wait_after(failed, n)

    def wait_after(self, failed: Broken, n: int) -> None:
        """Sleeps after `n` failed tries, unless `abort` is called: then Stopped."""
        seconds = _next_wait(n - 1, failed.wait)
        log.warning(f"{failed.error}; trying again in {seconds:.1f} s")
        self.pause(seconds)

    def _note_retry(self, error: HubError) -> None:
        """Shows that it is tried again, once for each reason."""
        reason = str(error).split("; ")[0]
        if self._note is not None and reason not in self._noted:
            self._noted.add(reason)
            self._note(f"{reason}; trying again")

    def get_json(self, url: str, subject: Subject) -> tuple[Any, str | None]:
        """The JSON at an address of the hub, and the Link header that comes with it."""
        return self.patiently(lambda: self._get_json(url, subject))

    def head(self, url: str, subject: Subject) -> "Response":
        """The headers at an address of the hub, or of the first redirect that leaves the hub."""

        def attempt() -> "Response":
            with self.request("HEAD", url, subject, off_hub=False) as response:
                return response

        return self.patiently(attempt)

    def _masked(self, value: Any) -> Any:
        """A text, or a value out of JSON, without the token."""
        return value if self._token is None else self._token.mask_json(value)

    # ---- one try ----

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        subject: Subject,
        *,
        headers: dict[str, str] | None = None,
        off_hub: bool = True,
    ) -> Iterator["Response"]:
        """An answer with a status of 2xx or 416, its body not read yet.

        Redirects are followed; with `off_hub=False` one that leaves the hub is the answer. Raises
        Broken, Stopped or a HubError.
        """
        response = self._follow(method, url, subject, headers or {}, off_hub)
        with self._lock:
            self._live.add(response)
        try:
            self.check()  # `abort` may have been called just before
            if response.status_code >= 400 and response.status_code != 416:
                self._refuse(response, subject)
            yield response
        finally:
            with self._lock:
                self._live.discard(response)
            response.close()

    def pieces(self, response: "Response") -> Iterator[bytes]:
        """The body as it arrives, never decoded. Raises Broken, also for a body that is too slow;
        Stopped."""
        read1 = getattr(response.raw, "read1", None)  # urllib3 2; `read` waits for a whole piece
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
                    fact = f"{count} bytes in {SLOW_SECONDS:.0f} s; too slow"
                    raise Broken(NetworkError(f"{shown_url(response.url)}: {fact}"))
                since, count = time.monotonic(), 0

    def _follow(
        self, method: str, url: str, subject: Subject, headers: dict[str, str], off_hub: bool
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
                step = f"{shown_url(url)} redirects to {shown_url(target)}"
                raise RedirectError(f"{subject.what}: {step}: {fault}; refused")
            url = target
        else:
            raise RedirectError(
                f"{subject.what}: more than {MAX_HOPS} redirects, the last to {shown_url(url)}"
            )
        if 300 <= response.status_code < 400:
            response.close()
            raise ServerError(
                f"{subject.what}: {shown_url(url)} answers {response.status_code} and leads nowhere"
            )
        return response

    def _once(self, method: str, url: str, headers: dict[str, str], trusted: bool) -> "Response":
        answer: Future[Response] = Future()
        late: Exception = Stopped()
        with self._lock:
            self._waiting.add(answer)
        try:
            self.check()  # `abort` may have been called just before
            session = self._hub if trusted else self._cdn
            threading.Thread(
                target=self._send, args=(answer, session, method, url, headers), daemon=True
            ).start()
            return answer.result(self._patience)
        except CancelledError:
            pass
        except TimeoutError:
            late = failure_of(TimeoutError("timed out"), url)
        finally:
            answer.cancel()  # Ctrl-C: an answer that still comes is dropped
            with self._lock:
                self._waiting.discard(answer)
        raise late

    def _send(
        self,
        answer: "Future[Response]",
        session: "Session",
        method: str,
        url: str,
        headers: dict[str, str],
    ) -> None:
        """Fills in `answer`, unless it was cancelled."""
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
        except Exception as error:
            failure = failure_of(error, url)
        self._has_answer = self._has_answer or response is not None
        if response is not None:
            response.reason = self._masked(str(response.reason))
            if self._token is not None and self._token.mask_headers(response.headers):
                response.close()
                response, failure = None, _echoes(url)
        if not answer.set_running_or_notify_cancel():
            if response is not None:
                response.close()
        elif response is not None:
            answer.set_result(response)
        else:
            answer.set_exception(failure)

    def _refuse(self, response: "Response", subject: Subject) -> None:
        """Raises what an answer of 4xx or 5xx means."""
        status, headers = response.status_code, response.headers
        text = self._masked(_error_text(self._bounded(response, MAX_ERROR_BODY) or b""))
        on_hub = origin(response.url) == self._origin
        if not on_hub and status not in _RETRY:
            # A signed address expires soon: the hub gives out a new one.
            fact = f"{shown_url(response.url)} answers {status}; try again later"
            raise Broken(ServerError(f"{subject.what}: {fact}"))
        error = explain(status, headers, text, *subject, self.has_token)
        if status in _RETRY:
            raise Broken(error, _requested_wait(headers))
        raise error

    def _get_json(self, url: str, subject: Subject) -> tuple[Any, str | None]:
        with self.request("GET", url, subject, off_hub=False) as response:
            if response.status_code in _REDIRECT:
                where = shown_url(join(url, response.headers["Location"]))
                raise RedirectError(
                    f"{subject.what}: the hub redirects to {where}, maybe a login page"
                )
            if "text/html" in response.headers.get("Content-Type", "").lower():
                raise web_page_instead(subject.what, url)
            check_identity(response, subject)
            fault, value = self._read_json(response)
            if fault is None:
                return value, response.headers.get("Link")
        error = MetadataError(f"{subject.what}: {shown_url(url)} {fault}")
        raise error if value is None else Broken(error)

    def _read_json(self, response: "Response") -> tuple[str | None, Any]:
        """(None, the masked value), or what is wrong and whether another try may help."""
        body = self._bounded(response, MAX_JSON)
        if body is None:
            return f"sends over {MAX_JSON} bytes of JSON or takes too long", None
        try:
            value = parse_value(body, "the answer", FormatError, strict=False)
            return None, self._masked(value)
        except (FormatError, RecursionError):
            return "answers with something that is not JSON", True

    def _bounded(self, response: "Response", limit: int) -> bytes | None:
        """The body; None if it is over `limit` bytes or takes longer than MAX_BODY_SECONDS."""
        body, deadline = bytearray(), time.monotonic() + MAX_BODY_SECONDS
        for piece in self.pieces(response):
            body += piece
            if len(body) > limit or time.monotonic() > deadline:
                return None
        return bytes(body)


def _echoes(url: str) -> RedirectError:
    return RedirectError(
        f"{shown_url(url)} redirects to an address that holds the token; it is not followed"
    )


def content_length(response: "Response") -> str | None:
    """The number in Content-Length, also where it stands twice; None if there is none."""
    lengths = {part.strip() for part in response.headers.get("Content-Length", "").split(",")}
    return (lengths.pop() or None) if len(lengths) == 1 else None


def check_identity(response: "Response", subject: Subject) -> None:
    """MetadataError for a compressed body: its sizes and ranges are not those of the file."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise MetadataError(
            f"{subject.what}: {shown_url(response.url)} sends a compressed body, not requested"
        )


def _next_wait(n: int, requested: float | None) -> float:
    """Seconds before try n + 2: what the server requests, or 1, 2, 4, 8; plus up to a quarter, so
    that many clients do not return at the same moment."""
    seconds = min(FIRST_WAIT * 2**n, MAX_WAIT)
    if requested is not None:
        seconds = min(requested, MAX_REQUESTED_WAIT)
    return seconds * (1 + random.random() / 4)


def _requested_wait(headers: Any) -> float | None:
    """Seconds to wait by `Retry-After: 2` (or a date), or by `RateLimit: "resolvers";r=0;t=2`."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if text:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            from email.utils import parsedate_to_datetime

            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    for policy in headers.get("RateLimit", "").split(","):
        numbers = dict(re.findall(r";\s*([rt])=([0-9]{1,9})", policy))
        if numbers.get("r") == "0" and "t" in numbers:
            return float(numbers["t"]) + 1
    return None


def _error_text(body: bytes) -> str:
    """The text of the hub's `{"error": "..."}`, "" for other bodies."""
    try:
        text = parse_object(body, "the answer", FormatError, strict=False).get("error")
    except FormatError:
        return ""
    return text if isinstance(text, str) else ""
