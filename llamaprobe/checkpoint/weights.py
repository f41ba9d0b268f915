"""The weights of a model by name, each read on request."""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _core
from ..errors import ArgumentError, UnsupportedError
from ..files.fingerprint import check_fingerprint, fingerprint
from ..files.npy import is_possible
from ..messages import printable, shown_path
from .folder import Checkpoint, TensorInfo, named
from .tensor_names import EMBEDDING, HEAD

# Bytes of an element, for the dtypes whose elements are whole bytes.
_WORD_BYTES = {
    **dict.fromkeys(
        ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1
    ),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 8),
}


_Number = TypeVar("_Number", bound=np.generic)
_MAX_ELEMENT = 32  # bytes of NumPy's largest number, to which a weight may be converted


class WeightError(ArgumentError, KeyError):
    """A model has no tensor of that name; the message names near matches."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class Weight:
    """One tensor in its file. `numpy.asarray(weight)` gives its numbers.

    Outlives its model: it keeps the file open. Pickled and copied as the path of the file, which
    must
    be the same where it is unpickled: else FileChangedError or FileError.
    """

    def __init__(self, name: str, folder: Path, tensor: TensorInfo) -> None:
        self.name = name
        """As in the file."""
        self.dtype = tensor.dtype
        """As safetensors spells it: "BF16", "F16", "F32", ..."""
        self.shape = tensor.shape
        """A matrix is [out, in]."""
        self.n_bytes = tensor.n_bytes
        """Of its data in the file."""
        self.offset = tensor.offset
        """Of its first byte in the file."""
        self._file, self._folder = tensor.file, folder

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return Path(self._file.path)

    @property
    def raw(self) -> NDArray[np.generic]:
        """The elements in place, read-only: little-endian unsigned words (uint16 for BF16 and F16)
        in the tensor's shape, or 1-D bytes for dtypes of less than a byte. The start may be
        unaligned, and the file must not shrink while this is in use.

        Raises FileChangedError when the file was written to since it was opened, UnsupportedError
        when a tensor without elements has axes too long for an array.
        """
        self._check_shape()
        with named(self._folder):
            data = self._file.raw(self.name)
        size = _WORD_BYTES.get(self.dtype)
        return data if size is None else data.view(f"<u{size}").reshape(self.shape)

    @overload
    def __array__(self, dtype: None = None, copy: bool | None = None) -> NDArray[np.float32]: ...
    @overload
    def __array__(
        self, dtype: np.dtype[_Number], copy: bool | None = None
    ) -> np.ndarray[tuple[Any, ...], np.dtype[_Number]]: ...
    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """A new float32 array of a BF16, F16 or F32 tensor, or one of `dtype`.

        Raises FileChangedError, UnsupportedError as `raw` and for other dtypes, OutOfMemory, and
        ArgumentError for copy=False: a conversion cannot be in place.
        """
        if copy is False:
            raise ArgumentError(
                f"{self.name}: making float32 of a weight is a copy; .raw looks at it in place"
            )
        self._check_shape()
        with named(self._folder):
            values = self._file.read(self.name)
        return values if dtype is None else values.astype(dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        with named(self._folder):
            self._file.check_unchanged()
        path = os.path.abspath(self._file.path)
        return _open_weight, (self.name, os.path.abspath(self._folder), path, fingerprint(path))

    def _check_shape(self) -> None:
        if not is_possible(self.shape, _MAX_ELEMENT):
            raise UnsupportedError(
                f"{self._file.path}: {printable(self.name)} has 0 elements and axes that are too long"
                " for an array"
            )

    def __repr__(self) -> str:
        return f"Weight({printable(self.name)!r}, {self.dtype}, {list(self.shape)})"


def _open_weight(name: str, folder: str, path: str, mark: str) -> Weight:
    """A weight that was pickled, if its file is here and the same."""
    check_fingerprint(path, mark)
    file = _core.Safetensors(path)
    places = {entry[0]: entry[1:] for entry in file.tensors()}
    return Weight(name, Path(folder), TensorInfo(file, *places[name]))


class Weights(Mapping[str, Weight]):
    """Tensor name -> Weight, file by file in the order of the data; also unused tensors."""

    def __init__(self, checkpoint: Checkpoint, tied_head: bool = False) -> None:
        self._checkpoint = checkpoint
        self._tied_head = tied_head

    @property
    def files(self) -> tuple[_core.Safetensors, ...]:
        """The open files, in the order of their names."""
        return self._checkpoint.files

    def __getitem__(self, name: str) -> Weight:
        tensor = self._checkpoint.tensors.get(name) if isinstance(name, str) else None
        if tensor is None:
            where = shown_path(self._checkpoint.folder)
            if name == HEAD and self._tied_head:
                raise WeightError(
                    f"{where}: there is no tensor {HEAD}: the head is tied: {EMBEDDING}"
                )
            there = self._checkpoint.tensors
            near = [each for each in there if name and str(name) in each][:3]
            near = near or difflib.get_close_matches(str(name), there, 3, 0.6)
            hint = f"; near: {', '.join(map(printable, near))}" if near else ""
            raise WeightError(f"{where}: there is no tensor {printable(repr(name))}{hint}")
        return Weight(name, self._checkpoint.folder, tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.tensors)

    def __len__(self) -> int:
        return len(self._checkpoint.tensors)

    def __reduce__(self) -> NoReturn:
        raise ArgumentError(
            f"{shown_path(self._checkpoint.folder)}: its weights cannot be pickled or copied"
            " together; pickle the model, or the Weight that is needed"
        )

    def __repr__(self) -> str:
        return f"<{len(self)} weights of {shown_path(self._checkpoint.folder)}>"
