"""Which weight file is this? A fingerprint that reads a megabyte, whatever the size of the file.

Its samples lie all over the file, so that it differs between two models of the same shape, as a
header would not. It does not prove that a file is whole; that takes its sha256.
"""

import hashlib
import os
from collections.abc import Iterable

from ..errors import FileChangedError, FileError
from ..messages import shown_path
from .atomic import open_regular

_N_SAMPLES = 64
_SAMPLE = 16384  # bytes


REPLACED = "replaced"  # instead of a fingerprint: the path names another file now, or none


class Fingerprints:
    """Of open files: `of` reads a file once, and only if its stat is unchanged since then."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._states = {path: file_state(path) for path in paths}
        self._found: dict[str, str] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files."""
        return tuple(self._states)

    def of(self, path: str) -> str:
        """The fingerprint, or REPLACED."""
        try:
            found = self._found.get(path) or fingerprint(path)
        except FileError:
            return REPLACED
        if self._states[path] != file_state(path):
            return REPLACED
        self._found[path] = found
        return found

    def by_name(self) -> dict[str, str]:
        """The fingerprint of each file under its name, for pickling. FileChangedError."""
        marks: dict[str, str] = {}
        for path in self._states:
            mark = marks[os.path.basename(path)] = self.of(path)
            if mark == REPLACED:
                raise FileChangedError(
                    f"{shown_path(path)}: is no longer the file that was opened, so the model cannot"
                    " be pickled; load it again",
                    None,
                    path,
                )
        return marks

    def check_in_place(self) -> None:
        """FileChangedError when a path no longer names the file that was opened."""
        for path, state in self._states.items():
            if file_state(path) != state:
                raise FileChangedError(
                    f"{shown_path(path)}: was replaced or changed since the model was"
                    " opened; load it again"
                )


class RecordedFingerprints:
    """Those in the manifest of a run; None where it has none."""

    def __init__(self, by_name: dict[str, str | None]) -> None:
        self._by_name = by_name

    def of(self, name: str) -> str | None:
        return self._by_name[name]


def file_state(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None: it does not exist."""
    try:
        s = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns


def fingerprint(path: str | os.PathLike[str]) -> str:
    """sha256, in hex, of the size of a file and of samples spread evenly from its first to its last
    byte. FileError."""
    with open_regular(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(b"%d\n" % n_bytes)
        for i in range(_N_SAMPLES):
            at = max(0, n_bytes - _SAMPLE) * i // (_N_SAMPLES - 1)
            digest.update(os.pread(file.fileno(), _SAMPLE, at))
        return digest.hexdigest()


def check_fingerprint(path: str, expected: str | None) -> None:
    """FileChangedError unless the file has this fingerprint; FileError."""
    if fingerprint(path) != expected:
        raise not_as_pickled(path)


def not_as_pickled(path: str) -> FileChangedError:
    """For a file that is another one than was pickled."""
    return FileChangedError(
        f"{shown_path(path)}: is not the file that was pickled; load the model again", None, path
    )
