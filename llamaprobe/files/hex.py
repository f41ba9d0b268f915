"""Numbers as hexadecimal words, one to a line, as Verilog's $readmemh takes them; and fixed point.

A word is the bits of a number, most significant digit first. The first line, `// shape=[2, 3]
dtype=float32`, is a comment to a simulator. Files of other programs for $readmemh are read too:
several words to a line, comments, `_` between digits, Windows line ends, `@` addresses. Refused are
words of another length (a memory of bytes, say), the digits x and z, and addresses that skip words.

Fixed point q<m>.<n> has m + n bits in two's complement, m of them (with the sign) before the point
and n after it: a word w means w / 2^n. So q1.15 and q8.8 have 16 bits, and words of four digits;
q3.9 has three digits, and simulators warn of more.
"""

import binascii
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from ..errors import ArgumentError, FormatError
from ..messages import counted, printable

MAX_BITS = 32
_FORMAT = re.compile(r"q(0|[1-9][0-9]?)\.(0|[1-9][0-9]?)")
_LINES = 1 << 18  # of our own files, read at a time
_CHUNK = 1 << 20  # bytes of other files, read at a time
_FEW = 200  # bytes: below this NumPy takes longer than Python
_DIGITS = b"0123456789abcdefABCDEF"
_IS_DIGIT = np.isin(np.arange(256), list(_DIGITS))
_IS_SPACE = np.isin(np.arange(256), list(b" \t\n\r\f"))
_SPACE = re.compile(rb"[ \t\n\r\f]")
_COMMENT = re.compile(rb"//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TOKEN = re.compile(rb"[^ \t\n\r\f]+")
_ADDRESS = re.compile(rb"(?<![^ \t\n\r\f])@([0-9a-fA-F][0-9a-fA-F_]{0,31})(?![^ \t\n\r\f])")
_STRAY = re.compile(rb"(?<![^ \t\n\r\f])_")  # `_` before the first digit
_UNKNOWN = re.compile(rb"(?=.*[xXzZ?])[0-9a-fA-FxXzZ?]+")


@dataclass(frozen=True)
class FixedPoint:
    """The format q<m>.<n>. Every value is exact in float64, and in float32 except for large ones of
    more than 25 bits."""

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

        Rounds to nearest, ties to even, whatever the caller's rounding mode; saturates at the
        smallest and the largest number, infinities too. NaN becomes 0.
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
    """ "q4.12" -> FixedPoint(4, 12); None for any other name. ArgumentError for too many bits, or 0
    before the point."""
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
    """Each unsigned integer in `n_digits` hexadecimal digits, and a line feed."""
    if not words.size:
        return b""
    size = words.itemsize
    data = words.astype(words.dtype.newbyteorder(">"), copy=False)
    lines = binascii.hexlify(data.view(np.uint8), "\n", size) + b"\n"
    if n_digits == 2 * size:
        return lines
    return np.frombuffer(lines, np.uint8).reshape(-1, 2 * size + 1)[:, -n_digits - 1 :].tobytes()


def read_hex(
    data: Any, start: int, line: int, shape: tuple[int, ...], dtype: str, path: str
) -> np.ndarray:
    """The array of the words in a file (its bytes, or a FileBytes) from byte `start` on, where line
    number `line` begins: as float32 for fixed point and floats of 16 bits, else as `dtype`. `path`
    is for messages. FormatError."""
    count, fixed = math.prod(shape), fixed_point(dtype)
    if fixed:
        source = _Words(data, start, line, fixed.n_digits, path)
        words = source.read(count, fixed.words)
        source.check_bits(words, fixed.m + fixed.n, dtype)
        values = fixed.decode(words)
    elif dtype == "bfloat16":
        words = _Words(data, start, line, 4, path).read(count, np.dtype("u2"))
        values = (words.astype(np.uint32) << 16).view(np.float32)
    else:
        kind = np.dtype(dtype)
        size = kind.itemsize
        source = _Words(data, start, line, 2 * size, path)
        words = source.read(count, np.dtype(f"u{size}"))
        source.check_bits(words, 1 if dtype == "bool" else 64, dtype)
        values = words.view(kind).astype(np.float32 if dtype == "float16" else kind, copy=False)
    return values.reshape(shape)


class _Words:
    """The words of a file, each of `n_digits` hexadecimal digits."""

    def __init__(self, data: Any, start: int, line: int, n_digits: int, path: str) -> None:
        self._data, self._start, self._line = data, start, line
        self._n_digits, self._path = n_digits, path

    def read(self, count: int, words: np.dtype) -> np.ndarray:
        """Exactly `count` words, as unsigned integers. FormatError."""
        values = self._read_lines(count, words)
        if values is None:
            parts = list(self._read_memory(words))
            values = np.concatenate(parts) if parts else np.empty(0, words)
        if values.size != count:
            raise FormatError(
                f"{self._path}: line 1, column 1: the shape needs {count} words of {self._n_digits}"
                f" hexadecimal digits, and the lines below hold {values.size}"
            )
        return values

    def check_bits(self, words: np.ndarray, n_bits: int, dtype: str) -> None:
        """FormatError for a word that has more bits than its dtype."""
        if words.size and int(words.max()) >> n_bits:
            n_before = int(np.argmax(words >> np.asarray(n_bits, words.dtype) != 0))
            tokens = (token for token in _TOKEN.finditer(self._text()) if token[0][:1] != b"@")
            at = next(itertools.islice(tokens, n_before, None)).start()
            raise self._fault(at, f"a word of {dtype} has {n_bits} bits")

    # ---- our own lines: a word and a line feed each ----

    def _read_lines(self, count: int, words: np.dtype) -> np.ndarray | None:
        """None unless there are exactly `count` such lines."""
        width = self._n_digits + 1
        if len(self._data) - self._start != count * width:
            return None
        values = np.empty(count, words)
        for first in range(0, count, _LINES):
            part = values[first : first + _LINES]
            at = self._start + first * width
            lines = np.frombuffer(self._data[at : at + part.size * width], np.uint8)
            lines = lines.reshape(-1, width)
            if not (_IS_DIGIT[lines[:, :-1]].all() and (lines[:, -1] == ord("\n")).all()):
                return None
            part[:] = self._numbers(lines[:, :-1], words)
        return values

    def _numbers(self, digits: np.ndarray, words: np.dtype) -> np.ndarray:
        """Rows of digits [any number, n_digits] as integers."""
        padded = np.full((len(digits), 2 * words.itemsize), ord("0"), np.uint8)
        padded[:, -self._n_digits :] = digits
        return np.frombuffer(binascii.unhexlify(padded), words.newbyteorder(">")).astype(words)

    # ---- any file for $readmemh ----

    def _text(self) -> bytes:
        """All after the first line, with blanks in place of comments."""
        text = bytes(self._data[self._start :])
        return _COMMENT.sub(self._blank, text) if b"/" in text else text

    def _blank(self, comment: re.Match[bytes]) -> bytes:
        """As many blanks, with the line feeds kept."""
        text = comment[0]
        if text.startswith(b"//"):
            return b" " * len(text)
        if len(text) < 4 or not text.endswith(b"*/"):
            raise self._fault(comment.start(), "the comment that begins here has no end")
        return re.sub(rb"[^\n]", b" ", text)

    def _read_memory(self, words: np.dtype) -> Iterator[np.ndarray]:
        """The words between one address and the next, a chunk at a time."""
        text, n_words, at = self._text(), 0, 0
        for mark in itertools.chain(_ADDRESS.finditer(text), [None]):
            end = len(text) if mark is None else mark.start()
            while at < end:
                space = _SPACE.search(text, min(at + _CHUNK, end), end)
                stop = end if space is None else space.end()
                yield (part := self._chunk(text, at, stop, words))
                at, n_words = stop, n_words + part.size
            if mark is not None:
                address = int(mark[1].replace(b"_", b""), 16)
                if address != n_words:
                    raise self._fault(
                        end,
                        f"the address {printable(mark[0].decode('ascii'), 40)} is word {address},"
                        f" and {counted(n_words, 'word')} come before it; none may be skipped",
                    )
                at = mark.end()

    def _chunk(self, text: bytes, start: int, stop: int, words: np.dtype) -> np.ndarray:
        part = text[start:stop]
        if b"_" in part:
            if _STRAY.search(part):
                raise self._bad_word(text, start, stop)
            part = part.replace(b"_", b"")
        if len(part) < _FEW and b"\v" not in part:  # between addresses, say
            tokens = part.split()
            if any(len(token) != self._n_digits or token.strip(_DIGITS) for token in tokens):
                raise self._bad_word(text, start, stop)
            return np.array([int(token, 16) for token in tokens], words)
        chars = np.frombuffer(part, np.uint8)
        is_digit = _IS_DIGIT[chars]
        edges = np.flatnonzero(np.diff(is_digit, prepend=False, append=False))
        is_right = (is_digit | _IS_SPACE[chars]).all()
        if not is_right or (np.diff(edges)[::2] != self._n_digits).any():
            raise self._bad_word(text, start, stop)
        return self._numbers(chars[is_digit].reshape(-1, self._n_digits), words)

    def _bad_word(self, text: bytes, start: int, stop: int) -> FormatError:
        """What is wrong with the first bad word of a chunk."""
        for token in _TOKEN.finditer(text, start, stop):
            word = token[0].replace(b"_", b"")
            shown = repr(printable(token[0].decode("ascii", "backslashreplace"), 40))
            if _UNKNOWN.fullmatch(word):
                return self._fault(
                    token.start(), f"{shown} has the digits x or z, which are not bits"
                )
            if len(word) != self._n_digits or _STRAY.match(token[0]) or word.strip(_DIGITS):
                column = re.match(rb"[0-9a-fA-F_]*", token[0][: self._n_digits])
                at = token.start() + len(column[0] if column else b"")
                return self._fault(
                    at, f"{shown} is not a word of {self._n_digits} hexadecimal digits"
                )
        raise AssertionError("every word is well formed")

    def _fault(self, at: int, fact: str) -> FormatError:
        """FormatError for the byte `at` of the text."""
        before = bytes(self._data[self._start : self._start + at])
        line, column = self._line + before.count(b"\n"), at - before.rfind(b"\n")
        return FormatError(f"{self._path}: line {line}, column {column}: {fact}")
