"""The JSON of the command line, which any JSON reader accepts.

A path that is not UTF-8 becomes text with \\xNN; its bytes follow in hex under the same key with
`_bytes` (see `files.paths.path_text`). For a list of paths that is a list, null where the text
suffices.
"""

import json
from typing import Any

from ..files.paths import path_text


def print_json(value: dict[str, Any] | list[Any]) -> None:
    """One object, or a list of them, on stdout."""
    print(json.dumps(_readable(value), indent=1, allow_nan=False))


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return path_text(value)[0]
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    if not isinstance(value, dict):
        return value
    readable = {}
    for key, each in value.items():
        readable[_readable(key)] = _readable(each)
        raw = _raw(each)
        if isinstance(raw, list) and any(raw) or isinstance(raw, str):
            readable[f"{_readable(key)}_bytes"] = raw
    return readable


def _raw(value: Any) -> Any:
    """The bytes in hex of a text that is not UTF-8, or of those in a list; else None."""
    if isinstance(value, list | tuple):
        return [_raw(each) if isinstance(each, str) else None for each in value]
    return path_text(value)[1] if isinstance(value, str) else None
