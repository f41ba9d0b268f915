"""One array as the bytes of a file: a header, then chunk after chunk.

Text is `# shape=[..]`, then rows: "," between numbers in csv, " " in txt, a newline after the last
number of a row. npy is NumPy's own format; hex and q<m>.<n> are the words of hex.py. An encoder
holds no more than one chunk of its output, whatever the size of the array. float32 and 16-bit words
go through the C formatter, other dtypes (integers, float64) through Python.

Refused: complex numbers and objects as text.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import _core
from ..arguments import flag, shown, whole
from ..errors import ArgumentError
from ..messages import counted, printable
from .hex import FixedPoint, fixed_point, word_lines

SUFFIXES = {"csv": ".csv", "txt": ".txt", "npy": ".npy", "hex": ".hex"}
SEPARATORS = {"csv": ",", "txt": " "}  # the formats that --digits applies to
CHUNK = 1 << 18  # numbers formatted at a time
SHORTEST = -1
MAX_DIGITS = 25
EXACT_DIGITS = 8  # after the point: enough to read back to the same float32

Buffers = Sequence[memoryview | bytes]
Encode = Callable[[memoryview, int, int], Buffers]
Take = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """What a file will hold. `encode(scratch, first, count)` gives the bytes of `count` elements
    from `first` on, in order, as buffers that may lie in `scratch`, `scratch_bytes()` long."""

    shape: tuple[int, ...]
    dtype: str  # as NumPy spells it; "" for bytes that are not an array
    header: bytes
    n_elements: int
    encode: Encode
    element_bytes: int | None = None  # None: text, whose size is known when it is written
    counts: dict[str, int] = field(default_factory=dict)  # what `encode` counts; for the manifest

    @property
    def exact(self) -> bool:
        """Whether the size is known before the file is written."""
        return self.element_bytes is not None

    def n_bytes(self) -> int:
        """Size of the file: exact for npy, estimated from a sample for text."""
        if self.element_bytes is not None:  # exact
            return len(self.header) + self.n_elements * self.element_bytes
        return len(self.header) + self._sampled_bytes()

    def _sampled_bytes(self, n_samples: int = 16, run: int = 256) -> int:
        n = self.n_elements
        scratch = new_scratch(_core.text_capacity(min(n, n_samples * run)))
        if n <= n_samples * run:
            ranges = [(0, n)] if n else []
        else:
            ranges = [(i * (n - run) // (n_samples - 1), run) for i in range(n_samples)]
        seen = sum(
            len(part) for first, count in ranges for part in self.encode(scratch, first, count)
        )
        return seen * n // max(1, sum(count for _, count in ranges))

    def scratch_bytes(self) -> int:
        """Size of the scratch of `encode`, for a chunk of at most CHUNK numbers."""
        return 0 if self.exact else _core.text_capacity(min(CHUNK, self.n_elements))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first, count) of every chunk."""
        for first in range(0, self.n_elements, CHUNK):
            yield first, min(CHUNK, self.n_elements - first)

    def parts(self) -> Iterator[memoryview | bytes]:
        """The bytes of the file in order, in one scratch: use each before the next is made."""
        yield self.header
        scratch = new_scratch(self.scratch_bytes())
        for first, count in self.ranges():
            yield from self.encode(scratch, first, count)


def new_scratch(n_bytes: int) -> memoryview:
    """Not zeroed: only the pages that are written cost anything."""
    return memoryview(np.empty(n_bytes, np.uint8))


def check_format(format: str) -> str:
    if not isinstance(format, str) or (format not in SUFFIXES and fixed_point(format) is None):
        raise ArgumentError(f"format {shown(format)} is not one of {', '.join(SUFFIXES)}, q<m>.<n>")
    return format


def check_header(header: bool, style: str) -> None:
    """ArgumentError for npy, whose header cannot be left out."""
    if not flag("header", header) and style == "npy":
        raise ArgumentError("header=False is for text and words; the header of npy is its format")


def suffix_of(format: str) -> str:
    """What the names of files of a format end in. Fixed point is words too: `.hex`."""
    return SUFFIXES.get(format, SUFFIXES["hex"])


def way_out(format: str) -> str:
    """What to do when files of a format do not fit the disk."""
    return "save less" + (", or with --format npy" if format in SEPARATORS else "")


def check_digits(digits: int | str | None) -> int:
    """None or "shortest" -> -1; N -> N. ArgumentError for anything else."""
    if digits is None or (isinstance(digits, str) and digits == "shortest"):
        return SHORTEST
    way_out = f"0 to {MAX_DIGITS} digits after the point, or None for the shortest decimal"
    return whole("digits", digits, 0, MAX_DIGITS + 1, way_out)


