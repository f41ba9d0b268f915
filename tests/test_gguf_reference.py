"""GGUF files that gguf-py wrote and reads: the core reads the same, and mutated ones never end the process."""

import random
from pathlib import Path

import gguf_files as g
import numpy as np
import pytest

from llamaprobe import FormatError, UnsupportedError, _core

gguf = pytest.importorskip("gguf")
Types = gguf.GGMLQuantizationType
PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "I32": np.int32}


def write_file(path: Path, seed: int) -> None:
    """Keys of all types and tensors of all that files hold, as a converter writes them."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    if seed % 3:
        writer.add_custom_alignment(8 << seed)
    writer.add_uint8("u8", 255), writer.add_int8("i8", -5), writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -3), writer.add_uint32("u32", 2**32 - 1), writer.add_int32("i32", -9)
    writer.add_float32("f32", float(rng.standard_normal())), writer.add_bool("bool", True)
    writer.add_uint64("u64", 2**64 - 1), writer.add_int64("i64", -(2**63))
    writer.add_float64("f64", float(rng.standard_normal())), writer.add_string("s", "\u20ac" * 99)
    writer.add_token_list([f"token {i} \N{LATIN SMALL LETTER E WITH ACUTE}" for i in range(300)])
    writer.add_token_scores([float(x) for x in rng.standard_normal(300)])
    writer.add_token_types([1] * 300)
    writer.add_array("bools", [True, False])
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name in ("Q8_1", "Q8_K"):  # never in a file
            continue
        rows = int(rng.integers(1, 5))
        if kind.name in PLAIN:
            values = rng.integers(-9, 9, (rows, 3)).astype(PLAIN[kind.name])
            writer.add_tensor(f"blk.{int(kind)}.weight", values)
        else:
            n_blocks = int(rng.integers(1, 4))
            raw = rng.integers(0, 256, (rows, n_blocks * size), dtype=np.uint8)
            writer.add_tensor(f"blk.{int(kind)}.weight", raw, raw_dtype=kind)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


def shortest(value: float) -> float:
    return float(str(np.float32(value)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mmap", [True, False])
def test_files_of_gguf_read_back_equal(seed, mmap, tmp_path):
    path = tmp_path / "m.gguf"
    write_file(path, seed)
    ours, theirs = _core.Gguf(path, mmap=mmap), gguf.GGUFReader(path)
    assert ours.alignment == theirs.alignment and ours.version == 3
    names = {name: row for name, *row in ours.tensors()}
    assert len(names) == len(theirs.tensors) > 28
    for tensor in theirs.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        expected = [tensor.tensor_type.name, shape, tensor.data_offset, tensor.n_bytes]
        assert names[tensor.name] == expected
        assert ours.raw(tensor.name).tobytes() == tensor.data.tobytes()
    values = ours.metadata()
    assert len(ours.keys()) == len(theirs.fields) - 3  # GGUF.version and two counts are fields
    for key, kind, n_items in ours.keys():
        value = values[key] if n_items is None else ours.array(key)
        expected = theirs.fields[key].contents()
        if kind == "f32":
            expected = shortest(expected) if n_items is None else list(map(shortest, expected))
        assert value == expected and (n_items is None or len(value) == n_items)


def use(path: Path) -> None:
    file = _core.Gguf(path)
    for name, kind, *_ in file.tensors():
        file.raw(name).sum()
        if kind in ("F32", "F16", "BF16"):
            file.read(name)
    file.metadata()
    for key, _, n_items in file.keys():
        if n_items is not None:
            file.array(key)


def mutate(data: bytearray, rng: random.Random) -> None:
    """One to three bytes, or a number of eight, of the header mostly."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) if rng.random() < 0.1 else len(data) // 2)
        if rng.random() < 0.5:
            data[at] = rng.choice((0, 1, 2, 9, 12, 0x7F, 0x80, 0xFF, data[at] ^ 1 << rng.randrange(8)))
        else:
            number = rng.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1))
            data[at : at + 8] = number.to_bytes(8, "little")
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]


@pytest.mark.parametrize("n", [400, pytest.param(20000, marks=pytest.mark.slow)])
def test_mutated_files_open_or_are_refused(n, tmp_path):
    path = tmp_path / "m.gguf"
    write_file(path, 0)
    whole = [path.read_bytes(), g.WHOLE]
    rng = random.Random(n)
    outcomes = {"opened": 0, "refused": 0}
    for i in range(n):
        data = bytearray(whole[i % 2])
        mutate(data, rng)
        path.write_bytes(data)
        try:
            use(path)
            outcomes["opened"] += 1
        except (FormatError, UnsupportedError) as e:
            assert str(path) in str(e) and str(e).isprintable()
            outcomes["refused"] += 1
    assert min(outcomes.values()) > n // 50, outcomes
