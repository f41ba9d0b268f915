"""One request at a time: who gets the token, how long an answer may take, and how a failure reads.

The origin of an address (scheme, host, port) decides who sees the token and where a redirect may
lead.

A socket's timeout bounds one silence. A server that sends a byte now and then, or interim answers
(`100 Continue`) forever, is never silent, and http.client reads on inside one call. So the stream
below http.client checks the clock at every read of the socket: the headers must be complete within
MAX_HEAD_SECONDS, each piece of a body within the seconds given to `allow`.

Whatever requests, urllib3, http.client, ssl and the system raise becomes `Broken`, to be tried
again, or an error. Their own texts hold whole addresses with signatures and are not shown.
"""

import http.client
import io
import socket
import time
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from ..errors import HubError
from .errors import CaptivePortalError, NetworkError, shown_url
from .settings import Token

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session
    from requests.adapters import HTTPAdapter

MAX_HEAD_SECONDS = 60.0
"""For the status and the headers of an answer, interim answers included."""
_PORTS = {"http": 80, "https": 443}


# ---- origins ----


class Origin(NamedTuple):
    """Addresses with equal origins lead to the same server."""

    scheme: str
    host: str
    port: int | None


def origin(url: str) -> Origin:
    """The origin of any address; one that cannot be parsed equals no other."""
    try:
        parts = urlsplit(url)
        return Origin(
            parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme)
        )
    except ValueError:
        return Origin("", url, None)


def join(url: str, location: str) -> str:
    """Where a Location or Link header leads; "" if that cannot be parsed."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def check_redirect(source: str, target: str) -> str | None:
    """Why a redirect is not followed; None if it may be."""
    there, here = origin(target), origin(source)
    if there.scheme not in _PORTS or not there.host:
        return "neither http nor https"
    if here.scheme == "https" and there.scheme == "http":
        return "from https to plain http"
    parts = urlsplit(target)
    if "@" in parts.netloc:
        return "a user name in the address"
    if any(segment in (".", "..") for segment in unquote(parts.path).replace("\\", "/").split("/")):
        return "dot segments in the path"
    if any(ord(char) <= 32 or ord(char) == 127 for char in target):
        return "spaces or control characters in the address"
    return None


def may_carry_token(endpoint: str) -> bool:
    """Whether the token may be sent: over https, or over plain http inside this machine, without a
    proxy outside it."""
    from requests.utils import get_environ_proxies, select_proxy

    if origin(endpoint).scheme == "https":
        return True
    if not _is_loopback(origin(endpoint).host):
        return False
    proxy = select_proxy(endpoint, get_environ_proxies(endpoint))
    return proxy is None or _is_loopback(
        origin(proxy if "://" in proxy else f"http://{proxy}").host
    )


def _is_loopback(host: str | None) -> bool:
    """Whether a host is this machine, by name or number."""
    if host is None:
        return False
    if host.lower() == "localhost":
        return True
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


# ---- sessions ----


class _Timed(io.RawIOBase):
    """A socket's stream that raises TimeoutError after its deadline."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self.deadline:
            raise TimeoutError("timed out")
        n: int | None = self._raw.readinto(buffer)
        return n

    def fileno(self) -> int:
        n: int = self._raw.fileno()
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer, also that of a proxy to CONNECT. Its time runs from here on."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self._timed = _Timed(self.fp.detach())
        self.fp = io.BufferedReader(self._timed)
        self.allow(MAX_HEAD_SECONDS)

    def allow(self, seconds: float) -> None:
        """Sets the deadline, from now."""
        self._timed.deadline = time.monotonic() + seconds


def allow(response: "Response", seconds: float) -> None:
    """What is read of this answer from now on must arrive within `seconds`."""
    timed = getattr(response.raw, "_original_response", None)
    if isinstance(timed, _TimedResponse):
        timed.allow(seconds)


def _timed_adapter(**how: Any) -> "HTTPAdapter":
    """An adapter of requests whose answers have a deadline, directly and through a proxy."""
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager

    class Plain(HTTPConnectionPool):
        class ConnectionCls(HTTPConnectionPool.ConnectionCls):  # type: ignore[name-defined,misc]
            response_class = _TimedResponse

    class Secure(HTTPSConnectionPool):
        class ConnectionCls(HTTPSConnectionPool.ConnectionCls):  # type: ignore[name-defined,misc]
            response_class = _TimedResponse

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": Plain, "https": Secure}

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, **kwargs)
            if isinstance(manager, ProxyManager):  # that of SOCKS has pools of its own
                manager.pool_classes_by_scheme = {"http": Plain, "https": Secure}
            return manager

    return Adapter(**how)


