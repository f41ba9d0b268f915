"""A folder of weights -> open files and tensors by name.

`model.safetensors` is used if it exists, else the shards of `model.safetensors.index.json`. The
index is not trusted: it may only name files of its own folder, and its entries must agree with the
shards. Files are opened relative to the folder, then mapped and validated in C.

In a downloaded folder, a link must stay inside the download, or lead through a blob of its cache
that the cache's owner has moved. In the user's own folder, links are followed. `Checkpoint.links`
holds their targets.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core, log
from ..errors import Error, FileError, FormatError, UnsupportedError
from ..files.atomic import file_error, open_regular
from ..files.json_file import describe_wrong_content, read_object, show
from ..files.paths import checked_path
from ..messages import counted, printable, shown_path
from .packed import PackedInfo

if TYPE_CHECKING:
    from .quantization import Quantization

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"

_MAX_INDEX = 16 << 20
_MAX_NAME = 255
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_LAYER = re.compile(r"(?:language_model\.)?model\.layers\.(\d{1,9})\.")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # the file name of a blob in a cache
_SERIES = re.compile(r".+-[0-9]+-of-[0-9]+\.safetensors")
_MAX_LINKS = 40  # the kernel's limit
_SHOWN = 5  # names in a message

# Other kinds of weight files, and what to do with them.
OTHER_FORMATS = {
    ".gguf": "GGUF of a part of a model; choose another with file= (--file GLOB)",
    ".bin": "PyTorch pickle, which can run code; convert it with transformers: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)",
}
OTHER_FORMATS |= dict.fromkeys((".pth", ".pt", ".ckpt"), OTHER_FORMATS[".bin"])


class TensorInfo(NamedTuple):
    """A tensor's entry in the header of its file."""

    file: "_core.Safetensors | _core.Gguf"
    dtype: str
    """As spelled in safetensors ("BF16") or in GGUF ("Q4_K")."""
    shape: tuple[int, ...]
    offset: int
    """Of the first byte, from the start of the file."""
    n_bytes: int


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The open weight files of one folder, immutable. Made by `open_checkpoint`."""

    folder: Path
    files: "tuple[_core.Safetensors | _core.Gguf, ...]" = field(repr=False)
    """Sorted by name; `path` of each is its full path."""
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    """Stored name -> tensor, file by file, in the order of the data."""
    links: Mapping[str, Path]
    """File name -> target, for the files that are symbolic links."""
    format: str = "safetensors"
    """Or "gguf"."""
    packed: Mapping[str, PackedInfo] = field(default_factory=dict, repr=False)
    """The packed weights, by Hugging Face name."""
    aliases: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Hugging Face name -> stored name of plain tensors that are stored under another."""
    companions: frozenset[str] = field(default=frozenset(), repr=False)
    """Stored tensors of a quantised checkpoint that no weight's value depends on, such as
    activation scales."""
    quantization: "Quantization | None" = None
    """None for a checkpoint that is not quantised."""

    @cached_property
    def names(self) -> Mapping[str, TensorInfo]:
        """Hugging Face name -> tensor that a model may use; for a packed weight, its codes."""
        stored = {name: info.part_names["codes"] for name, info in self.packed.items()}
        stored |= self.aliases
        parts = {part for info in self.packed.values() for part in info.part_names.values()}
        others = self.tensors.keys() - parts - self.companions - set(self.aliases.values())
        stored |= {name: name for name in self.tensors if name in others}
        return {name: self.tensors[at] for name, at in stored.items()}

    @property
    def first_file(self) -> str:
        """The name of the first file, for messages about a missing tensor."""
        return _base(self.files[0])

    @property
    def shown(self) -> str:
        """For messages: the folder; for a GGUF, its first file."""
        return shown_path(self.files[0].path if self.format == "gguf" else self.folder)

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())


def open_checkpoint(
    folder: str | os.PathLike[str], *, mmap: bool = True, layers: int | None = None
) -> Checkpoint:
    """Open the weights in a folder.

    With `mmap=False` the files are read into memory, so that later changes do not matter. `layers`:
    how many of the first layers to open; shards that hold only later ones may be missing.

    Raises FileError (no weights, a shard missing or unreadable, a link out of a download),
    FormatError (a damaged file or index), UnsupportedError (weights in another format).
    """
    folder = checked_path(folder)
    with opened(folder) as fd:
        return _open(folder, fd, mmap, layers)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder, for opening its files relative to it. FileError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise file_error(error, folder) from None
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """Prefix the core's errors about a file with its folder, which the core does not know."""
    try:
        yield
    except (FileError, FormatError, UnsupportedError) as e:
        e.reword(f"{shown_path(folder)}: {e}")
        raise


