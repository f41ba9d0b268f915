"""Tensors of any safetensors files on their way into tables: what dtype becomes what, and exactly.

bf16, f16 and f32 become float32; integers, bool and float64 keep their dtype; with `raw` the 16-bit
and 8-bit floats keep their words as unsigned integers. Numbers are copied out of the map a block at
a time, so that a start at an odd address does no harm and memory stays small. Refused: floats of
less than a byte, 8-bit floats but as words, and complex numbers but as npy.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from .folder import open_checkpoint
from ..errors import ArgumentError
from ..files.naming import expand_user, file_names, printable
from .source import find_folder, whole_path
from ..files.encode import SEPARATORS, Table, number_table, row_length, suffix_of, word_table

if TYPE_CHECKING:
    from ..model import Model

_NATIVE = {
    **{
        f"{letter}{bits}": f"<{kind}{bits // 8}"
        for letter, kind in (("I", "i"), ("U", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{"F32": "<f4", "F64": "<f8", "C64": "<c8", "BOOL": "|b1"},
}
_HALF = {"BF16": "bfloat16", "F16": "float16"}
_EIGHT_BIT = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


@dataclass(frozen=True)
class Tensor:
    """A tensor in a mapped file, and the file that it will become."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    raw: np.ndarray  # its bytes, uint8, in place
    weight_file: str
    file: str


def find_source(source: str | os.PathLike[str], revision: str = "main") -> Path:
    """A file as it is, else the folder of a model: itself, the demo's, or a repo's, downloaded if
    need be."""
    if isinstance(source, str):
        source = expand_user(source)
    if os.path.isfile(source):
        return Path(source)
    return find_folder(source, revision)[0]


def model_tensors(
    source: "Model | str | os.PathLike[str]", format: str = "csv"
) -> Iterator[Tensor]:
    """Every tensor of a model, a folder, a repo or a file, in the order of the data, named for its
    file. Of an open model they are those of the files that it opened, whatever their paths name
    now. ArgumentError when that is closed; FileChangedError."""
    files = _files(source)
    listed = [(file, tensor) for file in files for tensor in file.tensors()]
    names = file_names((tensor[0] for _, tensor in listed), suffix_of(format))
    for file, (name, dtype, shape, _, _) in listed:
        yield Tensor(name, dtype, shape, file.raw(name), os.fspath(file.path), names[name])


def _files(source: "Model | str | os.PathLike[str]") -> tuple[_core.Safetensors, ...]:
    from ..model import Model

    if isinstance(source, Model):
        return source.weights._checkpoint.files
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(
            f"a model is a Model, a folder, a file or a repo id, not {printable(repr(source), 60)}"
        )
    path = whole_path(find_source(source))
    return (_core.Safetensors(path),) if os.path.isfile(path) else open_checkpoint(path).files


class TableMaker:
    """Tensor -> table, for one format. The spellings of 16-bit words are made once and shared."""

    def __init__(self, format: str, digits: int, dtype: str, header: bool, n_threads: int) -> None:
        self.format, self.digits, self.raw = format, digits, dtype == "raw"
        self.header, self.n_threads = header, n_threads
        self._spellings: dict[str, object] = {}

    def can(self, tensor: Tensor) -> bool:
        """Whether the format holds every value of the tensor exactly."""
        if tensor.dtype in _HALF:
            return True
        if tensor.dtype in _EIGHT_BIT:
            return self.raw
        return tensor.dtype in _NATIVE and (self.format == "npy" or tensor.dtype != "C64")

    def __call__(self, tensor: Tensor) -> Table:
        if tensor.dtype in _HALF and self.format in SEPARATORS:
            if tensor.dtype not in self._spellings:
                self._spellings[tensor.dtype] = _core.text_table(
                    tensor.dtype == "BF16", self.digits
                )
            spellings = self._spellings[tensor.dtype]
            return word_table(
                tensor.raw,
                tensor.shape,
                self.format,
                spellings,
                header=self.header,
                n_threads=self.n_threads,
            )
        dtype, take = _numbers(tensor, self.raw)
        return number_table(
            take,
            tensor.shape,
            dtype,
            self.format,
            digits=self.digits,
            tell_dtype=True,
            header=self.header,
            n_threads=self.n_threads,
            word_dtype=_HALF.get(tensor.dtype) if self.raw else None,
        )


def _numbers(tensor: Tensor, raw: bool) -> tuple[np.dtype, Callable[[int, int], np.ndarray]]:
    """The dtype of the numbers that are written, and `take(first, count)`, which copies some out of
    the map."""
    words = {
        "BF16": "<u2",
        "F16": "<u2" if raw else "<f2",
        **dict.fromkeys(_EIGHT_BIT, "|u1"),
        **_NATIVE,
    }
    stored = np.dtype(words[tensor.dtype])
    size, data = stored.itemsize, tensor.raw

    def stored_numbers(first: int, count: int) -> np.ndarray:
        return np.frombuffer(data[first * size : (first + count) * size].tobytes(), stored)

    if raw or tensor.dtype not in _HALF:
        return stored, stored_numbers
    if tensor.dtype == "F16":
        return np.dtype("<f4"), lambda first, count: stored_numbers(first, count).astype("<f4")
    return np.dtype("<f4"), lambda first, count: (
        stored_numbers(first, count).astype("<u4") << 16
    ).view("<f4")


def float_rows(tensor: Tensor) -> Callable[[int, int], np.ndarray]:
    """`rows(a, b)` of a BF16, F16 or F32 matrix as float32 [b - a, n_cols]; a vector is one row."""
    _, take = _numbers(tensor, raw=False)
    n_cols = row_length(tensor.shape)
    return lambda a, b: take(a * n_cols, (b - a) * n_cols).reshape(-1, n_cols)