class _Auth:
    """Adds the token, if there is one, for the origin `home` alone. That an auth object is present
    keeps requests from taking a password out of a netrc file or an address."""

    def __init__(self, token: Token | None, home: Origin) -> None:
        self._token = token
        self._home = home

    def __call__(self, request: "PreparedRequest") -> "PreparedRequest":
        if self._token is not None and origin(request.url or "") == self._home:
            request.headers["Authorization"] = self._token.header()
        return request


def new_session(token: Token | None, home: Origin, user_agent: str) -> "Session":
    """A session that follows no redirect, keeps no cookie and retries nothing."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: "Response") -> None:
            """None: requests would read the whole body of a redirect, however long, even when it
            is not to follow it."""

    session = Session()
    session.auth = _Auth(token, home)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = user_agent
    session.headers["Accept-Encoding"] = "identity"
    session.headers["Accept"] = "*/*"
    for scheme in ("http://", "https://"):
        session.mount(scheme, _timed_adapter(pool_connections=8, pool_maxsize=32, max_retries=0))
    return session


# ---- failures ----


class Broken(Exception):
    """A failed try that may be repeated; `error` is what to raise when the tries are used up."""

    def __init__(
        self,
        error: HubError,
        wait: float | None = None,
        *,
        restart: bool = False,
        no_name: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        """Seconds to wait, where the server says so."""
        self.restart = restart
        """The bytes of this file so far are not to be trusted."""
        self.no_name = no_name
        """The host name could not be looked up: usually there is no network at all."""


def web_page_instead(what: str, url: str) -> CaptivePortalError:
    """The error for a web page where data should be."""
    return CaptivePortalError(
        f"{what}: {shown_url(url)} answers with a web page instead of data; log in to your network"
        f" in a browser, or set HTTPS_PROXY"
    )


def failure_of(error: Exception, url: str) -> Exception:
    """A failure below HTTP: Broken, or a NetworkError where another try is of no use."""
    import requests

    text, where = str(error), shown_url(url)
    invalid = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    if "SOCKS" in text:
        fact = "the proxy speaks SOCKS; pip install requests[socks], or set HTTPS_PROXY to another"
        return NetworkError(f"{where}: {fact} one")
    if isinstance(error, requests.exceptions.InvalidHeader):  # ours are checked: the server sent it
        fact = "its answer has headers that contradict each other, such as two lengths"
        remedy = "check HF_ENDPOINT and HTTPS_PROXY, then run it again"
        return Broken(NetworkError(f"{where}: {fact}; {remedy}"))
    if isinstance(error, invalid) or (
        isinstance(error, ValueError) and not isinstance(error, OSError)
    ):
        return NetworkError(f"{where}: not a valid address ({type(error).__name__})")
    if "CA certificate bundle" in text or "NO_CERTIFICATE_OR_CRL_FOUND" in text:
        fact = "the CA file that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names does not exist or holds"
        return NetworkError(f"{where}: {fact} no certificate; correct the path, or unset it")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        remedy = "behind a company proxy set REQUESTS_CA_BUNDLE to its CA file"
        return NetworkError(f"{where}: its certificate is not trusted; {remedy}")
    remedy = "check the connection and HTTPS_PROXY, then run it again"
    return Broken(
        NetworkError(f"{where}: {_reason(error)}; {remedy}"),
        no_name=any(isinstance(link, socket.gaierror) for link in _chain(error)),
    )


def _reason(error: BaseException) -> str:
    """In a few words, without the texts of requests and urllib3."""
    import requests

    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return "no answer in time"
    for link in _chain(error):
        if isinstance(link, OSError) and link.strerror:
            return str(link.strerror)
    return f"the connection broke ({type(error).__name__})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        inner = getattr(link, "reason", None) or next(
            (a for a in link.args if isinstance(a, BaseException)), None
        )
        link = inner if isinstance(inner, BaseException) else link.__cause__ or link.__context__
