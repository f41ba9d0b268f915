"""Packed weights in plain NumPy: stored bytes -> codes, scales, zeros, and the values they mean.

Every layout follows one formula, for row o and column i of a matrix [out, in]:

    value = scale * (level - zero) + offset
    level = levels[code], or the code itself without a table

where scale, zero and offset are shared by a group of columns (and perhaps of rows). Codes are the
stored bit fields, unsigned unless the format stores int8; level, zero and their difference are
small integers or 8-bit floats. Every scale and offset is exact in float32, including the products
of the two levels of scales in GGUF's K types. At most one operation rounds: the product, for
float32 scales (int8, fp8), or the sum, for types with an offset, whose product is exact. So
computing in float64 and rounding to float32 at the end gives the same bits.

This is the reference for the core's `Packed.read`, which models use: it shares no code with it, and
is slower. Rows are in the order of Hugging Face's file.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]

FLOATS = ("f32", "f16", "bf16")
"""Kinds without codes: floats whose rows may be in another order."""

_HALF, _BYTE = "<f2", "u1"
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # the nibble of a word that holds its column 0, 1, ...
_BAND = 1 << 20  # codes
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class _Plane(NamedTuple):
    """Some bits of every code of a block, `width` for each, stored in one field of bytes. `run`
    consecutive bytes hold the bits of `run` codes in their lowest bits, of the next `run` codes in
    the bits above, and so on."""

    field: str
    width: int
    run: int
    shift: int = 0


@dataclass(frozen=True)
class _Block:
    """A block type of GGUF: its fields in order, and where the bits of a code are."""

    fields: list[Any]  # of a NumPy dtype
    planes: tuple[_Plane, ...]
    group: int
    zero: int = 0
    levels: tuple[int, ...] | None = None

    @cached_property
    def dtype(self) -> np.dtype:
        return np.dtype(self.fields)

    @property
    def size(self) -> int:
        """Codes per block."""
        plane = self.planes[0]
        n_bytes: int = self.dtype[plane.field].itemsize
        return n_bytes * 8 // plane.width


_D, _M, _DMIN = ("d", _HALF), ("m", _HALF), ("dmin", _HALF)
_LOW16, _LOW128 = ("low", _BYTE, 16), ("low", _BYTE, 128)
_K_SCALES = ("scales", _BYTE, 12)  # six bits each
_FOUR, _FOUR_OF_64 = _Plane("low", 4, 16), _Plane("low", 4, 32)
_FIFTH = _Plane("high", 1, 1, 4)

BLOCKS = {
    "q8_0": _Block([_D, ("low", "i1", 32)], (_Plane("low", 8, 1),), 32),
    "q4_0": _Block([_D, _LOW16], (_FOUR,), 32, zero=8),
    "q4_1": _Block([_D, _M, _LOW16], (_FOUR,), 32),
    "q5_0": _Block([_D, ("high", _BYTE, 4), _LOW16], (_FOUR, _FIFTH), 32, zero=16),
    "q5_1": _Block([_D, _M, ("high", _BYTE, 4), _LOW16], (_FOUR, _FIFTH), 32),
    "q2_k": _Block(
        [("scales", _BYTE, 16), ("low", _BYTE, 64), _D, _DMIN], (_Plane("low", 2, 32),), 16
    ),
    "q3_k": _Block(
        [("high", _BYTE, 32), ("low", _BYTE, 64), _K_SCALES, _D],
        (_Plane("low", 2, 32), _Plane("high", 1, 32, 2)),
        16,
        zero=4,
    ),
    "q4_k": _Block([_D, _DMIN, _K_SCALES, _LOW128], (_FOUR_OF_64,), 32),
    "q5_k": _Block(
        [_D, _DMIN, _K_SCALES, ("high", _BYTE, 32), _LOW128],
        (_FOUR_OF_64, _Plane("high", 1, 32, 4)),
        32,
    ),
    "q6_k": _Block(
        [_LOW128, ("high", _BYTE, 64), ("scales", "i1", 16), _D],
        (_Plane("low", 4, 64), _Plane("high", 2, 32, 4)),
        16,
        zero=32,
    ),
    "iq4_nl": _Block([_D, _LOW16], (_FOUR,), 32, levels=IQ4_LEVELS),
    "iq4_xs": _Block(
        [_D, ("scales_high", "<u2"), ("scales", _BYTE, 4), _LOW128], (_FOUR,), 32, levels=IQ4_LEVELS
    ),
}

KINDS = (*FLOATS, *BLOCKS, "fp8", "int8", "int", "gptq", "awq")


class Part(NamedTuple):
    """A stored tensor: its dtype as the file spells it, and its elements in place (for a block
    type, its bytes)."""

    dtype: str
    words: Numbers


@dataclass(frozen=True)
class Tables:
    """Scales, zeros and offsets: [rows, columns], one entry per group."""

    scales: NDArray[np.float32]
    zeros: Numbers | None
    """Integers in the shape of the scales, or [1, 1] if all are equal; None: 0."""
    offsets: NDArray[np.float32] | None
    fields: Mapping[str, Numbers]
    """For GGUF's K types and iq4_xs, the stored numbers: scales are d * s, offsets -dmin * m."""

    @property
    def named(self) -> dict[str, Numbers]:
        """Every table that is not None, by name."""
        found = {"scales": self.scales, "zeros": self.zeros, "offsets": self.offsets}
        return {name: each for name, each in found.items() if each is not None} | dict(self.fields)


