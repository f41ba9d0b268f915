"""The edits of a saved run: an entry each in the manifest, and files for their arrays.

    edit_{i}.npy                            the value, if it is an array
    edit_{i}_before.npy, edit_{i}_after.npy what a function was given, and what it left

Files are npy whatever the format of the run, since an edit is made of exact bits.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..edits.edit import Edit, Recorded, Source, lost
from ..edits.edits import Edits
from ..edits.grammar import parse_index
from ..edits.index import Index, show_index
from ..errors import EditError, FormatError
from ..files.array import read
from ..files.encode import Encoder, array_encoder
from ..files.paths import path_entries, path_entry
from ..messages import shown_path
from ..points import layer_number, resolve
from .manifest import MANIFEST, hash_file

FILE_NAMES = r"edit_(?:0|[1-9][0-9]{0,8})(?:_before|_after)?\.npy"
_MOST_INDEX = 1 << 20  # characters
_HASH = re.compile("[0-9a-f]{64}")


def edit_encoders(edits: Edits) -> dict[str, Encoder]:
    """By file name, of all arrays."""
    return {
        name: array_encoder(array, "npy")
        for i, edit in enumerate(edits)
        for name, array in _arrays(i, edit)
    }


def _arrays(number: int, edit: Edit) -> Iterator[tuple[str, np.ndarray]]:
    if edit.value is not None and edit.value.ndim:
        yield f"edit_{number}.npy", edit.value
    if edit.recorded is not None:
        yield f"edit_{number}_before.npy", edit.recorded.before
        yield f"edit_{number}_after.npy", edit.recorded.after


def edit_entries(
    edits: Edits, config: Config, files: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What the manifest says of each edit of a run; `files`: what it says of files."""
    return [_entry(i, edit, config, files) for i, edit in enumerate(edits)]


