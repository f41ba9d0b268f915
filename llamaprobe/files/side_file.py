"""The files of text beside a model's weights: tokenizer.json, its config, the chat template.

Read like every stranger's file: regular files only, never waited for, bounded in size. Unlike
`json_file` this reads big files quickly (a vocabulary has 10 MB) and takes integers of any size
(`model_max_length` is 1e30 in most tokenizer_config.json); what a value may be is checked where it
is used. No duplicate keys, no NaN, no UTF-16.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .atomic import open_regular, shown_path
from ..errors import Error
from .json_file import BYTE_ORDER_MARK, decode, describe_wrong_content
from .naming import printable

MAX_FILE = 64 << 20  # bytes


def read_bytes(path: Path, limit: int, error: type[Error]) -> bytes | None:
    """All of a regular file, None if there is none. FileError; `error` if it is over `limit`, or
    something else that was left in its place.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise error(f"{shown_path(path)}: over {limit} bytes, more than such a file ever has")
    if fact := describe_wrong_content(data):
        raise error(f"{shown_path(path)}: {fact}")
    return data


def read_json(path: Path, limit: int, error: type[Error]) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file. FileError, `error`."""
    data = read_bytes(path, limit, error)
    return {} if data is None else parse_json(data, path, error)


def parse_json(data: bytes, path: Path, error: type[Error]) -> dict[str, Any]:
    """The object in `data`, or `error` that names the file and the fault."""
    try:
        text = decode(data)
        if text.startswith("\ufeff"):
            raise ValueError(BYTE_ORDER_MARK)
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except json.JSONDecodeError as e:
        raise error(f"{shown_path(path)}: not valid JSON: {printable(str(e))}") from None
    except RecursionError:
        raise error(f"{shown_path(path)}: nested too deeply") from None
    except ValueError as e:
        raise error(f"{shown_path(path)}: {printable(str(e))}") from None
    if not isinstance(value, dict):
        raise error(f"{shown_path(path)}: holds a {type(value).__name__}; it must be a JSON object")
    return value


def is_text(text: str) -> bool:
    """False if `text` holds a lone surrogate: then it has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    times = Counter(key for key, _ in pairs)
    raise ValueError(f"duplicate key {next(key for key in times if times[key] > 1)!r:.80}")


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
