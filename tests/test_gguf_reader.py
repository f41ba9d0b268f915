"""GGUF files: which open, what is in them, and which are refused with what message."""

import gc
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import gguf_files as g
import numpy as np
import pytest

from llamaprobe import (
    ArgumentError,
    FileChangedError,
    FileError,
    FormatError,
    UnsupportedError,
    _core,
)

FILE = "m.gguf"
CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus" / "gguf"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        path = tmp_path / FILE
        path.write_bytes(data)
        return str(path)

    return write


@pytest.fixture(params=[True, False], ids=["mapped", "read"])
def open_file(request, write) -> Callable[[bytes], _core.Gguf]:
    return lambda data: _core.Gguf(write(data), mmap=request.param)


# ---- what is in a good file ----


def test_tensors_in_the_order_of_the_data(open_file):
    file = open_file(g.WHOLE)
    data = len(g.WHOLE) - 196
    assert file.tensors() == [
        ("a", "F32", (2, 3), data, 24),
        ("b", "Q8_0", (2, 32), data + 64, 68),
        ("none", "F32", (0,), data + 192, 0),
        ("s", "F32", (), data + 192, 4),
    ]
    assert file.raw("b").tobytes() == bytes(range(64, 132))
    assert file.raw("a").tobytes() == bytes(range(24))
    assert file.raw("none").shape == file.read("none").shape == (0,)
    scalar = file.read("s")
    assert scalar.shape == () and scalar == 1
    assert (file.version, file.alignment, file.n_bytes) == (3, 64, len(g.WHOLE))
    file.check_unchanged()


def test_values_of_every_type(open_file):
    file = open_file(g.WHOLE)
    values = file.metadata()
    assert list(values) == [name for name, _, _ in file.keys()]
    assert values == {
        "general.architecture": "llama",
        "u8": 255, "i8": -128, "u16": 65535, "i16": -32768, "u32": 2**32 - 1, "i32": -(2**31),
        "f32": 1e-5, "bool": True, "u64": 2**64 - 1, "i64": -(2**63), "f64": 0.1,
        "tokens": ["a", "", "\udcff", "\N{EURO SIGN}"],
        "scores": [0.1, -2.5],
        "flags": [False, True, True],
        "deep": [[[[7]]]],
        "general.alignment": 64,
    }
    assert values["bool"] is True and type(values["u8"]) is int and type(values["f32"]) is float
    assert file.keys()[-5:] == [
        ("tokens", "string", 4), ("scores", "f32", 2), ("flags", "bool", 3), ("deep", "array", 1),
        ("general.alignment", "u32", None),
    ]
    assert file.array("tokens") == values["tokens"]


def test_a_float32_becomes_the_double_of_its_shortest_decimal(open_file):
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 2**32, 2000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = [*values[np.isfinite(values)], np.float32(1e-6), np.float32(5e5), np.float32(-0.0)]
    file = open_file(g.image([g.key("f", g.ARRAY, g.array(g.F32, values))]))
    assert [repr(value) for value in file.array("f")] == [repr(float(str(v))) for v in values]
    special = [float("inf"), float("-inf"), float("nan")]
    file = open_file(g.image([g.key("f", g.ARRAY, g.array(g.F32, special))]))
    assert [repr(value) for value in file.metadata()["f"]] == ["inf", "-inf", "nan"]


def test_long_arrays_are_read_by_name(open_file):
    keys = [g.key("short", g.ARRAY, g.array(g.I16, range(64)))]
    keys += [g.key("long", g.ARRAY, g.array(g.I16, range(65)))]
    file = open_file(g.image(keys))
    assert file.metadata() == {"short": list(range(64))}
    assert file.array("long") == list(range(65))
    with pytest.raises(ArgumentError, match=r'm\.gguf has no key "other"'):
        file.array("other")
    file = open_file(g.image([g.key("n", g.U8, 1)]))
    with pytest.raises(ArgumentError, match='key "n" is of type u8, not an array'):
        file.array("n")
    with pytest.raises(ArgumentError, match=r'm\.gguf has no tensor "w"'):
        file.raw("w")


def test_a_string_may_hold_any_bytes(open_file):
    data = bytes(range(256)) * 3
    file = open_file(g.image([g.key("s", g.STRING, g.text(data))]))
    assert file.metadata()["s"].encode("utf-8", "surrogateescape") == data