def plain_array(values: object) -> np.ndarray:
    """`values` as an array. ArgumentError for rows of different lengths and for masked values."""
    try:
        array = np.asanyarray(values)
    except ValueError as error:  # rows of different lengths
        raise ArgumentError(f"the values are not an array: {printable(str(error))}") from None
    check_unmasked(array)
    return np.asarray(array)


def check_unmasked(array: object) -> None:
    """ArgumentError for an array with masked values: NumPy would use what lies below the mask."""
    if not np.ma.isMA(array):
        return
    n_masked = int(np.count_nonzero(np.ma.getmaskarray(array)))
    if n_masked:
        raise ArgumentError(
            f"the array is masked ({n_masked} of {counted(array.size, 'value')}), and neither files,"
            " token ids nor edits have a mask; give array.filled(value) or array.compressed()"
        )


def array_encoder(
    array: np.ndarray,
    format: str,
    *,
    digits: int = SHORTEST,
    shape: Sequence[int] | None = None,
    n_cols: int | None = None,
    write_dtype: bool | None = None,
    header: bool = True,
    n_threads: int = 1,
) -> Encoder:
    """The encoder of an array in memory. `shape` is what the first line says (default: the array's
    own); the other arguments are those of `number_encoder`."""
    array = _writable(plain_array(array))
    flat = np.ascontiguousarray(array).reshape(-1)
    return number_encoder(
        lambda first, count: flat[first : first + count],
        array.shape if shape is None else shape,
        flat.dtype,
        format,
        digits=digits,
        n_cols=n_cols,
        write_dtype=write_dtype,
        header=header,
        n_threads=n_threads,
    )


def number_encoder(
    take: Take,
    shape: Sequence[int],
    dtype: np.dtype,
    format: str,
    *,
    digits: int = SHORTEST,
    n_cols: int | None = None,
    write_dtype: bool | None = None,
    header: bool = True,
    n_threads: int = 1,
    word_dtype: str | None = None,
) -> Encoder:
    """The encoder of numbers that are made as they are needed: `take(first, count)` gives a
    contiguous, aligned 1-D array of `dtype`. `n_cols`: numbers in a row of text (default: shape[0]
    rows; a vector is one row). The first line names the dtype if `write_dtype`, by default when it
    is not float32; of a hex file always, as `word_dtype` where the numbers are the words of another
    one. Without `header` there is no first line."""
    if format == "npy":
        return _npy_encoder(take, shape, dtype)
    if format == "hex":
        return _hex_encoder(take, shape, dtype, word_dtype or dtype.name, header)
    if fixed := fixed_point(format):
        return _fixed_encoder(take, shape, fixed, format, header)
    has_dtype = dtype.name != "float32" if write_dtype is None else write_dtype
    n_cols, sep = n_cols or row_length(shape), SEPARATORS[format]
    if dtype == np.float32:
        encode = _float_encoder(take, n_cols, sep, digits, n_threads)
    else:
        encode = _python_encoder(take, dtype, n_cols, sep, digits)
    first_line = text_header(shape, dtype.name if has_dtype else None) if header else b""
    return Encoder(tuple(shape), dtype.name, first_line, math.prod(shape), encode)


def word_encoder(
    words: np.ndarray,
    shape: Sequence[int],
    format: str,
    spellings: object,
    *,
    header: bool = True,
    n_threads: int = 1,
) -> Encoder:
    """Text of 16-bit floats through `spellings`, the `_core.text_table` of all 65,536 words.
    `words` are their bytes, uint8, at any alignment. The first line says float32: that is what the
    text reads back to."""
    n_cols, sep = row_length(shape), SEPARATORS[format]

    def encode(scratch: memoryview, first: int, count: int) -> Buffers:
        part = words[2 * first : 2 * (first + count)]
        bounds = _core.format_words(scratch, part, first, n_cols, sep, spellings, n_threads)
        return _slices(scratch, bounds)

    first_line = text_header(shape, "float32") if header else b""
    return Encoder(tuple(shape), "float32", first_line, math.prod(shape), encode)


