"""Words for hardware: what a simulator reads is what was written; fixed point rounds and saturates as it says."""

import ctypes
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
from weight_files import same, write_safetensors

import llamaprobe as lp
from llamaprobe.saved.export import export_weights, plan_weights

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


def test_more_words_than_a_chunk(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**32, 600_001, dtype=np.uint32)
    lp.write(tmp_path / "a.hex", values)
    assert same(lp.read(tmp_path / "a.hex"), values)


def test_sizes_are_exact(every_word, tmp_path):
    for format, dtype in (("hex", "raw"), ("hex", "float32"), ("q3.4", "float32")):
        choice = {"format": format, "dtype": dtype, "exclude": "e"}
        export_weights(every_word, tmp_path / (format + dtype), **choice)
        for planned in plan_weights(every_word, **choice).files:
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


@pytest.mark.linux
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
def test_rejects_meaningless_formats(tmp_path, format):
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
    "a letter": ("// shape=[2] dtype=bfloat16\n3f80\n3g80\n", "line 3, column 2: '3g80' is not a word of 4"),
    "a short word": ("// shape=[2] dtype=bfloat16\n3f80\n3f8\n0", "line 3, column 4: '3f8' is not a word"),
    "a long word": ("// shape=[2] dtype=bfloat16\n3f800\n3f8\n", "line 2, column 5: '3f800"),
    "a number": ("// shape=[1] dtype=bfloat16\n1.50\n", "line 2, column 2: '1.50' is not a word"),
    "too few": ("// shape=[2] dtype=bfloat16\n3f80\n", "needs 2 words .* hold 1$"),
    "too many": ("// shape=[1] dtype=bfloat16\n3f80\n3f80\n", "needs 1 words .* hold 2$"),
    "bytes": ("// shape=[1]\n@00000000\n3F 80 00 00\n", "line 3, column 3: '3F' is not a word of 8"),
    "no line feed, cut": ("// shape=[2] dtype=bfloat16\n3f80\n3f", "line 3, column 3: '3f' is not"),
    "x": ("// shape=[1] dtype=bfloat16\n3fxx\n", "line 2, column 1: '3fxx' has the digits x or z"),
    "Z": ("// shape=[1] dtype=bfloat16\n 3_Z80\n", "line 2, column 2: '3_Z80' has the digits x"),
    "a gap": (
        "// shape=[2] dtype=bfloat16\n3f80\n@2 3f80\n",
        "line 3, column 1: the address @2 is word 2, and 1 word come before it",
    ),
    "backwards": (
        "// shape=[2] dtype=bfloat16\n3f80 3f80 /*\n*/ @00_1 3f80\n",
        "line 3, column 4: the address @00_1 is word 1, and 2 words come before it",
    ),
    "no address": ("// shape=[1] dtype=bfloat16\n@ 3f80\n", "line 2, column 1: '@' is not a word"),
    "stray _": ("// shape=[1] dtype=bfloat16\n_3f80\n", "line 2, column 5: '_3f80' is not a word"),
    "open comment": ("// shape=[1] dtype=bfloat16\n3f80\n/* on\n", "line 3, column 1: the comment that begins here has no end"),
    "slash": ("// shape=[1] dtype=bfloat16\n3f80 / 2\n", "line 2, column 6: '/' is not a word"),
    "vertical tab": ("// shape=[1] dtype=bfloat16\n3f80\v\n", "line 2, column 5: .*is not a word"),
    "many words": ("// shape=[1] dtype=bfloat16\n" + "3f80 " * 5000, "needs 1 words .* hold 5000$"),
    "empty and huge": ("// shape=[0, 999999999999999, 9999]\n", "line 1: shape=.* is larger"),
    "huge": ("// shape=[99999999999] dtype=int64\n\n", "hold 0$"),
    "bool": ("// shape=[2] dtype=bool\n01\n02\n", "line 3, column 1: a word of bool has 1 bits"),
    "fixed point": ("// shape=[2] dtype=q3.8\n7ff\n800\n", "line 3, column 1: a word of q3.8 has 11"),
    "fixed point in a row": (
        "// shape=[3] dtype=q3.8\n@0 7ff\n 7ff /* 800 */ 800\n",
        "line 3, column 16: a word of q3.8 has 11",
    ),
    "unknown": ("// shape=[1] dtype=q0.9\n0fff\n", "dtype=q0.9 is unknown"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rejects_a_damaged_file_with_line_and_column(tmp_path, name):
    text, message = FAULTS[name]
    (tmp_path / "a.hex").write_text(text)
    with pytest.raises(lp.FormatError, match=message):
        lp.read(tmp_path / "a.hex")


# ---- files of other programs ----

SPELLINGS = {
    "no last line feed": "3f800000\n40000000",
    "windows": "3f800000\r\n40000000\r\n",
    "upper case": "3F800000\n40000000\n",
    "a row": "3f800000 40000000",
    "tabs and pages": "\t3f800000\f40000000\t\n\n\n",
    "addresses": "@0\n3f800000\n@00000001 40000000\n",
    "objcopy": "@00000000\r\n3F800000 40000000 \r\n",
    "underscores": "3f80_0000\n4_0_000__000_\n",
    "comments": "// 1.0\n3f800000 // one /*\n/* two // three\n 3f800000 */ 40000000//end",
    "a comment between": "3f800000/* and */40000000",
    "comments with stars": "/**/3f800000/***//*/ */40000000/* **/\n",
}


def read_by_simulator(path, bits, n_words, text):
    """The same words without the first line, which is a comment to it."""
    path.write_text(text, newline="")
    return simulated_words(path, bits, n_words)


@pytest.mark.parametrize("name", SPELLINGS)
def test_reads_what_a_simulator_reads(tmp_path, name):
    path = tmp_path / "a.hex"
    path.write_text("// shape=[1, 2] dtype=float32\n" + SPELLINGS[name], newline="")
    assert lp.read(path).tolist() == [[1.0, 2.0]]
    path.write_text(SPELLINGS[name], newline="")
    assert lp.read(path, shape=(2,)).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_simulator_reads_the_same(tmp_path, name):
    text = "// shape=[1, 2] dtype=float32\n" + SPELLINGS[name]
    assert read_by_simulator(tmp_path / "a.hex", 32, 2, text) == [0x3F800000, 0x40000000]


def test_any_spelling_of_many_words_reads_as_in_the_simulator(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**16, 70_000, dtype=np.uint16)
    gaps = [" ", "\n", "\r\n", "\t", " /* 1f */ ", "// 2f\n", "  \n\n", "/*\n*/"]
    words = []
    for i, value in enumerate(values.tolist()):
        word = f"{value:04x}" if rng.integers(2) else f"{value:04X}"
        at = int(rng.integers(1, 5))
        word = f"{word[:at]}_{word[at:]}" if rng.integers(8) == 0 else word
        words.append((f"@{i:x}\n" if rng.integers(50) == 0 else "") + word + gaps[rng.integers(8)])
    text = "// shape=[70000] dtype=uint16\n" + "".join(words)
    path = tmp_path / "a.hex"
    path.write_text(text, newline="")
    assert same(lp.read(path), values)
    assert read_by_simulator(tmp_path / "b.hex", 16, 70_000, text) == values.tolist()


@pytest.mark.parametrize("text", ["/*" * 500_000, "//\n" * 300_000, "@0 " * 100_000, "/" * 900_000])
def test_a_hostile_text_takes_linear_time(tmp_path, text):
    (tmp_path / "a.hex").write_text("// shape=[1] dtype=uint8\n" + text)
    start = time.process_time()
    with pytest.raises(lp.FormatError):
        lp.read(tmp_path / "a.hex")
    assert time.process_time() - start < 5


def test_an_address_before_every_word(tmp_path):
    text = "".join(f"@{i:08x} {i % 65536:04x}\n" for i in range(100_000))
    (tmp_path / "a.hex").write_text("// shape=[100000] dtype=uint16\n" + text)
    start = time.process_time()
    assert same(lp.read(tmp_path / "a.hex"), np.arange(100_000, dtype=np.uint16))
    assert time.process_time() - start < 5


def test_words_without_a_first_line(tmp_path):
    values = np.array([[0.5, -2, 100]], np.float32)
    for format, dtype in [("hex", "float32"), ("q4.12", "q4.12")]:
        lp.write(tmp_path / "a.hex", values, format=format, header=False)
        assert re.fullmatch(r"([0-9a-f]+\n){3}", (tmp_path / "a.hex").read_text())
        back = lp.read(tmp_path / "a.hex", shape=[1, 3], dtype=dtype)
        assert back.tolist() == [[0.5, -2.0, 100.0 if format == "hex" else 8 - 2**-12]]
        with pytest.raises(lp.FormatError, match="give shape="):
            lp.read(tmp_path / "a.hex")