def _entry(
    number: int, edit: Edit, config: Config, files: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    point, layer = resolve(edit.name if edit.layer is None else (edit.name, edit.layer), config)
    requested = edit.index if edit.requested is None else edit.requested
    stem, source = f"edit_{number}", edit.source
    entry: dict[str, Any] = {
        "point": point.name,
        "layer": None if layer is None else layer_number(layer, config.n_layers),
        "index": show_index(requested),
        "resolved": show_index(edit.index),
        "op": edit.op,
    }
    if edit.op == "map":
        assert edit.function is not None and edit.recorded is not None
        entry |= {
            "function": edit.function.name,
            "source_sha256": edit.function.source_sha256,
            "whole": edit.whole,
            "verifiable": False,
            "positions": edit.recorded.positions.tolist(),
            "before": _file(f"{stem}_before.npy", files),
            "after": _file(f"{stem}_after.npy", files),
        }
    else:
        assert edit.value is not None
        is_array = edit.value.ndim > 0
        entry["value"] = _file(f"{stem}.npy", files) if is_array else _number(float(edit.value))
    entry["n_changed"] = edit.n_changed
    if source is not None:
        hashes = {"prompt_sha256": source.prompt_sha256, "ids_sha256": source.ids_sha256}
        entry["source"] = hashes | {"n_tokens": source.n_tokens}
        if source.folder is not None:
            entry["source"] |= path_entries("folder", source.folder)
    return entry


def _file(name: str, files: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    entry = files.get(name, {})
    return {"file": name, "shape": entry.get("shape"), "sha256": entry.get("sha256")}


def _number(value: float) -> float | str:
    """JSON has no infinities."""
    return value if np.isfinite(value) else str(value)


# ---- reading ----


def read_edits(folder: Path, entries: Any) -> Edits:
    """The edits from their entries, whose arrays are read. ValueError: a fact about a wrong entry;
    FileError, FormatError."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("edits is not a list of objects")
    return Edits(_read(folder, i, entry) for i, entry in enumerate(entries))


def _read(folder: Path, number: int, entry: dict[str, Any]) -> Edit:
    at = f"edits: {number}:"
    point, layer, op, n_changed = (entry.get(k) for k in ("point", "layer", "op", "n_changed"))
    if not isinstance(point, str) or not (layer is None or _is_count(layer)):
        raise ValueError(f"{at} point or layer is not one")
    if not _is_count(n_changed):
        raise ValueError(f"{at} n_changed is not a number of elements")
    value = function = recorded = None
    if op == "map":
        function = lost(_text(entry, "function", at), _hash(entry, "source_sha256", at))
        recorded = _recorded(folder, number, entry, at)
    elif op in ("=", "+=", "-=", "*="):
        value = _value(folder, number, entry, at)
    else:
        raise ValueError(f"{at} op is not one of =, +=, -=, *= and map")
    return Edit(
        point,
        layer,
        _index(entry, "resolved", at),
        op,
        value,
        function,
        entry.get("whole") is True,
        source=_source(entry["source"], at) if "source" in entry else None,
        requested=_index(entry, "index", at),
        n_changed=n_changed,
        recorded=recorded,
    )


def _value(folder: Path, number: int, entry: dict[str, Any], at: str) -> np.ndarray:
    value = entry.get("value")
    if isinstance(value, dict):
        return _array(folder, f"edit_{number}.npy", value, at)
    if value == "-inf":
        return np.array(-np.inf, np.float32)
    if type(value) is not float or float(np.float32(value)) != value:
        raise ValueError(f"{at} value is not a float32")
    return np.array(value, np.float32)


def _recorded(folder: Path, number: int, entry: dict[str, Any], at: str) -> Recorded:
    positions = entry.get("positions")
    if not isinstance(positions, list) or not all(map(_is_count, positions)):
        raise ValueError(f"{at} positions is not a list of positions")
    before, after = (
        _array(folder, f"edit_{number}_{key}.npy", entry.get(key), at)
        for key in ("before", "after")
    )
    if before.ndim != 3 or before.shape != after.shape:
        raise ValueError(f"{at} before and after are not of one shape with three axes")
    return Recorded(np.array(positions, np.int64), before, after)


def _array(folder: Path, name: str, stated: Any, at: str) -> np.ndarray:
    """Only files of names that a save gives are opened."""
    if not isinstance(stated, dict) or stated.get("file") != name:
        raise ValueError(f"{at} its array is not in {name}")
    array = read(folder / name)
    if array.dtype != np.float32 or list(array.shape) != stated.get("shape"):
        raise FormatError(
            f"{name}: holds {array.dtype} {list(array.shape)}, and edit {number_of(name)} needs"
            f" float32 {stated.get('shape')}"
        )
    return array


def check_hashes(folder: Path, entries: Any) -> None:
    """Of entries that `read_edits` read: FormatError for a file that is not the one that was saved."""
    for entry in entries:
        for stated in (entry.get(key) for key in ("value", "before", "after")):
            wanted = stated.get("sha256") if isinstance(stated, dict) else None
            if isinstance(wanted, str) and hash_file(folder / stated["file"]) != wanted:
                raise FormatError(
                    f"{shown_path(folder / stated['file'])}: its sha256 is not the one that"
                    f" {MANIFEST} has of this edit; it is damaged, or was changed since"
                )


def number_of(name: str) -> str:
    """Of the edit of a file."""
    return re.findall("[0-9]+", name)[0]


def _index(entry: dict[str, Any], key: str, at: str) -> Index:
    text = entry.get(key)
    try:
        if isinstance(text, str) and len(text) <= _MOST_INDEX:
            return parse_index(text)
    except EditError:
        pass
    raise ValueError(f"{at} {key} is not an index")


def _source(found: Any, at: str) -> Source:
    if not isinstance(found, dict) or not _is_count(found.get("n_tokens")):
        raise ValueError(f"{at} source is not that of a run")
    ids = _hash(found, "ids_sha256", at)
    if ids is None:
        raise ValueError(f"{at} source has no ids_sha256")
    prompt = _hash(found, "prompt_sha256", at)
    return Source(None, found["n_tokens"], False, prompt, ids, path_entry(found, "folder"))


def _hash(entry: dict[str, Any], key: str, at: str) -> str | None:
    value = entry.get(key)
    if value is None or (isinstance(value, str) and _HASH.fullmatch(value)):
        return value
    raise ValueError(f"{at} {key} is not a sha256")


def _text(entry: dict[str, Any], key: str, at: str) -> str:
    if not isinstance(entry.get(key), str):
        raise ValueError(f"{at} {key} is not a text")
    return str(entry[key])


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
