"""Tensor names -> file names that are safe on every system.

A name that is plain already (letters, digits, `.`, `_`, `-`; at most 200 of them) is kept as it is,
because people have code for `model.layers.0.self_attn.q_proj.weight.csv`. Whatever else a
stranger's file calls its tensors becomes percent-encoded UTF-8, a long one is cut and ends in `~`
and 12 hex digits of its sha256, and names that only differ in case get such an ending too. The
manifest maps every file back to its tensor.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MAX_PATH = 4096  # characters of a path that a message shows
_MAX_NAME = 200
_PLAIN = re.compile(rb"[A-Za-z0-9._-]")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")  # of the hub; no word of a text looks like it
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)


def file_names(tensors: Iterable[str], suffix: str) -> dict[str, str]:
    """A file name for every tensor of a model, all different even where case does not count.

    Give all names of the model, not only those that are to be written: whether two names collide
    must not depend on a filter. `suffix` has its dot.
    """
    stems = {tensor: file_stem(tensor) for tensor in tensors}
    times = Counter(stem.casefold() for stem in stems.values())
    return {
        tensor: stem + (_fingerprint(tensor) if times[stem.casefold()] > 1 else "") + suffix
        for tensor, stem in stems.items()
    }


def file_stem(tensor: str) -> str:
    """The file name of one tensor without its suffix: at most 213 bytes of ASCII, never `.`, `..`
    or `-x`."""
    raw = tensor.encode("utf-8", "surrogatepass")
    units = [chr(b) if _PLAIN.match(bytes([b])) else f"%{b:02X}" for b in raw]
    if set(tensor) == {"."} or _RESERVED.match(tensor) or tensor.startswith("-"):
        units[0] = f"%{raw[0]:02X}"
    stem, kept = "", 0
    while kept < len(units) and len(stem) + len(units[kept]) <= _MAX_NAME:
        stem += units[kept]
        kept += 1
    return stem if kept == len(units) and stem else stem + _fingerprint(tensor)


def _fingerprint(tensor: str) -> str:
    return "~" + hashlib.sha256(tensor.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def printable(text: str, limit: int = 200) -> str:
    """A stranger's text for a terminal: control characters and what cannot be printed as escapes,
    cut to `limit`. Bytes of a path that are no UTF-8 are \\xNN."""
    shown = "".join(c if c.isprintable() else _escape(c) for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def hide_tokens(text: str) -> str:
    """A line for the screen with `***` in place of what looks like a token of the hub."""
    return _TOKEN.sub("***", text)


def expand_user(path: str) -> str:
    """A path with a leading ~ or ~user in place; what then still begins with ~, as "./~" does when
    it is made a Path, is made absolute: expanding twice changes nothing."""
    found = os.path.expanduser(path)
    return os.path.abspath(found) if os.path.normpath(found).startswith("~") else found


def path_text(path: str) -> tuple[str, str | None]:
    """A path as text that any JSON reader takes, and, where that is another text, its bytes in hex:
    bytes that are no UTF-8 stand as \\xNN in the text. `path_of` gives the path back."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _escaped_surrogates(path), os.fsencode(path).hex()
    return path, None


def path_entries(key: str, path: str | None) -> dict[str, str | None]:
    """A path as the entries of a JSON object: `key`, and `key`_bytes where the text is not all."""
    text, raw = (None, None) if path is None else path_text(path)
    return {key: text} | ({} if raw is None else {f"{key}_bytes": raw})


def path_entry(entries: Mapping[str, Any], key: str) -> str | None:
    """The path that `path_entries` stored; None for what is no text."""
    text = entries.get(key)
    return path_of(text, entries.get(f"{key}_bytes")) if isinstance(text, str) else None


def path_of(text: str, hexadecimal: object) -> str:
    """The path that `path_text` made these of; the text itself where the bytes make no sense."""
    if isinstance(hexadecimal, str):
        with contextlib.suppress(ValueError):
            path = os.fsdecode(bytes.fromhex(hexadecimal))
            if path_text(path) == (text, hexadecimal):
                return path
    return text


def _escaped_surrogates(path: str) -> str:
    return "".join(_escape(c) if "\ud800" <= c <= "\udfff" else c for c in path)


def counted(n: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path that is no UTF-8
        code -= 0xDC00
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )
