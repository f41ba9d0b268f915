"""Numbers as hexadecimal words, one to a line, as Verilog's $readmemh takes them; and fixed point.

A word is the bits of a number, most significant digit first. The first line, `// shape=[2, 3]
dtype=float32`, is a comment to a simulator. Reading is strict: nothing but such lines, all of one
length.

Fixed point q<m>.<n> has m + n bits in two's complement, of which m, the sign among them, stand
before the point and n behind it: a word w means w / 2^n. So q1.15 and q8.8 have 16 bits, and words
of four digits; q3.9 has three digits, and simulators warn of more.
"""

import binascii
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core
from .errors import ArgumentError, FormatError
from .names import printable

MAX_BITS = 32
_FORMAT = re.compile(r"q(0|[1-9][0-9]?)\.(0|[1-9][0-9]?)")
_LINES = 1 << 18  # read at a time
_IS_DIGIT = np.isin(np.arange(256), list(b"0123456789abcdefABCDEF"))


@dataclass(frozen=True)
class FixedPoint:
    """The format q<m>.<n>. Every value is exact in float64, and but for the largest ones of more
    than 25 bits in float32."""

    m: int
    n: int

    @property
    def words(self) -> np.dtype:
        """The smallest unsigned integer that holds m + n bits."""
        return np.dtype("u1" if self.m + self.n <= 8 else "u2" if self.m + self.n <= 16 else "u4")

    @property
    def n_digits(self) -> int:
        """Hexadecimal digits of a word."""
        return -(-(self.m + self.n) // 4)

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Words, how many values were saturated, how many are NaN.

        Rounds to nearest, ties to even; what then lies beyond the smallest or the largest number,
        infinities too, becomes that number. NaN becomes 0. The caller's rounding mode changes nothing.
        """
        found: tuple[np.ndarray, int, int] = _core.call_rounded(self._encode, values)
        return found

    def _encode(self, values: np.ndarray) -> tuple[np.ndarray, int, int]:
        with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN; beyond float64
            scaled = np.rint(values.astype(np.float64) * 2.0**self.n)
        half = 1 << (self.m + self.n - 1)
        is_nan, beyond = np.isnan(scaled), (scaled < -half) | (scaled > half - 1)
        whole = np.clip(np.where(is_nan, 0, scaled), -half, half - 1).astype(np.int64)
        return (whole & (2 * half - 1)).astype(self.words), int(beyond.sum()), int(is_nan.sum())

    def decode(self, words: np.ndarray) -> np.ndarray:
        """Words of m + n bits -> float32."""
        numbers: np.ndarray = _core.call_rounded(self._decode, words)
        return numbers

    def _decode(self, words: np.ndarray) -> np.ndarray:
        half = 1 << (self.m + self.n - 1)
        whole = (words.astype(np.int64) ^ half) - half
        return (whole / 2.0**self.n).astype(np.float32)


def fixed_point(format: str) -> FixedPoint | None:
    """ "q4.12" -> FixedPoint(4, 12); None for what is no such name. ArgumentError for too many
    bits, or none before the point."""
    match = _FORMAT.fullmatch(format)
    if not match:
        return None
    m, n = int(match[1]), int(match[2])
    if m < 1 or m + n > MAX_BITS:
        raise ArgumentError(
            f"format {format!r}: q<m>.<n> has m + n bits, at most {MAX_BITS}, and m counts the sign"
        )
    return FixedPoint(m, n)


def is_fixed_point(format: str) -> bool:
    try:
        return fixed_point(format) is not None
    except ArgumentError:
        return False


def word_lines(words: np.ndarray, n_digits: int) -> bytes:
    """Each unsigned integer in so many hexadecimal digits, and a line feed."""
    if not words.size:
        return b""
    size = words.itemsize
    data = words.astype(words.dtype.newbyteorder(">"), copy=False)
    lines = binascii.hexlify(data.view(np.uint8), "\n", size) + b"\n"
    if n_digits == 2 * size:
        return lines
    return np.frombuffer(lines, np.uint8).reshape(-1, 2 * size + 1)[:, -n_digits - 1 :].tobytes()


def read_hex(data: Any, start: int, shape: tuple[int, ...], dtype: str, path: str) -> np.ndarray:
    """The array whose words a file (its bytes, or a FileBytes) holds from byte `start` on, which is
    line 2: as float32 for fixed point and floats of 16 bits, else as `dtype` ("" is float32).
    FormatError."""
    count, fixed = math.prod(shape), fixed_point(dtype)
    if fixed:
        words = _read_words(data, start, count, fixed.words, fixed.n_digits, path)
        _check_bits(words, fixed.m + fixed.n, dtype, path)
        values = fixed.decode(words)
    elif dtype == "bfloat16":
        words = _read_words(data, start, count, np.dtype("u2"), 4, path)
        values = (words.astype(np.uint32) << 16).view(np.float32)
    else:
        kind = np.dtype(dtype or "float32")
        size = kind.itemsize
        words = _read_words(data, start, count, np.dtype(f"u{size}"), 2 * size, path)
        _check_bits(words, 1 if dtype == "bool" else 64, dtype, path)
        values = words.view(kind).astype(np.float32 if dtype == "float16" else kind, copy=False)
    return values.reshape(shape)


def _check_bits(words: np.ndarray, n_bits: int, dtype: str, path: str) -> None:
    """FormatError for a word that has more bits than its dtype."""
    if words.size and int(words.max()) >> n_bits:
        line = int(np.argmax(words >> np.asarray(n_bits, words.dtype) != 0)) + 2
        raise FormatError(f"{path}: line {line}, column 1: a word of {dtype} has {n_bits} bits")


def _read_words(
    data: Any, start: int, count: int, words: np.dtype, n_digits: int, path: str
) -> np.ndarray:
    """The `count` words that the bytes of a file hold from `start` on, which is line 2. FormatError
    with line and column for anything else."""
    width = n_digits + 1
    values = np.empty(min(count, (len(data) - start) // width), words)
    for first in range(0, values.size, _LINES):
        part = values[first : first + _LINES]
        at = start + first * width
        lines = np.frombuffer(data[at : at + part.size * width], np.uint8).reshape(-1, width)
        right = _IS_DIGIT[lines]
        right[:, -1] = lines[:, -1] == ord("\n")
        if not right.all():
            row, column = divmod(int(np.argmin(right)), width)
            line = lines[row].tobytes().split(b"\n")[0].decode("ascii", "backslashreplace")
            raise FormatError(
                f"{path}: line {first + row + 2}, column {column + 1}: {printable(line, 40)!r} is "
                f"no word of {n_digits} hexadecimal digits"
            )
        digits = np.full((part.size, 2 * words.itemsize), ord("0"), np.uint8)
        digits[:, -n_digits:] = lines[:, :-1]
        part[:] = np.frombuffer(binascii.unhexlify(digits), words.newbyteorder(">"))
    left = len(data) - start - values.size * width
    if values.size != count or left:
        found = f"{values.size} words" + (f" and {left} more bytes" if left else "")
        raise FormatError(
            f"{path}: line 1, column 1: the shape needs {count} words of {n_digits} hexadecimal "
            f"digits, and the lines below hold {found}"
        )
    return values
