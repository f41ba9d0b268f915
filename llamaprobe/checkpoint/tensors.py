"""Tensors of weight files, and their lossless conversion for export.

A quantised weight gives its values, its codes or its scales, computed row by row on demand. Other
tensors: bf16, f16 and f32 become float32; integers, bool and float64 keep their dtype; with `raw`,
16-bit and 8-bit floats are written as unsigned integers. Numbers are copied out of the file mapping
in blocks, which aligns them and bounds memory. Refused: floats smaller than a byte, 8-bit floats
except with `raw`, and complex numbers except as npy.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core
from ..files.encode import SEPARATORS, Encoder, number_encoder, row_length, suffix_of, word_encoder
from ..files.naming import file_names
from .layouts import Stored
from .weights import Weight, Weights

_NATIVE = {
    **{
        f"{letter}{bits}": f"<{kind}{bits // 8}"
        for letter, kind in (("I", "i"), ("U", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{"F32": "<f4", "F64": "<f8", "C64": "<c8", "BOOL": "|b1"},
}
_HALF = {"BF16": "bfloat16", "F16": "float16"}
_NO_BYTES = np.empty(0, np.uint8)
_EIGHT_BIT = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

PARTS = ("values", "codes", "scales")  # what can be written of a quantised weight


@dataclass(frozen=True)
class Rows:
    """A matrix whose rows are computed on demand."""

    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]  # rows [first, stop); first is a multiple of step
    step: int = 1

    def take(self, n_rows: int, n_cols: int) -> Callable[[int, int], np.ndarray]:
        """`take(first, count)`: `count` numbers from number `first` on, row by row."""

        def numbers(first: int, count: int) -> np.ndarray:
            row = first // n_cols // self.step * self.step
            rows = self.read(row, min(-(-(first + count) // n_cols), n_rows))
            flat = np.ascontiguousarray(rows, self.dtype).reshape(-1)
            return flat[first - row * n_cols :][:count].copy()

        return numbers


@dataclass(frozen=True)
class Tensor:
    """A tensor in a mapped file, and the name of the file to write it to."""

    name: str
    dtype: str  # as the weight file spells it
    shape: tuple[int, ...]
    raw: np.ndarray  # its bytes, uint8, in place
    weight_file: str
    file: str
    rows: Rows | None = None
    """For a quantised weight, instead of `raw`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further entries for the manifest."""


def weight_tensors(weights: Weights, format: str, part: str) -> Iterator[Tensor]:
    """What to write of a quantised model, with file names in `format`: every tensor under its
    original name, or the codes or the scales of the quantised ones."""
    listed = [(weight, *each) for weight in weights.values() for each in _contents(weight, part)]
    names = file_names((f"{weight.name}{end}" for weight, end, *_ in listed), suffix_of(format))
    for weight, end, shape, rows in listed:
        facts = _facts(weight, end[1:] or part) if rows else {}
        file = names[f"{weight.name}{end}"]
        raw = _NO_BYTES if rows else weight.raw.reshape(-1).view(np.uint8)
        path = os.fspath(weight.path)
        yield Tensor(weight.name, weight.dtype, shape, raw, path, file, rows, facts)


def _facts(weight: Weight, part: str) -> dict[str, Any]:
    """The manifest's entries for a quantised weight."""
    info = weight._packed
    facts: dict[str, Any] = {"part": part, "kind": weight.kind, "format": info and info.format}
    facts["matrix"] = list(weight.shape)
    if weight.group is not None:
        facts |= {"group": weight.group, "group_rows": weight.group_rows}
    return facts | ({"weights_as": "bf16"} if info and info.options.get("as_bf16") else {})


