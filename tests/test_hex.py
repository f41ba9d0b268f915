"""Words for hardware: what a simulator reads is what was written; fixed point rounds and saturates as it says."""

import ctypes
import json
import platform
import re
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from weight_files import same, write_safetensors

import llamaprobe as lp
from llamaprobe.export import export_weights, plan_weights

WORDS = np.arange(2**16, dtype=np.uint16)
AS_FLOAT = (WORDS.astype(np.uint32) << 16).view(np.float32)


def strict_words(path, bits):
    """Lines of digits behind one comment, as unsigned integers; any other line is a fault."""
    first, *lines = path.read_text().splitlines()
    assert first.startswith("// shape=[")
    assert all(re.fullmatch(rf"[0-9a-f]{{{-(-bits // 4)}}}", line) for line in lines)
    return [int(line, 16) for line in lines]


def simulated_words(path, bits, n_words):
    """What $readmemh of Icarus Verilog makes of a file: unsigned integers. Skips where it is missing."""
    if not (shutil.which("iverilog") and shutil.which("vvp")):
        pytest.skip("Icarus Verilog is not installed")
    source = path.with_suffix(".v")
    source.write_text(f"""
module bench;
  reg [{bits - 1}:0] words [0:{n_words - 1}];
  integer i;
  initial begin
    $readmemh("{path}", words);
    for (i = 0; i < {n_words}; i = i + 1) $display("%b", words[i]);
  end
endmodule
""")
    binary = path.with_suffix(".vvp")
    subprocess.run(["iverilog", "-o", binary, source], check=True)
    run = subprocess.run(["vvp", "-n", binary], capture_output=True, text=True, check=True)
    lines = run.stdout.split()
    assert len(lines) == n_words and "WARNING" not in run.stdout + run.stderr
    return [int(line, 2) for line in lines]


READERS = {"strict": lambda path, bits, n: strict_words(path, bits), "simulator": simulated_words}


@pytest.fixture
def every_word(tmp_path):
    raw = WORDS.tobytes()
    return write_safetensors(
        tmp_path / "m.safetensors",
        {"b": ("BF16", [256, 256], raw), "h": ("F16", [2**16], raw), "e": ("F8_E5M2", [5], raw[:5])},
    )


@pytest.mark.parametrize("reader", READERS)
def test_raw_words_are_the_bits_in_the_file(every_word, tmp_path, reader):
    export_weights(every_word, tmp_path / "o", format="hex", dtype="raw")
    for name in ("b", "h"):
        assert READERS[reader](tmp_path / f"o/{name}.hex", 16, 2**16) == WORDS.tolist()
    assert READERS[reader](tmp_path / "o/e.hex", 8, 5) == [0, 0, 1, 0, 2]
    assert same(lp.read(tmp_path / "o/b.hex"), AS_FLOAT.reshape(256, 256))
    assert same(lp.read(tmp_path / "o/h.hex"), WORDS.view(np.float16).astype(np.float32))
    assert (tmp_path / "o/b.hex").read_text().startswith("// shape=[256, 256] dtype=bfloat16\n")


@pytest.mark.parametrize("reader", READERS)
def test_words_of_float32(every_word, tmp_path, reader):
    export_weights(every_word, tmp_path / "o", format="hex", exclude="e")
    bits = AS_FLOAT.view(np.uint32).tolist()
    assert READERS[reader](tmp_path / "o/b.hex", 32, 2**16) == bits
    assert same(lp.read(tmp_path / "o/b.hex"), AS_FLOAT.reshape(256, 256))
    values = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    lp.write(tmp_path / "a.hex", values.view(np.float32))
    assert READERS[reader](tmp_path / "a.hex", 32, 5000) == values.tolist()


def test_more_words_than_a_block(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**32, 600_001, dtype=np.uint32)
    lp.write(tmp_path / "a.hex", values)
    assert same(lp.read(tmp_path / "a.hex"), values)


def test_sizes_are_exact(every_word, tmp_path):
    for format, dtype in (("hex", "raw"), ("hex", "float32"), ("q3.4", "float32")):
        choice = {"format": format, "dtype": dtype, "exclude": "e"}
        export_weights(every_word, tmp_path / (format + dtype), **choice)
        for planned in plan_weights(every_word, **choice):
            file = tmp_path / (format + dtype) / planned.tensor.file
            assert planned.exact and planned.n_bytes == file.stat().st_size


# ---- fixed point ----


def fixed(value, m, n):
    """Exact: (word, saturated). Python's round() of a Fraction goes to the even of two neighbours."""
    half = 1 << (m + n - 1)
    if np.isnan(value):
        return 0, False
    whole = round(Fraction(float(value)) * 2**n) if np.isfinite(value) else np.sign(value) * 2**99
    kept = max(-half, min(half - 1, int(whole)))
    return kept & (2 * half - 1), kept != whole


@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00])
def test_the_callers_rounding_changes_no_word(tmp_path, mode):
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("the numbers of the rounding modes are those of x86-64")
    libm = ctypes.CDLL("libm.so.6")
    values = np.array([0.3, -0.3, 1 / 3, 100.7, -1e-9], np.float32)
    expected = [fixed(value, 8, 8)[0] for value in values]
    try:
        assert libm.fesetround(mode) == 0
        lp.write(tmp_path / "x.hex", values, format="q8.8")
        found = lp.read(tmp_path / "x.hex")
    finally:
        libm.fesetround(0)
    assert np.array_equal(found, lp.read(tmp_path / "x.hex"))
    words = [int(line, 16) for line in (tmp_path / "x.hex").read_text().splitlines()[1:]]
    assert words == expected


