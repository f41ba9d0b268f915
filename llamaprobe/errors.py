"""Every exception that llamaprobe raises on purpose, all of them reachable as `llamaprobe.NAME`.

All are `Error`, and each is also the built-in class that Python people catch for that kind of fault, so
`except ValueError` around a bad argument works as usual. Messages name the file, the fact and the way out.

    ArgumentError        ValueError            an argument, a prompt, a token id
        PointError       KeyError              a capture point or a layer
        WeightError      KeyError              the name of a tensor
    ConfigError          ValueError            config.json
        UnsupportedConfigError                 also UnsupportedError: it needs other maths
    FormatError          ValueError            a file of weights, of a run, of an array
        NewerFormatError                       a run that a later llamaprobe saved
    TokenizerError       ValueError            tokenizer.json, or a text that it cannot encode
    TemplateError        ValueError            the chat template, or messages that it refuses
    UnsupportedError     NotImplementedError   well formed, but nothing that can be run exactly
    OutOfMemory          MemoryError           raised before anything is computed
    Timeout              TimeoutError          a run took longer than its `timeout`
    Cancelled                                  a run was stopped by its `cancel`
    FileError            OSError               `filename`, and `errno` where the system gave one
        FileMissingError FileNotFoundError
        FileDeniedError  PermissionError
        FileIsFolderError IsADirectoryError
        NotFolderError   NotADirectoryError
        FileInPlaceError FileExistsError
        FileChangedError                       a file is no longer the one that was opened
    HubError             OSError               and its kinds, which llamaprobe/hub/errors.py lists

A FileError has the class of its `errno`. All of them can be pickled and copied with their
attributes. Ctrl-C is KeyboardInterrupt, and nothing else is.
"""

import errno as codes
import os
from typing import Any


class Error(Exception):
    """Base of all errors that llamaprobe raises on purpose."""

    def reword(self, message: str) -> None:
        """Replaces the message; the class and all attributes stay."""
        self.args = (message, *self.args[1:])


class FormatError(Error, ValueError):
    """A file breaks the rules of its format, or contradicts the config."""


class NewerFormatError(FormatError):
    """A saved run of a format that only a later llamaprobe knows; `version` is that format's."""

    version: int | None = None


class ConfigError(Error, ValueError):
    """config.json lacks a key, or has a value that makes no sense."""


class ArgumentError(Error, ValueError):
    """An argument is out of range, of the wrong kind, or names nothing that exists."""


class PointError(ArgumentError, KeyError):
    """A capture point or layer that does not exist; the message names near matches."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class TokenizerError(Error, ValueError):
    """The tokenizer is missing, damaged, or cannot encode this text."""


class TemplateError(Error, ValueError):
    """The chat template is missing, broken, refuses these messages, or exceeds its limits."""


class _SystemError(Error, OSError):
    """An OSError whose one argument is the message; OSError itself would show and pickle others."""

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

    `filename` is its path, `errno` the system's number; None where there is none. The constructor
    gives the subclass that is also Python's own class for that number.
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
    """There is no such file or folder."""


class FileDeniedError(FileError, PermissionError):
    """The system does not allow it."""


class FileIsFolderError(FileError, IsADirectoryError):
    """A folder is where a file is needed."""


class NotFolderError(FileError, NotADirectoryError):
    """Something else is where a folder is needed."""


class FileInPlaceError(FileError, FileExistsError):
    """A file is where a new one would go."""


class FileChangedError(FileError):
    """A file is no longer the one that was opened: load the model again, or read the file again."""


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
    """Well formed, but nothing that llamaprobe can run exactly: it refuses rather than approximates."""


class Timeout(Error, TimeoutError):
    """A run took longer than its `timeout`; the model stays usable."""


class Cancelled(Error):
    """A run was stopped by its `cancel`; the model stays usable."""


class HubError(_SystemError):
    """Something went wrong between here and the hub; subclasses in `llamaprobe.hub` say what."""
