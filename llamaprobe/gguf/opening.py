"""A model in GGUF -> open files, its Config, and its tensors by Hugging Face name.

A model is one file or all parts of a split, whose first part has the metadata. Quantised matrices
are packed weights, read in place, and so are float matrices with permuted rows. The rest are plain
tensors under another name. RoPE tables belong to the config; they are not weights.
"""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

from .. import _core, log
from ..checkpoint.folder import Checkpoint, TensorInfo, links_of, named, opened, tensors_of
from ..checkpoint.layouts import BLOCKS
from ..checkpoint.packed import PackedInfo
from ..checkpoint.quantization import with_quantization
from ..config import Config
from ..errors import FileError, FormatError, UnsupportedError
from ..families.tensors import checkpoint_shapes
from ..files.json_file import show
from ..files.paths import checked_path
from ..messages import counted, printable, shown_path
from .choice import parts_of
from .config import ARCHITECTURES, read_metadata
from .names import ROPE_TABLES, hugging_face_names, is_turned

_PLAIN = ("F32", "F16", "BF16")
_GROUPS = {kind.upper(): block.group for kind, block in BLOCKS.items()}
"""Supported quantised type -> columns that share a scale."""


def open_gguf(
    folder: str | os.PathLike[str],
    name: str,
    *,
    mmap: bool = True,
    weights_as: str = "float32",
    layers: int | None = None,
) -> tuple[Checkpoint, Config]:
    """Open the model that the file `name`, a path below `folder`, belongs to, and its whole Config.

    layers: how many of the first layers `Checkpoint.quantization` covers.

    Raises FileError (a part is missing or unreadable), FormatError (a damaged file, parts of
    different models, metadata that contradicts the tensors), ConfigError, UnsupportedError (an
    architecture or a tensor type that does not run).
    """
    checkpoint = _open(folder, name, mmap)
    config = read_metadata(checkpoint)
    checkpoint = _with_weights(checkpoint, config, weights_as == "bf16")
    n_layers = min(layers or config.n_layers, config.n_layers)
    used = [name for name, _ in checkpoint_shapes(dataclasses.replace(config, n_layers=n_layers))]
    return with_quantization(checkpoint, used, "gguf", (), weights_as), config


def open_gguf_weights(folder: str | os.PathLike[str], name: str) -> Checkpoint:
    """Only the weights. If the model cannot run, they keep the names and the row order of the file,
    and a warning says so. Raises as `open_gguf`."""
    try:
        return open_gguf(folder, name)[0]
    except UnsupportedError as error:
        checkpoint = _open(folder, name)
        packed = {
            stored: _packed(stored, stored, info, 0, False)
            for stored, info in checkpoint.tensors.items()
            if info.dtype in _GROUPS and len(info.shape) == 2
        }
        log.warn(f"{error}; its weights keep the names of the file", stacklevel=5)
        return dataclasses.replace(checkpoint, packed=packed)


def _open(folder: str | os.PathLike[str], name: str, mmap: bool = True) -> Checkpoint:
    """All tensors, under the names of the file."""
    folder = Path(checked_path(folder))
    place = (folder / name).parent
    with opened(place) as fd, named(folder):
        files = _open_parts(place, os.path.basename(name), fd, mmap)
    names = tuple(os.path.relpath(file.path, folder) for file in files)
    with opened(folder) as fd:
        links = links_of(folder, fd, names)
    links = {os.path.basename(link): target for link, target in links.items()}
    return Checkpoint(folder, files, tensors_of(folder, files), links, format="gguf")


def _open_parts(place: Path, name: str, fd: int, mmap: bool) -> tuple[Any, ...]:
    """The files of a split, in order, or the one file."""
    found = _open_file(place / name, fd, mmap)
    count = found.metadata().get("split.count", 0)
    if type(count) is not int or count <= 1:
        return (found,)
    names = parts_of(name)
    if len(names) != count:
        raise FormatError(
            f"{printable(name)}: is a part of a split of {count}, so its name must end in"
            f" -00001-of-{count:05d}.gguf, or another number up to {count}"
        )
    files = tuple(found if part == name else _open_file(place / part, fd, mmap) for part in names)
    n_tensors = sum(len(file.tensors()) for file in files)
    for number, (part, file) in enumerate(zip(names, files, strict=True)):
        wanted = {"split.no": number, "split.count": count, "split.tensors.count": n_tensors}
        metadata = file.metadata()
        for key, value in wanted.items():
            said = metadata.get(key)
            if said != value and (said is not None or key != "split.tensors.count"):
                raise FormatError(
                    f"{printable(part)}: {key} is {show(said)}, but it must be {value} in part"
                    f" {number + 1} of this split; the parts may be of different models"
                )
    return files


def _open_file(path: Path, fd: int, mmap: bool) -> Any:
    try:
        return _core.Gguf(path, mmap=mmap, dir_fd=fd)
    except FileError as e:
        e.filename = os.fspath(path)
        parts = parts_of(path.name)
        if e.errno == errno.ENOENT and len(parts) > 1:
            e.reword(f"{e}; it is one of {counted(len(parts), 'part')} of a split: download it too")
        raise


def _with_weights(checkpoint: Checkpoint, config: Config, as_bf16: bool) -> Checkpoint:
    """The checkpoint with its packed weights and aliases."""
    turned = config.head_dim if ARCHITECTURES[config.raw["gguf"]["architecture"]].is_turned else 0
    packed: dict[str, PackedInfo] = {}
    aliases: dict[str, str] = {}
    names = hugging_face_names(config, checkpoint.tensors)
    for name, stored in names.items():
        info = checkpoint.tensors[stored]
        _check_type(stored, info)
        turn = turned if is_turned(stored) else 0
        bias = checkpoint.tensors.get(names.get(name.removesuffix("weight") + "bias", ""))
        is_alike = bias is None or bias.dtype == info.dtype  # a plain product needs one dtype
        if info.dtype in _PLAIN and is_alike and not turn:
            aliases[name] = stored
        else:
            packed[name] = _packed(name, stored, info, turn, as_bf16)
    companions = frozenset(name for name in ROPE_TABLES if name in checkpoint.tensors)
    return dataclasses.replace(checkpoint, packed=packed, aliases=aliases, companions=companions)


def _check_type(name: str, info: TensorInfo) -> None:
    if info.dtype not in _PLAIN and info.dtype not in _GROUPS:
        known = ", ".join((*_PLAIN, *_GROUPS))
        raise UnsupportedError(
            f"{shown_path(info.file.path)}: tensor {printable(name)} is {printable(info.dtype)},"
            f" which cannot be run; take a file of this model with the types {known}"
        )


def _packed(name: str, stored: str, info: TensorInfo, turn: int, as_bf16: bool) -> PackedInfo:
    if len(info.shape) != 2:
        raise UnsupportedError(
            f"{shown_path(info.file.path)}: tensor {printable(stored)} is {info.dtype}"
            f" {list(info.shape)};"
            f" only a matrix can be {'permuted for RoPE' if turn else 'quantised'}"
        )
    kind, shape = info.dtype.lower(), (info.shape[0], info.shape[1])
    options: dict[str, Any] = {"turned": turn} if turn else {}
    if as_bf16 and info.dtype in _GROUPS:
        options["as_bf16"] = True
    core = _core.Packed(kind, shape, {"codes": (info.file, stored)}, **options)
    return PackedInfo(
        name=name,
        kind=kind,
        format="gguf",
        shape=shape,
        parts={"codes": info},
        part_names={"codes": stored},
        core=core,
        group=_GROUPS.get(info.dtype, 1),
        options=options,
    )