def _contents(weight: Weight, part: str) -> list[tuple[str, tuple[int, ...], Rows | None]]:
    """(suffix of the file name, shape, rows) of each file for one part of a weight."""
    if part == "values":
        rows = Rows(np.dtype("<f4"), weight._read_rows) if weight.is_packed else None
        return [("", weight.shape, rows)]
    if weight.group is None:
        return []
    layout, n_rows = weight._layout(), weight.shape[0]
    few = layout.of_rows(0, layout.row_step)
    if part == "codes":
        dtype = np.asarray(few.codes()).dtype
        return [
            (".codes", weight.shape, Rows(dtype, _part_reader(layout, "codes"), layout.row_step))
        ]
    found: list[tuple[str, tuple[int, ...], Rows | None]] = []
    tables = few.tables()
    named = tables.named if tables else {}
    shape = (-(-n_rows // layout.rows), named["scales"].shape[1])
    for name, table in named.items():
        if name == "zeros" and "zeros" not in layout.parts:
            found.append((".zeros", (1, 1), _whole(table)))
            continue
        rows = Rows(table.dtype, _part_reader(layout, name), layout.row_step // layout.rows)
        found.append((f".{name}", (shape[0], table.shape[1]), rows))
    for name, numbers in (("levels", layout.levels), ("group_of", layout.group_of)):
        if numbers is not None:
            found.append((f".{name}", (1, numbers.size), _whole(numbers.reshape(1, -1))))
    return found


def _whole(table: np.ndarray) -> Rows:
    return Rows(table.dtype, lambda first, stop: table[first:stop])


def _part_reader(layout: Stored, name: str) -> Callable[[int, int], np.ndarray]:
    """A function (first, stop) -> rows of the codes or of a table."""

    def codes(first: int, stop: int) -> np.ndarray:
        return np.asarray(layout.of_rows(first, stop).codes())

    def table(first: int, stop: int) -> np.ndarray:
        tables = layout.of_rows(first * layout.rows, stop * layout.rows).tables()
        return tables.named[name] if tables else _NO_BYTES

    return codes if name == "codes" else table


def file_tensors(
    files: Iterable["_core.Safetensors | _core.Gguf"], format: str
) -> Iterator[Tensor]:
    """Every tensor of these files, in the order of the data, with its file name in `format`."""
    listed = [(file, tensor) for file in files for tensor in file.tensors()]
    names = file_names((tensor[0] for _, tensor in listed), suffix_of(format))
    for file, (name, dtype, shape, _, _) in listed:
        yield Tensor(name, dtype, shape, file.raw(name), os.fspath(file.path), names[name])


class EncoderMaker:
    """Tensor -> encoder for one format. The texts of all 16-bit words are built once and shared."""

    def __init__(self, format: str, digits: int, dtype: str, header: bool, n_threads: int) -> None:
        self.format, self.digits, self.raw = format, digits, dtype == "raw"
        self.header, self.n_threads = header, n_threads
        self._spellings: dict[str, object] = {}

    def can(self, tensor: Tensor) -> bool:
        """Whether the format can hold every value exactly."""
        if tensor.rows is not None:
            return True
        if tensor.dtype in _HALF:
            return True
        if tensor.dtype in _EIGHT_BIT:
            return self.raw
        return tensor.dtype in _NATIVE and (self.format == "npy" or tensor.dtype != "C64")

    def __call__(self, tensor: Tensor) -> Encoder:
        if tensor.rows is not None:
            return number_encoder(
                tensor.rows.take(tensor.shape[0], tensor.shape[1]),
                tensor.shape,
                tensor.rows.dtype,
                self.format,
                digits=self.digits,
                write_dtype=True,
                header=self.header,
                n_threads=self.n_threads,
            )
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
    """`rows(a, b)` of a quantised, BF16, F16 or F32 matrix, as float32 [b - a, n_cols]. A vector is
    one row."""
    if tensor.rows is not None:
        return tensor.rows.read
    _, take = _numbers(tensor, raw=False)
    n_cols = row_length(tensor.shape)
    return lambda a, b: take(a * n_cols, (b - a) * n_cols).reshape(-1, n_cols)
