"""One array to a file and back: every dtype and shape, the first line, and files that are wrong."""

import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import llamaprobe as lp
from llamaprobe import _core

FORMATS = ("csv", "txt", "npy", "hex")


def random_bits(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32 of random bits: every exponent, denormals, infinities; all NaN are the same one."""
    bits = np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32)
    values = bits.view(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), values)


ARRAYS = {
    "matrix": random_bits((30, 70)),
    "vector": random_bits((1000,), 1),
    "scalar": np.array(np.float32(-0.1)),
    "4-d": random_bits((2, 3, 4, 5), 2),
    "column": random_bits((50, 1), 3),
    "no rows": np.zeros((0, 3), np.float32),
    "no columns": np.zeros((3, 0), np.float32),
    "edges": np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4028235e38, 1e16], np.float32),
    "fortran order": np.asfortranarray(random_bits((20, 30), 4)),
    "strided": random_bits((20, 30), 5)[::2, ::-3],
    "big endian": random_bits((5, 6), 6).astype(">f4"),
    "float64": np.array([[0.1, 1e300], [-5e-324, np.inf]]),
    "int64": np.array([[-(2**63), 2**63 - 1]]),
    "uint64": np.array([2**64 - 1, 0], np.uint64),
    "int8": np.arange(-128, 128, dtype=np.int8).reshape(2, 128),
    "bool": np.array([[True, False, True]]),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_with_its_bits_shape_and_dtype(tmp_path, name, format):
    array, path = ARRAYS[name], tmp_path / f"a.{format}"
    lp.write(path, array)
    back = lp.read(path)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.tobytes() == array.astype(back.dtype).tobytes()


@pytest.mark.parametrize("format", ["csv", "txt"])
def test_arrays_and_rows_longer_than_a_chunk(tmp_path, format):
    for shape in ((700_001,), (3, 200_003), (100_001, 3), (600_000, 1)):
        array = random_bits(shape, 7)
        lp.write(tmp_path / f"a.{format}", array)
        assert lp.read(tmp_path / f"a.{format}").tobytes() == array.tobytes()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, min_side=0)), st.sampled_from(FORMATS)
)
def test_any_float32_array(tmp_path_factory, array, format):
    path = tmp_path_factory.getbasetemp() / f"any.{format}"
    lp.write(path, array)
    back = lp.read(path)
    assert back.shape == array.shape and np.array_equal(back, array, equal_nan=True)
    assert np.array_equal(
        np.signbit(back), np.signbit(array) & ~np.isnan(array) | np.signbit(back) & np.isnan(array)
    )


def test_16_bit_floats_are_written_as_float32(tmp_path):
    half = np.array([[1.5, -0.25], [65504, 6e-8]], np.float16)
    for format in FORMATS:
        lp.write(tmp_path / f"a.{format}", half)
        back = lp.read(tmp_path / f"a.{format}")
        assert back.dtype == np.float32 and np.array_equal(back, half.astype(np.float32))


def test_the_text(tmp_path):
    path = tmp_path / "a.csv"
    lp.write(path, np.array([[1, -0.1], [1e-7, np.nan]], np.float32))
    assert path.read_text() == "# shape=[2, 2]\n1.0,-0.1\n1e-07,nan\n"
    lp.write(path, np.array([1.5, 2], np.float32))
    assert path.read_text() == "# shape=[2]\n1.5,2.0\n"
    lp.write(tmp_path / "a.txt", np.arange(6).reshape(2, 3))
    assert (tmp_path / "a.txt").read_text() == "# shape=[2, 3] dtype=int64\n0 1 2\n3 4 5\n"
    lp.write(path, np.zeros((2, 2, 2), np.float32), format="txt", digits=1)
    assert path.read_text() == "# shape=[2, 2, 2]\n" + "0.0e+00 0.0e+00 0.0e+00 0.0e+00\n" * 2


@pytest.mark.parametrize("digits", [0, 3, 16, 25])
def test_digits_are_those_of_savetxt(tmp_path, digits):
    array = random_bits((40, 20), 8)
    lp.write(tmp_path / "a.csv", array, digits=digits)
    np.savetxt(tmp_path / "b.csv", array, fmt=f"%.{digits}e", delimiter=",")
    ours, theirs = ((tmp_path / name).read_text() for name in ("a.csv", "b.csv"))
    assert ours.split("\n", 1)[1] == theirs


def test_files_of_the_older_scripts_and_of_other_systems_are_read(tmp_path):
    array = random_bits((1, 6, 8), 9)
    path = tmp_path / "x_layer0.csv"
    header = f"shape={list(array.shape)}"
    np.savetxt(path, array.reshape(6, 8), fmt="%.16e", delimiter=",", header=header)
    assert lp.read(path).tobytes() == array.tobytes()
    np.savetxt(
        path, array[0], "%.9g", ",", "\r\n", "shape=[1,6,8] dtype=torch.bfloat16", comments="#"
    )
    assert lp.read(path).tobytes() == array.tobytes()
    path.write_text("# shape=[2]\n1,2")
    assert lp.read(path).tolist() == [1, 2]


FAULTS = {
    "nothing": ("", "line 1, column 1: there is no '# shape"),
    "no header": ("1,2\n3,4\n", "line 1, column 1: there is no '# shape"),
    "negative axis": ("# shape=[-1]\n1\n", "line 1, column 1"),
    "an axis too long": ("# shape=[9999999999999999999999]\n1\n", "line 1: the shape"),
    "empty and huge": ("# shape=[0, 999999999999999, 9999]\n", "line 1: shape=.* is larger than"),
    "empty, huge int8": ("# shape=[99999999999, 0, 999999999] dtype=int8\n", "line 1: shape=.* is"),
    "unknown dtype": ("# shape=[1] dtype=f99\n1\n", "line 1: dtype=f99 is unknown"),
    "short row": ("# shape=[2, 2]\n1,2\n3\n", "line 3, column 2: the row has only 1 numbers"),
    "long row": ("# shape=[2, 2]\n1,2\n3,4,5\n", "line 3, column 5: the row has more than 2"),
    "long first row": ("# shape=[2, 2]\n1,2,3\n4,5\n", "line 3, column 4: the row has only 2"),
    "a word": ("# shape=[2, 2]\n1,2\n3,four\n", "line 3, column 3: 'four' is not a number"),
    "a hole": ("# shape=[2, 2]\n1,\n3,4\n", "line 2, column 3: '' is not a number"),
    "wrong separator": ("# shape=[2, 2]\n1 2\n3 4\n", "line 2, column 1: '1 2' is not a number"),
    "bytes": ("# shape=[1]\n\x00\x1b[31m\n", r"line 2, column 1: '\\\\x00\\\\x1b\[31m' is not"),
    "too few": ("# shape=[3, 2]\n1,2\n3,4\n", "needs 6 numbers, and the rows below hold 4"),
    "too many": ("# shape=[1, 2]\n1,2\n3,4\n", "needs 2 numbers, and the rows below hold 4"),
    "more than memory": ("# shape=[999999999999, 999]\n1,2\n", "needs 998999999999001 numbers"),
    "only a header": ("# shape=[2]\n", "needs 2 numbers, and the rows below hold 0"),
    "no integer": ("# shape=[2] dtype=int8\n1,2.5\n", "line 2, column 3: '2.5' is not an int8"),
    "too large": ("# shape=[2] dtype=int8\n1,128\n", "line 2, column 3: '128' is not an int8"),
    "underscores": ("# shape=[1] dtype=int64\n1_0\n", "line 2, column 1: '1_0' is not an int64"),
    "ragged integers": ("# shape=[2, 2] dtype=int8\n1,2\n3\n", "line 3, column 2: the row has 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_rejects_damaged_text_with_line_and_column(tmp_path, name):
    text, message = FAULTS[name]
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(lp.FormatError, match=message) as caught:
        lp.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_locates_a_fault_far_down(tmp_path):
    path = tmp_path / "a.csv"
    rows = [",".join("1.5" for _ in range(30))] * 20_000
    rows[17_003] = rows[17_003].replace("1.5,1.5", "1.5,oops", 1)
    path.write_text("# shape=[20000, 30]\n" + "\n".join(rows) + "\n")
    with pytest.raises(lp.FormatError, match="line 17005, column 5: 'oops'"):
        lp.read(path)


def test_a_changed_text_has_its_own_error(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("# shape=[2]\n1,2\n")
    monkeypatch.setattr(_core, "parse_floats", lambda *args: {"problem": "changed"})
    with pytest.raises(lp.FileChangedError, match="cut short while it was read"):
        lp.read(path)


@pytest.mark.slow
def test_a_text_that_changes_while_it_is_read():
    """Rows become comments and rows again: a result without a fault has only numbers that were read."""
    n_rows, end = 50_000, time.monotonic() + 2
    text = bytearray(b"1.5,2.5,3.5,4.5\n" * n_rows)

    def change() -> None:
        while time.monotonic() < end:
            for byte in b"#1":
                for i in range(n_rows // 2, n_rows, 7):
                    text[16 * i] = byte

    thread = threading.Thread(target=change)
    thread.start()
    n_read = 0
    while time.monotonic() < end:
        values = np.full(4 * n_rows, -777, np.float32)
        fault = _core.parse_floats(values, text, 0, ",", 1)
        assert fault or not (values == -777).any()
        n_read += 1
    thread.join()
    assert n_read


@pytest.mark.parametrize("sep", [",", " "])
@pytest.mark.parametrize("n_rows", [1, 2, 4])
@pytest.mark.slow
def test_threads_do_not_change_values_of_long_rows(sep, n_rows):
    """Rows of some 340 kB, which are cut into parts of 64 kB and more; whole, and with a byte in
    them replaced where it may do harm: beside the cuts most of all."""
    rng = np.random.default_rng(n_rows)
    values = rng.standard_normal((n_rows, 30_000)).astype(np.float32)
    rows = [sep.join(map(str, row.tolist())) for row in values]
    good = ("# a comment\n" + "\n".join(rows) + "\r\n").encode()

    def read(text: bytes, n_threads: int) -> tuple[object, bytes]:
        back = np.zeros(values.size, np.float32)
        fault = _core.parse_floats(back, text, 0, sep, n_threads)
        return fault, b"" if fault else back.tobytes()

    assert read(good, 1) == (None, values.tobytes())
    n_faults = 0
    for _ in range(150):
        text = bytearray(good)
        at = int(rng.integers(12, len(good)))
        if rng.random() < 0.8:
            n_parts = int(rng.integers(2, 7))
            cut = good.find(sep.encode(), 12 + len(rows[0]) * int(rng.integers(1, n_parts)) // n_parts)
            at = min(cut + int(rng.integers(-2, 4)), len(good) - 1)
        text[at] = rng.choice(list(b"1,#\r \nx\t"))
        expected = read(bytes(text), 1)
        n_faults += expected[0] is not None
        assert read(bytes(text), 2) == read(bytes(text), 5) == expected
    assert 20 < n_faults < 150


def long_text(path: Path, n_rows: int = 300_000) -> tuple[np.ndarray, list[bytes]]:
    """Some MB: enough for several pieces."""
    values = random_bits((n_rows, 3), 9)
    lp.write(path, values)
    return values, path.read_bytes().splitlines()[1:]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n"])
def test_a_long_text_comes_back_however_its_lines_end(tmp_path, end, last):
    path = tmp_path / "a.csv"
    values, rows = long_text(path)
    path.write_bytes(b"# shape=[300000, 3]\n" + end.join(rows) + last)
    assert lp.read(path).tobytes() == values.tobytes()
    path.write_bytes(b"# shape=[1, 900000]\n" + b",".join(rows) + last)
    assert lp.read(path).tobytes() == values.tobytes()


LONG = {
    "a comment and a long row": (150_000, [b"# 1,2", b"1,2,3,4,5,6"], "150003, column 7: .*more"),
    "a blank line and a long row": (5, [b"", b"1,2,3,4,5,6"], "line 8, column 7: the row has more"),
    "a row too short": (299_000, [b"1,2"], "line 299002, column 4: the row has only 2"),
    "a word": (200_000, [b"1,x,3"], "line 200002, column 3: 'x'"),
    "a row too many": (100, [b"1,2,3", b"1,2,3"], "needs 900000 numbers, .* hold 900003"),
    "a row too few": (100, [], "needs 900000 numbers, .* hold 899997"),
}


@pytest.mark.parametrize("name", LONG)
def test_locates_a_fault_in_a_long_text(tmp_path, name):
    """`row` of 300,000 is replaced; texts that hold as many lines or numbers as they should."""
    row, lines, message = LONG[name]
    path = tmp_path / "a.csv"
    _, rows = long_text(path)
    n_more = max(0, len(lines) - 1) if "too many" not in name else 0
    rows[row : row + 1 + n_more] = lines
    path.write_bytes(b"# shape=[300000, 3]\n" + b"\n".join(rows) + b"\n")
    with pytest.raises(lp.FormatError, match=message):
        lp.read(path)


@pytest.mark.slow
def test_a_long_text_without_a_last_line_end(tmp_path):
    path = tmp_path / "a.csv"
    row = "1.25,2.25,3.25,4.25"
    path.write_text("# shape=[300000, 4]\n" + "\n".join([row] * 300_000))
    assert lp.read(path).tolist() == [[1.25, 2.25, 3.25, 4.25]] * 300_000


def test_skips_comments_and_blank_lines_in_a_long_text(tmp_path):
    path = tmp_path / "a.csv"
    values, rows = long_text(path)
    rows[200_000:200_000] = [b"# a comment", b""]
    path.write_bytes(b"# shape=[300000, 3]\n" + b"\n".join(rows))
    assert lp.read(path).tobytes() == values.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "csv of int8", "hex"])
def test_rejects_a_file_truncated_while_it_is_read(tmp_path, format):
    """It was read through a map once, which ended the process by SIGBUS."""
    script = f"""
import binascii, os, re, sys
import numpy as np, llamaprobe as lp
from llamaprobe import _core
path = {str(tmp_path)!r} + "/a.{format[:3]}"
lp.write(path, np.ones((1_000_000, 8), np.{"int8" if "int8" in format else "float32"}))
def cut(work):
    def cut_and_work(*args):
        os.truncate(path, 5000)
        return work(*args)
    return cut_and_work
_core.parse_floats, binascii.unhexlify = cut(_core.parse_floats), cut(binascii.unhexlify)
os.preadv = cut(os.preadv)
try:
    lp.read(path)
except lp.FileChangedError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith(": was cut short while it was read; read it again\n")


@pytest.mark.linux
def test_reading_a_long_text_takes_the_memory_of_its_numbers(tmp_path):
    script = f"""
import resource, numpy as np, llamaprobe as lp
path = {str(tmp_path / "a.csv")!r}
lp.write(path, np.full((4_000_000, 2), 1.2345678, np.float32))  # 80 MB, of 32 MB of numbers
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = most()
array = lp.read(path)
print((most() - before) / array.nbytes)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 1.5


def npy(header: str, data: bytes) -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


NPY_FAULTS = {
    "empty": b"",
    "text": b"1,2,3\n" * 10,
    "version": b"\x93NUMPY\x09\x00" + bytes(100),
    "truncated": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(11)),
    "too long": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", bytes(13)),
    "huge": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2305843009213693952, 8)}", b""),
    "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", bytes(4)),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "no dict": npy("[1]", b""),
    "code": npy("__import__('os').system('true')", b""),
}


@pytest.mark.parametrize("name", NPY_FAULTS)
def test_rejects_a_damaged_npy(tmp_path, name):
    path = tmp_path / "a.npy"
    path.write_bytes(NPY_FAULTS[name])
    with warnings.catch_warnings(), pytest.raises(lp.FormatError, match=r"a\.npy: not a sound"):
        warnings.simplefilter("ignore")
        lp.read(path)


def test_arguments(tmp_path):
    one = np.ones(1, np.float32)
    for call, message in (
        (lambda: lp.write(tmp_path / "a.dat", one), "does not end in"),
        (lambda: lp.read(tmp_path / "a.dat"), "does not end in"),
        (lambda: lp.write(tmp_path / "a.csv", one, format="xls"), "'xls' is not one of"),
        (lambda: lp.write(tmp_path / "a.csv", one, digits=26), "digits is 26"),
        (lambda: lp.write(tmp_path / "a.csv", one, digits=True), "digits is True"),
        (lambda: lp.write(tmp_path / "a.csv", one, digits=1.5), "digits is 1.5"),
        (lambda: lp.write(tmp_path / "a.csv", np.array([1j])), "complex128 cannot be written"),
        (lambda: lp.write(tmp_path / "a.npy", np.array([None])), "object cannot be written"),
    ):
        with pytest.raises(lp.ArgumentError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []
    lp.write(tmp_path / "a.dat", one, format="txt")
    assert lp.read(tmp_path / "a.dat", format="txt") == 1


def test_rejects_special_files_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loose.csv").symlink_to("nowhere")
    for name in ("pipe.csv", "folder.csv", "loose.csv", "missing.csv", "nul\0.csv"):
        with pytest.raises(lp.FileError):
            lp.read(tmp_path / name)
    for name in ("missing/a.csv", "folder.csv", "nul\0.csv"):
        with pytest.raises(lp.FileError):
            lp.write(tmp_path / name, np.ones(1, np.float32))
    assert sorted(os.listdir(tmp_path)) == ["folder.csv", "loose.csv", "pipe.csv"]


@pytest.mark.linux
def test_the_error_of_a_full_disk_names_the_file():
    with pytest.raises(lp.FileError, match="/dev/full: No space left"):
        lp.write("/dev/full", np.ones(100_000, np.float32), format="csv")


def test_a_link_is_replaced_and_its_target_untouched(tmp_path):
    (tmp_path / "precious.csv").write_text("mine")
    (tmp_path / "link.csv").symlink_to("precious.csv")
    lp.write(tmp_path / "link.csv", np.ones(1, np.float32))
    assert (tmp_path / "precious.csv").read_text() == "mine"
    assert not (tmp_path / "link.csv").is_symlink() and lp.read(tmp_path / "link.csv") == 1


@pytest.mark.linux
@pytest.mark.parametrize(
    ("path", "pid"),
    [
        ("/dev/fd/1", "os.getpid()"),
        ("/proc/self/fd/1", "os.getpid()"),
        ("/proc/thread-self/fd/1", "os.getpid()"),
        ("there/stdout", "os.getpid()"),
        ("/dev/fd/1", "1"),
    ],
)
def test_a_descriptor_is_written_to_and_its_link_stays(tmp_path, path, pid):
    """Standard output may be a file; it goes on where it was, also one that is appended to, and also
    where /proc has other numbers than getpid. (A link like /dev/stdout, not that itself: to replace
    it is what a fault here would do.)"""
    (tmp_path / "there").symlink_to("links")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/stdout").symlink_to("/proc/self/fd/1")
    script = f"""
import os, numpy as np, llamaprobe as lp
os.write(1, b"before\\n")
pid = {pid}
os.getpid = lambda: pid
lp.write({str(tmp_path / path)!r}, np.ones(2, np.float32), format="csv")
os.write(1, b"after\\n")
"""
    (tmp_path / "out").write_text("first\n")
    with open(tmp_path / "out", "r+") as out:
        out.seek(0, os.SEEK_END)
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "first\nbefore\n# shape=[2]\n1.0,1.0\nafter\n"
    assert (tmp_path / "links/stdout").is_symlink()


@pytest.mark.parametrize("target", ["/dev/null", "pipe"])
def test_a_link_to_a_device_or_a_pipe_is_written_through(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "a.csv").symlink_to(target)
    lp.write(tmp_path / "a.csv", np.ones(1, np.float32))
    assert (tmp_path / "a.csv").is_symlink()
    assert os.read(reader, 100) == (b"# shape=[1]\n1.0\n" if target == "pipe" else b"")
    os.close(reader)


@pytest.mark.linux
def test_a_file_system_below_dev_is_like_any_other():
    """What is in /dev/shm is replaced when it is whole, not written over."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "a.csv")
        path.write_text("old")
        before = path.stat().st_ino
        lp.write(path, np.ones(1, np.float32))
        assert path.stat().st_ino != before


def test_a_file_too_large_for_the_system_keeps_the_old_one(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    script = f"""
import resource, numpy as np, llamaprobe as lp
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    lp.write({str(path)!r}, np.ones(1_000_000, np.float32))
except lp.FileError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == f"{path}: File too large\n" and run.stderr == ""
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.csv"]


def test_modes_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        lp.write(tmp_path / "a.csv", np.ones(1, np.float32))
    finally:
        os.umask(old)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o640


def test_a_refused_file_leaves_no_descriptor_open(tmp_path):
    (tmp_path / "a.csv").mkdir()
    os.mkfifo(tmp_path / "b.csv")
    before = len(os.listdir("/dev/fd"))
    for name in ("a.csv", "b.csv", "c.csv"):
        with pytest.raises(lp.FileError):
            lp.read(tmp_path / name)
    assert len(os.listdir("/dev/fd")) == before
