"""The JSON of the command line, such that any JSON reader takes it.

A path whose bytes are no UTF-8 stands as text with \\xNN, and beside it, under its key and
`_bytes`, as hex: see `names.path_text`. For a list of paths that is a list, null where the text is
all.
"""

import json
from typing import Any

from ..files.naming import path_text


def print_json(told: dict[str, Any] | list[Any]) -> None:
    """One object, or a list of them, on stdout."""
    print(json.dumps(_readable(told), indent=1, allow_nan=False))


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return path_text(value)[0]
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    if not isinstance(value, dict):
        return value
    told = {}
    for key, each in value.items():
        told[_readable(key)] = _readable(each)
        raw = _raw(each)
        if isinstance(raw, list) and any(raw) or isinstance(raw, str):
            told[f"{_readable(key)}_bytes"] = raw
    return told


def _raw(value: Any) -> Any:
    """The bytes in hex of a text that is no UTF-8, or of those in a list; else None."""
    if isinstance(value, list | tuple):
        return [_raw(each) if isinstance(each, str) else None for each in value]
    return path_text(value)[1] if isinstance(value, str) else None
