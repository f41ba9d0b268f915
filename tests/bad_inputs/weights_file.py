"""Bad inputs 01 to 49: safetensors files. Each is opened mapped and read, with the same outcome."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np

import llamaprobe as lp
from bad_inputs import BadInput, Refusal
from llamaprobe import FileChangedError, FileError, FormatError, _core

FILE = "model.safetensors"


def image(header: str | bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file; `length` overrides what it says of its header."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(begin: int = 0, end: int = 4, dtype: str = "U8", shape: list | None = None) -> dict:
    """A tensor of bytes from begin to end, unless the arguments say otherwise."""
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def fields(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> bytes:
    """One tensor "w" of four bytes, its fields given as JSON text."""
    return image(f'{{"w":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}', b"abcd")


def named(name: str) -> bytes:
    """One tensor of four bytes; the name as JSON text."""
    return image(f'{{"{name}":{json.dumps(entry())}}}', b"abcd")


def many(before: str, piece: str, n: int, after: str) -> Callable[[], bytes]:
    """A header of n pieces with commas between, built when it is needed."""
    return lambda: image(before + f"{piece}," * (n - 1) + piece + after)


ONE = image({"w": entry()}, b"abcd")
BETWEEN = image({"y": entry(4, 4), "w": entry(), "z": entry(0, 0)}, b"abcd")
U8 = json.dumps(entry())

# (number, what, bytes, tensors when it opens or the regex of the refusal)
CASES: list[tuple[str, str, bytes | Callable[[], bytes], list[str] | str]] = [
    ("01", "empty file", b"", "0 bytes are too few.* 8 bytes"),
    ("02", "seven bytes", b"\2\0\0\0\0\0\0", "7 bytes are too few.* 8 bytes"),
    ("03", "no header", image(""), "expected an object, found the end"),
    ("04", "length over the limit", image("{}", length=100_000_001),
     "too large: 100000001 .*100000000"),
    ("05", "length 2^64 - 1", image("{}", length=2**64 - 1), "too large"),
    ("05", "length that wraps with its own 8 bytes", image("{}", length=2**64 - 8), "too large"),
    ("06", "length 2^63", image("{}", length=2**63), "too large"),
    ("07", "length one more than the file", image("{}", length=3),
     "truncated.*longer than the file"),
    ("07", "length of the limit in a small file", image("{}", length=100_000_000), "truncated"),
    ("08", "not UTF-8", image(b"\xff"), "not UTF-8"),
    ("08", "not UTF-8 inside a name", image(b'{"\xff":' + U8.encode() + b"}", b"abcd"),
     "not UTF-8"),
    ("08", "overlong slash in a name", image(b'{"\xc0\xaf":' + U8.encode() + b"}", b"abcd"),
     "not UTF-8"),
    ("09", "brace alone", image("{"), "the end"),
    ("10", "array", image("[]"), "expected an object"),
    ("10", "null", image("null"), "expected an object"),
    ("10", "string", image('"x"'), "expected an object"),
    ("11", "byte order mark", image(b"\xef\xbb\xbf{}"), "byte order mark"),
    ("12", "UTF-16", image("{}".encode("utf-16")), "not UTF-8"),
    ("12", "UTF-16 without a mark", image("{}".encode("utf-16-le")), "expected"),
    ("13", "NUL padding", image(b"{}" + bytes(6)), "nothing more"),
    ("14", "white space around", image("\t\r\n " + json.dumps({"w": entry()}) + " \n", b"abcd"),
     ["w"]),
    ("14", "form feed around", image("\f{}"), "expected an object"),
    ("15", "no tensors", image("{}"), []),
    ("16", "one byte too many", ONE + b"x", f"trailing bytes.* {len(ONE)} bytes.* {len(ONE) + 1}"),
    ("16", "a byte after no tensors", image("{}", b"x"), "trailing bytes"),
    ("17", "last byte missing", ONE[:-1],
     f"truncated.* {len(ONE)} bytes.* {len(ONE) - 1}; download it again"),
    ("18", "no data", image({"w": entry(0, 10**12)}), "truncated.* download"),
    ("19", "hole", image({"a": entry(0, 4), "b": entry(5, 9)}, bytes(9)),
     'hole .*"a".* 4.*"b".* 5'),
    ("20", "overlap", image({"a": entry(0, 4), "b": entry(3, 7)}, bytes(7)), 'overlap .*"a".*"b"'),
    ("21", "two names for one range", image({"a": entry(), "b": entry()}, bytes(4)), "overlap"),
    ("22", "begin after end", fields(offsets="[4,0]"), '"w".* end before'),
    ("23", "first tensor at 8", image({"w": entry(8, 12)}, bytes(12)), 'hole .*"w".* 8'),
    ("25", "one offset", fields(offsets="[0]"), '"w".*two numbers'),
    ("25", "no offset", fields(offsets="[]"), '"w".*two numbers'),
    ("25", "three offsets", fields(offsets="[0,4,4]"), '"w".*two numbers'),
    ("26", "dimension 2^64 - 2", fields(shape="[2,18446744073709551614]"), '"w".*overflow'),
    ("27", "product just over 2^64", fields(shape="[2,9223372036854775807]"), '"w".*overflow'),
    ("28", "product 2^64", fields('"F32"', "[4294967296,4294967296]"), '"w".*overflow'),
    ("28", "bytes 2^64", fields('"F32"', "[4611686018427387904]"), '"w".*overflow'),
    ("28", "overflow before a zero", fields(shape="[4294967296,4294967296,0]"), '"w".*overflow'),
    ("30", "rank 10,000", fields(shape="[" + ",".join(["1"] * 10_000) + "]"), '"w".* 32 dim'),
    ("30", "rank 32", fields(shape="[" + "1," * 31 + "4]"), ["w"]),
    ("31", "scalar", image({"s": entry(dtype="F32", shape=[])}, bytes(4)), ["s"]),
    ("32", "empty tensor", image({"z": entry(0, 0, "F32", [2, 0])}), ["z"]),
    ("32", "empty tensors between others", BETWEEN, ["z", "w", "y"]),
    ("33", "dtype F99", fields('"F99"'), '"w".*unknown dtype "F99"'),
    ("34", "dtype in lower case", fields('"u8"'), '"w".*unknown dtype "u8"'),
    ("34", "dtype as a number", fields("8"), '"w".*expected a string'),
    ("35", "half a byte", image({"w": entry(0, 1, "F4", [1])}, b"x"), '"w".*misaligned'),
    ("35", "two halves", image({"w": entry(0, 1, "F4", [2])}, b"x"), ["w"]),
    ("36", "size is not shape x dtype", fields('"F32"', "[2]"), '"w".* 8 bytes.* hold 4'),
    ("37", "no dtype", image({"w": {"shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
     '"w".*dtype is missing'),
    ("37", "no shape", image({"w": {"dtype": "U8", "data_offsets": [0, 4]}}, bytes(4)),
     '"w".*shape is missing'),
    ("37", "no data_offsets", image({"w": {"dtype": "U8", "shape": [4]}}, bytes(4)),
     '"w".*data_offsets is'),
    ("38", "one name twice", image(f'{{"w":{U8},"w":{U8}}}', bytes(4)), 'duplicate key "w"'),
    ("38", "one name twice, other bytes",
     image(f'{{"w":{U8},"w":{json.dumps(entry(4, 8))}}}', bytes(8)), 'duplicate key "w"'),
    ("38", "one name twice, escaped", image(f'{{"w":{U8},"\\u0077":{U8}}}', bytes(4)),
     'duplicate key "w"'),
    ("38", "one field twice", image(f'{{"w":{{"dtype":"U8",{U8[1:]}}}', bytes(4)),
     '"w".*duplicate key "dtype"'),
    ("38", "unknown field twice", image(f'{{"w":{{"x":1,"x":2,{U8[1:]}}}', bytes(4)),
     '"w".*duplicate key "x"'),
    ("39", "__metadata__ twice", image('{"__metadata__":{},"__metadata__":{}}'), "duplicate key"),
    ("39", "metadata key twice", image('{"__metadata__":{"a":"","a":""}}'),
     'duplicate key "a" in __metadata__'),
    ("40", "metadata value 1", image({"__metadata__": {"a": 1}}), '"a".*expected a string'),
    ("40", "metadata value []", image({"__metadata__": {"a": []}}), '"a".*expected a string'),
    ("40", "metadata is a list", image({"__metadata__": ["a"]}),
     "__metadata__.*expected an object"),
    ("41", "empty name", named(""), [""]),
    ("41", "name of 1 MB", named("n" * 2**20), ["n" * 2**20]),
    ("41", "NUL in a name", named("a\\u0000b"), "NUL"),
    ("41", "newline in a name", named("a\\nb"), ["a\nb"]),
    ("41", "raw newline in a name", named("a\nb"), "control character"),
    ("41", "a path as a name", named("../x"), ["../x"]),
    ("41", "emoji", named("\U0001f600"), ["\U0001f600"]),
    ("41", "emoji as a pair of escapes", named("\\ud83d\\ude00"), ["\U0001f600"]),
    ("41", "lone surrogate", named("\\ud800"), "surrogate"),
    ("41", "raw surrogate", named("\ud800"), "not UTF-8"),
    ("41", "control characters in the message", image('{"\x7f\u009b31m\u202e":1}'),
     r"\\x7f\\xc2\\x9b31m\\xe2\\x80\\xae"),
    ("42", "1.5 million tensors in 96 MB", many("{", f'"n":{U8}', 1_500_000, "}"),
     "too many tensors, the limit is 1000000"),
    ("42", "14 million metadata keys", many('{"__metadata__":{', '"":""', 14_000_000, "}}"),
     "too many keys in __metadata__, the limit is 1000000"),
    ("42", "33 million unknown values", many('{"w":{"x":[', "[]", 33_000_000, "]}}"),
     "dtype is missing"),
    ("43", "100,000 levels", image('{"w":{"x":' + "[" * 100_000), '"w".*nested deeper'),
    ("43", "100,000 objects", image('{"w":{"x":' + '{"a":' * 100_000), '"w".*nested deeper'),
    ("44", "100,000 digits", fields(offsets="[0," + "9" * 100_000 + "]"), '"w".*overflow'),
    ("44", "100,000 digits in a value to pass over", image('{"w":{"x":' + "9" * 100_000 + "}}"),
     "too large"),
]
# What other formats begin with, under this name.
CASES += [
    ("63", "GGUF inside", b"GGUF" + bytes(100), "is it a safetensors file"),
    ("63", "Git LFS pointer inside", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
     "Git LFS pointer of 118 bytes.*git lfs pull"),
    ("63", "pickle inside", b"\x80\x02}q\0." + bytes(100), "is it a safetensors file"),
]
# 24 and 29: only an integer is accepted.
WRONG = '1.0 1.5 1e0 "1" true false null -1 -0 [1] {} 01 0x1 NaN Infinity'.split()
CASES += [("24", f"offset {text}", fields(offsets=f"[0,{text}]"), '"w"') for text in WRONG]
CASES += [("29", f"dimension {text}", fields(shape=f"[{text}]"), '"w"') for text in WRONG]


# ---- how they are tried ----


def written(built: bytes | Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(box: Path) -> Path:
        (box / FILE).write_bytes(built() if callable(built) else built)
        return box / FILE

    return make


def open_both(path: Path) -> list[str]:
    """The names of the tensors, in the order of the data; or the refusal, in the same words."""
    results: list[list[str] | str] = []
    for mmap in (True, False):
        try:
            results.append([row[0] for row in _core.Safetensors(path, mmap=mmap).tensors()])
        except (FormatError, FileError) as e:
            refusal = e
            results.append(str(e))
    assert results[0] == results[1]
    if isinstance(results[0], str):
        raise refusal
    return results[0]


CASES = [
    BadInput(
        number,
        name,
        written(built),
        open_both,
        outcome if isinstance(outcome, list) else Refusal(FormatError, outcome, FILE),
    )
    for number, name, built, outcome in CASES
]

# ---- 45 and 46: odd values ----

VALUES = np.array([1.5, -2.25, 3e-39, 65504], np.float32)


def odd_start(pad: int) -> bytes:
    bits = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    header = {"f": entry(1, 17, "F32", [2, 2]), "b": entry(17, 25, "BF16", [4]), "x": entry(0, 1)}
    return image(json.dumps(header) + " " * pad, b"x" + VALUES.tobytes() + bits.tobytes())


def read_all(path: Path) -> list[Any]:
    opened = _core.Safetensors(path)
    return [opened.read("f").tolist(), opened.read("b").tolist(), bytes(opened.raw("x"))]


CUT = (VALUES.view(np.uint32) & 0xFFFF0000).view(np.float32)  # what bf16 keeps
CASES += [
    BadInput("45", f"data start {pad} bytes later", written(odd_start(pad)), read_all,
             [VALUES.reshape(2, 2).tolist(), CUT.tolist(), b"x"])
    for pad in range(8)
]

ODD = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)


def nan_model(box: Path) -> Path:
    config = models.make_config()
    weights = models.make_weights(config, dtype="F32")
    weights["model.layers.1.mlp.up_proj.weight"][7] = np.nan
    return models.write_checkpoint(box, config, weights, "F32")


def finite_layers(folder: Path) -> list[bool]:
    run = lp.load(folder).run([1, 2, 3], points=("x", "logits"))
    return [bool(np.isfinite(x).all()) for x in (*run["x"], run["logits"])]


CASES += [
    BadInput("46", "NaN and infinity", written(image({"w": entry(0, 16, "F32", [4])}, ODD.tobytes())),
             lambda path: repr(_core.Safetensors(path).read("w").tolist()), "[nan, inf, -inf, -0.0]"),
    BadInput("46", "a model with NaN", nan_model, finite_layers, [True, True, False, False]),
]

# ---- 47: what is not a regular file ----


def make_socket(path: Path) -> None:
    """Binds by a relative name: a socket's path has to be short."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


