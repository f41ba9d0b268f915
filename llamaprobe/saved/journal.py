"""What is known of the files of an export: its manifest, and the journal of one that was killed.

The journal is lines of JSON: the first says which weight files it is about, each other one holds
what the manifest will say of one file. A line is written before its file gets its name, so that no
kill can leave a whole file that nobody knows; a line whose file is not there, or is another, counts
for nothing. Only size and sha256 decide whether a file is whole.
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
from ..files.atomic import atomic_open, file_error, shown_path
from ..errors import FileError
from .run_folder import MANIFEST, file_entry, hash_file, read_json, write_json
from ..files.naming import path_text
from ..files.writer import Written, write_all

JOURNAL = ".llamaprobe-export.jsonl"
_SHARD = re.compile(r"(.+-)[0-9]+(-of-[0-9]+\.safetensors)")


class Ledger:
    """The entries that are known of one folder, and the files that are whole by them.

    `weight_files` are all files of the model, also when only tensors of some are exported: a
    manifest that knows none of them is another model's. Raises FileError when the folder holds
    another kind of manifest, or, without `force`, one of other weights; FormatError for a damaged
    one.
    """

    def __init__(self, folder: Path, weight_files: Iterable[str], force: bool) -> None:
        self.folder, self.weight_files = folder, _fingerprints(weight_files)
        self.entries: dict[str, dict[str, Any]] = {}
        self._journal_fd = -1
        self._hash_of = functools.cache(hash_file)  # read once, asked for twice
        if os.path.lexists(folder / MANIFEST):
            self._take_manifest(read_json(folder / MANIFEST), force)
        self._take_journal()

    def _take_manifest(self, manifest: dict[str, Any], force: bool) -> None:
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

    def _take_journal(self) -> None:
        try:
            lines = (self.folder / JOURNAL).read_bytes().splitlines()
        except OSError:
            return
        told = [_parse_line(line) for line in lines]
        if told and _agree(told[0].get("weight_files"), self.weight_files):
            noted = _objects({str(line.get("file")): line.get("entry") for line in told[1:]})
            self.entries |= {
                name: entry for name, entry in noted.items() if self._is_whole(name, entry)
            }

    def whole_files(self, wanted: Mapping[str, dict[str, Any]]) -> set[str]:
        """Those of the wanted files that are there with the size and sha256 that were noted for
        them."""
        return {
            name
            for name, entry in wanted.items()
            if entry.items() <= self.entries.get(name, {}).items()
            and ("header" in entry) == ("header" in self.entries[name])
            and self._is_whole(name, self.entries[name])
        }

    def _is_whole(self, name: str, entry: dict[str, Any]) -> bool:
        path = self.folder / name
        with contextlib.suppress(OSError, ValueError):
            state = path.lstat()
            if (
                "/" not in name
                and stat.S_ISREG(state.st_mode)
                and state.st_size == entry.get("bytes")
            ):
                return self._hash_of(path) == entry.get("sha256")
        return False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While the journal is open: begins with what is known and grows with `add`."""
        path = self.folder / JOURNAL
        with atomic_open(path) as file:
            file.write(_line({"weight_files": self.weight_files}))
            file.writelines(
                _line({"file": name, "entry": entry}) for name, entry in self.entries.items()
            )
        try:
            self._journal_fd = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            )
            yield
        finally:
            if self._journal_fd >= 0:
                os.close(self._journal_fd)
                self._journal_fd = -1

    def add(self, file: Written, entry: dict[str, Any]) -> None:
        """Notes a file that is fsynced and about to get its name."""
        self.entries[file.path.name] = {
            **entry,
            **file_entry(file.table, file.n_bytes, file.sha256),
        }
        line = _line({"file": file.path.name, "entry": self.entries[file.path.name]})
        try:
            write_all(self._journal_fd, [memoryview(line)])
        except OSError as error:
            raise file_error(error, self.folder / JOURNAL) from error

    def close(self) -> None:
        """Writes the manifest of all files that are there, and removes the journal."""
        there = {
            name: entry for name, entry in self.entries.items() if os.path.exists(self.folder / name)
        }
        manifest = {
            "kind": "weights",
            "llamaprobe_version": __version__,
            "weight_files": self.weight_files,
            "files": there,
        }
        write_json(self.folder / MANIFEST, manifest)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.folder / JOURNAL)


def _agree(old: Any, new: dict[str, Any]) -> bool:
    """Whether both know some weight file, and every one of these is the same."""
    both = old.keys() & new.keys() if isinstance(old, dict) else set()
    return bool(both) and all(old[name] == new[name] for name in both)


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    return (
        {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}
    )


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _parse_line(line: bytes) -> dict[str, Any]:
    """A line of the journal; {} for one that a kill cut short."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _fingerprints(paths: Iterable[str]) -> dict[str, Any]:
    """By name, what tells one weight file from another without reading it. With a shard come those
    beside it: one after the other may be exported into one folder."""
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
