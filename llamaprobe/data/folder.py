"""The folder of a harvest: on this machine, or, named by a URL, on an object store (remote.py).

Names are those of layout.py. Files are always made in a folder of this machine; `commit` makes them
durable where the harvest lives.
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
    """A folder of this machine."""

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where its files are made and read."""

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
        """Bytes of a file; None if there is none. FileError."""
        try:
            return os.stat(self.path / name).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error(error, self.path / name) from error

    def read(self, name: str, max_bytes: int) -> bytes:
        """All of a small file. FileError (FileMissingError), FormatError."""
        return read_file(self.path / name, max_bytes, FormatError)

    def local(self, name: str, sha256: str | None = None) -> Path:
        """A file on this machine; what is fetched for that must have the sha256. FileError,
        FormatError."""
        return self.path / name

    @contextlib.contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """A file as it is now where the harvest lives. FileError."""
        yield self.path / name

    def names(self, folder: str) -> list[str]:
        """The names in a folder; none if there is no such folder."""
        try:
            return os.listdir(self.path / folder)
        except OSError:
            return []

    def commit(self, names: Iterable[str]) -> None:
        """Make files durable that are in `path`. FileError."""
        for folder in dict.fromkeys((self.path / name).parent for name in names):
            try:
                sync_folder(folder)
            except OSError as error:
                raise file_error(error, folder) from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Whole or not at all. FileError."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(error, path.parent) from error
        write_json(path, value)

    def release(self, names: Iterable[str]) -> None:
        """Remove the copies on this machine of files that live elsewhere."""

    def remove(self, name: str) -> int:
        """Remove a file, if it is there; its bytes. FileError."""
        path = self.path / name
        try:
            size = os.path.getsize(path)
            os.unlink(path)
            return size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise file_error(error, path) from error
