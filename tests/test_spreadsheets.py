"""Text that went through a spreadsheet, an editor or another program: the first line, blanks, special values."""

import gzip
import io
import time
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llamaprobe as lp

BOM = b"\xef\xbb\xbf"
SAME = {
    "BOM": BOM + b"# shape=[2, 2]\n1,2\n3,4\n",
    "BOM, CRLF": BOM + b"# shape=[2, 2]\r\n1,2\r\n3,4\r\n",
    "padded": b"# shape=[2, 2],,,\r\n1,2\r\n3,4\r\n",
    "padded with semicolons": b"# shape=[2, 2];; \n1,2\n3,4\n",
    "quoted": b'"# shape=[2, 2]"\n1,2\n3,4\n',
    "quoted cells": BOM + b'"# shape=[2"," 2]",,\r\n1,2\r\n3,4\r\n',
    "quoted numbers": b'"# shape=[2"," 2]"\n"1","2"\n"3","4"\n',
    "padded rows": b"# shape=[2, 2, 1],,\n1,2,\n3,4,\n",
    "padded rows and an empty one": b"# shape=[2, 2],,,,\r\n1,2,,,\r\n,,,,\r\n3,4,,,\r\n",
    "a long pad": b"# shape=[2, 2]" + b"," * 20_000 + b"\n1,2\n3,4\n",
    "blanks": b"# shape=[2, 2]  \n 1 ,\t2\n\n# a comment\n   \n3, 4 \n",
    "no last line feed": b"# shape=[2, 2],\n1,2\n3,4",
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
@pytest.mark.parametrize("name", SAME)
def test_reads_a_table_saved_again(tmp_path, name, dtype):
    data = SAME[name]
    if dtype != "float32":
        end = data.index(b"]") + 1
        data = data[:end] + f" dtype={dtype}".encode() + data[end:]
    (tmp_path / "a.csv").write_bytes(data)
    back = lp.read(tmp_path / "a.csv")
    assert back.dtype == dtype and back.reshape(2, 2).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "data",
    [BOM + b"// shape=[2] dtype=uint8\n0a\n0b\n", b'"// shape=[2] dtype=uint8",,\r\n0a\r\n0b\r\n'],
)
def test_reads_words_saved_again(tmp_path, data):
    (tmp_path / "a.hex").write_bytes(data)
    assert lp.read(tmp_path / "a.hex").tolist() == [10, 11]


def test_an_empty_cell_at_the_end_of_a_row_is_not_padding(tmp_path):
    for dtype in ("", " dtype=float64"):
        for text in (
            "# shape=[2, 3]\n1,2,3\n4,5,\n",
            "# shape=[2, 2]\n1,2,\n3,,\n",
            "# shape=[1, 3]\n1,2,\n",
        ):
            (tmp_path / "a.csv").write_text(text.replace("\n", dtype + "\n", 1))
            with pytest.raises(lp.FormatError, match="line [23], column"):
                lp.read(tmp_path / "a.csv")


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("xl/workbook.xml", "")
    return file.getvalue()


