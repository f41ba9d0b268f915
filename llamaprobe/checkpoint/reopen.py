"""How models and weights travel: as where their files are and what marks them, never as numbers.

Pickling a model of 2 GB takes a kilobyte. Where it is unpickled the same files must be there: a
folder under the same absolute path, a repo in the cache, at the same commit. They are compared by
fingerprint.py, and nothing is downloaded. No token travels.
"""

import os
from pathlib import Path
from typing import Any

from ..files.atomic import shown_path
from ..errors import FileChangedError
from ..files.fingerprint import REPLACED, fingerprint
from ..run import Origin

Marks = dict[str, str | None]  # name of a file -> its fingerprint


def where_from(origin: Origin, folder: str) -> dict[str, Any]:
    """What `load` takes to find a model again; `folder` is where it was opened, absolute."""
    if origin.folder is None and origin.model == "demo":
        return {"source": "demo"}
    if origin.folder is None and origin.revision is not None:
        cache = str(Path(folder).parents[2])  # folder is models--owner--name/snapshots/commit there
        return {"source": origin.model, "revision": origin.revision, "cache_dir": cache}
    return {"source": folder}


def known_here(where: dict[str, Any]) -> dict[str, Any]:
    """`where_from` of another machine, whose cache may be elsewhere."""
    is_here = os.path.isdir(where.get("cache_dir", os.curdir))
    return where if is_here else {**where, "cache_dir": None}


def marks_of(origin: Origin) -> Marks:
    """The fingerprints of the weight files. FileChangedError when one was replaced."""
    marks: Marks = {}
    for path, *_ in origin.weight_files:
        mark = marks[os.path.basename(path)] = origin.fingerprints.of(path)
        if mark == REPLACED:
            raise FileChangedError(
                f"{shown_path(path)}: is no longer the file that was opened, so the model cannot"
                " be pickled; load it again",
                None,
                path,
            )
    return marks


def check_mark(path: str, mark: str | None) -> None:
    """FileChangedError unless the file is the one of that fingerprint; FileError."""
    if fingerprint(path) != mark:
        raise changed(path)


def changed(path: str) -> FileChangedError:
    """For a file that is another one than was pickled."""
    return FileChangedError(
        f"{shown_path(path)}: is not the file that was pickled; load the model again", None, path
    )
