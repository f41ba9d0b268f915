"""GGUF files of a few bytes, put together field by field, so that each field can be wrong.

As a program it writes the first inputs of the fuzzer: python tests/gguf_files.py fuzz/corpus/gguf
"""

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
NUMBERS = {
    U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B",
    U64: "Q", I64: "q", F64: "d",
}
ALIGNMENT = 32


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A string; `length` overrides what it says of itself."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def array(kind: int, items: Sequence[Any], length: int | None = None) -> bytes:
    """An array, without the type of a key; items of type ARRAY and STRING are bytes already."""
    n = len(items) if length is None else length
    pack = (lambda item: item) if kind in (STRING, ARRAY) else struct.Struct(f"<{NUMBERS[kind]}").pack
    return struct.pack("<IQ", kind, n) + b"".join(map(pack, items))


def key(name: str | bytes, kind: int, value: Any) -> bytes:
    """A key; a value of type ARRAY or STRING is bytes already, as is one of an unknown type."""
    data = value if isinstance(value, bytes) else struct.pack(f"<{NUMBERS[kind]}", value)
    return text(name) + struct.pack("<I", kind) + data


def strings(*items: str | bytes) -> bytes:
    return array(STRING, [text(item) for item in items])


def tensor(
    name: str | bytes = "w",
    dims: Sequence[int] = (4,),
    kind: int = 0,
    offset: int = 0,
    rank: int | None = None,
) -> bytes:
    """The entry of a tensor; dims as the file has them, fastest first."""
    shape = struct.pack(f"<{len(dims)}Q", *dims)
    rank = len(dims) if rank is None else rank
    return text(name) + struct.pack("<I", rank) + shape + struct.pack("<IQ", kind, offset)


def image(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = ALIGNMENT,
) -> bytes:
    """A file: the header, padding, the data as it is given."""
    counts = len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join([*keys, *tensors])
    return header + bytes(-len(header) % alignment) + data


def nested(depth: int) -> bytes:
    """An array of so many levels, of one number."""
    value = array(U8, [7])
    for _ in range(depth - 1):
        value = array(ARRAY, [value])
    return value


NUMBERS_OF_EACH_TYPE = [
    key("u8", U8, 255), key("i8", I8, -128), key("u16", U16, 65535), key("i16", I16, -32768),
    key("u32", U32, 2**32 - 1), key("i32", I32, -(2**31)), key("f32", F32, 1e-5),
    key("bool", BOOL, 1), key("u64", U64, 2**64 - 1), key("i64", I64, -(2**63)), key("f64", F64, 0.1),
]

# A small model's worth of everything.
WHOLE = image(
    [
        key("general.architecture", STRING, text("llama")),
        *NUMBERS_OF_EACH_TYPE,
        key("tokens", ARRAY, strings("a", "", b"\xff", "\N{EURO SIGN}")),
        key("scores", ARRAY, array(F32, [0.1, -2.5])),
        key("flags", ARRAY, array(BOOL, [0, 1, 1])),
        key("deep", ARRAY, nested(4)),
        key("general.alignment", U32, 64),
    ],
    [
        tensor("b", (32, 2), 8, 64),
        tensor("a", (3, 2), 0, 0),
        tensor("s", (), 0, 192),
        tensor("none", (0,), 0, 192),
    ],
    bytes(range(192)) + b"\0\0\x80\x3f",
    alignment=64,
)


def corpus() -> dict[str, bytes]:
    """What the fuzzer begins with, by name."""
    types = (0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
             28, 29, 30, 34, 35, 39, 40, 41)
    empties = [tensor(f"t{kind}", (0, 2), kind) for kind in types]
    return {
        "empty": image(),
        "whole": WHOLE,
        "version2": image([key("a", STRING, text("b"))], [tensor()], bytes(16), version=2),
        "types": image([], empties),
        "blocks": image([], [tensor("a", (256,), 12), tensor("b", (256,), 14, 160)], bytes(370)),
        "strings": image([key("s", ARRAY, strings(*map(str, range(40))))]),
        "deep": image([key("d", ARRAY, nested(5))]),
        "swapped": image(version=3 << 24),
        "matrix": image([], [tensor("m", (2, 3, 1, 1), 30)], bytes(32)),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in corpus().items():
        (folder / name).write_bytes(data)