def test_float_tensors_become_float32(open_file):
    values = np.array([[1, -2.5, 0.1], [3e4, -0.0, 6e-8]], np.float32)
    half = values.astype(np.float16)
    bf16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensors = [g.tensor("f32", (3, 2), 0, 0), g.tensor("f16", (3, 2), 1, 32)]
    tensors += [g.tensor("bf16", (3, 2), 30, 64), g.tensor("q", (32,), 2, 96)]
    data = b"".join(part.tobytes().ljust(32, b"\0") for part in (values, half, bf16)) + bytes(18)
    file = open_file(g.image([], tensors, data))
    assert file.read("f32").tobytes() == values.tobytes()
    assert file.read("f16").tobytes() == half.astype(np.float32).tobytes()
    assert file.read("bf16").tobytes() == (bf16.astype(np.uint32) << 16).tobytes()
    with pytest.raises(UnsupportedError, match=r"dtype Q4_0 has no float32 values here"):
        file.read("q")
    assert file.raw("q").size == 18


def test_every_type_is_listed(open_file):
    gguf = pytest.importorskip("gguf")
    for kind, (elements, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name in ("Q8_1", "Q8_K"):  # never in a file
            continue
        data = bytes(6 * size)
        file = open_file(g.image([], [g.tensor("w", (2 * elements, 3), int(kind))], data))
        assert file.tensors()[0][1:3] == (kind.name, (3, 2 * elements))
        assert file.raw("w").size == len(data)


# ---- the table ----

BIG = 2**63
ONE = [g.tensor()]
DATA = bytes(16)


def aligned(value: int) -> bytes:
    return g.image([g.key("general.alignment", g.U32, value)], ONE, DATA, alignment=8)


def keyed(kind: int, value: bytes) -> bytes:
    return g.image([g.key("k", kind, value)])


def shaped(*dims: int, kind: int = 0, offset: int = 0, rank: int | None = None) -> bytes:
    return g.image([], [g.tensor("w", dims, kind, offset, rank)], DATA)


def two(first: int, second: int, n_data: int) -> bytes:
    """Two tensors of 16 bytes at these offsets."""
    tensors = [g.tensor("a", (4,), 0, first), g.tensor("b", (4,), 0, second)]
    return g.image([], tensors, bytes(n_data))


# (what, bytes, the refusal)
REFUSED: list[tuple[str, bytes, str]] = [
    ("an empty file", b"", "truncated: .* at least 24 bytes, this one has 0; download"),
    ("a magic alone", b"GGUF", "truncated: .* at least 24 bytes, this one has 4"),
    ("23 bytes", g.image()[:23], "truncated: .* 24 bytes, this one has 23"),
    ("another magic", b"GGUG" + g.image()[4:], 'not a GGUF file: it does not begin with "GGUF"'),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
     "Git LFS pointer of 63 bytes, .*git lfs pull"),
    ("a web page", b" \n<!DOCTYPE html><html><body>Not found</body></html>", "web page, .* again"),
    ("a safetensors file", struct.pack("<Q", 2) + b"{}" + bytes(16), "safetensors file.*name"),
    ("a ZIP archive", b"PK\3\4" + bytes(40), "ZIP archive"),
    ("a GGML file", b"tjgg\3\0\0\0" + bytes(40), "GGML file from before GGUF.*convert"),
    ("version 0", g.image(version=0), "version 0; only versions 2 and 3 can be read; download"),
    ("more tensors than bytes", g.image(n_tensors=BIG), f"{BIG} tensors of at least 24 bytes .* 32"),
    ("all tensors", g.image(n_tensors=2**64 - 1), "truncated: 18446744073709551615 tensors"),
    ("more keys than bytes", g.image(n_keys=BIG), f"truncated: {BIG} keys of at least 14 .* 32"),
    ("a key more", g.image([g.key("a", g.STRING, g.text("b" * 20))], n_keys=2)[:65],
     "key 2 of 2: truncated: needs 8 bytes from byte 65 on, but the file has 65; download"),
    ("a key's length", g.image()[:16] + struct.pack("<Q", 1) + g.text(b"a" * 20, 21),
     "key 1 of 1: truncated: needs 21 bytes from byte 32 on, but the file has 52; download"),
    ("a key's length of 2^63", g.image(n_keys=0)[:16] + struct.pack("<QQ", 1, BIG) + bytes(20),
     f"key 1 of 1: truncated: needs {BIG} bytes from byte 32 on, but the file has 52; download"),
    ("a long key", g.image([g.key("k" * 65536, g.U8, 0)]), "name has 65536 bytes.* limit is 65535"),
    ("an empty key", g.image([g.key("", g.U64, 0)]), "key 1 of 1, \"\": its name is empty"),
    ("a key with a NUL", g.image([g.key("a\0b", g.U8, 0)]), r'"a\\x00b": its name holds a NUL'),
    ("a key that is not UTF-8", g.image([g.key(b"a\xff", g.U8, 0)]), r'"a\\xff": .* not UTF-8'),
    ("a key of a surrogate", g.image([g.key(b"\xed\xa0\x80", g.U8, 0)]), "its name is not UTF-8"),
    ("a key twice", g.image([g.key("k", g.U8, 0)] * 2), 'two keys are called "k"'),
    ("a key of type 13", keyed(13, bytes(8)), 'key 1 of 1, "k": is of type 13; .* type is 12'),
    ("a bool of 2", keyed(g.BOOL, b"\2"), 'key 1 of 1, "k": a bool is 2; it must be 0 or 1'),
    ("a bool of 2 in an array", keyed(g.ARRAY, g.array(g.BOOL, [1, 2])), '"k": a bool is 2'),
    ("a string's length", keyed(g.STRING, g.text(b"abc", 400)), '"k": truncated: needs 400 bytes'),
    ("a string's length of 2^64 - 1", keyed(g.STRING, g.text(b"abc", 2**64 - 1)),
     "truncated: needs 18446744073709551615 bytes"),
    ("an array's length", keyed(g.ARRAY, g.array(g.U32, [1], 90)), "truncated: 90 items of at least 4"),
    ("an array's length that wraps", keyed(g.ARRAY, g.array(g.U64, [1], 2**61 + 1)),
     f"truncated: {2**61 + 1} items of at least 8"),
    ("an array's length of strings", keyed(g.ARRAY, g.array(g.STRING, [g.text("a")], BIG)),
     f"truncated: {BIG} items of at least 8 bytes"),
    ("an array's type", keyed(g.ARRAY, struct.pack("<IQ", 13, 0)), "items of type 13; .* type is 12"),
    ("a string in an array", keyed(g.ARRAY, g.array(g.STRING, [g.text("a", 99)])),
     "truncated: needs 99 bytes"),
    ("arrays five deep", keyed(g.ARRAY, g.nested(5)), "arrays in arrays are 5 deep, the limit is 4"),
    ("alignment 0", aligned(0), "alignment\": is 0; it must be a power of two from 8 to 65536"),
    ("alignment 3", aligned(3), "is 3; it must be a power of two"),
    ("alignment 4", aligned(4), "is 4; it must be a power of two"),
    ("alignment 24", aligned(24), "is 24; it must be a power of two"),
    ("alignment 2^31", aligned(2**31), "is 2147483648; it must be a power of two"),
    ("alignment of another type", g.image([g.key("general.alignment", g.U64, 32)]),
     "alignment\": is of type u64; it must be u32"),
    ("alignment as a string", g.image([g.key("general.alignment", g.STRING, g.text("32"))]),
     "is of type string; it must be u32"),
    ("alignment twice", g.image([g.key("general.alignment", g.U32, n) for n in (32, 64)]),
     'two keys are called "general.alignment"'),
    ("a tensor less", g.image([], ONE, n_tensors=2),
     "tensor 2 of 2: truncated: needs 8 bytes from byte 57 on, but the file has 64; download"),
    ("a tensor twice", g.image([], [g.tensor("w", (4,), 0, at) for at in (0, 32)], bytes(48)),
     'two tensors are called "w"'),
    ("a tensor twice in one place", g.image([], ONE * 2, DATA), 'two tensors are called "w"'),
    ("a tensor with a NUL", g.image([], [g.tensor("w\0")], DATA), r'"w\\x00": its name holds a NUL'),
    ("a tensor that is not UTF-8", g.image([], [g.tensor(b"\xc0\xaf")], DATA), "name is not UTF-8"),
    ("five dimensions", shaped(1, 1, 1, 1, 1), 'tensor 1 of 1, "w": has 5 dimensions, .* is 4'),
    ("2^32 - 1 dimensions", shaped(rank=2**32 - 1), "has 4294967295 dimensions, the limit is 4"),
    ("a dimension of 2^63", shaped(BIG), f'"w": dimension 0 is {BIG}: .* overflows'),
    ("a dimension of 2^64 - 1", shaped(1, 2**64 - 1), "dimension 1 is 18446744073709551615: "),
    ("dimensions that wrap", shaped(2**32, 2**32), f"dimension 1 is {2**32}: .* overflows"),
    ("dimensions that wrap to 4", shaped(2**63 - 1, 2, 2), "dimension 1 is 2: .* overflows"),
    ("a size that overflows", shaped(2**62), f"the size of {2**62} elements of F32 overflows"),
    ("rows that are no whole blocks", shaped(48, 2, kind=2),
     "rows of 48 elements, which are not whole blocks of 32 \\(Q4_0\\)"),
    ("a scalar of blocks", shaped(kind=12), "rows of 1 elements, .* blocks of 256 \\(Q4_K\\)"),
    ("an offset of 8", shaped(4, offset=8), "begins at byte 8 of the data, .* multiple of 32"),
    ("an offset beyond", shaped(4, offset=64), "hole between .* byte 0, and \"w\", .* at 64"),
    ("an offset of 2^63", shaped(4, offset=BIG), f'hole between .* "w", which begins at {BIG}'),
    ("an offset that wraps", shaped(4, offset=2**64 - 32), "hole between"),
    ("an overlap", two(0, 0, 16), 'overlap between "a", which ends at byte 16, and "b", .* at 0'),
    ("a part in two tensors", g.image([], [g.tensor("a", (16,)), g.tensor("b", (4,), 0, 32)],
                                      bytes(64)), "overlap .* byte 64, .* begins at 32"),
    ("an empty tensor inside", g.image([], [g.tensor("a", (16,)), g.tensor("b", (0,), 0, 32)],
                                       bytes(64)), "overlap"),
    ("a hole", two(0, 64, 80), 'hole between "a", which ends at byte 16, and "b", .* at 64'),
    ("a hole before", two(32, 64, 80), 'hole between "the start of the data", .* byte 0, and "a"'),
    ("the last byte missing", two(0, 32, 47), "truncated: the tensors end at byte 144, .* has 143; d"),
    ("no data", g.image([], [g.tensor("w", (400,))]), "truncated: the tensors end at byte 1664"),
    ("a tensor of 2^61 bytes", shaped(2**59), f"truncated: the tensors end at byte {2**61 + 64}, the"),
    ("bytes behind", two(0, 32, 80), "trailing bytes: the tensors end at byte 144, the file has 176"),
    ("bytes behind no tensors", g.image([], [], bytes(32)), "trailing bytes: .* byte 24, .* has 64"),
]
UNSUPPORTED: list[tuple[str, bytes, str]] = [
    ("version 1", g.image(version=1), "version 1; only versions 2 and 3 can be read; convert"),
    ("version 4", g.image(version=4), "version 4; only versions 2 and 3 can be read; a newer"),
    ("big endian", g.image(version=3 << 24), "big-endian GGUF file .*gguf-convert-endian FILE little"),
    ("an unknown type", shaped(4, kind=42), 'tensor 1 of 1, "w": has type 42, which is unknown; a n'),
    ("type 2^32 - 1", shaped(4, kind=2**32 - 1), "has type 4294967295, which is unknown"),
    ("a removed type", shaped(32, kind=4), r"type Q4_2 \(4\), which llama.cpp no longer reads; make"),
    ("a repacked type", shaped(32, kind=31), r"type Q4_0_4_4 \(31\), which llama.cpp no longer"),
    ("a type never stored", shaped(32, kind=9), r"type Q8_1 \(9\), which is for intermediate"),
]
ACCEPTED: list[tuple[str, bytes]] = [
    ("nothing", g.image()),
    ("nothing, without padding", g.image()[:24]),
    ("version 2", g.image([], ONE, DATA, version=2)),
    ("any order", two(32, 0, 48)),
    ("padding behind", two(0, 32, 64)),
    ("padding behind, in part", two(0, 32, 63)),
    ("padding of any bytes", g.image([], ONE, DATA + b"\xff" * 16)),
    ("alignment 8", aligned(8)),
    ("alignment 65536", g.image([g.key("general.alignment", g.U32, 65536)], ONE, DATA,
                                alignment=65536)),
    ("four dimensions", shaped(1, 2, 2, 1)),
    ("a dimension of 0", g.image([], [g.tensor("w", (0, 7))])),
    ("zero of many", g.image([], [g.tensor("w", (0, 2**62))])),
    ("names of other kinds", g.image([g.key("\N{EURO SIGN} \n../x", g.U8, 1)],
                                     [g.tensor("w" * 65535)], DATA)),
    ("a name of no bytes", g.image([], [g.tensor("")], DATA)),
    ("an empty array of arrays", keyed(g.ARRAY, g.array(g.ARRAY, []))),
    ("arrays four deep", keyed(g.ARRAY, g.nested(4))),
]


