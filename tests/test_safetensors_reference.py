"""Our reader against the format's own, the `safetensors` package, on thousands of files.

What one accepts the other accepts, with the same tensors and the same metadata. We are stricter in
the cases of `stricter()` and in no other: there the package accepts and we must refuse.
"""

import copy
import ctypes
import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

core = pytest.importorskip("llamaprobe._core", reason="the C core is not built")
safetensors = pytest.importorskip("safetensors", reason="there is nothing to compare with")

from llamaprobe.errors import FormatError  # noqa: E402

ROOT = Path(__file__).parent.parent
CORPUS = sorted((ROOT / "fuzz" / "corpus" / "safetensors").glob("*"))
BITS = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"], 8),
    **dict.fromkeys(["F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16),
    **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["C64", "F64", "I64", "U64"], 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("reference") / "f.safetensors"


def image(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


# --- the two readers -----------------------------------------------------------------------------


def theirs(data: bytes, path: Path) -> tuple | None:
    """({name: (dtype, shape, bytes)}, metadata) as the package reads it; None when it refuses."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    with safetensors.safe_open(path, framework="numpy") as opened:
        metadata = opened.metadata() or {}
    return {n: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for n, t in found}, metadata


def ours(path: Path) -> tuple | str:
    """The same as we read it; the message when we refuse."""
    try:
        opened = core.Safetensors(path)
    except FormatError as refusal:
        return str(refusal)
    rows = opened.tensors()
    whole = path.read_bytes()
    for name, _, _, offset, n_bytes in rows:
        assert bytes(opened.raw(name)) == whole[offset : offset + n_bytes]
    ends = [offset + n_bytes for *_, offset, n_bytes in rows]
    assert all(row[3] == end for row, end in zip(rows[1:], ends, strict=False))
    found = {name: (d, s, whole[o : o + n]) for name, d, s, o, n in rows}
    return found, opened.metadata


class Pairs(list):
    """A JSON object with its keys in order, duplicates and all."""

    def repeats(self) -> bool:
        return len({key for key, _ in self}) < len(self)


def stricter(data: bytes) -> str | None:
    """Why we refuse a file that the package accepts; None when there is no such reason."""
    text = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
    # a number of 4,300 digits is too long for int(), and is not a dimension anyway
    header = json.loads(text, object_pairs_hook=Pairs, parse_int=lambda s: int(s[:30]))
    if header.repeats():
        return "duplicate key"
    for name, body in header:
        if name == "__metadata__":
            if body and body.repeats():
                return "duplicate key"
            if any("\0" in part for pair in body or [] for part in pair):
                return "NUL"
            continue
        if "\0" in name:
            return "NUL"
        if not isinstance(body, Pairs):
            return "expected an object"  # the package also takes [dtype, shape, data_offsets]
        if body.repeats():
            return "duplicate key"
        value = dict(body)
        if isinstance(value["dtype"], Pairs):
            return "expected a string"  # the package also takes {"F32": null}
        if len(value["shape"]) > 32:
            return "32 dimensions"
        if any(n >= 2**63 for n in value["shape"]):
            return "overflow"
        if len(value) > 3 + 32:
            return "32 unknown keys"
    return None


def compare(data: bytes, path: Path) -> str:
    """Holds the two readers against each other; "accepted", "refused" or "stricter"."""
    path.unlink(missing_ok=True)  # a file that is overwritten is flushed by some file systems
    path.write_bytes(data)
    expected, got = theirs(data, path), ours(path)
    if expected is None:
        assert isinstance(got, str), "we accept what the package refuses"
        return "refused"
    reason = stricter(data)
    if reason:
        assert isinstance(got, str), f"not refused: {reason}"
        return "stricter"
    assert got == expected
    return "accepted"


# --- files made by hand --------------------------------------------------------------------------


def one(name: str = "t", more: str = "", shape: str = "[1]", offsets: str = "[0,1]") -> str:
    return f'"{name}":{{"dtype":"U8","shape":{shape},"data_offsets":{offsets}{more}}}'


def extra(value: str) -> str:
    return "{" + one(more=f',"x":{value}') + "}"


ACCEPTED = {
    "white space": " \t\r\n{" + one() + "} \r\n",
    "empty name": "{" + one("") + "}",
    "surrogate pair": "{" + one("\\ud83d\\ude00") + "}",
    "noncharacter": "{" + one("\\uffff") + "}",
    "raw DEL": "{" + one("\x7f") + "}",
    "metadata null": '{"__metadata__":null,' + one() + "}",
    "metadata": '{"__metadata__":{"":"\\n","\\u00e9":""},' + one() + "}",
    "escaped metadata": '{"\\u005f_metadata__":{"a":"b"},' + one() + "}",
    "escaped fields": '{"t":{"\\u0064type":"\\u00558","shape":[1],"data_offsets":[0,1]}}',
    "scalar": "{" + one(shape="[]") + "}",
    "huge but empty": "{" + one() + "," + one("z", "", "[9223372036854775807,0,9]", "[1,1]") + "}",
    "unknown keys": extra('[1,{"y":null,"y":[]},"\\u0000"],"z":-0.5e-3'),
    "zero times ten to the much": extra("0e99999999999999999999"),
    "tiny": extra("1e-99999999999999999999"),
    "just below infinity": extra("1.797693134862315e308"),
    "309 digits": extra("1" + "0" * 308),
    "125 levels": extra("[" * 125 + "]" * 125),
    "empty tensors":
        "{" + one("z", "", "[0]", "[1,1]") + "," + one() + "," + one("y", "", "[0]", "[0,0]") + "}",
    "32 dimensions": "{" + one(shape="[" + ",".join("1" * 32) + "]") + "}",
    "32 unknown keys": "{" + one(more="".join(f',"{i}":0' for i in range(32))) + "}",
}
REFUSED = {
    "nothing": "",
    "NUL padding": "{" + one() + "}\0",
    "byte order mark": "\ufeff{" + one() + "}",
    "array": "[" + one() + "]",
    "comma at the end": "{" + one() + ",}",
    "lone surrogate": "{" + one("\\ud800") + "}",
    "raw newline": "{" + one("\n") + "}",
    "metadata twice": '{"__metadata__":null,"__metadata__":null,' + one() + "}",
    "metadata number": '{"__metadata__":{"a":1},' + one() + "}",
    "metadata null value": '{"__metadata__":{"a":null},' + one() + "}",
    "infinite": extra("1e400"),
    "infinite integer": extra("9" * 309),
    "infinite at last": extra("10e308"),
    "126 levels": extra("[" * 126 + "]" * 126),
    "NaN": extra("NaN"),
    "surrogate in an unknown value": extra('"\\udc00"'),
    "minus zero": "{" + one(shape="[-0]", offsets="[0,0]") + "}",
    "one point zero": "{" + one(shape="[1.0]") + "}",
    "overflow before a zero": "{" + one(shape="[4294967296,4294967296,0]", offsets="[0,0]") + "}",
    "field twice": "{" + one(more=',"dtype":"U8"') + "}",
    "offsets as an object": '{"t":{"dtype":"U8","shape":[1],"data_offsets":{"0":0,"1":1}}}',
}
STRICTER = {
    "name twice": "{" + one() + "," + one() + "}",
    "name twice, escaped": "{" + one() + "," + one("\\u0074") + "}",
    "unknown key twice": "{" + one(more=',"x":1,"\\u0078":2') + "}",
    "metadata key twice": '{"__metadata__":{"a":"","a":""},' + one() + "}",
    "NUL in a name": "{" + one("\\u0000") + "}",
    "NUL in metadata": '{"__metadata__":{"a":"\\u0000"},' + one() + "}",
    "entry as an array": '{"t":["U8",[1],[0,1]]}',
    "dtype as an object": '{"t":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}',
    "33 dimensions": "{" + one(shape="[" + ",".join("1" * 33) + "]") + "}",
    "dimension 2^63": "{" + one() + "," + one("z", "", "[0,9223372036854775808]", "[1,1]") + "}",
    "33 unknown keys": "{" + one(more="".join(f',"{i}":0' for i in range(33))) + "}",
}
KINDS = {"accepted": ACCEPTED, "refused": REFUSED, "stricter": STRICTER}
EDGES = [(kind, name, text) for kind, rows in KINDS.items() for name, text in rows.items()]


@pytest.mark.parametrize("kind, text", [(k, t) for k, _, t in EDGES], ids=[e[1] for e in EDGES])
def test_edges(kind, text, path):
    assert compare(image(text.encode(), b"x"), path) == kind


@pytest.mark.parametrize("name", BITS)
def test_every_dtype(name, path):
    for shape, n_bytes in (([8], BITS[name]), ([], BITS[name] // 8), ([3], BITS[name] * 3 // 8)):
        body = {"dtype": name, "shape": shape, "data_offsets": [0, n_bytes]}
        whole = BITS[name] % 8 == 0 or shape == [8]
        data = image(json.dumps({"t": body}).encode(), bytes(n_bytes))
        assert compare(data, path) == ("accepted" if whole else "refused")


@pytest.mark.parametrize("length", [0, 1, 2**31, 10**8, 10**8 + 1, 2**63, 2**64 - 8, 2**64 - 1])
def test_lengths(length, path):
    assert compare(struct.pack("<Q", length) + b"{}", path) == "refused"


@pytest.mark.parametrize("file", CORPUS, ids=[file.name for file in CORPUS])
def test_corpus(file, path):
    compare(file.read_bytes(), path)


# --- files made by chance ------------------------------------------------------------------------

NAMES = st.text(st.sampled_from('ab.\n"\\/\x7f\xe9\u20ac\U0001f600\0'), max_size=4)
NUMBERS = [0, 1, 2, 3, 4, 8, -1, 1.0, 1.5, True, None, "1", [], 2**32, 2**63 - 1, 2**63, 2**64, {}]


def spell(value: object, chance: random.Random) -> str:
    """JSON in one of its many spellings; a Pairs is an object."""
    space = chance.choice(["", "", "", " ", "\t\n"])
    if isinstance(value, Pairs):
        inside = [spell(k, chance) + space + ":" + spell(v, chance) for k, v in value]
        return "{" + (space + ",").join(inside) + space + "}"
    if isinstance(value, list):
        return "[" + ",".join(space + spell(v, chance) for v in value) + space + "]"
    if isinstance(value, str):
        return '"' + "".join(spell_character(c, chance) for c in value) + '"'
    return json.dumps(value) + space


def spell_character(c: str, chance: random.Random) -> str:
    escaped = json.dumps(c, ensure_ascii=chance.random() < 0.5)[1:-1]
    if chance.random() < 0.1:
        units = c.encode("utf-16-be")
        escaped = "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
    return escaped


@st.composite
def tensors(draw) -> tuple[Pairs, int]:
    """A header that obeys all rules, as Pairs, and how many bytes of data it needs."""
    header, end = Pairs(), 0
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        dtype = draw(st.sampled_from(sorted(BITS)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        n_bits = BITS[dtype]
        for n in shape:
            n_bits *= n
        if n_bits % 8:
            shape, n_bits = [*shape, 4], n_bits * 4
        body = [("dtype", dtype), ("shape", shape), ("data_offsets", [end, end + n_bits // 8])]
        more = draw(st.lists(st.tuples(NAMES, st.sampled_from(NUMBERS)), max_size=1))
        header.append((name, Pairs(draw(st.permutations(body + more)))))
        end += n_bits // 8
    if draw(st.booleans()):
        header.append(("__metadata__", Pairs(draw(st.dictionaries(NAMES, NAMES)).items())))
    return Pairs(draw(st.permutations(header))), end


def places(value: list, found: list | None = None) -> list[tuple[list, int]]:
    """Every (container, index) inside."""
    found = [] if found is None else found
    for i, item in enumerate(value):
        found.append((value, i))
        inside = item[1] if isinstance(value, Pairs) else item
        if isinstance(inside, list):
            places(inside, found)
    return found


def break_structure(header: Pairs, chance: random.Random) -> None:
    """Drops, doubles or changes one thing."""
    if not (found := places(header)):
        return
    where, i = chance.choice(found)
    how = chance.choice(["drop", "double", "number", "number", "step", "step", "swap"])
    item = where[i]
    if how == "drop":
        del where[i]
    elif how == "double":
        where.insert(i, item)
    elif how == "swap":
        other, k = chance.choice(found)
        if isinstance(other, Pairs) == isinstance(where, Pairs) and k < len(other):
            other[k] = copy.deepcopy(item)
    elif isinstance(where, Pairs):
        where[i] = (item[0], chance.choice(NUMBERS))
    elif how == "step" and isinstance(item, int):
        where[i] = item + chance.choice([-1, 1])
    else:
        where[i] = chance.choice(NUMBERS)


def break_text(text: bytes, chance: random.Random) -> bytes:
    """Cuts out, puts in or changes a byte or a word."""
    words = [b"", b",", b"\\", b'"', b"\0", b"\n", b"\xff", b"\xed\xa0\x80", b"1e400", b"{}"]
    words += [b"\\u0000", b"\\ud800", b"\\u0061"]
    start = chance.randint(0, len(text))
    end = min(len(text), start + chance.choice([0, 0, 1, 1, 2, 9]))
    return text[:start] + chance.choice(words) + text[end:]


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, database=None)
@given(
    built=tensors(),
    n_breaks=st.integers(0, 2),
    break_bytes=st.integers(0, 9),
    more_data=st.sampled_from([0, 0, 0, 0, -1, 1]),
    chance=st.integers(0, 2**32).map(random.Random),
)
def test_generated(path, built, n_breaks, break_bytes, more_data, chance):
    header, n_data = built
    for _ in range(n_breaks):
        break_structure(header, chance)
    text = spell(header, chance).encode("utf-8", "surrogatepass")
    if break_bytes == 0:
        text = break_text(text, chance)
    data = bytes(i % 251 for i in range(max(0, n_data + more_data)))
    kind = compare(image(text, data), path)
    if n_breaks == 0 and break_bytes and more_data == 0:
        assert kind != "refused"


@pytest.fixture(scope="module")
def mutate(tmp_path_factory):
    """The mutator of the fuzz target: mutate(data, seed) -> data."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the mutator is in C, and there is no compiler")
    library = tmp_path_factory.mktemp("mutator") / "fuzz.so"
    sources = [ROOT / "fuzz" / "fuzz_safetensors.c"]
    core = ROOT / "csrc"
    sources += [*core.glob("base/*.c"), *core.glob("io/*.c"), *core.glob("sys/*.c")]
    flags = ["-std=c11", "-O1", "-shared", "-fPIC"]
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    subprocess.run([compiler, *flags, "-o", library, *sources], check=True, env=env)
    function = ctypes.CDLL(library).LLVMFuzzerCustomMutator
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint]
    function.restype = ctypes.c_size_t

    def call(data: bytes, seed: int) -> bytes:
        buffer = ctypes.create_string_buffer(data, 4096)
        return buffer.raw[: function(buffer, len(data), len(buffer), seed)]

    return call


@pytest.mark.slow
def test_mutated(mutate, path):
    """Files that the fuzzer would try, each made from one that was tried before."""
    chance = random.Random(3)
    files = [image(text.encode(), b"x") for kind, _, text in EDGES if kind != "refused"]
    files += [file.read_bytes() for file in CORPUS]
    files = [data for data in files if len(data) < 2000]
    count = dict.fromkeys(KINDS, 0)
    for seed in range(8000):
        data = mutate(chance.choice(files), seed)
        kind = compare(data, path)
        count[kind] += 1
        if kind != "refused" or seed % 50 == 0:
            files.append(data)
    assert min(count.values()) >= 50, count
