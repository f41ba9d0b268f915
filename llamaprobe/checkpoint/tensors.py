"""Tensors of any safetensors files, and their conversion for files without loss.

bf16, f16 and f32 become float32; integers, bool and float64 keep their dtype; with `raw` the 16-bit
and 8-bit floats are written as unsigned words. Numbers are copied out of the map in blocks, which
aligns them and keeps memory small. Refused: floats of less than a byte, 8-bit floats except as
words, and complex numbers except as npy.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import _core
from ..files.encode import SEPARATORS, Encoder, number_encoder, row_length, suffix_of, word_encoder
from ..files.naming import file_names

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
    """A tensor in a mapped file, and the name of the file that it is written to."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    raw: np.ndarray  # its bytes, uint8, in place
    weight_file: str
    file: str


def file_tensors(files: Iterable[_core.Safetensors], format: str) -> Iterator[Tensor]:
    """Every tensor of some files, in the order of the data, with its file name in `format`."""
    listed = [(file, tensor) for file in files for tensor in file.tensors()]
    names = file_names((tensor[0] for _, tensor in listed), suffix_of(format))
    for file, (name, dtype, shape, _, _) in listed:
        yield Tensor(name, dtype, shape, file.raw(name), os.fspath(file.path), names[name])


class EncoderMaker:
    """Tensor -> encoder, in one format. The texts of 16-bit words are made once and shared."""

    def __init__(self, format: str, digits: int, dtype: str, header: bool, n_threads: int) -> None:
        self.format, self.digits, self.raw = format, digits, dtype == "raw"
        self.header, self.n_threads = header, n_threads
        self._spellings: dict[str, object] = {}

    def can(self, tensor: Tensor) -> bool:
        """Whether the format can hold every value exactly."""
        if tensor.dtype in _HALF:
            return True
        if tensor.dtype in _EIGHT_BIT:
            return self.raw
        return tensor.dtype in _NATIVE and (self.format == "npy" or tensor.dtype != "C64")

    def __call__(self, tensor: Tensor) -> Encoder:
        if tensor.dtype in _HALF and self.format in SEPARATORS:
            if tensor.dtype not in self._spellings:
                self._spellings[tensor.dtype] = _core.text_table(
                    tensor.dtype == "BF16", self.digits
                )
            spellings = self._spellings[tensor.dtype]
            return word_encoder(
                tensor.raw,
                tensor.shape,
                self.format,
                spellings,
                header=self.header,
                n_threads=self.n_threads,
            )
        dtype, take = _numbers(tensor, self.raw)
        return number_encoder(
            take,
            tensor.shape,
            dtype,
            self.format,
            digits=self.digits,
            write_dtype=True,
            header=self.header,
            n_threads=self.n_threads,
            word_dtype=_HALF.get(tensor.dtype) if self.raw else None,
        )


def _numbers(tensor: Tensor, raw: bool) -> tuple[np.dtype, Callable[[int, int], np.ndarray]]:
    """The dtype to write, and `take(first, count)`, which copies numbers out of the map."""
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