def _writable(array: np.ndarray) -> np.ndarray:
    """The array in a dtype that files have: 16-bit floats become float32, which holds them
    exactly."""
    if array.dtype.name in ("float16", "bfloat16"):
        return array.astype(np.float32)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ArgumentError(
            f"an array of {array.dtype} cannot be written; float32, float64, integers and bool can"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def row_length(shape: Sequence[int]) -> int:
    """Numbers in a row of text: an array of two or more axes has shape[0] rows, else there is one
    row. At least 1."""
    n_elements = math.prod(shape)
    return max(1, n_elements // shape[0] if len(shape) > 1 and shape[0] else n_elements)


def text_header(shape: Sequence[int], dtype: str | None) -> bytes:
    """`# shape=[1, 9, 64]`, with ` dtype=..` behind it when that is given."""
    name = f" dtype={dtype}" if dtype else ""
    return f"# shape={[int(n) for n in shape]}{name}\n".encode("ascii")


def bytes_encoder(data: bytes) -> Encoder:
    """A file that is not an array: its bytes as they are."""
    return Encoder((), "", data, 0, lambda scratch, first, count: (), element_bytes=0)


def _npy_encoder(take: Take, shape: Sequence[int], dtype: np.dtype) -> Encoder:
    header = io.BytesIO()
    axes = tuple(int(n) for n in shape)
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": axes}
    )

    def encode(scratch: memoryview, first: int, count: int) -> Buffers:
        return [memoryview(take(first, count).view(np.uint8))]

    return Encoder(axes, dtype.name, header.getvalue(), math.prod(axes), encode, dtype.itemsize)


def _hex_encoder(
    take: Take, shape: Sequence[int], dtype: np.dtype, name: str, header: bool
) -> Encoder:
    words = np.dtype(f"u{dtype.itemsize}")

    def encode(scratch: memoryview, first: int, count: int) -> Buffers:
        return [word_lines(take(first, count).view(words), 2 * words.itemsize)]

    return _line_encoder(shape, name, 2 * words.itemsize, encode, {}, header)


def _fixed_encoder(
    take: Take, shape: Sequence[int], fixed: FixedPoint, name: str, header: bool
) -> Encoder:
    counts = {"saturated": 0, "nan": 0}

    def encode(scratch: memoryview, first: int, count: int) -> Buffers:
        if first == 0:  # of this file, not of one written before
            counts.update(saturated=0, nan=0)
        words, n_saturated, n_nan = fixed.encode(take(first, count))
        counts["saturated"] += n_saturated
        counts["nan"] += n_nan
        return [word_lines(words, fixed.n_digits)]

    return _line_encoder(shape, name, fixed.n_digits, encode, counts, header)


def _line_encoder(
    shape: Sequence[int],
    name: str,
    n_digits: int,
    encode: Encode,
    counts: dict[str, int],
    header: bool,
) -> Encoder:
    first_line = text_header(shape, name).replace(b"#", b"//", 1) if header else b""
    return Encoder(tuple(shape), name, first_line, math.prod(shape), encode, n_digits + 1, counts)


def _float_encoder(take: Take, n_cols: int, sep: str, digits: int, n_threads: int) -> Encode:
    def encode(scratch: memoryview, first: int, count: int) -> Buffers:
        bounds = _core.format_floats(
            scratch, take(first, count), first, n_cols, sep, digits, n_threads
        )
        return _slices(scratch, bounds)

    return encode


def _slices(scratch: memoryview, bounds: Sequence[tuple[int, int]]) -> Buffers:
    return [scratch[start:stop] for start, stop in bounds]


def _python_encoder(take: Take, dtype: np.dtype, n_cols: int, sep: str, digits: int) -> Encode:
    """Text of integers, bool (0 and 1) and float64 (the shortest that reads back as float64, or
    %.Ne)."""

    def spell(value: float) -> str:
        if dtype.kind != "f":
            return str(int(value))
        return repr(value) if digits == SHORTEST else f"{value:.{digits}e}"

    def encode(scratch: memoryview, first: int, count: int) -> Buffers:
        texts = map(spell, take(first, count).tolist())
        ends = (("\n" if (first + i + 1) % n_cols == 0 else sep) for i in range(count))
        return ["".join(text + end for text, end in zip(texts, ends, strict=True)).encode("ascii")]

    return encode


def is_rounded(format: str, digits: int | None) -> bool:
    """Whether files of a format may hold other values than were written."""
    return fixed_point(format) is not None or (digits is not None and digits < EXACT_DIGITS)


def text_values(values: np.ndarray, format: str, digits: int | None) -> np.ndarray:
    """What float32 values are after they were written in a format with so many digits and read
    back."""
    if fixed := fixed_point(format):
        return fixed.decode(fixed.encode(values)[0])
    if format not in SEPARATORS or digits is None:
        return values
    back = np.empty(values.size, np.float32)
    encoder = array_encoder(values.reshape(-1, 1), "csv", digits=digits, header=False)
    scratch = new_scratch(encoder.scratch_bytes())
    for first, count in encoder.ranges():
        text = b"".join(encoder.encode(scratch, first, count))
        _core.parse_floats(back[first : first + count], text, 0, ",", 1)
    return back.reshape(values.shape)
