"""A small JSON file from a stranger -> dict, or one error line.

Stricter than `json.loads`: plain UTF-8 (no BOM, no UTF-16), no duplicate keys, no NaN, Infinity or
1e400, no integer outside int64, no lone surrogate, bounded in bytes, in depth and in how many
objects, lists and keys so many bytes may hold: an empty list has 3 bytes of text and takes 72 of
memory. Only regular files are read: a FIFO or a device is refused, not waited for. Also here: how a
value from such a file is shown in a message, and what stands in the place of a file that was never
fetched.
"""

import functools
import json
import math
import re
from typing import Any, NoReturn

from .atomic import open_regular, shown_path
from ..errors import Error
from .naming import printable

MAX_DEPTH = 64
BYTE_ORDER_MARK = "starts with a byte order mark; save it as plain UTF-8"


def read_object(path: str, max_bytes: int, error: type[Error]) -> dict[str, Any]:
    """The object in a file of at most `max_bytes`; FileError, or `error` naming the file."""
    return parse_object(read_file(path, max_bytes, error), path, error)


def parse_object(data: bytes, name: str, error: type[Error]) -> dict[str, Any]:
    """The object in `data`, or `error` with a message that begins with `name`."""
    try:
        value = _parse(data)
    except (ValueError, RecursionError) as e:
        fact = describe_wrong_content(data) or printable(str(e))
        raise error(f"{shown_path(name)}: {fact}") from None
    if type(value) is not dict:
        raise error(f"{shown_path(name)}: holds {show(value)}; it must be a JSON object")
    return value


# What Git leaves in place of a large file where Git LFS is not installed.
_LFS_POINTER = b"version https://git-lfs"
# How a web page begins; an XML declaration, a doctype and comments may come first.
_WEB_PAGE = re.compile(
    rb"(?:<\?xml[^>]*>|<!--.*?-->|\s)*<(?:!doctype\s+html|html|head|body)[\s>]",
    re.IGNORECASE | re.DOTALL,
)


def describe_wrong_content(data: bytes) -> str | None:
    """What is there instead of the file, when `data`, or its first kilobyte, shows that it was
    never fetched: "is a Git LFS pointer ...", "is a web page ..."; None for all else. The file's
    name stands before it in a message."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf")
    if start.startswith(_LFS_POINTER):
        return (
            "is a Git LFS pointer and not the file itself; `git lfs pull` in its folder fetches it"
        )
    if _WEB_PAGE.match(start):
        return "is a web page and not the file itself; download the file again"
    return None


def show(value: Any) -> str:
    """A value that came out of JSON, as JSON again: ASCII, at most 60 characters."""
    return _cut(json.dumps(value))


def _parse(data: bytes) -> Any:
    text = decode(data)
    if text.startswith("\ufeff"):
        raise ValueError(BYTE_ORDER_MARK)
    _check_size(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_int if _LONG.search(text) else None,  # Python's own are 20 times as fast
            parse_float=_float if _LARGE.search(text) else None,
            parse_constant=_refuse,
        )
    except json.JSONDecodeError as e:
        raise ValueError(f"not valid JSON: {e}") from None
    if _SURROGATE.search(text):  # in pairs they are fine
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a string holds half of a surrogate pair") from None
    return value


_STRING = r'"(?:[^"\\]++|\\.)*+"?'  # whole, or cut off by the end of the text
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG = re.compile("[0-9]{19}")  # without it every integer fits int64
_LARGE = re.compile("[eE][+-]?[0-9]{3}|[0-9]{200}")  # without it every number fits a float64
_FREE = 10_000  # objects, lists and keys that any file may hold
_BYTES_EACH = 12  # of text for each further one; our manifests have 18, an index has 70


def _nested(depth: int) -> str:
    """A regular expression for JSON of at most so many levels, closed or cut off. It is as long as
    the depth, and has nothing to backtrack into."""
    atom = inner = rf'[^"\[\]{{}}]++|{_STRING}'
    for _ in range(depth):
        inner = rf"{atom}|[\[{{](?:{inner})*+(?:[\]}}]|\Z)"
    return rf"(?:{inner}|[\]}}])*+"


@functools.cache
def _shallow() -> re.Pattern[str]:
    return re.compile(_nested(MAX_DEPTH), re.DOTALL)


def _check_size(text: str) -> None:
    """Before json.loads, which recurses on the C stack as deep as the caller's limit lets it, and
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
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {show(key)}")
        found[key] = value
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
    """UTF-8 bytes as text; ValueError says where they are none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8: byte {e.start} is 0x{data[e.start]:02x}") from None


def read_file(path: str, max_bytes: int, error: type[Error]) -> bytes:
    """All of a regular file. FileError, or `error` for one of more than `max_bytes`."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise error(f"{shown_path(path)}: over {max_bytes} bytes; none needs so many")
    return data


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