def refusal(path: str, error: type[Exception], fact: str, mmap: bool) -> None:
    with pytest.raises(error) as caught:
        _core.Gguf(path, mmap=mmap)
    message = str(caught.value)
    assert type(caught.value) is error and re.search(fact, message), message
    assert FILE in message and message.isprintable(), message


@pytest.mark.parametrize(("data", "fact"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(data: bytes, fact: str, write):
    path = write(data)
    for mmap in (True, False):
        refusal(path, FormatError, fact, mmap)


@pytest.mark.parametrize(
    ("data", "fact"), [row[1:] for row in UNSUPPORTED], ids=[r[0] for r in UNSUPPORTED]
)
def test_unsupported(data: bytes, fact: str, write):
    path = write(data)
    for mmap in (True, False):
        refusal(path, UnsupportedError, fact, mmap)


@pytest.mark.parametrize("data", [row[1] for row in ACCEPTED], ids=[r[0] for r in ACCEPTED])
def test_accepted(data: bytes, open_file):
    file = open_file(data)
    for name, *_ in file.tensors():
        file.raw(name)
    file.metadata()


def test_a_prefix_is_refused(write):
    """What is left of a file that was not fetched to its end."""
    for n in [*range(60), *range(60, len(g.WHOLE), 7), len(g.WHOLE) - 1]:
        refusal(write(g.WHOLE[:n]), FormatError, "truncated: .* download it again", mmap=True)


# ---- the file ----


def test_the_file_is_opened_in_its_folder_alone(write, tmp_path):
    path = write(g.WHOLE)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert _core.Gguf(f"/elsewhere/{FILE}", dir_fd=fd).path == f"/elsewhere/{FILE}"
        with pytest.raises(FileError):
            _core.Gguf(path + "f", dir_fd=fd)
    finally:
        os.close(fd)
    with pytest.raises(FileError, match="is a folder"):
        _core.Gguf(tmp_path)
    with pytest.raises(FileError, match="cannot open"):
        _core.Gguf(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="named pipe"):
        _core.Gguf(tmp_path / "pipe")


def test_a_file_that_changes_after_it_was_opened(write):
    path = write(g.WHOLE)
    mapped, read = _core.Gguf(path), _core.Gguf(path, mmap=False)
    raw = read.raw("b")
    with open(path, "r+b") as file:
        file.truncate(100)
    for use in (
        mapped.check_unchanged, mapped.metadata, lambda: mapped.array("tokens"),
        lambda: mapped.raw("a"), lambda: mapped.read("a"),
    ):
        with pytest.raises(FileChangedError, match=rf"{FILE}.*load it again"):
            use()
    read.check_unchanged()
    assert read.array("scores") == [0.1, -2.5] and raw.tobytes() == bytes(range(64, 132))
    assert mapped.tensors() == read.tensors() and mapped.keys() == read.keys()


def test_arrays_keep_the_map(write):
    file = _core.Gguf(write(g.WHOLE))
    raw = file.raw("b")
    assert not raw.flags.writeable
    del file
    gc.collect()
    assert raw.tobytes() == bytes(range(64, 132))


def test_opening_leaves_the_data_alone(write):
    """64 GB of zeros that take no room on the disk; reading them would take minutes."""
    n = 64 << 30
    path = write(g.image([], [g.tensor("w", (1 << 14, n >> 16))]))
    start = os.path.getsize(path)
    os.truncate(path, start + n)
    file = _core.Gguf(path)
    assert file.tensors() == [("w", "F32", (n >> 16, 1 << 14), start, n)]
    assert file.raw("w")[-1] == 0


def test_the_first_inputs_of_the_fuzzer_are_what_the_program_writes():
    assert {name: (CORPUS / name).read_bytes() for name in g.corpus()} == g.corpus()
