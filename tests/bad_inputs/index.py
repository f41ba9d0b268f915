"""Bad inputs 50 to 55: the index of a sharded model, its shards, and links among them."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models

from bad_inputs import BadInput, Refusal
from llamaprobe import FileError, FormatError
from llamaprobe.checkpoint.folder import INDEX, SINGLE, open_checkpoint

NORM = "model.norm.weight"
SHARDS = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]


def sharded(box: Path, n_shards: int = 3) -> Path:
    config = models.make_config()
    return models.write_checkpoint(box / "m", config, models.make_weights(config), n_shards=n_shards)


def edited(edit: Callable[[dict], object]) -> Callable[[Path], Path]:
    """A sharded model with its index changed."""

    def make(box: Path) -> Path:
        folder = sharded(box)
        index = json.loads((folder / INDEX).read_text())
        edit(index)
        (folder / INDEX).write_text(json.dumps(index))
        return folder

    return make


def mapped(tensor: str, file: object) -> Callable[[Path], Path]:
    return edited(lambda index: index["weight_map"].update({tensor: file}))


def with_text(text: bytes) -> Callable[[Path], Path]:
    def make(box: Path) -> Path:
        folder = sharded(box)
        (folder / INDEX).write_bytes(text)
        return folder

    return make


def names(folder: Path) -> int:
    return len(open_checkpoint(folder).tensors)


def refused(number: str, name: str, make: Callable[[Path], Any], fact: str, file: str = INDEX,
            error: type[Exception] = FormatError) -> BadInput:
    return BadInput(number, name, make, names, Refusal(error, fact, file))


# ---- 50 and 51: what a weight_map may say ----

LEAVES = [
    *("../m.safetensors", "/abs/m.safetensors", "a/../../m.safetensors", "a\\..\\m.safetensors"),
    *("C:\\m.safetensors", "\\\\host\\m.safetensors", "%2e%2e/m.safetensors", "..", "", "\x1b[31m"),
    *(".hidden.safetensors", "m.safetensors\n", "m.safetensors\0", "m .safetensors", "ü.safetensors"),
    *("m.bin", "m.SAFETENSORS", "m" * 250 + ".safetensors"),
]


def pipe_outside(box: Path) -> Path:
    """The names are refused before any of them is touched: opening this one would be seen."""
    os.mkfifo(box / "m.safetensors")
    return mapped("a", "../m.safetensors")(box)


CASES = [
    refused("50", ascii(name)[:30], mapped(NORM, name), 'weight_map of "model.norm.weight" is "')
    for name in LEAVES
]
CASES += [
    refused("50", "a pipe outside the folder", pipe_outside, 'weight_map of "a" is'),
    *(refused("51", f"file {value}", mapped(NORM, value), f'"{NORM}" is .*; it must be the name')
      for value in (3, None, True, ["m.safetensors"], {})),
    *(refused("51", f"weight_map {value}", edited(lambda index, v=value: index.update(weight_map=v)),
              "weight_map is .*; it must map tensors to files")
      for value in (None, [], {}, "x", 7)),
    refused("51", "no weight_map", edited(lambda index: index.pop("weight_map")), "weight_map is null"),
    refused("51", "cut off", with_text(b"{"), "not valid JSON"),
    refused("51", "Git LFS pointer", with_text(b"version https://git-lfs.github.com/spec/v1\noid "),
            "is a Git LFS pointer and not the file itself"),
    refused("51", "web page", with_text(b"<html>404</html>"), "is a web page"),
    refused("51", "list", with_text(b"[]"), "it must be a JSON object"),
    refused("51", "not UTF-8", with_text(b"\xff"), "not UTF-8"),
    refused("51", "twice", with_text(b'{"weight_map":{},"weight_map":{}}'), "duplicate key"),
]

# ---- 52 and 53: what the shards hold ----


def without(*shards: str) -> Callable[[Path], Path]:
    def make(box: Path) -> Path:
        folder = sharded(box)
        for shard in shards:
            (folder / shard).unlink()
        return folder

    return make


def weight_map(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX).read_text())["weight_map"]


def in_another(box: Path) -> Path:
    first = next(iter(weight_map(sharded(box))))
    return mapped(first, SHARDS[1])(box)


def in_two(box: Path) -> Path:
    folder = sharded(box)
    files, weights = weight_map(folder), models.read_checkpoint(folder)
    kept = {n: w for n, w in weights.items() if files[n] == SHARDS[1] or n == next(iter(files))}
    (folder / SHARDS[1]).write_bytes(models.safetensors_bytes(kept, "BF16"))
    return folder


CASES += [
    refused("52", "first and last shard missing", without(SHARDS[0], SHARDS[2]),
            f"2 of 3 shards are missing: {SHARDS[0]}, {SHARDS[2]}; download", "", FileError),
    refused("53", "tensor that no shard has", mapped("model.extra", SHARDS[0]),
            f'{SHARDS[0]} has a tensor "model.extra", which no shard has'),
    refused("53", "tensor in another shard", in_another,
            f'{SHARDS[1]} has a tensor ".*", which is in {SHARDS[0]}'),
    refused("53", "tensor in two shards", in_two,
            f'".*" is in two files, {SHARDS[0]} and {SHARDS[1]}', ""),
    BadInput("53", "tensor that the index leaves out",
             edited(lambda index: index["weight_map"].pop(NORM)), names, 30),
]

# ---- 54: a link out of the folder ----


def linked_out(*notes: str) -> Callable[[Path], Path]:
    """The weights are elsewhere, with a link in their place; `notes` are folders of a download."""

    def make(box: Path) -> Path:
        folder = sharded(box, n_shards=1)
        (folder / SINGLE).rename(box / "elsewhere.safetensors")
        (folder / SINGLE).symlink_to(box / "elsewhere.safetensors")
        if notes:
            folder.joinpath(*notes).mkdir(parents=True)
        return folder

    return make


def linked_out_of_cache(box: Path) -> Path:
    snapshot = box / "models--some--model" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    return linked_out()(box).rename(snapshot)


def links(folder: Path) -> dict[str, str]:
    return {name: target.name for name, target in open_checkpoint(folder).links.items()}


TOLD = "is a link out of its download, to .*elsewhere"
CASES += [
    refused("54", "in a downloaded folder", linked_out(".cache", "huggingface"), TOLD, SINGLE, FileError),
    refused("54", "in a hub cache", linked_out_of_cache, TOLD, SINGLE, FileError),
    BadInput("54", "in a folder of one's own", linked_out(), links, {SINGLE: "elsewhere.safetensors"}),
]

# ---- 55: a sum that is wrong ----


def warned(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_checkpoint(folder)
    return [str(warning.message).partition(INDEX)[2].partition(",")[0] for warning in caught]


CASES += [
    BadInput("55", f"total_size {total}", edited(lambda index, t=total: index.update(metadata={"total_size": t})),
             warned, [f": total_size is {json.dumps(total)}"])
    for total in (0, -1, 10**15, "12", 1.5, [])
]
CASES += [
    BadInput("55", f"metadata {metadata}", edited(lambda index, m=metadata: index.update(metadata=m)), warned, [])
    for metadata in (None, {}, [], {"total_size": None})
]