NO_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "folder": (Path.mkdir, "is a folder"),
    "pipe": (os.mkfifo, "is a named pipe"),
    "socket": (make_socket, "cannot open"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "link to itself": (lambda path: path.symlink_to(FILE), "symbolic links"),
    "link to /dev/zero": (lambda path: path.symlink_to("/dev/zero"), "is a character device"),
    "missing": (lambda path: None, "No such file"),
}


def placed(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    return lambda box: make(box / FILE) or box / FILE


def unreadable(box: Path) -> Path:
    path = written(ONE)(box)
    path.chmod(0)
    box.chmod(0o755)
    return path


def open_without_rights(path: Path) -> object:
    """Root may read every file."""
    folder, user = os.open(path.parent, os.O_RDONLY), os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        return _core.Safetensors(FILE, dir_fd=folder)
    finally:
        os.seteuid(user)
        os.close(folder)


CASES += [
    BadInput("47", name, placed(make), open_both, Refusal(FileError, fact, FILE))
    for name, (make, fact) in NO_FILES.items()
]
CASES.append(BadInput("47", "unreadable", unreadable, open_without_rights,
                     Refusal(FileError, "cannot open: Permission denied", FILE)))

# ---- 48 and 49: files that change ----

CHANGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: os.truncate(path, len(ONE) - 1),
    "longer": lambda path: os.truncate(path, len(ONE) + 1),
    "touched": lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
}


