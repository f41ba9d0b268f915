"""manifest.json and the other JSON files of a folder that llamaprobe wrote.

The manifest lists every file with shape, dtype, bytes and sha256. It is written last: a folder with
a manifest is complete.
"""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, FormatError
from ..files.atomic import atomic_open, open_regular
from ..files.encode import Encoder
from ..files.json_file import read_object
from ..messages import shown_path

MANIFEST = "manifest.json"
FORMAT_VERSION = 2  # of the folder of a run: names, layout, keys of the json files; absent: 0
PLAIN_VERSION = 1  # of a run without edits and new tokens, which older readers take for what it is
_MAX_MANIFEST = 16 << 20  # bytes: some 100,000 files
_MAX_META = 64 << 20  # two million tokens


def file_entry(encoder: Encoder, n_bytes: int, sha256: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    array = {"shape": list(encoder.shape), "dtype": encoder.dtype} if encoder.dtype else {}
    return {**array, **encoder.counts, "bytes": n_bytes, "sha256": sha256}


def hash_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a regular file, in hex. FileError."""
    import hashlib

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def check_new(folder: Path, names: Iterable[str], force: bool) -> None:
    """FileError when one of the files exists and may not be replaced; a folder never may."""
    found = [name for name in names if os.path.lexists(folder / name)]
    for name in found:
        if os.path.isdir(folder / name) and not os.path.islink(folder / name):
            message = f"{shown_path(folder / name)}: is a folder where a file is to be written"
            raise FileError(message, errno.EISDIR, folder / name)
    if found and not force:
        n = len(found) - 1
        others = f", as {'do' if n > 1 else 'does'} {n} more of these files" if n else ""
        has_manifest = os.path.lexists(folder / MANIFEST)
        why = "" if has_manifest else f"; there is no {MANIFEST}: not ours, or never finished"
        raise FileError(
            f"{shown_path(folder / found[0])}: exists{others}{why}; choose another folder, or"
            " replace what is there with --force (force=True)",
            errno.EEXIST,
            folder / found[0],
        )


# ---- JSON ----


def read_json(path: Path) -> dict[str, Any]:
    """An untrusted JSON object. FileError, FormatError."""
    limit = _MAX_MANIFEST if path.name == MANIFEST else _MAX_META
    return read_object(path, limit, FormatError)


def write_json(path: Path, value: dict[str, Any]) -> None:
    with atomic_open(path) as file:
        file.write(json_bytes(json_lines(value)))


def json_bytes(lines: Iterable[str]) -> bytes:
    """An object of such lines."""
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def json_lines(value: dict[str, Any]) -> list[str]:
    """One line per key; where a value is an object of objects, one line for each of these."""
    return [f" {_JSON.encode(key)}: {_json(each)}" for key, each in value.items()]


def _json(value: Any) -> str:
    is_nested = isinstance(value, dict) and value
    if not is_nested or not all(isinstance(each, dict) for each in value.values()):
        return _JSON.encode(value)
    lines = [f"  {_JSON.encode(key)}: {_JSON.encode(each)}" for key, each in value.items()]
    return "{\n" + ",\n".join(lines) + "\n }"


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON has them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in JSON")


_JSON = json.JSONEncoder(allow_nan=False, default=_plain)  # making one costs as much as using it
