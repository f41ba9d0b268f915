"""The sha256 of a file, which must not change while it is read."""

import hashlib
from pathlib import Path

from ..errors import FileChangedError
from ..files.atomic import open_regular
from ..files.fingerprint import file_state
from ..messages import shown_path


def hash_unchanged(path: Path, state: tuple[int, ...] | None = None) -> str:
    """The sha256 in hex. state: the `file_state` that the file must still have afterwards.
    FileChangedError, FileError."""
    state = state or file_state(path)
    with open_regular(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if file_state(path) != state:
        raise FileChangedError(f"{shown_path(path)}: was changed while it was read", None, path)
    return found
