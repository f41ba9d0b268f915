"""Every exception that llamaprobe raises on purpose.

All are `Error`, and each is also the built-in class that Python people catch for that kind of fault, so
`except ValueError` around a bad argument works as usual. Messages name the file, the fact and the way out.
"""


class Error(Exception):
    """Base of all errors that llamaprobe raises on purpose."""


class FormatError(Error, ValueError):
    """A file breaks the rules of its format, or contradicts the config."""


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


class FileError(Error, OSError):
    """The operating system refused a file: missing, unreadable, not a regular file, disk full."""

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else OSError.__str__(self)


class FileChangedError(FileError):
    """A file is no longer the one that was opened: load the model again, or read the file again."""


class OutOfMemory(Error, MemoryError):
    """The arrays that were asked for do not fit; the message says which needs how much."""


class UnsupportedError(Error, NotImplementedError):
    """Well formed, but nothing that llamaprobe can run exactly: it refuses rather than approximates."""


class HubError(Error, OSError):
    """Something went wrong between here and the hub; subclasses in `llamaprobe.hub` say what."""

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else OSError.__str__(self)
