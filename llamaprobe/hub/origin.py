"""Scheme, host and port: what decides who sees the token, and where a redirect may lead."""

from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from .settings import is_loopback

_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Two addresses with the same one are the same server."""

    scheme: str
    host: str
    port: int | None


def origin(url: str) -> Origin:
    """Of any address; one that cannot be parsed has an origin that equals no other's."""
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
    """The token goes over https; over plain http only inside this machine, with no proxy outside
    it."""
    from requests.utils import get_environ_proxies, select_proxy

    if origin(endpoint).scheme == "https":
        return True
    if not is_loopback(origin(endpoint).host):
        return False
    proxy = select_proxy(endpoint, get_environ_proxies(endpoint))
    return proxy is None or is_loopback(origin(proxy if "://" in proxy else f"http://{proxy}").host)
