"""Which files an unfinished save may have left in a folder.

Before a save takes away the manifest of the run that was there, it notes the names of that run's
files and of its own in a small file. That stays until the new manifest is written: a save that is
killed in between leaves the names, and the next one can remove what is not its own. The names are
for the caller to check; a folder may come from a stranger.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..files.atomic import atomic_open
from ..errors import FormatError
from ..files.json_file import read_object

JOURNAL = ".llamaprobe-save.json"
_MAX_BYTES = 16 << 20


def noted(folder: Path) -> set[str]:
    """The names that a save noted and did not cross off; none when every save came to its end.
    FileError."""
    path = folder / JOURNAL
    if not os.path.isfile(path):
        return set()
    try:
        names = read_object(str(path), _MAX_BYTES, FormatError).get("files")
    except FormatError:  # a damaged one is worth nothing
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


@contextlib.contextmanager
def noting(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Notes the names, durably, and crosses them off when the block ends well, or when it fails and
    none of these files is there. FileError."""
    names = sorted(names)
    with atomic_open(folder / JOURNAL) as file:
        file.write(json.dumps({"files": names}).encode("ascii") + b"\n")
    try:
        yield
    except BaseException:
        if not any(os.path.lexists(folder / name) for name in names):
            _clear(folder)
        raise
    _clear(folder)


def _clear(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / JOURNAL)