def _open(folder: Path, fd: int, mmap: bool, layers: int | None) -> Checkpoint:
    index = None if _exists(fd, SINGLE) else _read_index(folder, fd).first(layers)
    names = (SINGLE,) if index is None else tuple(sorted(set(index.weight_map.values())))
    _check_present(folder, fd, names)
    links = links_of(folder, fd, names)
    with named(folder):
        files = tuple(_open_file(folder / name, fd, mmap) for name in names)
    tensors = tensors_of(folder, files)
    if index is not None:
        _check_map(index, tensors)
        _check_total(index, tensors)
    return Checkpoint(folder, files, tensors, links)


def _open_file(path: Path, fd: int, mmap: bool) -> _core.Safetensors:
    try:
        return _core.Safetensors(path, mmap=mmap, dir_fd=fd)
    except FileError as e:
        e.filename = os.fspath(path)
        raise
    except FormatError as e:
        fact = None
        with contextlib.suppress(FileError), open_regular(path) as file:
            fact = describe_wrong_content(file.read(1024))
        if fact is None or "Git LFS" in str(e):
            raise
        raise FormatError(f"{path.name}: {fact}") from None


def _exists(fd: int, name: str) -> bool:
    """True for a dangling link too, so that opening it raises the error."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(name, dir_fd=fd)
        return True
    return False


def _nothing_found(folder: Path, fd: int) -> Error:
    names = sorted(os.listdir(fd))
    for name in names:
        if why := OTHER_FORMATS.get(os.path.splitext(name)[1].lower()):
            return UnsupportedError(
                f"{shown_path(folder)}: holds {printable(name, 80)}, which is {why}"
            )
    others = [name for name in names if name.endswith(".safetensors")]
    shards = [name for name in others if _SERIES.fullmatch(name)]
    if shards:
        return FileError(
            f"{shown_path(folder)}: holds {counted(len(shards), 'shard')}, {_list(shards)}, but"
            f" {INDEX} is missing; it comes with them, download it too",
            errno.ENOENT,
            folder / INDEX,
        )
    found = f"; there is {_list(others)}, a name that is not looked for" if others else ""
    if _ADAPTER in others:
        found = f"; there is {_ADAPTER}, which is not a model; merge it into its base model"
    message = f"{shown_path(folder)}: neither {SINGLE} nor {INDEX}{found}"
    return FileError(message, errno.ENOENT, folder / SINGLE)


# ---- the index ----


class _Index(NamedTuple):
    path: Path
    weight_map: dict[str, str]
    """Tensor -> file name, without folders."""
    total_size: object = None

    def first(self, n_layers: int | None) -> "_Index":
        """Leave out the shards that hold only later layers."""
        if n_layers is None:
            return self
        numbered = {tensor: _LAYER.match(tensor) for tensor in self.weight_map}
        needed = {
            self.weight_map[tensor]
            for tensor, layer in numbered.items()
            if layer is None or int(layer[1]) < n_layers
        }
        kept = {tensor: file for tensor, file in self.weight_map.items() if file in needed}
        return self if kept == self.weight_map else _Index(self.path, kept)


def _read_index(folder: Path, fd: int) -> _Index:
    if not _exists(fd, INDEX):
        raise _nothing_found(folder, fd)
    path = folder / INDEX
    index = read_object(str(path), _MAX_INDEX, FormatError)
    metadata = index.get("metadata")
    total = metadata.get("total_size") if type(metadata) is dict else None
    return _Index(path, weight_map(index, path), total)


def weight_map(index: dict[str, Any], path: str | Path) -> dict[str, str]:
    """Tensor -> file name, from a shard index read from `path`. FormatError."""
    found = index.get("weight_map")
    if type(found) is not dict or not found:
        raise FormatError(
            f"{shown_path(path)}: weight_map is {show(found)}; it must map tensors to files"
        )
    for tensor, name in found.items():
        if type(name) is not str or not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
            raise FormatError(
                f"{shown_path(path)}: weight_map of {show(tensor)} is {show(name)}; it must be the"
                " name of a .safetensors file in the same folder: letters, digits, '.', '_' and '-'"
            )
    return found


def _check_present(folder: Path, fd: int, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not _exists(fd, name)]
    if missing:
        raise FileError(
            f"{shown_path(folder)}: {len(missing)} of {len(names)} shards are missing:"
            f" {_list(missing)}; download them again",
            errno.ENOENT,
            folder / missing[0],
        )


def tensors_of(
    folder: Path, files: "tuple[_core.Safetensors | _core.Gguf, ...]"
) -> dict[str, TensorInfo]:
    """Stored name -> tensor, over several files. FormatError for a name in two files."""
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, dtype, shape, offset, n_bytes in file.tensors():
            if name in tensors:
                raise FormatError(
                    f"{shown_path(folder)}: tensor {show(name)} is in two files,"
                    f" {_base(tensors[name].file)} and {_base(file)}"
                )
            tensors[name] = TensorInfo(file, dtype, tuple(shape), offset, n_bytes)
    return tensors


def _check_map(index: _Index, tensors: Mapping[str, TensorInfo]) -> None:
    for name, file in index.weight_map.items():
        claim = f"{shown_path(index.path)}: says that {file} has a tensor {show(name)}"
        if name not in tensors:
            raise FormatError(f"{claim}, which no shard has")
        if (found := _base(tensors[name].file)) != file:
            raise FormatError(f"{claim}, which is in {found}")


def _check_total(index: _Index, tensors: Mapping[str, TensorInfo]) -> None:
    """Only warn about a wrong sum: writers disagree on what total_size counts."""
    n_bytes = sum(tensor.n_bytes for tensor in tensors.values())
    if index.total_size is not None and index.total_size != n_bytes:
        log.warn(
            f"{shown_path(index.path)}: total_size is {show(index.total_size)}, but the tensors"
            f" have {n_bytes} bytes",
            stacklevel=7,  # the caller of load
        )


# ---- links ----


def links_of(folder: Path, fd: int, names: tuple[str, ...]) -> dict[str, Path]:
    """File name -> target of each link. FileError for a link out of a downloaded folder."""
    links = {
        name: Path(os.path.realpath(folder / name))
        for name in names
        if stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode)
    }
    roots, blobs = _download_roots(folder) if links else ([], [])
    for name, target in links.items():
        if not roots or any(target.is_relative_to(root) for root in roots):
            continue
        if not _passes_a_blob(folder / name, blobs):
            raise FileError(
                f"{shown_path(folder / name)}: is a link out of its download, to"
                f" {shown_path(target)}; download it again"
            )
    return links


def _download_roots(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders of a download, and the folders of its blobs.

    In a hub cache these are models--owner--name, and its blobs and those that all models share
    (huggingface_hub 2.4); elsewhere, a plain folder with download metadata. Both lists are empty
    for the user's own folder. The cache's owner may have replaced blobs/ or snapshots/ by a link
    to another disk."""
    real = Path(os.path.realpath(folder))
    caches = {
        here.parent.parent
        for here in (real, folder)
        if here.parent.name == "snapshots" and here.parent.parent.name.startswith("models--")
    }
    if not caches:
        return ([real] if os.path.isdir(folder / ".cache" / "huggingface") else []), []
    places = [place for cache in caches for place in (cache / "blobs", cache.parent / "blobs")]
    blobs = [Path(os.path.realpath(place)) for place in places]
    return [real, *(Path(os.path.realpath(cache)) for cache in caches), *blobs], blobs


def _passes_a_blob(link: Path, blobs: list[Path]) -> bool:
    """Whether a chain of links leads through a blob named by its hash. Then the cache's owner has
    moved that blob to another disk: a download cannot create such a link."""
    for _ in range(_MAX_LINKS):
        at = Path(os.path.realpath(link.parent))
        if _HASH.fullmatch(link.name) and any(place in (at, at.parent) for place in blobs):
            return True
        try:
            link = at / os.readlink(at / link.name)
        except OSError:
            return False
    return False


def _base(file: "_core.Safetensors | _core.Gguf") -> str:
    return os.path.basename(file.path)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name, 80) for name in names[:_SHOWN]) + more
