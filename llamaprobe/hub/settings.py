"""What the environment says: where the hub is, where the cache is, how long to wait, and the token.

The variables are those of the hub's own client, read at every call and not at import. A token lives
in a `Token`, which shows itself as `Token(***)`: no traceback, log line or repr can give it away.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .. import __version__
from ..errors import ArgumentError
from ..files.naming import printable
from .errors import TokenError

if TYPE_CHECKING:
    from .secret import Secret

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_MAX_TOKEN = 4096


@dataclass(frozen=True)
class Settings:
    """The environment of one download."""

    endpoint: str
    """Scheme, host and maybe a path, without a slash at the end."""
    cache_dir: Path
    offline: bool
    connect_timeout: float
    """Seconds, as `read_timeout`: the longest silence of a server, not the longest transfer."""
    read_timeout: float
    show_progress: bool
    user_agent: str


class Token:
    """A secret that does not show itself."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        value = value.strip()
        if not value or len(value) > _MAX_TOKEN or not all("!" <= char <= "~" for char in value):
            raise TokenError(
                "the token is empty, too long, or has characters that no token has; it is not shown"
                " here"
            )
        self._value = value

    def header(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self._value}"

    def is_in(self, text: str) -> bool:
        """Whether a name holds it; False for a token under 8 characters."""
        return len(self._value) >= 8 and self._value in unquote(text)

    def secret(self) -> "Secret":
        """What replaces it in what a server says."""
        from .secret import Secret

        return Secret(self._value)

    def __repr__(self) -> str:
        return "Token(***)"

    def __reduce__(self) -> str:
        raise TypeError("a token is not pickled")


def read_settings(cache_dir: str | os.PathLike[str] | None = None) -> Settings:
    """The settings of now; `cache_dir` wins over the environment. ArgumentError for a value that
    makes no sense."""
    return Settings(
        endpoint=_endpoint(),
        cache_dir=_cache_dir() if cache_dir is None else Path(cache_dir).expanduser(),
        offline=_is_on("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
        connect_timeout=_seconds("HF_HUB_ETAG_TIMEOUT"),
        read_timeout=_seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
        show_progress=not _is_on("HF_HUB_DISABLE_PROGRESS_BARS"),
        user_agent=_user_agent(),
    )


def hide(token: "str | bool | None | Token") -> "bool | None | Token":
    """A string as a Token; what else says where to look for one, as it is."""
    return Token(token) if isinstance(token, str) else token


def read_token(token: "str | bool | None | Token") -> Token | None:
    """The token to use. A string or Token is it; None looks for one; True insists that there is
    one; False uses none."""
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


def is_loopback(host: str | None) -> bool:
    """This machine itself, by name or number."""
    if host is None:
        return False
    if host.lower() == "localhost":
        return True
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


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
    """The folder of the hub's client: cache, token."""
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
    """The first of the variables that is set at all decides."""
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
