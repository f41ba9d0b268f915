"""The folder of a harvest: on this machine, or on an object store, given by a URL (remote.py).

File names are those of layout.py. Files are always written to a local folder; `commit` makes them
durable in the harvest's place.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..files.atomic import file_error, sync_folder
from ..files.json_file import read_file
from ..messages import shown_path
from .json_out import write_json


class Folder:
    """A local folder."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        """The local folder where files are written and read."""

    @property
    def place(self) -> str:
        """Its absolute path, or its URL."""
        return str(self.path.absolute())

    def at(self, name: str) -> str:
        """The path or URL of a file."""
        return str(self.path / name)

    def shown(self, name: str = "") -> str:
        """The folder, or a file in it, for messages."""
        return shown_path(self.path / name)

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None if it does not exist. FileError."""
        try:
            return os.stat(self.path / name).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error(error, self.path / name) from error

    def read(self, name: str, max_bytes: int) -> bytes:
        """The contents of a small file. FileError (FileMissingError), FormatError."""
        return read_file(self.path / name, max_bytes, FormatError)

    def local(self, name: str, sha256: str | None = None) -> Path:
        """The local path of a file; a file that is fetched must have the sha256. FileError,
        FormatError."""
        return self.path / name

    @contextlib.contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """The file as it is now in the harvest's place, bypassing local copies. FileError."""
        yield self.path / name

    def names(self, folder: str) -> list[str]:
        """The names in a folder; empty if it does not exist."""
        try:
            return os.listdir(self.path / folder)
        except OSError:
            return []

    def commit(self, names: Iterable[str]) -> None:
        """Make files in `path` durable. FileError."""
        for folder in dict.fromkeys((self.path / name).parent for name in names):
            try:
                sync_folder(folder)
            except OSError as error:
                raise file_error(error, folder) from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all. FileError."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(error, path.parent) from error
        write_json(path, value)

    def release(self, names: Iterable[str]) -> None:
        """Remove the local copies of files that are on a store."""

    def remove(self, name: str) -> int:
        """Remove a file if it exists; returns its size in bytes. FileError."""
        path = self.path / name
        try:
            size = os.path.getsize(path)
            os.unlink(path)
            return size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise file_error(error, path) from error
