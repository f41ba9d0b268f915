"""Paths: as a user gives them, and as JSON holds them.

A path of Linux is bytes. Those that are not UTF-8 stand as \\xNN in the text of a JSON file, with
the bytes in hex beside it.
"""

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FileError
from ..messages import escape, printable, shown_path


def checked_path(path: str | os.PathLike[str]) -> Path:
    """A path that the system can take, with a leading ~ or ~user expanded (write "./~" for a file
    of that name). FileError for one that is empty, or holds a NUL or half of a surrogate pair;
    ArgumentError for another type."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise ArgumentError(f"a path is a str or a Path, not {type(path).__name__}") from None
    except UnicodeError:  # a lone surrogate in an object with __fspath__
        raise FileError(f"{printable(repr(path))}: not a path on this system") from None
    if not name:
        raise FileError('the path is empty; "." is the current folder', errno.ENOENT, name)
    if "\0" in name:
        raise FileError(f"{shown_path(name)}: a path cannot hold a NUL", errno.EINVAL, name)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        fact = "a path cannot hold half of a surrogate pair"
        raise FileError(f"{shown_path(name)}: {fact}", errno.EINVAL, name) from None
    return Path(expand_user(name))


def expand_user(path: str) -> str:
    """A path with a leading ~ or ~user expanded. A result that still begins with ~, as "./~" does
    when it becomes a Path, is made absolute, so that expanding twice changes nothing."""
    found = os.path.expanduser(path)
    return os.path.abspath(found) if os.path.normpath(found).startswith("~") else found


def path_text(path: str) -> tuple[str, str | None]:
    """A path as text for JSON, and its bytes in hex where the text has escapes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        text = "".join(escape(c) if "\ud800" <= c <= "\udfff" else c for c in path)
        return text, os.fsencode(path).hex()
    return path, None


def path_entries(key: str, path: str | None) -> dict[str, str | None]:
    """A path as entries of a JSON object: `key`, and `key`_bytes where the text has escapes."""
    text, raw = (None, None) if path is None else path_text(path)
    return {key: text} | ({} if raw is None else {f"{key}_bytes": raw})


def path_entry(entries: Mapping[str, Any], key: str) -> str | None:
    """The path that `path_entries` stored; None where `key` has no text, the text itself where the
    bytes do not belong to it."""
    text, raw = entries.get(key), entries.get(f"{key}_bytes")
    if not isinstance(text, str):
        return None
    if isinstance(raw, str):
        with contextlib.suppress(ValueError):
            path = os.fsdecode(bytes.fromhex(raw))
            if path_text(path) == (text, raw):
                return path
    return text