def change(how: Callable[[Path], Any]) -> Callable[[Path], None]:
    def use(path: Path) -> None:
        path.write_bytes(ONE)
        mapped, read = _core.Safetensors(path), _core.Safetensors(path, mmap=False)
        mapped.check_unchanged()
        how(path)
        read.check_unchanged()
        assert bytes(read.raw("w")) == b"abcd"
        mapped.check_unchanged()

    return use


def a_model(box: Path) -> Path:
    config = models.make_config()
    return models.write_checkpoint(box, config, models.make_weights(config))


def run_after(how: Callable[[Path], Any], mmap: bool) -> Callable[[Path], bool]:
    """Whether a run after the change gives what it gave before."""

    def use(folder: Path) -> bool:
        data = (folder / FILE).read_bytes()
        try:
            model = lp.load(folder, mmap=mmap)
            before = model.run([1, 2])["x"]
            how(folder / FILE)
            return bool((model.run([1, 2])["x"] == before).all())
        finally:
            (folder / FILE).write_bytes(data)

    return use


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(image({"v": entry()}, b"efgh"))
    os.replace(other, path)


def replaced(path: Path) -> list[Any]:
    path.write_bytes(ONE)
    opened = _core.Safetensors(path)
    replace(path)
    opened.check_unchanged()
    new = _core.Safetensors(path)
    path.unlink()
    opened.check_unchanged()
    path.write_bytes(b"")
    return [bytes(opened.raw("w")), bytes(new.raw("v"))]


TOLD = "written to since it was opened .* load it again"
for name, how in CHANGES.items():
    CASES += [
        BadInput("48", f"file {name}", written(ONE), change(how),
                 Refusal(FileChangedError, TOLD, FILE)),
        BadInput("48", f"model {name}", a_model, run_after(how, mmap=True),
                 Refusal(FileChangedError, TOLD, FILE)),
        BadInput("48", f"model in memory, {name}", a_model, run_after(how, mmap=False), True),
    ]
CASES += [
    BadInput("49", "file replaced", written(ONE), replaced, [b"abcd", b"efgh"]),
    BadInput("49", "model replaced", a_model, run_after(replace, mmap=True), True),
]
