"""The two journals that let a killed writer be cleaned up after, or continued.

A save of a run notes the names of its files, and of the run that was there, before it removes the
manifest; the note goes when the new manifest is written. If the save is killed in between, the next
one knows what to remove.

An export of weights is continued: its journal has lines of JSON. The first names the weight files;
each other one is what the manifest will say of one file, written before that file gets its name, so
that no kill leaves a whole file unknown. A line whose file is missing or different is ignored: only
size and sha256 decide whether a file is whole.

The folder is not trusted: the caller checks names from a journal.
"""

import contextlib
import functools
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import FileError, FormatError
from ..files.atomic import atomic_open, file_error
from ..files.json_file import parse_object, read_object
from ..files.paths import path_text
from ..files.writer import Written, write_all
from ..messages import shown_path
from .manifest import MANIFEST, file_entry, hash_file, read_json, write_json

SAVE = ".llamaprobe-save.json"
EXPORT = ".llamaprobe-export.jsonl"
_MAX_SAVE = 16 << 20  # bytes
_SHARD = re.compile(r"(.+-)[0-9]+(-of-[0-9]+\.safetensors)")


# ---- a save ----


def read_save(folder: Path) -> set[str]:
    """The names that an unfinished save noted. FileError."""
    path = folder / SAVE
    if not os.path.isfile(path):
        return set()
    try:
        names = read_object(path, _MAX_SAVE, FormatError).get("files")
    except FormatError:  # damaged: as good as missing
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


@contextlib.contextmanager
def of_save(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Notes the names, durably, until the block succeeds, or fails and leaves none of these files.
    FileError."""
    names = sorted(names)
    with atomic_open(folder / SAVE) as file:
        file.write(_line({"files": names}))
    try:
        yield
    except BaseException:
        if not any(os.path.lexists(folder / name) for name in names):
            _remove(folder / SAVE)
        raise
    _remove(folder / SAVE)


# ---- an export ----


class ExportJournal:
    """The known files of one folder of exported weights, from its manifest and its journal.

    `weight_files` are all files of the model, even if tensors of only some are exported: a manifest
    that knows none of them belongs to another model. Raises FileError when the folder holds another
    kind of manifest or, without `force`, one of other weights; FormatError for a damaged one.
    """

    def __init__(self, folder: Path, weight_files: Iterable[str], force: bool) -> None:
        self.folder, self.weight_files = folder, _states(weight_files)
        self.entries: dict[str, dict[str, Any]] = {}
        self._fd = -1
        self._hash_of = functools.cache(hash_file)  # the same file is checked twice
        if os.path.lexists(folder / MANIFEST):
            self._read_manifest(read_json(folder / MANIFEST), force)
        self._read_lines()

    def _read_manifest(self, manifest: dict[str, Any], force: bool) -> None:
        if manifest.get("kind") != "weights":
            raise FileError(
                f"{shown_path(self.folder / MANIFEST)}: is not of exported weights; choose another"
                " folder"
            )
        if _agree(manifest.get("weight_files"), self.weight_files):
            self.entries |= _objects(manifest.get("files"))
            self.weight_files = {**manifest["weight_files"], **self.weight_files}
        elif not force:
            raise FileError(
                f"{shown_path(self.folder / MANIFEST)}: is of other weights; choose another folder,"
                " or --force"
            )

    def _read_lines(self) -> None:
        try:
            lines = (self.folder / EXPORT).read_bytes().splitlines()
        except OSError:
            return
        found = [_parse_line(line) for line in lines]
        if found and _agree(found[0].get("weight_files"), self.weight_files):
            noted = _objects({str(line.get("file")): line.get("entry") for line in found[1:]})
            self.entries |= {
                name: entry for name, entry in noted.items() if self._is_whole(name, entry)
            }

    def whole_files(self, expected: Mapping[str, dict[str, Any]]) -> set[str]:
        """Those of the expected files that exist with the noted size and sha256."""
        return {
            name
            for name, entry in expected.items()
            if entry.items() <= self.entries.get(name, {}).items()
            and ("header" in entry) == ("header" in self.entries[name])
            and self._is_whole(name, self.entries[name])
        }

    def _is_whole(self, name: str, entry: dict[str, Any]) -> bool:
        path = self.folder / name
        with contextlib.suppress(OSError, ValueError):
            state = path.lstat()
            is_file = "/" not in name and stat.S_ISREG(state.st_mode)
            if is_file and state.st_size == entry.get("bytes"):
                return self._hash_of(path) == entry.get("sha256")
        return False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keeps the journal open: it begins with the known files and grows with `add`."""
        path = self.folder / EXPORT
        with atomic_open(path) as file:
            file.write(_line({"weight_files": self.weight_files}))
            file.writelines(
                _line({"file": name, "entry": entry}) for name, entry in self.entries.items()
            )
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            yield
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def add(self, file: Written, entry: dict[str, Any]) -> None:
        """Notes a file that is fsynced and about to get its name."""
        name = file.path.name
        entry = {**entry, **file_entry(file.encoder, file.n_bytes, file.sha256)}
        self.entries[name] = entry
        try:
            write_all(self._fd, [memoryview(_line({"file": name, "entry": entry}))])
        except OSError as error:
            raise file_error(error, self.folder / EXPORT) from error

    def close(self) -> None:
        """Writes the manifest of all files that are there, and removes the journal."""
        files = {
            name: entry
            for name, entry in self.entries.items()
            if os.path.exists(self.folder / name)
        }
        manifest = {
            "kind": "weights",
            "llamaprobe_version": __version__,
            "weight_files": self.weight_files,
            "files": files,
        }
        write_json(self.folder / MANIFEST, manifest)
        _remove(self.folder / EXPORT)


def _agree(old: Any, new: dict[str, Any]) -> bool:
    """Whether both know some weight file, and every one of these is the same."""
    both = old.keys() & new.keys() if isinstance(old, dict) else set()
    return bool(both) and all(old[name] == new[name] for name in both)


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: each for key, each in items if isinstance(each, dict)}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _parse_line(line: bytes) -> dict[str, Any]:
    """A line of the journal; {} for one that a kill cut short."""
    try:
        return parse_object(line, EXPORT, FormatError)
    except FormatError:
        return {}


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _states(paths: Iterable[str]) -> dict[str, Any]:
    """By name, what identifies a weight file without reading it. A shard brings those beside it:
    they may be exported one by one into the same folder."""
    with_siblings = {sibling for path in paths for sibling in _siblings(Path(path))}
    states = {path.name: os.stat(path) for path in sorted(with_siblings)}
    return {
        path_text(name)[0]: {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        for name, state in states.items()
    }


def _siblings(path: Path) -> Iterator[Path]:
    """The file itself, and the other shards of `model-00001-of-00004.safetensors`."""
    yield path
    if series := _SHARD.fullmatch(path.name):
        for name in os.listdir(path.parent):
            other = _SHARD.fullmatch(name)
            if other and other.groups() == series.groups() and os.path.isfile(path.parent / name):
                yield path.parent / name