@pytest.mark.parametrize("m, n", [(1, 0), (1, 15), (4, 12), (8, 8), (3, 9), (3, 7), (2, 6), (16, 16), (1, 31)])
@pytest.mark.parametrize("reader", READERS)
def test_fixed_point_rounds_to_even_and_saturates(tmp_path, m, n, reader):
    rng = np.random.default_rng(m * 40 + n)
    ties = (rng.integers(-(2**20), 2**20, 1000) + 0.5) / 2.0**n  # half of them round up
    ends = [s * (2.0 ** (m - 1) + k / 2.0 ** (n + 2)) for s in (-1, 1) for k in range(-9, 10)]
    any_bits = rng.integers(0, 2**32, 1000, dtype=np.uint32).view(np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38]
    values = np.concatenate([np.array([*ties, *ends, *special], np.float32), any_bits])
    expected, saturated = zip(*(fixed(value, m, n) for value in values), strict=True)
    raw = values.tobytes()
    path = write_safetensors(tmp_path / "m.safetensors", {"w": ("F32", [values.size], raw)})
    export_weights(path, tmp_path / "o", format=f"q{m}.{n}")
    assert READERS[reader](tmp_path / "o/w.hex", m + n, values.size) == list(expected)
    entry = json.loads((tmp_path / "o/manifest.json").read_text())["files"]["w.hex"]
    n_nan = int(np.isnan(values).sum())
    assert (entry["saturated"], entry["nan"]) == (sum(saturated), n_nan) and sum(saturated) > 0
    assert entry["dtype"] == f"q{m}.{n}"
    back = lp.read(tmp_path / "o/w.hex")
    half = 1 << (m + n - 1)
    signed = [word - 2 * half if word >= half else word for word in expected]
    assert back.tolist() == [float(np.float32(word / 2**n)) for word in signed]


def test_counts_survive_a_second_call(random_checkpoint, tmp_path):
    folder = random_checkpoint()
    export_weights(folder, tmp_path / "o", format="q1.7", filter="*norm*")
    first = json.loads((tmp_path / "o/manifest.json").read_text())["files"]
    assert sum(entry["saturated"] for entry in first.values()) > 0
    export_weights(folder, tmp_path / "o", format="q1.7")
    assert first.items() <= json.loads((tmp_path / "o/manifest.json").read_text())["files"].items()


@pytest.mark.parametrize("format", ["q0.8", "q20.13", "q33.0", "q4", "q4.", "q-1.3", "q04.1", "Q4.4"])
def test_formats_that_make_no_sense(tmp_path, format):
    with pytest.raises(lp.ArgumentError, match="^format "):
        lp.write(tmp_path / "a.hex", np.ones(1, np.float32), format=format)
    assert list(tmp_path.iterdir()) == []


# ---- a run ----


def test_a_run_in_words_comes_back(random_checkpoint, tmp_path):
    run = lp.load(random_checkpoint()).run([1, 40, 7], points=["x", "pattern", "logits"])
    run.save(tmp_path / "hex", format="hex")
    back = lp.read_run(tmp_path / "hex")
    assert all(same(back[point], run[point]) for point in run.points)
    assert strict_words(tmp_path / "hex/position_ids.hex", 64) == [0, 1, 2]
    run.save(tmp_path / "q", format="q8.8")
    back = lp.read_run(tmp_path / "q")
    finite = np.abs(run["x"]) < 128
    assert finite.all() and np.abs(back["x"] - run["x"]).max() <= 2**-9
    assert strict_words(tmp_path / "q/position_ids.hex", 64) == [0, 1, 2]


FAULTS = {
    "no header": ("3f80\n", "line 1, column 1: there is no '// shape"),
    "header of text": ("# shape=[1]\n3f800000\n", "line 1, column 1: there is no '// shape"),
    "a letter": ("// shape=[2] dtype=bfloat16\n3f80\n3g80\n", "line 3, column 2: '3g80' is no word of 4"),
    "a short word": ("// shape=[2] dtype=bfloat16\n3f80\n3f8\n0", "line 3, column 4: '3f8' is no word"),
    "a long word": ("// shape=[2] dtype=bfloat16\n3f800\n3f8\n", "line 2, column 5: '3f800"),
    "a number": ("// shape=[1] dtype=bfloat16\n1.50\n", "line 2, column 2: '1.50' is no word"),
    "too few": ("// shape=[2] dtype=bfloat16\n3f80\n", "needs 2 words .* hold 1 words"),
    "too many": ("// shape=[1] dtype=bfloat16\n3f80\n3f80\n", "needs 1 words .* 1 words and 5 more"),
    "cut": ("// shape=[1] dtype=bfloat16\n3f80", "hold 0 words and 4 more bytes"),
    "empty and huge": ("// shape=[0, 999999999999999, 9999]\n", "line 1: shape=.* is larger"),
    "huge": ("// shape=[99999999999] dtype=int64\n\n", "hold 0 words"),
    "bool": ("// shape=[2] dtype=bool\n01\n02\n", "line 3, column 1: a word of bool has 1 bits"),
    "fixed point": ("// shape=[2] dtype=q3.8\n7ff\n800\n", "line 3, column 1: a word of q3.8 has 11"),
    "unknown": ("// shape=[1] dtype=q0.9\n0fff\n", "dtype=q0.9 is unknown"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_file_is_refused_with_line_and_column(tmp_path, name):
    text, message = FAULTS[name]
    (tmp_path / "a.hex").write_text(text)
    with pytest.raises(lp.FormatError, match=message):
        lp.read(tmp_path / "a.hex")