@dataclass(frozen=True)
class Stored:
    """A packed weight as stored in its file. Arguments as for `_core.Packed`; parts by role: codes,
    scales, zeros, group_of."""

    kind: str
    shape: tuple[int, int]
    parts: Mapping[str, Part]
    bits: int = 0
    scale_rows: int = 0
    scale_cols: int = 0
    zero_is_less_one: bool = False
    turned: int = 0
    as_bf16: bool = False

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        if self.kind in BLOCKS:
            return BLOCKS[self.kind].group
        return 1 if self.kind in FLOATS else self.scale_cols or self.shape[1]

    @property
    def rows(self) -> int:
        """Rows that share a scale."""
        is_table = self.kind in ("fp8", "int8", "int")
        return self.scale_rows or self.shape[0] if is_table else 1

    @property
    def row_step(self) -> int:
        """Rows are cut only at multiples of this, where codes and scales begin anew."""
        per_word = 32 // (self.bits or 4) if self.kind in ("int", "gptq", "awq") else 1
        return math.lcm(per_word, self.rows)

    @property
    def levels(self) -> NDArray[np.float32] | None:
        """float32 [n_codes]: the number that each code stands for; None: the code itself."""
        if self.kind == "fp8":
            return fp8_levels()
        block = BLOCKS.get(self.kind)
        return np.array(block.levels, np.float32) if block and block.levels else None

    @property
    def group_of(self) -> NDArray[np.int32] | None:
        """int32 [in]: the group of each column; None: column // group."""
        part = self.parts.get("group_of")
        return None if part is None else part.words.reshape(-1).astype(np.int32)

    def of_rows(self, first: int, stop: int) -> "Stored":
        """Rows [first, stop) only. `first` is a multiple of `row_step`."""
        stop = min(stop, self.shape[0])
        cut = {role: self._cut(role, part, first, stop) for role, part in self.parts.items()}
        return dataclasses.replace(self, shape=(stop - first, self.shape[1]), parts=cut, turned=0)

    def _cut(self, role: str, part: Part, first: int, stop: int) -> Part:
        words, n_rows = part.words, self.shape[0]
        if self.turned:
            return Part(part.dtype, words[_turned_rows(self.turned, first, stop)])
        if role == "group_of":
            return part
        if role == "codes" and self.kind not in ("gptq", "awq"):
            return Part(part.dtype, words[first:stop])
        if role == "scales" and self.kind in ("fp8", "int8", "int") or self.kind == "int8":
            table = words.reshape(-(-n_rows // self.rows), -1)
            return Part(part.dtype, table[first // self.rows : -(-stop // self.rows)])
        if role == "scales":
            return Part(part.dtype, words[:, first:stop])
        per_word = 32 // (self.bits or 4)  # along out: zeros, and the codes of AWQ
        if self.kind == "gptq" and role == "codes":
            return Part(part.dtype, words[:, first:stop])
        if self.kind == "int":
            return Part(part.dtype, words[first // per_word : -(-stop // per_word)])
        return Part(part.dtype, words[:, first // per_word : -(-stop // per_word)])

    # ---- codes ----

    def codes(self) -> Numbers | None:
        """[out, in], uint8 or int8; None for a kind without codes."""
        if self.kind in FLOATS:
            return None
        if self.kind in ("fp8", "int8"):
            words = self.parts["codes"].words
            return words.view("i1" if self.kind == "int8" else "u1").reshape(self.shape)
        # in bands of rows: the steps between need several times the memory of the codes
        band = self.row_step * max(1, _BAND // (self.row_step * self.shape[1]))
        found: Numbers = np.empty(self.shape, "i1" if self.kind == "q8_0" else "u1")
        for first in range(0, len(found), band):
            found[first : first + band] = self.of_rows(first, first + band)._unpacked()
        return found

    def _unpacked(self) -> Numbers:
        n_rows, n_cols = self.shape
        words = self.parts["codes"].words
        if self.kind in BLOCKS:
            return _block_codes(BLOCKS[self.kind], words).reshape(n_rows, n_cols)
        if self.kind == "int":
            return _fields(words, self.bits).reshape(n_rows, -1)[:, :n_cols]
        if self.kind == "gptq":
            return _fields(words.T, self.bits).reshape(n_rows, -1)[:, :n_cols]
        return _fields(words, 4)[..., _AWQ_ORDER].reshape(n_cols, -1)[:, :n_rows].T

    def tables(self) -> Tables | None:
        """The scales, zeros and offsets; None for a kind without codes."""
        if self.kind in FLOATS:
            return None
        if self.kind in BLOCKS:
            block = BLOCKS[self.kind]
            fields = _records(block, self._in_order(self.parts["codes"].words))
            scales, offsets = _block_scales(self.kind, fields)
            zeros = np.full((1, 1), block.zero, np.uint8) if block.zero else None
            return Tables(scales, zeros, offsets, _two_steps(self.kind, fields))
        return Tables(self._scales(), self._zeros(), None, {})

    def _in_order(self, rows: Numbers) -> Numbers:
        return rows[_turned_rows(self.turned, 0, self.shape[0])] if self.turned else rows

    def _scales(self) -> NDArray[np.float32]:
        table = floats(self.parts["scales"])
        if self.kind in ("gptq", "awq"):
            return table.reshape(-1, self.shape[0]).T
        return table.reshape(-(-self.shape[0] // self.rows), -(-self.shape[1] // self.group))

    def _zeros(self) -> Numbers | None:
        """The numbers that are subtracted from the codes."""
        part, n_rows = self.parts.get("zeros"), self.shape[0]
        if part is None:
            return np.full((1, 1), 1 << (self.bits - 1), np.uint8) if self.kind == "int" else None
        if self.kind == "int8":
            return part.words.view("i1").reshape(-(-n_rows // self.rows), -1)
        if self.kind == "int":
            return _fields(part.words.T, self.bits).reshape(part.words.shape[1], -1)[:, :n_rows].T
        fields = _fields(part.words, self.bits or 4)
        if self.kind == "awq":
            fields = fields[..., _AWQ_ORDER]
        zeros = fields.reshape(len(part.words), -1)[:, :n_rows].T
        return (zeros + 1) & ((1 << self.bits) - 1) if self.zero_is_less_one else zeros

    # ---- values ----

    def values(self, dtype: type = np.float32) -> NDArray[np.float32]:
        """[out, in] float32: the formula in float32, or in float64 and rounded once at the end."""
        with np.errstate(all="ignore"):
            values = self._values(dtype).astype(np.float32)
        return to_bf16(values) if self.as_bf16 else values

    def _values(self, dtype: type) -> Numbers:
        codes, tables = self.codes(), self.tables()
        if codes is None or tables is None:
            return self._in_order(floats(self.parts["codes"])).astype(dtype)
        level: Numbers = (
            codes.astype(dtype) if self.levels is None else self.levels[codes].astype(dtype)
        )
        if tables.zeros is not None:
            level = level - self.spread(tables.zeros).astype(dtype)
        product: Numbers = self.spread(tables.scales).astype(dtype) * level
        return product if tables.offsets is None else product + self.spread(tables.offsets)

    def spread(self, table: Numbers) -> Numbers:
        """A table [groups of rows, groups of columns] -> one entry for each row and column."""
        n_rows, n_cols = self.shape
        groups = self.group_of
        if groups is None:
            groups = np.arange(n_cols, dtype=np.int32) // self.group
        rows = np.arange(n_rows) // self.rows
        return table if table.size == 1 else table[rows[:, None], groups[None]]


def floats(part: Part) -> NDArray[np.float32]:
    """A stored float tensor as float32, in its shape."""
    words, dtype = part.words, part.dtype
    if dtype == "BF16":
        return (words.view("<u2").astype("<u4") << np.uint32(16)).view(np.float32)
    return words.view("<f2" if dtype == "F16" else "<f4").astype(np.float32)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to the nearest bf16, ties to even, as float32; a NaN stays a NaN."""
    words = values.view(np.uint32)
    near = (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    rounded = np.where(np.isnan(values), (words >> np.uint32(16)) | np.uint32(0x40), near)
    return (rounded << np.uint32(16)).view(np.float32)


def fp8_levels() -> NDArray[np.float32]:
    """The 256 numbers of F8_E4M3: a sign bit, 4 exponent bits (bias 7), 3 mantissa bits; no
    infinity, and NaN where all bits but the sign are set."""
    word = np.arange(256)
    exponent, mantissa = word >> 3 & 15, word & 7
    size = np.where(exponent == 0, mantissa / 512, (8 + mantissa) * 2.0 ** (exponent - 10))
    size[word & 0x7F == 0x7F] = np.nan
    levels: NDArray[np.float32] = np.where(word >> 7, -size, size).astype(np.float32)
    return levels


# ---- bits ----


def _turned_rows(head_dim: int, first: int, stop: int) -> NDArray[np.int64]:
    """The stored row of each row: row j + s h / 2 of a head is stored as its row 2 j + s."""
    row = np.arange(first, stop)
    within, half = row % head_dim, head_dim // 2
    return row - within + 2 * (within % half) + within // half


def _fields(words: Numbers, bits: int) -> NDArray[np.uint8]:
    """32-bit words [..., n] -> their bit fields [..., n, 32 / bits], lowest first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    mask = np.uint32((1 << bits) - 1)
    found: NDArray[np.uint8] = (words.view("<u4")[..., None] >> shifts & mask).astype(np.uint8)
    return found


def _bits(data: NDArray[np.uint8], width: int, run: int) -> NDArray[np.uint8]:
    """Bytes [..., n] -> bit fields [..., n * 8 / width], in the layout of `_Plane`."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    parts = data.reshape(*data.shape[:-1], -1, 1, run) >> shifts & np.uint8((1 << width) - 1)
    return parts.reshape(*data.shape[:-1], -1)


def _records(block: _Block, data: Numbers) -> Numbers:
    """Rows of bytes -> [rows, blocks per row] records of the block's fields."""
    return np.ascontiguousarray(data).reshape(len(data), -1).view(block.dtype)


def _block_codes(block: _Block, data: Numbers) -> Numbers:
    """[rows, blocks per row, codes per block]."""
    fields = _records(block, data)
    if block.planes[0].width == 8:
        return fields["low"]
    code = np.zeros((), np.uint8)
    for field, width, run, shift in block.planes:
        code = code | _bits(fields[field], width, run) << np.uint8(shift)
    return code


def _block_scales(
    kind: str, fields: Numbers
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Scales and offsets [rows, groups per row]."""
    d = fields["d"].astype(np.float32)[..., None]
    scales, mins = _inner_scales(kind, fields)
    names = fields.dtype.names or ()
    with np.errstate(all="ignore"):
        whole = (d * scales).reshape(len(fields), -1)
        if "m" in names:
            return whole, fields["m"].astype(np.float32)
        if mins is None:
            return whole, None
        return whole, -(fields["dmin"].astype(np.float32)[..., None] * mins).reshape(
            len(fields), -1
        )


def _two_steps(kind: str, fields: Numbers) -> dict[str, Numbers]:
    """d and dmin [rows, blocks per row], s and m [rows, groups per row]; empty for a type with one
    scale per block."""
    scales, mins = _inner_scales(kind, fields)
    if scales.ndim == 1:
        return {}
    found = {"d": fields["d"].astype(np.float32), "s": scales.reshape(len(fields), -1)}
    if mins is not None:
        found["dmin"] = fields["dmin"].astype(np.float32)
        found["m"] = mins.reshape(len(fields), -1)
    return found


def _inner_scales(kind: str, fields: Numbers) -> tuple[Numbers, Numbers | None]:
    """The integers [..., groups per block] that d and dmin are multiplied by."""
    if kind == "q2_k":
        return fields["scales"] & 15, fields["scales"] >> 4
    if kind in ("q4_k", "q5_k"):
        a, b, c = np.split(fields["scales"], 3, axis=-1)
        scales = np.concatenate((a & 63, c & 15 | a >> 6 << 4), axis=-1)
        return scales, np.concatenate((b & 63, c >> 4 | b >> 6 << 4), axis=-1)
    if kind == "q3_k":
        low, high = fields["scales"][..., :8], fields["scales"][..., 8:]
        return (_bits(low, 4, 8) | _bits(high, 2, 4) << 4).astype(np.int8) - 32, None
    if kind == "q6_k":
        return fields["scales"], None
    if kind == "iq4_xs":
        high = fields["scales_high"].astype("<u2")[..., None].view(_BYTE)
        return (_bits(fields["scales"], 4, 1) | _bits(high, 2, 1) << 4).astype(np.int8) - 32, None
    return np.ones(1, np.int8), None
