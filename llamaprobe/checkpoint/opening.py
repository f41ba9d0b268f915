"""How a model is opened: the files of its folder, proved and held against config.json.

Opening reads headers only. What no operation would use is refused or warned about here, so that no
model runs as another one than its file is of.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core, log
from ..files.atomic import shown_path
from .folder import Checkpoint, named, open_checkpoint
from ..config import Config, core_numbers, read_config
from ..errors import ArgumentError, UnsupportedError
from ..files.naming import printable
from .tensor_names import HEAD, check_complete, find_unused

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Opening:
    """All that it takes to open a model again, from another folder and in another process."""

    name: str
    """As it was requested: "demo", a folder, a repo id."""
    folder: Path
    """Absolute, see `source.whole_path`."""
    is_own: bool
    """Whether the folder is one of the user's own: neither the demo's nor a repo's."""
    commit: str | None
    """Of a repo."""
    threads: int | None
    mmap: bool
    layers: int | None
    ignore: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """What `load` was given besides the source."""
        return {name: getattr(self, name) for name in ("threads", "mmap", "layers", "ignore")}


def open_files(opening: Opening) -> tuple[Config, Checkpoint, tuple[str, ...]]:
    """The config, the open weights, and the names of tensors that no operation uses and that are
    passed over. Warnings name the caller of `load`. Raises as `load`."""
    whole = read_config(opening.folder, stacklevel=5)
    config = _first_layers(whole, opening.layers)
    checkpoint = open_checkpoint(opening.folder, mmap=opening.mmap, layers=opening.layers)
    config = with_head(config, checkpoint)
    where = shown_path(checkpoint.folder)
    check_complete(config, checkpoint.tensors, f"{where}: {checkpoint.first_file}")
    unused = find_unused(config, checkpoint.tensors, opening.ignore, whole.n_layers)
    if unused.refused:
        raise UnsupportedError(f"{where}: {unused.refusal(whole)}")
    if unused.others:
        log.warn(f"{where}: {unused.warning(whole)}", stacklevel=4)
    if os.path.exists(opening.folder / "adapter_config.json"):
        log.warn(
            f"{where}: adapter_config.json beside the weights is of a LoRA, which is not applied",
            stacklevel=4,
        )
    return config, checkpoint, unused.passed_over


def at_least_one(layers: int | range) -> int:
    """How many of the first layers `load(layers=)` means. ArgumentError."""
    if isinstance(layers, range) and layers and layers == range(layers.stop):
        return layers.stop
    if not isinstance(layers, bool) and hasattr(layers, "__index__") and layers.__index__() >= 1:
        return layers.__index__()
    raise ArgumentError(
        f"layers is {printable(repr(layers), 60)}; here it is how many of the first layers to open,"
        f" such as 4 or range(4); which of them a run keeps is the layers of model.run"
    )


def _first_layers(config: Config, layers: int | None) -> Config:
    if layers is None:
        return config
    if layers > config.n_layers:
        raise ArgumentError(f"layers is {layers:d}, but the model has {config.n_layers}")
    return dataclasses.replace(config, n_layers=int(layers))


def with_head(config: Config, checkpoint: Checkpoint) -> Config:
    """A head in the file is the head, whatever the flag says, as in transformers 5."""
    tied = config.tied_head and HEAD not in checkpoint.tensors
    return dataclasses.replace(config, tied_head=tied)


def open_core(config: Config, checkpoint: Checkpoint) -> _core.Model:
    """The model as the core has it: every tensor found and its shape proved. FormatError,
    UnsupportedError."""
    with named(checkpoint.folder):
        return _core.Model(
            checkpoint.files, inv_freq=config.inv_freq, **core_numbers(config)
        )


def describe_files(checkpoint: Checkpoint) -> Iterator[tuple[str, int, str | None]]:
    """(path, bytes, sha256 where the hub cache names the file after it)."""
    for file in checkpoint.files:
        target = checkpoint.links.get(os.path.basename(file.path))
        folders = (target.parent.name, target.parent.parent.name) if target else ()
        blob = target.name if target and "blobs" in folders else ""
        yield file.path, file.n_bytes, blob if _SHA256.fullmatch(blob) else None
