"""The files of a repository at one commit, and which of them llamaprobe needs.

A listing never changes. On disk it has the form of the hub's own client, whose listings are read
too, so that nothing known is requested again; an invalid one counts as absent.

Selected by default: the config, the tokenizer, the chat template, and the weights in safetensors
once: `model.safetensors`, or the shards that its index names; else, or where `file` says so, one
model in GGUF. Whatever the globs say, never the second copy of the weights in `original/`, never
code or a format that can run code.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.folder import OTHER_FORMATS, weight_map
from ..errors import ArgumentError, Error, FormatError, HubError
from ..files.atomic import file_error
from ..files.json_file import parse_object
from ..gguf.choice import choose, parts_of
from ..messages import printable
from .errors import MetadataError
from .names import check_entry, is_etag

if TYPE_CHECKING:
    from hashlib import _Hash

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 << 20
MAX_LISTING = 64 << 20  # bytes of the file
_MAX_SIZE = 1 << 50
_BLOCK = 4 << 20
_VERSION = 1

_NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
}
_NEVER = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".py", ".pyc", ".so")
_LAYER = re.compile(r"(?:language_model\.)?model\.layers\.([0-9]{1,9})\.")
_EMBEDDINGS = ("model.embed_tokens.", "language_model.model.embed_tokens.")


@dataclass(frozen=True)
class RepoFile:
    """One file of a repository."""

    path: str
    size: int
    blob_id: str
    """Git's sha1 of what git stores: the file, or a pointer to it."""
    sha256: str | None = None
    """Of the file itself, for those that git does not store."""
    xet_hash: str | None = None

    @property
    def folders(self) -> list[str]:
        """The folders that it lies in."""
        return self.path.split("/")[:-1]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def etag(self) -> str:
        """The name of its blob in the cache: the sha256, or git's sha1 of a small file."""
        return self.sha256 or self.blob_id

    def new_hash(self) -> "_Hash":
        """The hash whose hex digits over all of the file are its etag."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)

    def matches(self, fd: int, check: Callable[[], None] = lambda: None) -> bool:
        """Whether an open file has these bytes: reads and hashes it. `check` may raise to end it.
        FileError if the disk cannot be read."""
        total, digest = 0, self.new_hash()
        while total <= self.size:
            check()
            try:
                data = os.pread(fd, _BLOCK, total)
            except OSError as error:
                raise file_error(error, self.path) from error
            if not data:
                break
            digest.update(data)
            total += len(data)
        return total == self.size and digest.hexdigest() == self.etag


Listing = Mapping[str, RepoFile]


# ---- as the hub and the disk have it ----


def from_api(entry: Any, what: str) -> RepoFile | None:
    """A file from one entry of the hub's tree listing; None for a folder. `what` begins messages.
    UnsafeNameError, MetadataError."""
    if not isinstance(entry, dict):
        raise MetadataError(f"{what}: the hub's list of files has an entry that is not an object")
    path = check_entry(entry.get("path"))
    if entry.get("type") != "file":
        return None
    lfs = entry.get("lfs")
    large = lfs if isinstance(lfs, dict) else {}
    hashes = {"lfs_sha256": large.get("oid"), "xet_hash": entry.get("xetHash")}
    return _file(path, entry.get("size"), large.get("size"), entry.get("oid"), hashes, what)


def parse(data: bytes) -> Listing | None:
    """The listing in a `<commit>.json`; None for an invalid one."""
    try:
        value = parse_object(data, "the listing", FormatError)
        if value["format_version"] != _VERSION:
            return None
        return {
            check_entry(path): _file(path, e["size"], e.get("lfs_size"), e["blob_id"], e, "")
            for path, e in value["files"].items()
        }
    except (FormatError, KeyError, TypeError, AttributeError, HubError):
        return None


def serialize(listing: Listing) -> bytes:
    """The bytes of a `<commit>.json`."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(listing):
        file = listing[path]
        files[path] = {"size": file.size, "blob_id": file.blob_id}
        if file.sha256:
            files[path] |= {"lfs_sha256": file.sha256, "lfs_size": file.size}
        if file.xet_hash:
            files[path]["xet_hash"] = file.xet_hash
    return json.dumps({"format_version": _VERSION, "files": files}, indent=1).encode()


def _file(
    path: str, size: Any, lfs_size: Any, blob_id: Any, hashes: Mapping[str, Any], what: str
) -> RepoFile:
    sha256, xet_hash = hashes.get("lfs_sha256"), hashes.get("xet_hash")
    if sha256 is not None and type(lfs_size) is int:
        size = lfs_size if size in (lfs_size, None) else None
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise MetadataError(f"{what}: the hub gives no size, or two, for {path!r}")
    if not (is_etag(blob_id) and len(blob_id) == 40) or not (
        sha256 is None or (is_etag(sha256) and len(sha256) == 64)
    ):
        raise MetadataError(f"{what}: the hub gives no usable hash for {path!r}")
    fine = is_etag(xet_hash) and len(str(xet_hash)) == 64
    return RepoFile(path, size, blob_id, sha256, xet_hash if fine else None)


# ---- which files ----


