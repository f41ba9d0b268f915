"""A try that failed: whether another one may cure it, how long to wait before, and how to say it.

Whatever requests, urllib3, http.client, ssl and the system raise becomes one of two: Broken, to be
tried again, or an error. Their own texts hold whole addresses with signatures, so none of these is
shown.
"""

import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

from ..errors import HubError
from .errors import NetworkError, shown_url

FIRST_WAIT = 1.0  # seconds; doubles with every try
MAX_WAIT = 8.0
MAX_TOLD_WAIT = 300.0  # of a wait that the server asks for


class Broken(Exception):
    """A try that failed in a way that another try may cure; `error` is what to raise when none
    does."""

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
        """Seconds that the server asked us to wait."""
        self.restart = restart
        """What came so far of this file is not to be trusted."""
        self.no_name = no_name
        """The name of the host could not be looked up: mostly there is no network at all."""


def web_page_instead(what: str, url: str) -> str:
    """The message of a CaptivePortalError."""
    return (
        f"{what}: {shown_url(url)} answers with a web page instead of data; log in to your network"
        f" in a browser, "
        "or set HTTPS_PROXY"
    )


def next_wait(n: int, told: float | None) -> float:
    """Seconds before try n + 2: what the server asked for, or 1, 2, 4, 8; up to a quarter more, so
    that a crowd of clients does not come back at the same moment."""
    seconds = min(FIRST_WAIT * 2**n, MAX_WAIT) if told is None else min(told, MAX_TOLD_WAIT)
    return seconds * (1 + random.random() / 4)


def told_wait(headers: Any) -> float | None:
    """Seconds by `Retry-After: 2` (or a date), or by `RateLimit: "resolvers";r=0;t=2`."""
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


def error_text(body: bytes) -> str:
    """The hub's `{"error": "..."}`, if it is that."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return ""
    text = value.get("error") if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def failure_of(error: Exception, url: str) -> Exception:
    """A failure below HTTP as Broken, or as a NetworkError that another try would not cure."""
    import requests

    final = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    reason, told = _reason(error), str(error)
    if "SOCKS" in told:
        return NetworkError(
            f"{shown_url(url)}: the proxy speaks SOCKS; pip install requests[socks], or set"
            f" HTTPS_PROXY to another one"
        )
    if isinstance(error, requests.exceptions.InvalidHeader):  # ours are checked: it is the server's
        return Broken(
            NetworkError(
                f"{shown_url(url)}: its answer has headers that contradict each other, such as two"
                f" lengths; check HF_ENDPOINT and HTTPS_PROXY, then run it again"
            )
        )
    if isinstance(error, final) or (
        isinstance(error, ValueError) and not isinstance(error, OSError)
    ):
        return NetworkError(
            f"{shown_url(url)}: not an address that can be asked ({type(error).__name__})"
        )
    if "CA certificate bundle" in told or "NO_CERTIFICATE_OR_CRL_FOUND" in told:
        return NetworkError(
            f"{shown_url(url)}: the CA file that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names is not"
            f" there or holds no certificate; correct the path, or unset it"
        )
    if "CERTIFICATE_VERIFY_FAILED" in told:
        return NetworkError(
            f"{shown_url(url)}: its certificate is not trusted; behind a company proxy set"
            f" REQUESTS_CA_BUNDLE to its CA file"
        )
    return Broken(
        NetworkError(
            f"{shown_url(url)}: {reason}; check the connection and HTTPS_PROXY, then run it again"
        ),
        no_name=any(isinstance(link, socket.gaierror) for link in _chain(error)),
    )


def _reason(error: BaseException) -> str:
    """In a few words. The texts of requests and urllib3 hold whole addresses: not shown."""
    import requests

    if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
        return "no answer in time"
    for link in _chain(error):
        if isinstance(link, OSError) and link.strerror:
            return str(link.strerror)
    return f"the connection broke ({type(error).__name__})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made of, the outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        inner = getattr(link, "reason", None) or next(
            (a for a in link.args if isinstance(a, BaseException)), None
        )
        link = inner if isinstance(inner, BaseException) else link.__cause__ or link.__context__
