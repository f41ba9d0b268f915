"""Every exception that llamaprobe raises on purpose, all of them reachable as `llamaprobe.NAME`.

All are `Error`, and each is also the built-in class for that kind of fault, so that `except
ValueError` around a bad argument works as usual. Messages name the file, the fact and the remedy.

    ArgumentError        ValueError            an argument, a prompt, a token id
        EditError                              an edit that cannot be made
            EditTypeError TypeError            what is not an assignment of numbers
        PointError       KeyError              a capture point or a layer
        RowError         IndexError            a row of a harvest
        WeightError      KeyError              the name of a tensor
    ConfigError          ValueError            config.json
        UnsupportedConfigError                 also UnsupportedError: it needs other maths
    FormatError          ValueError            a file of weights, of a run, of an array
        NewerFormatError                       a run that a later llamaprobe saved
    TokenizerError       ValueError            tokenizer.json, or a text that it cannot encode
    TemplateError        ValueError            the chat template, or messages that it refuses
    UnsupportedError     NotImplementedError   well formed, but cannot be run exactly
    OutOfMemory          MemoryError           raised before anything is computed
    Timeout              TimeoutError          a run took longer than its `timeout`
    Cancelled                                  a run was stopped by its `cancel`
    FileError            OSError               with `filename`, and `errno` if the system gave one
        FileMissingError FileNotFoundError
        FileDeniedError  PermissionError
        FileIsFolderError IsADirectoryError
        NotFolderError   NotADirectoryError
        FileInPlaceError FileExistsError
        FileChangedError                       a file is no longer the one that was opened
    HubError             OSError               and its kinds, which llamaprobe/hub/errors.py lists

A FileError has the class of its `errno`. All can be pickled and copied with their attributes.
Ctrl-C, and only Ctrl-C, raises KeyboardInterrupt.
"""

import errno as codes
import os
from typing import Any

__all__ = [
    "ArgumentError",
    "Cancelled",
    "ConfigError",
    "EditError",
    "EditTypeError",
    "Error",
    "FileChangedError",
    "FileDeniedError",
    "FileError",
    "FileInPlaceError",
    "FileIsFolderError",
    "FileMissingError",
    "FormatError",
    "HubError",
    "NewerFormatError",
    "NotFolderError",
    "OutOfMemory",
    "PointError",
    "RowError",
    "TemplateError",
    "Timeout",
    "TokenizerError",
    "UnsupportedError",
]


class Error(Exception):
    """Base of all errors that llamaprobe raises on purpose."""

    def reword(self, message: str) -> None:
        """Replace the message and keep all else."""
        self.args = (message, *self.args[1:])


class FormatError(Error, ValueError):
    """A file breaks the rules of its format, or contradicts the config."""


class NewerFormatError(FormatError):
    """A saved run in the format `version`, which only a later llamaprobe knows."""

    version: int | None = None


class ConfigError(Error, ValueError):
    """config.json lacks a key, or has a value that makes no sense."""


class ArgumentError(Error, ValueError):
    """An argument is out of range, of the wrong kind, or an unknown name."""


class PointError(ArgumentError, KeyError):
    """A capture point or layer that does not exist; the message names near matches."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class RowError(ArgumentError, IndexError):
    """A row that a harvest does not have, or what is not an index."""


class EditError(ArgumentError):
    """An edit that cannot be made, or that would do nothing; the message shows it.

    `run` is what was computed when the edit turned out to be one, of generated text that ended
    before it; else None.
    """

    run: Any = None


class EditTypeError(EditError, TypeError):
    """Not an assignment of numbers, or not an index."""


class TokenizerError(Error, ValueError):
    """The tokenizer is missing, damaged, or cannot encode this text."""


class TemplateError(Error, ValueError):
    """The chat template is missing, broken, refuses these messages, or exceeds its limits."""


class _SystemError(Error, OSError):
    """An OSError whose only argument is the message; OSError itself shows and pickles others."""

    def __init__(
        self,
        message: str = "",
        errno: int | None = None,
        filename: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.errno = errno
        self.strerror = None if errno is None else os.strerror(errno)
        self.filename = None if filename is None else os.fspath(filename)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        system = {"errno": self.errno, "strerror": self.strerror, "filename": self.filename}
        return type(self), self.args, {**self.__dict__, **system}


class FileError(_SystemError):
    """The operating system refused a file: missing, unreadable, not a regular file, disk full.

    `filename` is its path or None, `errno` the system's number or None. The constructor returns the
    subclass that is also Python's own class for that number.
    """

    def __new__(
        cls,
        message: str = "",
        errno: int | None = None,
        filename: str | os.PathLike[str] | None = None,
    ) -> "FileError":
        chosen = _BY_ERRNO.get(errno, cls) if cls is FileError else cls
        return super().__new__(chosen, message)


class FileMissingError(FileError, FileNotFoundError):
    """A file or folder is missing."""


class FileDeniedError(FileError, PermissionError):
    """The system does not allow it."""


class FileIsFolderError(FileError, IsADirectoryError):
    """A folder, but a file is needed."""


class NotFolderError(FileError, NotADirectoryError):
    """Not a folder, but one is needed."""


class FileInPlaceError(FileError, FileExistsError):
    """A file to be written exists already."""


class FileChangedError(FileError):
    """A file has changed since it was opened: load the model, or read the file, again."""


_BY_ERRNO: dict[int | None, type[FileError]] = {
    codes.ENOENT: FileMissingError,
    codes.EACCES: FileDeniedError,
    codes.EPERM: FileDeniedError,
    codes.EISDIR: FileIsFolderError,
    codes.ENOTDIR: NotFolderError,
    codes.EEXIST: FileInPlaceError,
}


class OutOfMemory(Error, MemoryError):
    """The requested arrays do not fit; the message says which needs how much."""


class UnsupportedError(Error, NotImplementedError):
    """Well formed, but llamaprobe cannot run it exactly, and does not approximate."""


class Timeout(Error, TimeoutError):
    """A run took longer than its `timeout`; the model stays usable."""


class Cancelled(Error):
    """A run was stopped by its `cancel`; the model stays usable."""


class HubError(_SystemError):
    """Something went wrong between here and the hub; subclasses in `llamaprobe.hub` say what."""
