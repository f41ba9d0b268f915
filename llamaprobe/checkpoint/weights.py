"""The weights of a model by name, each read on demand."""

import difflib
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _core
from ..arguments import shown
from ..config import Config
from ..errors import ArgumentError, UnsupportedError
from ..families.table import FAMILIES
from ..families.tensors import checkpoint_shapes
from ..files.fingerprint import check_fingerprint, fingerprint
from ..files.npy import is_possible
from ..messages import printable
from .folder import Checkpoint, TensorInfo, named
from .layouts import FLOATS, Part, Stored, Tables
from .packed import PackedInfo
from .tensor_names import EMBEDDING, HEAD

# Bytes per element, for the dtypes whose elements are whole bytes.
_WORD_BYTES = {
    **dict.fromkeys(
        ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1
    ),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 8),
}


_Number = TypeVar("_Number", bound=np.generic)
_ROUNDED = "values rounded to bf16, as load(weights_as=) says; codes and scales as stored"
_MAX_ELEMENT = 32  # bytes of NumPy's largest dtype, complex256, that a weight may be converted to


class WeightError(ArgumentError, KeyError):
    """The model has no tensor of that name; the message lists close matches."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class Weight:
    """One tensor in its file. `numpy.asarray(weight)` gives its values.

    A quantised weight is a matrix whose file holds codes. Its values are

        scales * (levels[codes] - zeros) + offsets

    in float32, with each table expanded to the rows and columns that share its entries, and with
    levels[codes] = codes, zeros = 0 and no offsets where these are None (docs/quantised.md).

    It keeps the file open and so may outlive its model. It is pickled and copied as the path of the
    file, which must be unchanged when it is unpickled: FileChangedError or FileError otherwise.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        tensor: TensorInfo,
        stored_name: str | None = None,
        packed: PackedInfo | None = None,
        note: str = "",
    ) -> None:
        self.name = name
        """As in the file; for GGUF and quantised weights, as in the original's safetensors."""
        self.stored_name = name if stored_name is None else stored_name
        """As in the file; for a quantised weight, the name of its codes."""
        self.dtype = tensor.dtype
        """As spelled in safetensors: "BF16", "F16", "F32", ...; for a quantised weight, the dtype
        of the stored codes; in GGUF, the type, such as "Q4_K"."""
        self.shape = tensor.shape if packed is None else packed.shape
        """A matrix is [out, in]."""
        self.n_bytes = tensor.n_bytes if packed is None else packed.n_bytes
        """Bytes of its data in the file; for a quantised weight, scales included."""
        self.offset = tensor.offset
        """Of its first byte, from the start of the file."""
        self.note = note
        """How its values differ from the original's tensor of this name; "" in most cases."""
        self._file, self._folder, self._packed = tensor.file, folder, packed
        self._tensor = tensor

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return Path(self._file.path)

    @property
    def is_packed(self) -> bool:
        """Whether the file holds codes, or rows in another order, instead of the values."""
        return self._packed is not None

    @property
    def kind(self) -> str:
        """Its layout: "q4_k", "fp8", "int8", "int", "gptq", "awq", ...; for a tensor that is not
        quantised, its dtype, such as "bf16"."""
        return self.dtype.lower() if self._packed is None else self._packed.kind

    @property
    def raw(self) -> NDArray[np.generic]:
        """The elements in place, read-only, little-endian: unsigned integers (uint16 for BF16 and
        F16) in the tensor's shape, or 1-D bytes for dtypes smaller than a byte; for a quantised
        weight, the stored codes; for a block type of GGUF, the bytes of each row. The start may be
        unaligned, and the file must not shrink while the array is in use.

        Raises FileChangedError if the file was written to since it was opened, UnsupportedError if
        a tensor without elements has axes too long for an array.
        """
        self._check_shape()
        with named(self._folder):
            data = self._file.raw(self.stored_name)
        size = _WORD_BYTES.get(self.dtype)
        if size is not None:
            return data.view(f"<u{size}").reshape(self._tensor.shape)
        return data if self._packed is None else data.reshape(self.shape[0], -1)

    @property
    def parts(self) -> "dict[str, Weight]":
        """For a quantised weight, its stored tensors by role: "codes", "scales", "zeros",
        "group_of"; else empty."""
        if self._packed is None:
            return {}
        names = self._packed.part_names
        return {
            role: Weight(names[role], self._folder, part)
            for role, part in self._packed.parts.items()
        }

    @property
    def codes(self) -> NDArray[np.generic] | None:
        """The stored integers [out, in], uint8, or int8 where they are signed; for fp8, its bytes.
        int8 and fp8 are in place and read-only. This and the properties below are None for a tensor
        that is not quantised. Raises as `raw`."""
        return None if self._packed is None else self._layout().codes()

    @property
    def scales(self) -> NDArray[np.float32] | None:
        """float32 [rows, columns]: one for each group of `group` columns and `group_rows` rows."""
        tables = self._tables
        return None if tables is None else tables.scales

    @property
    def zeros(self) -> NDArray[np.generic] | None:
        """Integers that are subtracted from the codes, in the shape of `scales`, or [1, 1] if all
        are equal; None: 0."""
        tables = self._tables
        return None if tables is None else tables.zeros

    @property
    def offsets(self) -> NDArray[np.float32] | None:
        """float32, added after scaling, in the shape of `scales`; None: nothing is added."""
        tables = self._tables
        return None if tables is None else tables.offsets

    @property
    def fields(self) -> dict[str, NDArray[np.generic]]:
        """For GGUF's K types and iq4_xs, the stored numbers: d and dmin, one per block, and the
        integers s and m, one per group. Scales are d * s, offsets -dmin * m. Else empty."""
        tables = self._tables
        return {} if tables is None else dict(tables.fields)

    @property
    def levels(self) -> NDArray[np.float32] | None:
        """The number that each code stands for: float32 [256] for fp8, [16] for iq4_nl and iq4_xs;
        None: the code itself."""
        return None if self._packed is None else self._layout().levels

    @property
    def group(self) -> int | None:
        """How many columns share a scale."""
        has_codes = self._packed is not None and self._packed.kind not in FLOATS
        return self._layout().group if has_codes else None

    @property
    def group_rows(self) -> int | None:
        """How many rows share a scale."""
        return None if self._packed is None or self.group is None else self._layout().rows

    @property
    def group_of(self) -> NDArray[np.int32] | None:
        """int32 [in]: the group of each column, where GPTQ's act-order has permuted them; None:
        column // group."""
        return None if self._packed is None else self._layout().group_of

    def _read_rows(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows [first, stop) of a matrix that `is_packed`. Raises as `numpy.asarray`."""
        if self._packed is None:
            raise ArgumentError(f"{printable(self.name)} is stored as {self.dtype}, row by row")
        with named(self._folder):
            return self._packed.core.read(first, stop - first)

    def _layout(self) -> Stored:
        """A quantised weight as `layouts.Stored`. ArgumentError for another tensor."""
        if self._packed is None:
            raise ArgumentError(f"{printable(self.name)} is not quantised: it is {self.dtype}")
        parts = {role: Part(part.dtype, part.raw) for role, part in self.parts.items()}
        codes = Part(self.dtype, self.raw)
        info = self._packed
        return Stored(info.kind, info.shape, parts | {"codes": codes}, **info.options)

    @property
    def _tables(self) -> Tables | None:
        return None if self._packed is None else self._layout().tables()

    @overload
    def __array__(self, dtype: None = None, copy: bool | None = None) -> NDArray[np.float32]: ...
    @overload
    def __array__(
        self, dtype: np.dtype[_Number], copy: bool | None = None
    ) -> np.ndarray[tuple[Any, ...], np.dtype[_Number]]: ...
    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """A new array of the values: float32 for a quantised weight and for BF16, F16 and F32, or
        of `dtype`.

        Raises as `raw`, and UnsupportedError for other dtypes, OutOfMemory, and ArgumentError for
        copy=False: a conversion cannot be in place.
        """
        if copy is False:
            raise ArgumentError(
                f"{self.name}: making float32 of a weight is a copy; .raw looks at it in place"
            )
        self._check_shape()
        packed = self._packed
        with named(self._folder):
            values = packed.core.read() if packed else self._file.read(self.stored_name)
        return values if dtype is None else values.astype(dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        with named(self._folder):
            places = {role: _place(part) for role, part in self._stored_parts.items()}
        info = self._packed
        packed = info and (info.kind, info.format, info.shape, info.group, dict(info.options))
        names = {"codes": self.stored_name} if info is None else dict(info.part_names)
        where = os.path.abspath(self._folder)
        return _open_weight, (self.name, where, places, names, packed, self.note)

    @property
    def _stored_parts(self) -> Mapping[str, TensorInfo]:
        return {"codes": self._tensor} if self._packed is None else self._packed.parts

    def _check_shape(self) -> None:
        if not is_possible(self.shape, _MAX_ELEMENT):
            raise UnsupportedError(
                f'{self._file.path}: tensor "{printable(self.name)}" has 0 elements and axes that'
                " are too long for an array"
            )

    def __repr__(self) -> str:
        kind = self.dtype if self._packed is None else self.kind
        note = f"; {self.note}" if self.note else ""
        return f"Weight({printable(self.name)!r}, {kind}, {list(self.shape)}{note})"


def _place(tensor: TensorInfo) -> tuple[str, str, str]:
    """The class of its file, the path, and the fingerprint. FileChangedError."""
    tensor.file.check_unchanged()
    path = os.path.abspath(tensor.file.path)
    return type(tensor.file).__name__, path, fingerprint(path)


def _open_weight(
    name: str,
    folder: str,
    places: dict[str, tuple[str, str, str]],
    names: dict[str, str],
    packed: tuple[str, str, tuple[int, int], int, dict[str, Any]] | None,
    note: str,
) -> Weight:
    """Unpickle a weight, if its files are here and unchanged."""
    files: dict[str, Any] = {}
    for kind, path, mark in dict.fromkeys(places.values()):
        check_fingerprint(path, mark)
        files[path] = getattr(_core, kind)(path)
    parts = {
        role: TensorInfo(files[path], *_entry(files[path], names[role]))
        for role, (_, path, _) in places.items()
    }
    info = None
    if packed is not None:
        layout, format, shape, group, options = packed
        stored = {role: (part.file, names[role]) for role, part in parts.items()}
        core = _core.Packed(layout, shape, stored, **options)
        info = PackedInfo(name, layout, format, shape, parts, names, core, group, options)
    return Weight(name, Path(folder), parts["codes"], names["codes"], info, note)


def _entry(file: Any, name: str) -> Any:
    return next(entry[1:] for entry in file.tensors() if entry[0] == name)


def gain_notes(config: Config) -> dict[str, str]:
    """`Weight.note` for the norms of a GGUF whose original stores gains minus 1 (Gemma)."""
    offset = FAMILIES[config.family].gain_offset
    if config.gain_offset == offset:
        return {}
    note = f"the gain as it multiplies; the original's safetensors hold it less {offset:g}"
    return {name: note for name, _ in checkpoint_shapes(config) if name.endswith("norm.weight")}


class Weights(Mapping[str, Weight]):
    """Tensor name -> Weight, file by file in the order of the data, unused tensors included.

    The weights of a quantised model have the names of the original's safetensors. Their stored
    tensors are found too, under the names in the file.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tied_head: bool = False,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """notes: name -> `Weight.note`."""
        self._checkpoint = checkpoint
        self._tied_head = tied_head
        self._notes = notes or {}

    @property
    def files(self) -> "tuple[_core.Safetensors | _core.Gguf, ...]":
        """The open files, in the order of their names."""
        return self._checkpoint.files

    def __getitem__(self, name: str) -> Weight:
        if not isinstance(name, str):
            raise self._unknown(name)
        checkpoint, known = self._checkpoint, self._names.get(name, name)
        if known in checkpoint.packed:
            info = checkpoint.packed[known]
            stored, tensor = info.part_names["codes"], info.parts["codes"]
            note = _ROUNDED if info.options.get("as_bf16") else ""
            return Weight(known, checkpoint.folder, tensor, stored, info, note)
        stored = checkpoint.aliases.get(known, known)
        if stored not in checkpoint.tensors:
            raise self._unknown(name)
        tensor = checkpoint.tensors[stored]
        return Weight(known, checkpoint.folder, tensor, stored, note=self._notes.get(known, ""))

    def _unknown(self, name: object) -> WeightError:
        where, there = self._checkpoint.shown, [*self]
        if not isinstance(name, str):
            return WeightError(f"{where}: there is no tensor {shown(name)}")
        if name == HEAD and self._tied_head:
            return WeightError(f"{where}: there is no tensor {HEAD}: the head is tied: {EMBEDDING}")
        near = [each for each in (*there, *self._names) if name and name in each][:3]
        near = near or difflib.get_close_matches(name, there, 3, 0.6)
        hint = f"; near: {', '.join(map(printable, near))}" if near else ""
        return WeightError(f"{where}: there is no tensor {printable(repr(name))}{hint}")

    @cached_property
    def _names(self) -> dict[str, str]:
        """Stored name -> Hugging Face name, where they differ."""
        checkpoint = self._checkpoint
        codes = {info.part_names["codes"]: name for name, info in checkpoint.packed.items()}
        return codes | {stored: name for name, stored in checkpoint.aliases.items()}

    @property
    def _are_renamed(self) -> bool:
        """Whether some weight has another name than in its file, or consists of several tensors."""
        return bool(self._checkpoint.packed or self._checkpoint.aliases)

    def __iter__(self) -> Iterator[str]:
        checkpoint = self._checkpoint
        if not self._are_renamed:
            return iter(checkpoint.tensors)
        number = {id(file): i for i, file in enumerate(checkpoint.files)}
        names = checkpoint.names.items()
        places = [(number[id(at.file)], at.offset, name) for name, at in names]
        return (name for *_, name in sorted(places))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> NoReturn:
        raise ArgumentError(
            f"{self._checkpoint.shown}: its weights cannot be pickled or copied"
            " together; pickle the model, or the Weight that is needed"
        )

    def __repr__(self) -> str:
        return f"<{len(self)} weights of {self._checkpoint.shown}>"
