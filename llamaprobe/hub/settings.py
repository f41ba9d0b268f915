"""The settings of a download, from the environment: the hub's address, the cache, timeouts, the
token.

The variables are those of the hub's own client, read at every call, not at import. The token is
held in a `Token`, whose repr is `Token(***)`: no traceback or log line can reveal it.
"""

import os
import re
import sys
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from .. import __version__
from ..errors import ArgumentError
from ..files.paths import checked_path
from ..messages import printable
from .errors import TokenError

if TYPE_CHECKING:
    import logging

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_MAX_TOKEN = 4096
_SHORTEST = 8
MASK = "***"
_LOGGERS = ("connection", "connectionpool", "response", "util.retry", "poolmanager")


@dataclass(frozen=True)
class Settings:
    """The environment of one download."""

    endpoint: str
    """Scheme, host and maybe a path, without a slash at the end."""
    cache_dir: Path
    offline: bool
    connect_timeout: float
    """In seconds, as `read_timeout`, which bounds a silence and not a transfer."""
    read_timeout: float
    show_progress: bool
    user_agent: str


class Token:
    """A token that never shows itself, and masks itself in what a server says.

    A server knows the token that it was sent, and may echo it anywhere: in an error, a header, a
    file name. It is recognised as it is, quoted for an address, and in any other percent-encoding,
    whatever the case. One under 8 characters is not masked: ordinary text may contain it.
    """

    __slots__ = ("__weakref__", "_forms", "_value")

    def __init__(self, value: str) -> None:
        value = value.strip()
        if not value or len(value) > _MAX_TOKEN or not all("!" <= char <= "~" for char in value):
            raise TokenError(
                "the token is empty, too long, or has characters that no token has; it is not shown"
                " here"
            )
        forms = {value, quote(value, safe=""), quote(value), quote_plus(value)}
        either = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        self._forms = re.compile(either, re.IGNORECASE) if len(value) >= _SHORTEST else None
        self._value = value

    def header(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self._value}"

    def is_in(self, text: str) -> bool:
        """Whether `mask` would change it."""
        return self.mask(text) != text

    def mask(self, text: str) -> str:
        """`text` with `***` for the token; only `***` where it is encoded in another way."""
        if self._forms is None:
            return text
        text = self._forms.sub(MASK, text)
        plain = unquote(unquote(text)) if "%" in text else text
        return MASK if self._forms.search(plain) else text

    def mask_json(self, value: Any) -> Any:
        """The same for all strings in a value out of JSON."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list):
            return [self.mask_json(each) for each in value]
        if isinstance(value, dict):
            return {self.mask(key): self.mask_json(each) for key, each in value.items()}
        return value

    def mask_headers(self, headers: MutableMapping[str, str]) -> bool:
        """Masks headers in place; True if one was an address, which must not be followed then."""
        found = [name for name, text in headers.items() if self.is_in(name) or self.is_in(text)]
        for name in found:
            text = headers.pop(name)
            if not self.is_in(name):
                headers[name] = self.mask(text)
        return any(name.lower() in ("location", "link") for name in found)

    def mask_logs(self) -> None:
        """From now on urllib3, which logs what it cannot parse of an answer, logs no token."""
        import logging

        _masked_in_logs.add(self)
        for name in _LOGGERS:
            logging.getLogger(f"urllib3.{name}").addFilter(_mask_record)

    def __repr__(self) -> str:
        return f"Token({MASK})"

    def __reduce__(self) -> str:
        raise TypeError("a token is not pickled")


_masked_in_logs: "weakref.WeakSet[Token]" = weakref.WeakSet()


def _mask_record(record: "logging.LogRecord") -> bool:
    import logging

    message = record.getMessage()
    trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
    for token in list(_masked_in_logs):
        if token.is_in(message) or token.is_in(trace):
            record.msg, record.args = token.mask(message), ()
            record.exc_info = record.exc_text = None
    return True


def read_settings(cache_dir: str | os.PathLike[str] | None = None) -> Settings:
    """The current settings; `cache_dir` overrides the environment. ArgumentError for an invalid
    value."""
    return Settings(
        endpoint=_endpoint(),
        cache_dir=_cache_dir() if cache_dir is None else checked_path(cache_dir),
        offline=_is_on("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
        connect_timeout=_seconds("HF_HUB_ETAG_TIMEOUT"),
        read_timeout=_seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
        show_progress=not _is_on("HF_HUB_DISABLE_PROGRESS_BARS"),
        user_agent=_user_agent(),
    )


def hide(token: "str | bool | None | Token") -> "bool | None | Token":
    """A string as a Token; anything else says where to look for one, and is returned as it is."""
    return Token(token) if isinstance(token, str) else token


def read_token(token: "str | bool | None | Token") -> Token | None:
    """The token to use: the one given; False: none; None: the one that is set, if any; True: the
    same, and TokenError if there is none."""
    if token is False or (token is None and _is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")):
        return None
    if isinstance(token, str | Token):
        return token if isinstance(token, Token) else Token(token)
    found = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or _token_file()
    if found and found.strip():
        return Token(found)
    if token is True:
        raise TokenError("no token: set HF_TOKEN, or store one with `hf auth login`")
    return None


def _endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(endpoint)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if (
        not fine
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
        or not endpoint.isprintable()
    ):
        shown = printable(endpoint.rpartition("@")[2], 80)
        raise ArgumentError(
            f"HF_ENDPOINT ends in {shown!r}; it must be like {DEFAULT_ENDPOINT}, without user or"
            f" query"
        )
    return endpoint


def hf_home() -> Path:
    """The folder of the hub's own client, with the cache and the token."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _path(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"))


def _cache_dir() -> Path:
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _path(named) if named else hf_home() / "hub"


def _path(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))


def _token_file() -> str | None:
    named = os.environ.get("HF_TOKEN_PATH")
    try:
        with open(_path(named) if named else hf_home() / "token", encoding="utf-8") as file:
            return file.read(_MAX_TOKEN + 2)
    except (OSError, ValueError):
        return None


def _user_agent() -> str:
    if any(map(_is_on, ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"))):
        return "llamaprobe"
    return f"llamaprobe/{__version__} python/{sys.version_info[0]}.{sys.version_info[1]}"


def _is_on(*names: str) -> bool:
    """Whether the first of the variables that is set is true."""
    value = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return value.upper() in _TRUE


def _seconds(name: str) -> float:
    text = os.environ.get(name) or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 3600:
        raise ArgumentError(
            f"{name} is {printable(text, 40)!r}; it must be a number of seconds up to 3600"
        )
    return seconds