OTHERS = {
    "UTF-16": ("# shape=[1]\n1\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "UTF-16 big endian": (b"\xfe\xff\0#\0 ", "is UTF-16 text"),
    "UTF-16 without a mark": ("# shape=[1]\n1\n".encode("utf-16-le"), "is UTF-16 text"),
    "gzip": (gzip.compress(b"# shape=[1]\n1\n"), "is compressed by gzip; unpack it"),
    "workbook": (archive(), "is a zip archive, as workbooks"),
    "npy": (b"\x93NUMPY\1\0", "is an .npy file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid ..", "is a Git LFS pointer"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_names_the_kind_of_a_file_that_is_not_text(tmp_path, name):
    data, message = OTHERS[name]
    for file in ("a.csv", "a.txt", "a.hex", *(["a.npy"] if name != "npy" else [])):
        (tmp_path / file).write_bytes(data)
        with pytest.raises(lp.FormatError, match=f"{file}: {message}"):
            lp.read(tmp_path / file)


def test_ids_with_a_byte_order_mark(tmp_path, command):
    (tmp_path / "ids.txt").write_bytes(BOM + b"1, 2, 3\r\n")
    code, out, err = command("run", "demo", "--ids", tmp_path / "ids.txt")
    assert code == 0 and out.startswith("3 tokens"), err


# ---- one rule for float32, float64 and integers ----

GAPS = st.sampled_from(["", " ", "\t", "  \t "])
LINES = st.sampled_from(["", " \t", "# shape=[9]", "  # 1,2"])
SPECIAL = ["nan", "NaN", "NAN", "-nan", "nan(0x1)", "inf", "Inf", "+INF", "-Infinity", "infinity"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["csv", "txt"]), st.sampled_from(["\n", "\r\n"]))
def test_blanks_lines_and_special_values(tmp_path, data, format, end):
    """What float32 text may look like, float64 and integers may too, and they mean the same."""
    n_cols = data.draw(st.integers(1, 4))
    special = data.draw(st.booleans())
    number = st.sampled_from(SPECIAL) if special else st.integers(0, 127).map(str)
    rows = data.draw(
        st.lists(st.lists(number, min_size=n_cols, max_size=n_cols), min_size=1, max_size=4)
    )
    lines = []
    for row in rows:
        lines += data.draw(st.lists(LINES, max_size=2))
        gaps = [data.draw(GAPS) for _ in range(2 * n_cols + 1)]
        sep = "," if format == "csv" else " "
        cells = [
            word + gap + sep + more
            for word, gap, more in zip(row, gaps[1::2], gaps[2::2], strict=True)
        ]
        lines.append(gaps[0] + "".join(cells).rstrip(sep + " \t") + gaps[-1])
    found = []
    for dtype in ("float32", "float64", *(() if special else ("int64", "int8"))):
        text = end.join([f"# shape=[{len(rows)}, {n_cols}] dtype={dtype}", *lines])
        (tmp_path / f"a.{format}").write_bytes(text.encode())
        found.append(lp.read(tmp_path / f"a.{format}").astype(np.float64))
    assert all(np.array_equal(found[0], each, equal_nan=True) for each in found)


@pytest.mark.parametrize(
    "word", ["", "nanx", "in", "1_0", "0x1", "1e", "one", "1 2", "--1", "1..2", "."]
)
def test_rejects_malformed_numbers_in_every_dtype(tmp_path, word):
    for dtype in ("float32", "float64", "int64"):
        (tmp_path / "a.csv").write_text(f"# shape=[2] dtype={dtype}\n1,{word}\n")
        with pytest.raises(lp.FormatError, match="line 2, column 3"):
            lp.read(tmp_path / "a.csv")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("text", ["," * 500_000 + "1", ", " * 200_000 + "x", "1" * 500_000 + "x"])
def test_a_hostile_row_takes_linear_time(tmp_path, dtype, text):
    (tmp_path / "a.csv").write_text(f"# shape=[1] dtype={dtype}\n{text}\n")
    start = time.process_time()
    with pytest.raises(lp.FormatError, match="line 2, column 1"):
        lp.read(tmp_path / "a.csv")
    assert time.process_time() - start < 5


# ---- without a first line ----


@pytest.mark.parametrize("format", ["csv", "txt", "hex"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])
def test_without_a_first_line_the_shape_is_given(tmp_path, format, dtype):
    array = (np.arange(12) % (2 if dtype == "bool" else 12)).astype(dtype).reshape(3, 4)
    lp.write(tmp_path / f"a.{format}", array, header=False)
    lp.write(tmp_path / f"b.{format}", array)
    first, rest = (tmp_path / f"b.{format}").read_text().split("\n", 1)
    assert (tmp_path / f"a.{format}").read_text() == rest and "shape=[3, 4]" in first
    back = lp.read(tmp_path / f"a.{format}", shape=(3, 4), dtype=dtype)
    assert back.dtype == dtype and np.array_equal(back, array)
    assert np.array_equal(lp.read(tmp_path / f"b.{format}", shape=[3, 4], dtype=array.dtype), array)
    with pytest.raises(lp.FormatError, match="give shape= to read a file without one"):
        lp.read(tmp_path / f"a.{format}")
    with pytest.raises(lp.FormatError, match=r"line 1 says shape=\[3, 4\], and shape=\[4, 3\]"):
        lp.read(tmp_path / f"b.{format}", shape=(4, 3))
    with pytest.raises(lp.FormatError, match="needs? 15"):
        lp.read(tmp_path / f"a.{format}", shape=(3, 5), dtype=dtype)


def test_lines_count_from_one_without_a_first_line(tmp_path):
    for dtype in ("float32", "int64"):
        (tmp_path / "a.csv").write_text("1,2\n3,x\n")
        with pytest.raises(lp.FormatError, match="line 2, column 3"):
            lp.read(tmp_path / "a.csv", shape=(2, 2), dtype=dtype)


def test_arguments_of_reading(tmp_path):
    lp.write(tmp_path / "a.csv", np.ones(2))
    for wrong in (
        {"shape": 5},
        {"shape": [-1]},
        {"shape": [2**62, 4]},
        {"dtype": "int8"},
        {"shape": [2], "dtype": "q4.4"},
        {"shape": [2], "dtype": 7},
    ):
        with pytest.raises(lp.ArgumentError):
            lp.read(tmp_path / "a.csv", **wrong)
    for wrong in ({"format": 5}, {"format": []}, {"header": False, "format": "npy"}):
        with pytest.raises(lp.ArgumentError):
            lp.write(tmp_path / "b.csv", np.ones(2), **wrong)


# ---- masks ----


def test_rejects_masked_values(tmp_path, random_checkpoint):
    masked = np.ma.array([[1.0, 2.0]], mask=[[False, True]])
    for format in ("csv", "npy", "hex"):
        with pytest.raises(lp.ArgumentError, match=r"is masked \(1 of 2 values\).*filled"):
            lp.write(tmp_path / "a.csv", masked, format=format)
    assert not (tmp_path / "a.csv").exists()
    lp.write(tmp_path / "a.csv", masked.filled(7))
    lp.write(tmp_path / "b.csv", np.ma.array([[1.0, 7.0]]))  # nothing is masked
    assert lp.read(tmp_path / "a.csv").tolist() == lp.read(tmp_path / "b.csv").tolist()
    model = lp.load(random_checkpoint())
    with pytest.raises(lp.ArgumentError, match="is masked"):
        model.run(np.ma.array([1, 2], mask=[False, True]))
    assert len(model.run(np.ma.array([1, 2]))) == 2


def test_semicolons_between_cells_are_named(tmp_path):
    """As programs write csv where the decimal point is a comma."""
    (tmp_path / "a.csv").write_text("# shape=[1; 2; 3];;\n1,5;2;3\n4;5;6\n")
    with pytest.raises(lp.FormatError, match="line 1: its cells are separated by ';'; save it with ','"):
        lp.read(tmp_path / "a.csv")
