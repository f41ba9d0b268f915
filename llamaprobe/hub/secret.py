"""The token in what a server says: replaced by `***` before it is stored, printed or logged.

A server knows the token that it was sent, and may echo it anywhere: in an error, a header, a file
name. It is recognised as it is, quoted for an address, and in any other percent-encoding, whatever
the case.
"""

import logging
import re
import weakref
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
_SHORTEST = 8
_ADDRESSES = ("location", "link")
_LOGGERS = ("connection", "connectionpool", "response", "util.retry", "poolmanager")


class Secret:
    """The token to mask. Nothing is masked when there is no token, or one so short that ordinary
    text has it."""

    __slots__ = ("__weakref__", "_forms", "_value")

    def __init__(self, value: str | None) -> None:
        self._value = value if value is not None and len(value) >= _SHORTEST else None
        if value is not None and self._value is not None:
            forms = {value, quote(value, safe=""), quote(value), quote_plus(value)}
            told = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
            self._forms = re.compile(told, re.IGNORECASE)
            _watch_logs(self)

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def mask(self, text: str) -> str:
        """`text` without the token; only `***` where it is in there in a form of its own."""
        if self._value is None:
            return text
        text = self._forms.sub(MASK, text)
        plain = unquote(unquote(text)) if "%" in text else text
        return MASK if self._forms.search(plain) else text

    def mask_json(self, value: Any) -> Any:
        """The same of all strings in a value out of JSON."""
        if self._value is None:
            return value
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list):
            return [self.mask_json(each) for each in value]
        if isinstance(value, dict):
            return {self.mask(key): self.mask_json(each) for key, each in value.items()}
        return value

    def is_in(self, text: str) -> bool:
        return self.mask(text) != text

    def mask_headers(self, headers: MutableMapping[str, str]) -> bool:
        """Masks them in place; True if one was an address, which is not to be gone to then."""
        found = [name for name, text in headers.items() if self.is_in(name) or self.is_in(text)]
        for name in found:
            text = headers.pop(name)
            if not self.is_in(name):
                headers[name] = self.mask(text)
        return any(name.lower() in _ADDRESSES for name in found)


_secrets: "weakref.WeakSet[Secret]" = weakref.WeakSet()


def _watch_logs(secret: Secret) -> None:
    """Has urllib3 log no token either: what it cannot parse of an answer, it logs."""
    _secrets.add(secret)
    for name in _LOGGERS:
        logging.getLogger(f"urllib3.{name}").addFilter(_mask_record)


def _mask_record(record: logging.LogRecord) -> bool:
    told = record.getMessage()
    trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
    for secret in list(_secrets):
        if secret.is_in(told) or secret.is_in(trace):
            record.msg, record.args = secret.mask(told), ()
            record.exc_info = record.exc_text = None
    return True
