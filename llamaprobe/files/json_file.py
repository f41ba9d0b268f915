"""Untrusted JSON and text files -> dict or bytes, or one error line.

Stricter than `json.loads`: plain UTF-8 (no BOM, no UTF-16), no duplicate keys, no NaN or Infinity,
bounded in bytes. Only regular files are read: a FIFO or a device is refused, not waited for.

`read_object` is for small files and stricter still: no 1e400, no integer outside int64, no lone
surrogate, bounded in depth and in how many objects, lists and keys so many bytes may hold (an empty
list has 3 bytes of text and takes 72 of memory). `find_object` is for the files of a tokenizer,
which have up to 10 MB and numbers such as 1e30 (`model_max_length`): it is fast, and what a
value may be is checked where it is used. Answers of the hub are parsed like it: a model's card,
which they quote, may hold any number.
"""

import functools
import json
import math
import os
import re
from collections import Counter
from typing import Any, NoReturn

from ..errors import Error
from ..messages import printable, shown_path
from .atomic import open_regular

MAX_DEPTH = 64
MAX_FILE = 64 << 20  # bytes of a tokenizer's file

_Path = str | os.PathLike[str]


def read_object(path: _Path, max_bytes: int, error: type[Error]) -> dict[str, Any]:
    """The object in a file of at most `max_bytes`; FileError, or `error` naming the file."""
    return parse_object(read_file(path, max_bytes, error), path, error)


def find_object(path: _Path, max_bytes: int, error: type[Error]) -> dict[str, Any]:
    """The object in a tokenizer's file; empty if there is no file. FileError, `error`."""
    data = find_file(path, max_bytes, error)
    return {} if data is None else parse_object(data, path, error, strict=False)


def read_file(path: _Path, max_bytes: int, error: type[Error]) -> bytes:
    """All of a regular file. FileError, or `error` for one that is over `max_bytes` or holds
    something else in its place."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise error(f"{shown_path(path)}: over {max_bytes} bytes, more than such a file ever has")
    if fact := describe_wrong_content(data):
        raise error(f"{shown_path(path)}: {fact}")
    return data


def find_file(path: _Path, max_bytes: int, error: type[Error]) -> bytes | None:
    """`read_file`; None if there is no file."""
    try:
        return read_file(path, max_bytes, error)
    except FileNotFoundError:
        return None


def parse_object(
    data: bytes, name: _Path, error: type[Error], *, strict: bool = True
) -> dict[str, Any]:
    """The object in `data`, or `error` with a message that begins with `name`. `strict`: see
    `read_object`."""
    value = parse_value(data, name, error, strict=strict)
    if type(value) is not dict:
        raise error(f"{shown_path(name)}: holds {show(value)}; it must be a JSON object")
    return value


def parse_value(data: bytes, name: _Path, error: type[Error], *, strict: bool = True) -> Any:
    """`parse_object` for any value: pages of the hub are lists."""
    try:
        return _parse(decode(data), strict)
    except ValueError as e:
        raise error(f"{shown_path(name)}: {printable(str(e))}") from None
    except RecursionError:
        raise error(f"{shown_path(name)}: nested too deeply") from None


# What Git leaves in place of a large file where Git LFS is not installed.
_LFS_POINTER = b"version https://git-lfs"
# How a web page begins; an XML declaration, a doctype and comments may come first.
_WEB_PAGE = re.compile(
    rb"(?:<\?xml[^>]*>|<!--.*?-->|\s)*<(?:!doctype\s+html|html|head|body)[\s>]",
    re.IGNORECASE | re.DOTALL,
)


def describe_wrong_content(data: bytes) -> str | None:
    """If `data`, or its first kilobyte, shows that the file was never fetched, what it is instead:
    "is a Git LFS pointer ...", "is a web page ...", to follow the file's name in a message; else
    None."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf")
    if start.startswith(_LFS_POINTER):
        return (
            "is a Git LFS pointer and not the file itself; `git lfs pull` in its folder fetches it"
        )
    if _WEB_PAGE.match(start):
        return "is a web page and not the file itself; download the file again"
    return None


def show(value: Any) -> str:
    """A value from JSON as JSON again: ASCII, at most 60 characters."""
    return _cut(json.dumps(value))


def is_text(text: str) -> bool:
    """False if `text` holds a lone surrogate: then it has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parse(text: str, strict: bool) -> Any:
    if text.startswith("\ufeff"):
        raise ValueError("starts with a byte order mark; save it as plain UTF-8")
    if strict:
        _check_size(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_int if strict and _LONG.search(text) else None,  # Python's: 20 times faster
            parse_float=_float if strict and _LARGE.search(text) else None,
            parse_constant=_refuse,
        )
    except json.JSONDecodeError as e:
        raise ValueError(f"not valid JSON: {e}") from None
    if strict and _SURROGATE.search(text):  # in pairs they are fine
        if not is_text(json.dumps(value, ensure_ascii=False)):
            raise ValueError("a string holds half of a surrogate pair")
    return value


_STRING = r'"(?:[^"\\]++|\\.)*+"?'  # whole, or cut off by the end of the text
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG = re.compile("[0-9]{19}")  # without it every integer fits int64
_LARGE = re.compile("[eE][+-]?[0-9]{3}|[0-9]{200}")  # without it every number fits a float64
_FREE = 10_000  # objects, lists and keys that any file may hold
_BYTES_EACH = 12  # of text for each further one; our manifests have 18, an index has 70


def _nested(depth: int) -> str:
    """A regular expression for JSON of at most `depth` levels, closed or cut off. Its length is
    linear in the depth, and it never backtracks."""
    atom = inner = rf'[^"\[\]{{}}]++|{_STRING}'
    for _ in range(depth):
        inner = rf"{atom}|[\[{{](?:{inner})*+(?:[\]}}]|\Z)"
    return rf"(?:{inner}|[\]}}])*+"


@functools.cache
def _shallow() -> re.Pattern[str]:
    return re.compile(_nested(MAX_DEPTH), re.DOTALL)


def _check_size(text: str) -> None:
    """Before json.loads, which recurses on the C stack as deep as the caller's limit allows, and
    makes a Python object of every bracket. Takes 60 ms for a megabyte of brackets, no memory."""
    is_deep = text.count("[") + text.count("{") > MAX_DEPTH  # maybe; to compile takes 13 ms
    if is_deep and not _shallow().fullmatch(text):
        raise ValueError(f"more than {MAX_DEPTH} levels of nesting")
    room = _FREE + len(text) // _BYTES_EACH
    if _count(text) > room and _count(re.sub(_STRING, "", text, flags=re.DOTALL)) > room:
        raise ValueError(f"more than {room} objects, lists and keys in {len(text)} characters")


def _count(text: str) -> int:
    return sum(map(text.count, "[{:"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise ValueError(f"duplicate key {show(next(key for key in times if times[key] > 1))}")
    return found


def _int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"integer {_cut(digits)} does not fit 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"number {_cut(digits)} does not fit a float64")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def decode(data: bytes) -> str:
    """UTF-8 bytes as text; ValueError names the first byte that is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8: byte {e.start} is 0x{data[e.start]:02x}") from None


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
