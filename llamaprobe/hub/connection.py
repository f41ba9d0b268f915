"""Connections whose every answer has a deadline.

A socket's timeout bounds one silence. A server that sends a byte now and then, or interim answers
(`100 Continue`) for ever, is never silent, and http.client reads on inside one call. So the stream
below http.client looks at the clock at every read of the socket: `begin` must be done in
`head_seconds`, each piece of a body in the seconds that `allow` was given.
"""

import http.client
import io
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response
    from requests.adapters import HTTPAdapter

MAX_HEAD_SECONDS = 60.0
"""For the status and the headers of an answer, interim answers included."""


class _Timed(io.RawIOBase):
    """A socket's stream that raises TimeoutError once the deadline is over."""

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
    """An answer, also that of a proxy to CONNECT. Its time runs from when it is waited for."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self._timed = _Timed(self.fp.detach())
        self.fp = io.BufferedReader(self._timed)
        self.allow(MAX_HEAD_SECONDS)

    def allow(self, seconds: float) -> None:
        """From now on."""
        self._timed.deadline = time.monotonic() + seconds


def allow(response: "Response", seconds: float) -> None:
    """What is read of this answer from now on must come in so many seconds."""
    timed = getattr(response.raw, "_original_response", None)
    if isinstance(timed, _TimedResponse):
        timed.allow(seconds)


def timed_adapter(**how: Any) -> "HTTPAdapter":
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
