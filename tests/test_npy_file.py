"""npy files by rules of our own: what NumPy writes is read, all else is a cheap FormatError."""

import os
import random
import resource
import subprocess
import sys
import warnings

import numpy as np
import pytest
from weight_files import same

import llamaprobe as lp

DTYPES = [
    "?",
    "i1",
    "u1",
    "<i2",
    ">i2",
    "<u4",
    ">u8",
    "<i8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    "<c8",
    ">c16",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_reads_what_numpy_writes(tmp_path, dtype, version):
    rng = np.random.default_rng(0)
    for shape in [(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 4)]:
        bytes_ = rng.integers(0, 2, (*shape, np.dtype(dtype).itemsize), np.uint8)
        for array in (
            bytes_.view(dtype).reshape(shape),
            np.asfortranarray(bytes_.view(dtype).reshape(shape)),
        ):
            with open(tmp_path / "a.npy", "wb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # version 3 is not needed
                np.lib.format.write_array(file, array, version)
            back = lp.read(tmp_path / "a.npy")
            assert same(back, np.load(tmp_path / "a.npy")) and back.flags.writeable


def npy(header, data=b"", version=b"\1\0", n_bytes=None):
    text = header.encode("latin1")
    size = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + (n_bytes or len(text)).to_bytes(size, "little") + text + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        GOOD + "   \n",
        "{'shape': (1,), 'descr': '<f4', 'fortran_order': False}",
        '{"descr":"<f4","fortran_order":False,"shape":(1 , ),}',
        " {  'descr' :'<f4' ,\n'fortran_order': True,'shape':(1L,)}\n",
    ],
)
def test_spellings_of_other_writers(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(npy(header, b"\0\0\x80?"))
    assert lp.read(tmp_path / "a.npy").tolist() == [1.0]


BAD = [
    "{'descr': '<f4', (",
    "\n x\n y",
    "{'descr': (), 'fortran_order': False, 'shape': (1,)}",
    "{'descr': ('<f4',), 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f4,(', 'fortran_order': False, 'shape': (1,)}",
    "-" * 5000 + "1",
    "(" * 5000,
    "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1.0,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
    "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
    "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f4', 'shape': (1,)}",
    "{'descr': '<f4' 'fortran_order': False 'shape': (1,)}",
    "{}",
    "",
    GOOD + GOOD,
    GOOD[:-1],
    "x" + GOOD,
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f5', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': 'f', 'fortran_order': False, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 40 + ")}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999999999999, 9)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,) and __import__('os')}",
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_malformed_header_is_a_format_error_in_one_line(tmp_path, number):
    (tmp_path / "a.npy").write_bytes(npy(BAD[number], b"\0\0\x80?"))
    with (
        warnings.catch_warnings(),
        pytest.raises(lp.FormatError, match=r"a\.npy: not a sound") as e,
    ):
        warnings.simplefilter("error")
        lp.read(tmp_path / "a.npy")
    assert "\n" not in str(e.value) and len(str(e.value)) < 500


def test_any_damage_is_a_format_error(tmp_path):
    """Bytes changed, put in, taken out: read as what NumPy reads, or a FormatError."""
    good = npy(GOOD.ljust(117) + "\n", b"\0\0\x80?")
    rng = random.Random(0)
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            what = rng.choice(b"'\"(){}[],:0123456789LTrueFalse<>|fiub \n\0\xff")
            data[at : at + rng.randint(0, 2)] = bytes([what] * rng.randint(0, 2))
        (tmp_path / "a.npy").write_bytes(data)
        try:
            back = lp.read(tmp_path / "a.npy")
        except lp.FormatError:
            continue
        assert same(back, np.load(tmp_path / "a.npy"))


@pytest.mark.linux
@pytest.mark.parametrize("version", [b"\2\0", b"\3\0"])
def test_a_header_of_two_gigabytes_is_not_read(tmp_path, version):
    path = tmp_path / "a.npy"
    path.write_bytes(npy("", version=version, n_bytes=2**31 - 100))
    os.truncate(path, 2**31)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(lp.FormatError, match="its header has 2147483548 bytes, over the 10000"):
        lp.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.linux
def test_a_long_array_takes_its_own_memory(tmp_path):
    script = f"""
import resource, numpy as np, llamaprobe as lp
np.save({str(tmp_path / "a.npy")!r}, np.zeros((5000, 2000)))
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = most()
array = lp.read({str(tmp_path / "a.npy")!r})
print((most() - before) / array.nbytes)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 1.2


def test_the_expected_shape(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    assert lp.read(tmp_path / "a.npy", shape=(2, 3), dtype=np.float64).shape == (2, 3)
    for shape, dtype in [((3, 2), None), ((2, 3), "float32")]:
        with pytest.raises(lp.FormatError, match=r"holds float64 \[2, 3\]"):
            lp.read(tmp_path / "a.npy", shape=shape, dtype=dtype)
