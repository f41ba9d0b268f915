"""A file that does not exist yet: what cannot be written is refused before the work for it."""

import errno
import os
from pathlib import Path

from ..errors import FileError
from ..messages import shown_path
from .atomic import file_error
from .paths import checked_path


def check_new_file(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The path of a file that can be written: nothing is there, or a file and `force`; its folder
    may be missing. FileError."""
    found = checked_path(path)
    if os.path.isdir(found):
        raise _fault(found, "is a folder; give the name of a file", errno.EISDIR)
    if os.path.lexists(found) and not force:
        fact = "exists; choose another name, or replace it with --force (force=True)"
        raise _fault(found, fact, errno.EEXIST)
    folder = next(each for each in found.absolute().parents if os.path.lexists(each))
    if not os.path.isdir(folder):
        raise _fault(folder, "is not a folder", errno.ENOTDIR)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _fault(folder, os.strerror(errno.EACCES), errno.EACCES)
    return found


def new_file(path: str | os.PathLike[str], force: bool = False) -> Path:
    """The same, and its folder is made. FileError."""
    found = check_new_file(path, force)
    try:
        found.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, found.parent) from error
    return found


def _fault(path: Path, fact: str, code: int) -> FileError:
    return FileError(f"{shown_path(path)}: {fact}", code, path)
