"""Opening a model: the files of its folder, validated and compared with config.json.

Opening reads headers only; for quantised safetensors, also zeros and column groups. Tensors that no
operation uses are refused or warned about here: config.json may describe another model than the one
in the files.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core, log
from ..arguments import choice, whole
from ..config import Config, read_config
from ..errors import ArgumentError, UnsupportedError
from ..families.core import core_arguments
from ..messages import shown_path
from .folder import Checkpoint, named, open_checkpoint
from .quantised.find import declared_of, with_packed
from .tensor_names import HEAD, check_complete, find_unused

WEIGHTS_AS = ("float32", "bf16")
_OPTIONS = ("threads", "mmap", "layers", "ignore", "weights_as")
_FLOATS = {"F32", "BF16", "F16", "F64"}
_MAX_LAYERS = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Opening:
    """How a model was opened, and how it is reopened after pickling. It never holds a hub token."""

    name: str
    """The model as requested: "demo", a folder, a repo id."""
    folder: Path
    """Absolute, see `source.whole_path`."""
    is_own: bool
    """Whether it is the user's folder, not the demo's or a repo's."""
    commit: str | None
    """For a repo: its revision."""
    threads: int | None
    mmap: bool
    layers: int | None
    ignore: tuple[str, ...]
    file: str | None = None
    """For a GGUF: its first file, as a path relative to the folder."""
    weights_as: str = "float32"
    """Packed weights: "float32" for the exact values of the codes, "bf16" for these rounded."""

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `load` that find the model again, from any working directory."""
        if not self.is_own and self.name == "demo":
            return {"source": "demo"}
        file = {} if self.file is None else {"file": self.file}
        if not self.is_own and self.commit is not None:
            cache = self.folder.parents[2]  # of models--owner--name/snapshots/commit
            return {"source": self.name, "revision": self.commit, "cache_dir": str(cache), **file}
        return {"source": str(self.folder), **file}

    @property
    def options(self) -> dict[str, Any]:
        """The other arguments of `load`, except the token."""
        return {name: getattr(self, name) for name in _OPTIONS}


def open_files(
    opening: Opening, open_gguf: Callable[[Opening], tuple[Checkpoint, Config]]
) -> tuple[Config, Checkpoint, tuple[str, ...]]:
    """The config, the open weights, and the names of the unused tensors. Warnings point to the
    caller of `load`. Raises as `load`."""
    if opening.file is not None:
        checkpoint, whole = open_gguf(opening)
        config = _cut(whole, opening.layers)
        for note in config.notes:
            log.warn(note, stacklevel=4)
    else:
        whole = read_config(opening.folder, stacklevel=5)
        declared = declared_of(whole)
        whole = whole if declared is None else declared.recorded(whole)
        config = _cut(whole, opening.layers)
        checkpoint = open_checkpoint(opening.folder, mmap=opening.mmap, layers=opening.layers)
        checkpoint = with_packed(config, checkpoint, declared, opening.weights_as)
    config = with_head(config, checkpoint)
    where = checkpoint.shown
    of_file = f"{shown_path(checkpoint.folder)}: {checkpoint.first_file}"
    check_complete(config, checkpoint.names, of_file)
    unused = find_unused(config, checkpoint.names, opening.ignore, whole.n_layers)
    if unused.refused:
        raise UnsupportedError(f"{where}: {unused.refusal(whole)}")
    if unused.others:
        log.warn(f"{where}: {unused.warning(whole)}", stacklevel=4)
    for note in checkpoint.quantization.notes if checkpoint.quantization else ():
        log.warn(note, stacklevel=4)
    if os.path.exists(opening.folder / "adapter_config.json"):
        log.warn(
            f"{where}: adapter_config.json beside the weights is of a LoRA, which is not applied",
            stacklevel=4,
        )
    return config, checkpoint, unused.names


def open_weights(folder: Path) -> Checkpoint:
    """Only the weights of a folder. If config.json is missing or describes a model that cannot run,
    quantised weights are given as the stored tensors. Raises as `load`."""
    checkpoint = open_checkpoint(folder)
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values()}
    if dtypes <= _FLOATS or not os.path.exists(checkpoint.folder / "config.json"):
        return checkpoint
    try:
        config = read_config(checkpoint.folder, stacklevel=8)
        return with_packed(config, checkpoint, declared_of(config))
    except UnsupportedError:
        return checkpoint


def check_weights_as(weights_as: object) -> None:
    """ArgumentError for a value that `load(weights_as=)` does not take."""
    choice("weights_as", weights_as, WEIGHTS_AS)


def first_layers(layers: int | range) -> int:
    """How many layers `load(layers=)` opens. ArgumentError."""
    if isinstance(layers, range) and layers and layers == range(layers.stop):
        layers = layers.stop
    way_out = (
        "how many of the first layers to open, such as 4 or range(4); which of them a run keeps is"
        " the layers of model.run"
    )
    return whole("layers", layers, 1, _MAX_LAYERS, way_out)


def _cut(config: Config, layers: int | None) -> Config:
    if layers is None:
        return config
    if layers > config.n_layers:
        raise ArgumentError(f"layers is {layers:d}, but the model has {config.n_layers}")
    return dataclasses.replace(config, n_layers=int(layers))


def with_head(config: Config, checkpoint: Checkpoint) -> Config:
    """A head in the file is used even if tie_word_embeddings is true, as in transformers 5."""
    tied = config.tied_head and config.prefix + HEAD not in checkpoint.names
    return dataclasses.replace(config, tied_head=tied)


def open_core(config: Config, checkpoint: Checkpoint) -> _core.Model:
    """The core's model, with every tensor found and its shape checked. FormatError,
    UnsupportedError."""
    tensors: dict[str, Any] = {name: info.core for name, info in checkpoint.packed.items()}
    for name, stored in checkpoint.aliases.items():
        tensors[name] = (checkpoint.tensors[stored].file, stored)
    with named(checkpoint.folder):
        return _core.Model(checkpoint.files, tensors=tensors, **core_arguments(config))


def describe_files(checkpoint: Checkpoint) -> Iterator[tuple[str, int, str | None]]:
    """(path, bytes, sha256 or None): known where the hub cache names the file by its sha256."""
    for file in checkpoint.files:
        target = checkpoint.links.get(os.path.basename(file.path))
        folders = (target.parent.name, target.parent.parent.name) if target else ()
        blob = target.name if target and "blobs" in folders else ""
        yield file.path, file.n_bytes, blob if _SHA256.fullmatch(blob) else None
