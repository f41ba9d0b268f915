"""Which files of a repository llamaprobe needs.

By default: the config, the tokenizer, the chat template, and the weights in safetensors once:
`model.safetensors`, or the shards that its index names. Never a second copy of the weights in
`original/`, never a format that can run code, never code, whatever the globs say: llamaprobe could
do nothing with them.
"""

import json
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from ..checkpoint.folder import OTHER_FORMATS
from ..errors import ArgumentError, Error, FormatError
from ..files.naming import printable
from .listing import Listing, RepoFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 << 20

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
}
_NEVER = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".py", ".pyc", ".so")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_EMBEDDINGS = "model.embed_tokens."


def select(
    listing: Listing,
    index: bytes | None = None,
    *,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
    layers: Collection[int] | None = None,
    head: bool = False,
) -> list[RepoFile]:
    """The files to have, small ones first. `index` holds the bytes of the index file if
    `needs_index` says so.

    With `layers` only the shards that hold those layers, with layer 0 the embeddings too, and with
    `head` the last norm and the head; a model in one file comes whole. FormatError for an index
    that names what is not there.
    """
    if include:
        chosen = {path for path in listing if _matches(path, include)}
    else:
        chosen = {path for path in listing if path in _NEEDED}
        chosen |= _weights(listing, index, layers, head)
    chosen = {path for path in chosen if not _never(path) and not _matches(path, exclude or ())}
    return sorted((listing[path] for path in chosen), key=lambda file: (file.size, file.path))


def needs_index(listing: Listing, include: Collection[str] | None) -> bool:
    """True if the weights are shards, so that only the index tells which. FormatError for an index
    that is too large to be read."""
    if include or SINGLE in listing or INDEX not in listing:
        return False
    if listing[INDEX].size > MAX_INDEX:
        raise FormatError(f"{INDEX}: has {listing[INDEX].size} bytes, over {MAX_INDEX}")
    return True


def shards(index: bytes, layers: Collection[int] | None = None, head: bool = False) -> set[str]:
    """The files that an index names for some layers, or all of them. FormatError, ArgumentError."""
    weight_map = _weight_map(index)
    if layers is None:
        return set(weight_map.values())
    wanted, found = set(layers), set()
    files = set()
    for tensor, file in weight_map.items():
        match = _LAYER.match(tensor)
        if match:
            found.add(int(match[1]))
            use = int(match[1]) in wanted
        elif tensor.startswith(_EMBEDDINGS):
            use = 0 in wanted or head  # the head may be tied to them
        else:
            use = head
        if use:
            files.add(file)
    if missing := sorted(wanted - found):
        raise ArgumentError(
            f"layers {missing[:5]}: the model has layers 0 to {max(found, default=-1)}"
        )
    return files


def looks_complete(folder: Path, layers: Collection[int] | None, strict: bool) -> bool:
    """A guess about a folder without a listing, as older clients leave it: config and weights are
    there.

    `strict` wants a tokenizer too; when nobody can be asked, a model without one is better than
    none.
    """
    names = {"config.json"} | ({"tokenizer.json"} if strict else set())
    try:
        if os.path.exists(folder / SINGLE):
            names.add(SINGLE)
        else:
            with open(folder / INDEX, "rb") as file:
                names |= shards(file.read(MAX_INDEX), layers)
    except (OSError, FormatError):
        return False
    return all(os.path.exists(folder / name) for name in names)


def missing(folder: Path, layers: Collection[int] | None) -> str:
    """Why a folder is not complete, as far as its names tell; "" when nothing is missing or there
    is no folder."""
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


def _weights(
    listing: Listing, index: bytes | None, layers: Collection[int] | None, head: bool
) -> set[str]:
    if SINGLE in listing:
        return {SINGLE}
    if index is None:
        return set()
    files = shards(index, layers, head)
    if missing := sorted(files - listing.keys()):
        raise FormatError(
            f"{INDEX}: names {printable(repr(missing[0]), 120)}, which the repository does not have"
        )
    return files | {INDEX}


def _weight_map(index: bytes) -> dict[str, str]:
    try:
        value = json.loads(index.decode("utf-8"))
    except (ValueError, RecursionError):
        raise FormatError(f"{INDEX}: not valid JSON") from None
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{INDEX}: has no weight_map")
    for file in weight_map.values():
        if not isinstance(file, str) or not _SHARD.fullmatch(file) or len(file) > 255:
            raise FormatError(
                f"{INDEX}: weight_map names {printable(repr(file), 120)}; it must be a .safetensors"
                f" file beside it"
            )
    return weight_map


def _never(path: str) -> bool:
    return path.startswith("original/") or path.lower().endswith(_NEVER)


def _matches(path: str, globs: Iterable[str]) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(path, glob + "*" if glob.endswith("/") else glob) for glob in globs)
