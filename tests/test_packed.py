"""_core.Packed and packed weights in _core.Model: values by their formulas, and runs that have the bits of runs with
the same values in float32."""

import gc
import json
import struct
from pathlib import Path
from typing import Any

import gguf_files
import models
import numpy as np
import pytest

from llamaprobe import (
    ArgumentError,
    FileChangedError,
    FormatError,
    Model,
    UnsupportedError,
    _core,
    load,
)
from llamaprobe.families.core import core_arguments

DTYPES = {"|i1": "I8", "|u1": "F8_E4M3", "<i4": "I32", "<f2": "F16", "<f4": "F32"}


def stored(path: Path, tensors: dict[str, np.ndarray]) -> _core.Safetensors:
    """A safetensors file of arrays; bytes without a sign are FP8."""
    header, at = {}, 0
    for name, array in tensors.items():
        span = [at, at := at + array.nbytes]
        dtype = DTYPES[array.dtype.str]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return _core.Safetensors(path)


def q8_0(path: Path, d: np.ndarray, codes: np.ndarray) -> _core.Gguf:
    """A GGUF file with one tensor "w"; d [rows, blocks] float16, codes [rows, blocks * 32] int8."""
    rows, columns = codes.shape
    blocks = np.zeros((rows, columns // 32, 34), np.uint8)
    blocks[..., :2] = d.astype("<f2")[..., None].view(np.uint8)
    blocks[..., 2:] = codes.reshape(rows, -1, 32).view(np.uint8)
    entry = gguf_files.tensor("w", (columns, rows), 8)
    data = blocks.tobytes()
    path.write_bytes(gguf_files.image([], [entry], data + bytes(-len(data) % 32)))
    return _core.Gguf(path)


def words(codes: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Codes packed into int32 along an axis, the lowest bits first, zeros at its end."""
    per = 32 // bits
    codes = np.moveaxis(codes.astype(np.uint32), axis, -1)
    pad = -codes.shape[-1] % per
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, pad)])
    shifts = np.arange(per, dtype=np.uint32) * np.uint32(bits)
    packed = np.bitwise_or.reduce(codes.reshape(*codes.shape[:-1], -1, per) << shifts, axis=-1)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def e4m3(codes: np.ndarray) -> np.ndarray:
    """Sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity, one NaN of each sign."""
    exponent, mantissa = codes >> 3 & 15, codes & 7
    fraction = np.where(exponent > 0, 8 + mantissa, mantissa).astype(np.float32)
    value = np.ldexp(fraction, np.maximum(exponent, 1).astype(np.int32) - 10)
    value = np.where(codes & 127 == 127, np.float32(np.nan), value)
    return np.where(codes & 128, -value, value)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(26)


# ---- values ----


def test_int8_is_code_minus_zero_times_scale(tmp_path: Path, rng: np.random.Generator):
    q = rng.integers(-128, 128, (24, 70), np.int8)
    s, z = rng.random((24, 1), np.float32), rng.integers(-8, 8, (24, 1), np.int8)
    file = stored(tmp_path / "a.safetensors", {"q": q, "s": s, "z": z})
    parts = {"codes": (file, "q"), "scales": (file, "s"), "zeros": (file, "z")}
    packed = _core.Packed("int8", (24, 70), parts, scale_rows=1)
    want = (q.astype(np.float32) - z) * s
    assert packed.kind == "int8" and packed.shape == (24, 70)
    assert packed.n_bytes == 24 * 70 + 24 * 4 + 24
    np.testing.assert_array_equal(packed.read(), want)
    np.testing.assert_array_equal(packed.read(5, 3), want[5:8])
    assert packed.read(24).shape == packed.read(3, 0).shape == (0, 70)


def test_fp8_has_a_scale_for_each_block(tmp_path: Path, rng: np.random.Generator):
    q, s = rng.integers(0, 256, (130, 300), np.uint8), rng.random((2, 3), np.float32)
    file = stored(tmp_path / "a.safetensors", {"q": q, "s": s})
    parts = {"codes": (file, "q"), "scales": (file, "s")}
    packed = _core.Packed("fp8", (130, 300), parts, scale_rows=128, scale_cols=128)
    scales = np.repeat(np.repeat(s, 128, 0), 128, 1)[:130, :300]
    want = e4m3(q) * scales
    np.testing.assert_array_equal(packed.read(), want)
    assert np.isnan(want).any(), "0x7f and 0xff are NaN"


@pytest.mark.parametrize("bits", [4, 8])
def test_int_packs_codes_along_rows_and_zeros_along_columns(tmp_path, rng, bits: int):
    q, z = rng.integers(0, 1 << bits, (24, 72)), rng.integers(0, 1 << bits, (24, 5))
    s = rng.random((24, 5)).astype(np.float16)
    tensors = {"q": words(q, bits, 1), "z": words(z, bits, 0), "s": s}
    file = stored(tmp_path / "a.safetensors", tensors)
    parts = {"codes": (file, "q"), "scales": (file, "s")}
    options = {"bits": bits, "scale_rows": 1, "scale_cols": 16}
    scales = np.repeat(s.astype(np.float32), 16, 1)[:, :72]
    packed = _core.Packed("int", (24, 72), parts | {"zeros": (file, "z")}, **options)
    np.testing.assert_array_equal(packed.read(), (q - np.repeat(z, 16, 1)[:, :72]) * scales)
    symmetric = _core.Packed("int", (24, 72), parts, **options)
    np.testing.assert_array_equal(symmetric.read(), (q - (1 << bits - 1)) * scales)


@pytest.mark.parametrize("less_one", [False, True])
def test_gptq_has_its_columns_in_any_order(tmp_path, rng, less_one: bool):
    q, z = rng.integers(0, 16, (64, 16)), rng.integers(0, 16, (4, 16))
    s, groups = rng.random((4, 16)).astype(np.float16), rng.integers(0, 4, 64).astype(np.int32)
    stored_zeros = (z - less_one) % 16
    tensors = {"q": words(q, 4, 0), "z": words(stored_zeros, 4, 1), "s": s, "g": groups}
    file = stored(tmp_path / "a.safetensors", tensors)
    parts = {"codes": (file, "q"), "zeros": (file, "z"), "scales": (file, "s")}
    parts["group_of"] = (file, "g")
    options: Any = {"bits": 4, "scale_rows": 1, "scale_cols": 16, "zero_is_less_one": less_one}
    packed = _core.Packed("gptq", (16, 64), parts, **options)
    want = (q - z[groups]) * s[groups].astype(np.float32)
    np.testing.assert_array_equal(packed.read(), want.T)


def test_awq_interleaves_eight_columns(tmp_path: Path, rng: np.random.Generator):
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    q, z = rng.integers(0, 16, (64, 16)), rng.integers(0, 16, (2, 16))
    s = rng.random((2, 16)).astype(np.float16)

    def interleaved(codes: np.ndarray) -> np.ndarray:
        return words(codes.reshape(len(codes), -1, 8)[..., order].reshape(codes.shape), 4, 1)

    tensors = {"q": interleaved(q), "z": interleaved(z), "s": s}
    file = stored(tmp_path / "a.safetensors", tensors)
    parts = {"codes": (file, "q"), "zeros": (file, "z"), "scales": (file, "s")}
    packed = _core.Packed("awq", (16, 64), parts, scale_rows=1, scale_cols=32)
    want = (q - np.repeat(z, 32, 0)) * np.repeat(s, 32, 0).astype(np.float32)
    np.testing.assert_array_equal(packed.read(), want.T)


def test_blocks_of_gguf_may_be_turned_and_rounded(tmp_path: Path, rng: np.random.Generator):
    d = rng.random((32, 2)).astype(np.float16)
    q = rng.integers(-127, 128, (32, 64), np.int8)
    file = q8_0(tmp_path / "a.gguf", d, q)
    stored_rows = q * np.repeat(d.astype(np.float32), 32, 1)
    parts = {"codes": (file, "w")}
    np.testing.assert_array_equal(_core.Packed("q8_0", (32, 64), parts).read(), stored_rows)
    turned = stored_rows.reshape(2, 8, 2, 64).swapaxes(1, 2).reshape(32, 64)
    packed = _core.Packed("q8_0", (32, 64), parts, turned=16, as_bf16=True)
    want = models.from_bits(models.to_bits(turned, "BF16"), "BF16").reshape(32, 64)
    np.testing.assert_array_equal(packed.read(), want)
    assert (want != turned).any()


def test_large_weights_are_read_by_all_cores(tmp_path: Path, rng: np.random.Generator):
    q, s = rng.integers(-128, 128, (1300, 1000), np.int8), rng.random((1300, 1), np.float32)
    file = stored(tmp_path / "a.safetensors", {"q": q, "s": s})
    parts = {"codes": (file, "q"), "scales": (file, "s")}
    packed = _core.Packed("int8", (1300, 1000), parts, scale_rows=1)
    np.testing.assert_array_equal(packed.read(), q * s)


# ---- what is refused ----


@pytest.fixture
def int8_file(tmp_path: Path) -> _core.Safetensors:
    tensors = {"q": np.ones((8, 64), np.int8), "s": np.ones((8, 1), np.float32)}
    tensors |= {"i": np.ones((8, 8), np.int32), "g": np.full(64, 9, np.int32)}
    return stored(tmp_path / "a.safetensors", tensors)


@pytest.mark.parametrize(
    ("kind", "shape", "parts", "options", "error", "words_of_message"),
    [
        ("q9", (8, 64), {}, {}, ArgumentError, 'no kind of packed weight "q9"'),
        ("int8", (8, 64), {"codes": "q"}, {}, ArgumentError, "needs scales"),
        ("int8", (8, 64), {"code": "q"}, {}, ArgumentError, 'no part "code"; the parts are codes'),
        ("int8", (8, 64), {"codes": "x", "scales": "s"}, {}, FormatError, 'no tensor "x"'),
        ("int8", (9, 64), {"codes": "q", "scales": "s"}, {}, FormatError, r"\[8, 64\].*\[9, 64\]"),
        ("int8", (8, 64), {"codes": "s", "scales": "s"}, {}, FormatError, "dtype F32; the codes"),
        ("int8", (8, 64), {"codes": "q", "scales": "s"}, {}, FormatError, r"\[8, 1\].*\[1, 1\]"),
        ("q8_0", (8, 64), {"codes": "q"}, {}, FormatError, "dtype I8; the codes of q8_0 are Q8_0"),
        ("q8_0", (8, 65), {"codes": "q"}, {}, ArgumentError, "blocks of 32 columns, not 65"),
        ("int8", (0, 64), {"codes": "q"}, {}, ArgumentError, r"\[0, 64\]"),
        ("int8", (-1, 64), {"codes": "q"}, {}, ArgumentError, r"\[-1, 64\]"),
        ("int8", (2**62, 2**62), {"codes": "q"}, {}, ArgumentError, "cannot have the shape"),
        ("int", (8, 64), {"codes": "i", "scales": "s"}, {"bits": 3}, ArgumentError, "3 bits"),
        ("int8", (8, 64), {"codes": "q"}, {"turned": 4}, ArgumentError, "heads of 4"),
        ("int8", (8, 64), {"codes": "q"}, {"bits": 2**40}, ArgumentError, "bits"),
        (
            *("int", (8, 64), {"codes": "i", "scales": "s", "group_of": "g"}),
            *({"bits": 4, "scale_rows": 1}, FormatError, "column 0 into group 9; there are 1 groups"),
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    int8_file: _core.Safetensors,
    kind: str,
    shape: tuple[int, int],
    parts: dict[str, str],
    options: dict[str, int],
    error: type[Exception],
    words_of_message: str,
):
    placed: Any = {role: (int8_file, name) for role, name in parts.items()}
    with pytest.raises(error, match=words_of_message):
        _core.Packed(kind, shape, placed, **options)


def test_what_is_not_a_place_is_refused(int8_file: _core.Safetensors):
    for place in (None, "q", (int8_file,), (int8_file, 1), ("q", int8_file)):
        with pytest.raises((TypeError, ArgumentError)):
            _core.Packed("int8", (8, 64), {"codes": place})  # type: ignore[dict-item]
    with pytest.raises(ArgumentError, match="a file must be a Safetensors or Gguf"):
        _core.Packed("int8", (8, 64), {"codes": (int8_file.path, "q")})  # type: ignore[dict-item]


def test_rows_out_of_range_are_refused(tmp_path: Path):
    file = stored(
        tmp_path / "b.safetensors", {"q": np.ones((8, 64), np.int8), "s": np.ones((1,), "f4")}
    )
    packed = _core.Packed("int8", (8, 64), {"codes": (file, "q"), "scales": (file, "s")})
    for rows in ((-1,), (9,), (0, 9), (8, 1), (0, -1), (2**62, 2**62), (-(2**63),), (1, 2**63 - 1)):
        with pytest.raises(ArgumentError, match="of a weight of 8"):
            packed.read(*rows)
    assert packed.read().sum() == 8 * 64
    Path(file.path).write_bytes(b"")
    with pytest.raises(FileChangedError):
        packed.read()


# ---- models ----


def as_int8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = (np.abs(values).max(1, keepdims=True) / 127).astype(np.float32)
    return np.rint(values / s).astype(np.int8), s


def packed_checkpoint(folder: Path, **config: Any) -> tuple[dict[str, Any], Path]:
    """A folder whose matrices are int8 with scales beside them, in model.safetensors; and what a model takes."""
    keys = models.make_config(hidden_size=64, intermediate_size=160, **config)
    weights = models.make_weights(keys, dtype="F32")
    tensors: dict[str, np.ndarray] = {}
    values = dict(weights)
    for name, w in weights.items():
        tensors[name] = w.astype("<f4")
        if w.ndim == 2:
            tensors[name], tensors[name + "_scale"] = q, s = as_int8(w)
            values[name] = q * s
    models.write_checkpoint(folder / "plain", keys, values, "F32")
    stored(folder / "packed.safetensors", tensors)
    return core_arguments(load(folder / "plain").config), folder / "packed.safetensors"


def packed_weights(file: _core.Safetensors) -> dict[str, _core.Packed]:
    shapes = {name: shape for name, _, shape, _, _ in file.tensors()}
    return {
        name: _core.Packed(
            "int8", shape, {"codes": (file, name), "scales": (file, name + "_scale")}, scale_rows=1
        )
        for name, shape in shapes.items()
        if name + "_scale" in shapes
    }


def run_all(core: _core.Model, n_tokens: int, layers: int, n_threads: int = 1) -> list[np.ndarray]:
    ids = np.arange(n_tokens, dtype=np.int32) * 7 % 97
    points = [(p.number, range(layers) if p.per_layer else (0,)) for p in Model.points()]
    return core.run(ids, [0, n_tokens], points, n_threads=n_threads)


@pytest.mark.parametrize("tied", [False, True])
def test_runs_have_the_bits_of_the_same_values_in_float32(tmp_path: Path, tied: bool):
    arguments, path = packed_checkpoint(
        tmp_path, tie_word_embeddings=tied, attention_bias=True, mlp_bias=True
    )
    file = _core.Safetensors(path)
    packed = _core.Model([file], tensors=packed_weights(file), **arguments)
    plain = _core.Model([_core.Safetensors(tmp_path / "plain" / "model.safetensors")], **arguments)
    del file
    gc.collect()
    for n_tokens in (1, 3, 20, 70):
        for n_threads in (1, 2):
            found = run_all(packed, n_tokens, 3, n_threads)
            for a, b in zip(found, run_all(plain, n_tokens, 3), strict=True):
                assert a.tobytes() == b.tobytes()
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    for ids in (None, np.array([5, 96, 0, 5], np.int32)):
        assert (
            packed.head(x, ids, n_threads=2).tobytes() == plain.head(x, ids, n_threads=1).tobytes()
        )


def test_flushing_denormals_changes_no_row_of_the_head(tmp_path: Path):
    """torch, for one, sets it for the calling thread."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    arguments, path = packed_checkpoint(tmp_path)
    name, file = "lm_head.weight", _core.Safetensors(path)
    scales = stored(tmp_path / "scales.safetensors", {"s": np.full((97, 1), 1e-38, "f4")})
    parts = {"codes": (file, name), "scales": (scales, "s")}
    head = _core.Packed("int8", (97, 64), parts, scale_rows=1)
    weights = {**packed_weights(file), name: head}
    core = _core.Model([file, scales], tensors=weights, **arguments)
    x, ids = np.ones((3, 64), np.float32), np.array([5, 96], np.int32)
    expected = core.head(x, ids, n_threads=2)
    if not torch.set_flush_denormal(True):
        pytest.skip("torch cannot set it here")
    try:
        found = core.head(x, ids, n_threads=2)
    finally:
        torch.set_flush_denormal(False)
    assert expected.all() and found.tobytes() == expected.tobytes()


def test_a_profile_counts_the_bytes_of_the_file(tmp_path: Path):
    arguments, path = packed_checkpoint(tmp_path)
    file = _core.Safetensors(path)
    weights = packed_weights(file)
    core = _core.Model([file], tensors=weights, **arguments)
    (logits,) = (i for i, row in enumerate(_core.points()) if row[0] == "logits")
    steps, *_ = core.plan(np.array([1, 2], np.int32), [0, 2], [(logits, (0,))], n_threads=1)
    by_values = sum(step[3] for step in steps)
    matrices = sum(w.n_bytes for name, w in weights.items() if "embed" not in name)
    norms, rows = 7 * 64 * 4, 2 * 68
    assert by_values == matrices + norms + rows


def test_names_stand_for_tensors_of_other_names(tmp_path: Path):
    arguments, path = packed_checkpoint(tmp_path)
    file = _core.Safetensors(path)
    weights: Any = packed_weights(file)
    other = stored(tmp_path / "other.safetensors", {"gain": np.full(64, 0.5, np.float32)})
    name = "model.norm.weight"
    with pytest.raises(ArgumentError, match=f'"{name}" lies in .*other.safetensors, which is not'):
        _core.Model([file], tensors=weights | {name: (other, "gain")}, **arguments)
    with pytest.raises(FormatError, match=f"{name} is missing"):
        _core.Model([file, other], tensors=weights | {name: (other, "gone")}, **arguments)
    with pytest.raises(UnsupportedError, match="has dtype I8"):
        _core.Model([file], **arguments)
    core = _core.Model([file, other], tensors=weights | {name: (other, "gain")}, **arguments)
    numbers = {row[0]: i for i, row in enumerate(_core.points())}
    points = [(numbers["final_unit"], (0,)), (numbers["final_norm"], (0,))]
    unit, norm = core.run(np.array([1], np.int32), [0, 1], points, n_threads=1)
    np.testing.assert_array_equal(norm, unit / 2)
    with pytest.raises(TypeError):
        _core.Model([file], tensors=[("a", "b")], **arguments)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ArgumentError)):
        _core.Model([file], tensors={name: 1}, **arguments)  # type: ignore[dict-item]


def test_a_vector_is_not_packed(tmp_path: Path):
    arguments, path = packed_checkpoint(tmp_path)
    file = _core.Safetensors(path)
    weights = packed_weights(file)
    row = stored(tmp_path / "row.safetensors", {"w": np.ones((1, 64), np.float32)})
    gain = _core.Packed("f32", (1, 64), {"codes": (row, "w")})
    with pytest.raises((FormatError, UnsupportedError), match="model.norm.weight"):
        _core.Model([file, row], tensors=weights | {"model.norm.weight": gain}, **arguments)


def test_a_model_notices_that_a_file_of_scales_changed(tmp_path: Path):
    arguments, path = packed_checkpoint(tmp_path)
    file = _core.Safetensors(path)
    name = "lm_head.weight"
    scales = stored(tmp_path / "scales.safetensors", {"s": file.read(name + "_scale")})
    moved = _core.Packed(
        "int8", (97, 64), {"codes": (file, name), "scales": (scales, "s")}, scale_rows=1
    )
    tensors = packed_weights(file) | {name: moved}
    with pytest.raises(ArgumentError, match="not among the files"):
        _core.Model([file], tensors=tensors, **arguments)
    core = _core.Model([file, scales], tensors=tensors, **arguments)
    run_all(core, 2, 3)
    with Path(scales.path).open("ab") as out:
        out.write(b"x")
    with pytest.raises(FileChangedError, match="scales.safetensors"):
        run_all(core, 2, 3)
