"""Numbers as text through the extension, against the formatters of NumPy and Python.

Here are samples; tests/c/exhaustive_text.c proves the shortest text of every float32.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

_core = pytest.importorskip("llamaprobe._core", reason="the C core has not been built")

REPO = Path(__file__).parent.parent
Floats = NDArray[np.float32]


def text_of(values: Floats, sep: str = ",", digits: int = -1, n_threads: int = 2) -> bytes:
    """The rows [n_rows, n_cols] as one text."""
    out = bytearray(_core.text_capacity(values.size))
    pieces = _core.format_floats(out, values, 0, values.shape[1], sep, digits, n_threads)
    return b"".join(out[start:stop] for start, stop in pieces)


def fields_of(values: Floats, digits: int = -1) -> list[str]:
    """The texts of the numbers of a 1-D array."""
    return text_of(values[None], digits=digits).decode().removesuffix("\n").split(",")


def any_floats(n: int, seed: int) -> Floats:
    """Random bits: every exponent, subnormals, infinities and NaNs."""
    bits = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)
    return bits.view(np.float32)


def typical_floats(n: int, seed: int) -> Floats:
    """What is written without an exponent: half with eight or nine digits, half round numbers."""
    rng = np.random.default_rng(seed)
    scaled = rng.standard_normal(n // 2) * 10.0 ** rng.integers(-4, 6, n // 2)
    rounded = rng.integers(-(10**6), 10**6, n - n // 2) / 10.0 ** rng.integers(0, 7, n - n // 2)
    return np.concatenate([scaled, rounded]).astype(np.float32)


def first_difference(got: list[str], expected: list[str]) -> tuple[str, str] | None:
    assert len(got) == len(expected)
    return next(((a, b) for a, b in zip(got, expected, strict=True) if a != b), None)


@pytest.mark.slow
def test_ten_million_floats_read_back():
    for seed in range(10):
        values = any_floats(1_000_000, seed)
        back = np.array(text_of(values[None]).split(b","), dtype="S16").astype(np.float32)
        same = back.view(np.uint32) == values.view(np.uint32)
        assert (same | (np.isnan(back) & np.isnan(values))).all()


# NumPy 2.3 moved the limit above which float32 is written with an exponent from 1e16 to 1e6.
as_numpy = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.3.0",
    reason="NumPy before 2.3 lays out large numbers otherwise",
)


@pytest.mark.slow
@as_numpy
@pytest.mark.parametrize("make", [any_floats, typical_floats])
def test_ten_million_floats_are_spelled_as_numpy_spells_them(make):
    for seed in range(99, 104):
        values = make(1_000_000, seed)
        got = np.array(text_of(values[None]).removesuffix(b"\n").split(b","))
        different = got != values.astype(got.dtype)
        assert not different.any(), (got[different][0], values[different][0])


@as_numpy
def test_edges_are_spelled_as_numpy_spells_them():
    exponents = np.arange(512, dtype=np.uint32) << 23
    powers_of_ten = np.array([f"1e{e}" for e in range(-46, 39)], dtype=np.float32).view(np.uint32)
    edges = np.concatenate([exponents, powers_of_ten])
    around = [edges - np.uint32(1), edges, edges + np.uint32(1), edges + np.uint32(2)]
    values = np.concatenate([*around, np.arange(4096, dtype=np.uint32)]).view(np.float32)
    assert first_difference(fields_of(values), list(map(str, values))) is None


@as_numpy
@pytest.mark.parametrize("is_bf16", [True, False])
def test_every_word_is_spelled_as_numpy_spells_it(is_bf16: bool):
    words = np.arange(65536, dtype=np.uint16)
    values = (words.astype(np.uint32) << 16).view(np.float32)
    if not is_bf16:
        values = words.view(np.float16).astype(np.float32)
    table = _core.text_table(is_bf16, -1)
    out = bytearray(_core.text_capacity(words.size))
    pieces = _core.format_words(out, words, 0, words.size, " ", table, 2)
    got = b"".join(out[start:stop] for start, stop in pieces).decode().split()
    assert first_difference(got, list(map(str, values))) is None


@pytest.mark.parametrize("digits", range(26))
def test_digits_are_those_of_printf(digits: int):
    values = np.concatenate([any_floats(20_000, digits), typical_floats(20_000, digits)])
    ties = np.ldexp(np.arange(1, 2001, dtype=np.float32), -(np.arange(2000) % 40))
    values = np.concatenate([values, ties, np.arange(64, dtype=np.uint32).view(np.float32)])
    expected = [f"{value:.{digits}e}" for value in values.tolist()]
    assert first_difference(fields_of(values, digits), expected) is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3), (200, 7), (5, 20_000)])
@pytest.mark.parametrize("digits", [-1, 0, 8, 16, 25])
def test_rows_do_not_depend_on_threads(shape: tuple[int, int], digits: int):
    values = any_floats(shape[0] * shape[1], 7).reshape(shape)
    text = text_of(values, " ", digits, n_threads=1)
    assert text_of(values, " ", digits, n_threads=5) == text
    rows = text.decode().removesuffix("\n").split("\n")
    assert [len(row.split(" ")) for row in rows] == [shape[1]] * shape[0]
    assert " ".join(rows).split(" ") == fields_of(values.ravel(), digits)


def test_tables_match_their_script():
    script = REPO / "tools" / "make_text_tables.py"
    if not script.exists():
        pytest.skip("the tools are not part of this copy")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