@dataclass(frozen=True)
class Choice:
    """Which files of a repository."""

    include: Collection[str] | None = None
    exclude: Collection[str] | None = None
    layers: Collection[int] | None = None
    head: bool = False
    file: str | None = None
    """Which model in GGUF, see gguf/choice.py; None: that of a repository without safetensors."""

    def of(self, listing: Listing, index: bytes | None = None) -> list[RepoFile]:
        """The selected files, small ones first. `index` holds the bytes of the index file if
        `needs_index` says so.

        With `layers` only the shards that hold those layers, with layer 0 the embeddings too, and
        with `head` the last norm and the head; a model in one file, or in GGUF, comes whole.
        FormatError for an index that names an absent file; ArgumentError where several models in
        GGUF may be meant, or none is.
        """
        if self.include:
            chosen = {path for path in listing if _matches(path, self.include)}
        else:
            chosen = {path for path in listing if path in _NEEDED} | self._weights(listing, index)
        files = [
            listing[path]
            for path in chosen
            if not _never(path) and not _matches(path, self.exclude or ())
        ]
        return sorted(files, key=lambda file: (file.size, file.path))

    def needs_index(self, listing: Listing) -> bool:
        """True if the weights are shards, so that only the index says which. FormatError for an
        index that is too large."""
        if self.include or self.file or SINGLE in listing or INDEX not in listing:
            return False
        if listing[INDEX].size > MAX_INDEX:
            raise FormatError(f"{INDEX}: has {listing[INDEX].size} bytes, over {MAX_INDEX}")
        return True

    def _weights(self, listing: Listing, index: bytes | None) -> set[str]:
        if self.file is None and SINGLE in listing:
            return {SINGLE}
        if self.file is not None or INDEX not in listing:
            return _gguf(listing, self.file)
        if index is None:
            return set()
        files = shards(index, self.layers, self.head)
        if absent := sorted(files - listing.keys()):
            raise FormatError(
                f"{INDEX}: names {printable(repr(absent[0]), 120)}, which the repository does not"
                f" have"
            )
        return files | {INDEX}


def _gguf(listing: Collection[str], file: str | None) -> set[str]:
    """All parts of the one model in GGUF; ArgumentError, FormatError."""
    first = choose(listing, file, "the repository")
    parts = [] if first is None else parts_of(first)
    if absent := [name for name in parts if name not in listing]:
        raise FormatError(
            f"the repository: {printable(absent[0], 120)} is missing, a part of a split"
        )
    return set(parts)


def shards(index: bytes, layers: Collection[int] | None = None, head: bool = False) -> set[str]:
    """The files that an index names for some layers, or all of them. FormatError, ArgumentError."""
    file_of = weight_map(parse_object(index, INDEX, FormatError), INDEX)
    if layers is None:
        return set(file_of.values())
    requested, found = set(layers), set()
    files = set()
    for tensor, file in file_of.items():
        match = _LAYER.match(tensor)
        if match:
            found.add(int(match[1]))
            use = int(match[1]) in requested
        elif tensor.startswith(_EMBEDDINGS):
            use = 0 in requested or head  # the head may be tied to them
        else:
            use = head
        if use:
            files.add(file)
    if absent := sorted(requested - found):
        raise ArgumentError(
            f"layers {absent[:5]}: the model has layers 0 to {max(found, default=-1)}"
        )
    return files


def looks_complete(folder: Path, choice: Choice, strict: bool) -> bool:
    """A guess about a folder without a listing, as older clients leave it: config and weights are
    there. `strict` requires a tokenizer too; offline, a model without one is better than none. A
    model in GGUF, which `file` of the choice names, needs neither."""
    if choice.file is not None:
        held = {path.relative_to(folder).as_posix() for path in folder.glob("**/*")}
        try:
            return bool(_gguf(held, choice.file))
        except Error:
            return False
    names = {"config.json"} | ({"tokenizer.json"} if strict else set())
    try:
        if os.path.exists(folder / SINGLE):
            names.add(SINGLE)
        else:
            with open(folder / INDEX, "rb") as file:
                names |= shards(file.read(MAX_INDEX), choice.layers)
    except (OSError, FormatError):
        return False
    return all(os.path.exists(folder / name) for name in names)


def missing(folder: Path, layers: Collection[int] | None) -> str:
    """Why a folder is not complete, judged by its names; "" when nothing is missing or there is no
    folder."""
    try:
        held = sorted(os.listdir(folder))
        if SINGLE in held:
            needed = {"config.json", SINGLE}
        elif INDEX in held:
            needed = {"config.json", INDEX}
            with open(folder / INDEX, "rb") as file:
                needed |= shards(file.read(MAX_INDEX), layers)
        else:
            return _without_weights(held)
    except (OSError, Error):
        return ""
    for name in sorted(needed):
        if not os.path.lexists(folder / name):
            return f"{name} is not there"
        if not os.path.exists(folder / name):
            target = printable(os.readlink(folder / name))
            return f"{name} is a link to {target}, which is not there"
    return ""


def _without_weights(held: list[str]) -> str:
    for name in held:
        if why := OTHER_FORMATS.get(os.path.splitext(name)[1].lower()):
            return f"it holds no safetensors, but {printable(name, 80)}, which is {why}"
    return f"neither {SINGLE} nor {INDEX} is there"


def _never(path: str) -> bool:
    return path.startswith("original/") or path.lower().endswith(_NEVER)


def _matches(path: str, globs: Iterable[str]) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(path, glob + "*" if glob.endswith("/") else glob) for glob in globs)
