"""The NumPy layouts against the definitions of others: gguf-py bit for bit on random bytes, torch's 8-bit floats, words
written out by hand."""

import hashlib

import numpy as np
import pytest
import quantise
from quantised_checkpoints import e4m3

from llamaprobe.checkpoint import layouts
from llamaprobe.checkpoint.layouts import BLOCKS, FLOATS, Part, Stored

ROWS, BLOCKS_IN_ROW = 16, 16
RECORDED = {
    "f32": "033d3d6018555841",
    "f16": "35de60b45f205520",
    "bf16": "2e31440e19637087",
    "q8_0": "030a0e0e590f8512",
    "q4_0": "cd5bf65188778a5b",
    "q4_1": "f00e7d46468bd13c",
    "q5_0": "3fc032fc172cbdf9",
    "q5_1": "916ddf5ef568813f",
    "q2_k": "ffbdd87ea9534f4e",
    "q3_k": "362b1cdb331e4890",
    "q4_k": "8d7f3db4915f4dae",
    "q5_k": "0233b9ee24654399",
    "q6_k": "8a0068a8b5da837c",
    "iq4_nl": "b16badc46062ebd8",
    "iq4_xs": "e6da38ffdc1bf5af",
}


def bits(values):
    """float32 as words, with one word for every NaN."""
    values = np.atleast_1d(np.asarray(values, np.float32))
    words = np.ascontiguousarray(values).view(np.uint32).copy()
    words[np.isnan(values)] = 0x7FC00000
    return words


def digest(values):
    return hashlib.sha256(bits(values).astype("<u4").tobytes()).hexdigest()[:16]


def row_of(kind):
    """(numbers, bytes) of a row of BLOCKS_IN_ROW blocks."""
    if kind in FLOATS:
        return 256, 256 * (4 if kind == "f32" else 2)
    return BLOCKS_IN_ROW * BLOCKS[kind].size, BLOCKS_IN_ROW * BLOCKS[kind].dtype.itemsize


def random_blocks(kind, seed=0):
    """Any bytes at all: scales that are infinite or NaN too."""
    n_cols, n_bytes = row_of(kind)
    data = hashlib.shake_256(f"{kind} {seed}".encode()).digest(ROWS * n_bytes)
    data = np.frombuffer(data, np.uint8).reshape(ROWS, n_bytes)
    return Stored(kind, (ROWS, n_cols), {"codes": Part(kind.upper(), data)})


@pytest.mark.parametrize("kind", [*FLOATS, *BLOCKS])
def test_blocks_are_those_of_gguf_py(kind):
    quants = pytest.importorskip("gguf.quants")
    gguf = pytest.importorskip("gguf")
    stored = random_blocks(kind)
    kinds = {each.name.lower(): each for each in gguf.GGMLQuantizationType}
    with np.errstate(all="ignore"):
        expected = quants.dequantize(stored.parts["codes"].words, kinds[kind])
    assert expected.shape == stored.shape and np.isfinite(expected).mean() > 0.8
    assert np.array_equal(bits(stored.values()), bits(expected))
    assert np.array_equal(bits(stored.values(np.float64)), bits(expected))
    assert digest(expected) == RECORDED[kind]


@pytest.mark.parametrize("kind", BLOCKS)
def test_codes_do_not_depend_on_the_bands_they_are_unpacked_in(kind, monkeypatch):
    stored = random_blocks(kind)
    whole = stored.codes()
    monkeypatch.setattr(layouts, "_BAND", 3 * stored.shape[1])
    assert np.array_equal(stored.codes(), whole)


@pytest.mark.parametrize("kind", BLOCKS)
def test_values_follow_from_codes_and_tables(kind):
    """The formula of docs/quantised.md with the arrays as they are."""
    stored = random_blocks(kind, 1)
    tables, codes = stored.tables(), stored.codes()
    assert codes.shape == stored.shape and codes.dtype == (np.int8 if kind == "q8_0" else np.uint8)
    n_bits = sum(plane.width for plane in BLOCKS[kind].planes)
    assert n_bits == 8 or set(np.unique(codes)) == set(range(1 << n_bits))
    level = codes.astype(np.float32) if stored.levels is None else stored.levels[codes]
    with np.errstate(all="ignore"):
        value = level - np.float32(0 if tables.zeros is None else tables.zeros[0, 0])
        value = value * np.repeat(tables.scales, stored.group, axis=1)
        if tables.offsets is not None:
            value = value + np.repeat(tables.offsets, stored.group, axis=1)
    assert np.array_equal(bits(value), bits(stored.values()))
    if tables.fields:
        per_block = BLOCKS[kind].size // stored.group
        with np.errstate(all="ignore"):
            scales = np.repeat(tables.fields["d"], per_block, axis=1) * tables.fields["s"]
        assert np.array_equal(bits(scales), bits(tables.scales))


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_maker_of_tests_comes_near(kind):
    values = np.random.default_rng(2).normal(0, 0.05, (8, 512)).astype(np.float32)
    data = quantise.blocks(kind, values)
    back = Stored(kind, values.shape, {"codes": Part(kind.upper(), data)}).values()
    limit = {"q2_k": 0.4, "q3_k": 0.2, "iq4_xs": 0.15}.get(kind, 0.12)
    assert np.linalg.norm(back - values) < limit * np.linalg.norm(values)


@pytest.mark.parametrize("kind", [*FLOATS, *BLOCKS])
def test_blocks_are_those_that_gguf_py_gave(kind):
    """gguf 0.19: of its values for the same bytes, sha256 of their words."""
    assert digest(random_blocks(kind).values()) == RECORDED[kind]


def test_fp8_levels():
    assert np.array_equal(bits(layouts.fp8_levels()), bits(e4m3()))


def test_fp8_levels_are_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    expected = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(layouts.fp8_levels(), expected, equal_nan=True)


def test_fp8_levels_are_those_of_torch():
    torch = pytest.importorskip("torch")
    words = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert np.array_equal(bits(layouts.fp8_levels()), bits(words.float().numpy()))


def test_bf16_rounds_as_torch_does():
    torch = pytest.importorskip("torch")
    words = np.random.default_rng(3).integers(0, 1 << 32, 1 << 20, np.uint32)
    words[: 1 << 16] = np.arange(1 << 16, dtype=np.uint32) << 16 | 0x8000  # every tie
    values = words.view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(bits(layouts.to_bf16(values)), bits(expected))


# ---- words written out by hand ----


def one_word(kind, word, shape, bits_=0, **more):
    parts = {"codes": Part("I32", np.array([[word]], np.uint32).view(np.int32))}
    parts |= {role: Part(*part) for role, part in more.pop("parts", {}).items()}
    return Stored(kind, shape, parts, bits=bits_, **more)


def test_the_order_of_bit_fields():
    counted = list(range(8))
    assert one_word("int", 0x76543210, (1, 8), 4).codes().tolist() == [counted]
    assert one_word("int", 0x76543210, (1, 5), 4).codes().tolist() == [counted[:5]]
    assert one_word("int", 0x03020100, (1, 4), 8).codes().tolist() == [counted[:4]]
    assert one_word("gptq", 0x76543210, (1, 8), 4).codes().tolist() == [counted]
    assert one_word("gptq", 0xF3020100, (1, 4), 8).codes().tolist() == [[0, 1, 2, 0xF3]]
    awq = one_word("awq", 0x76543210, (8, 1)).codes()
    assert awq.tolist() == [[0], [4], [1], [5], [2], [6], [3], [7]]


def test_zeros_of_gptq():
    """Version 1 stores the zero less one, of which 0 wraps to 15."""
    half = np.full((1, 8), 0x3800, np.uint16)  # 0.5
    parts = {
        "scales": ("F16", half),
        "zeros": ("I32", np.array([[0xFEDC7210 - (1 << 32)]], np.int64).astype(np.int32)),
    }
    codes = np.full((1, 8), 0x99999999, np.uint32).view(np.int32)  # 9 in every row
    stored = {"codes": Part("I32", codes)} | {role: Part(*part) for role, part in parts.items()}
    of_file = [0, 1, 2, 7, 12, 13, 14, 15]
    v2 = Stored("gptq", (8, 8), stored, bits=4)
    assert v2.tables().zeros.T.tolist() == [of_file]
    assert v2.values()[:, 0].tolist() == [(9 - z) / 2 for z in of_file]
    v1 = Stored("gptq", (8, 8), stored, bits=4, zero_is_less_one=True)
    assert v1.tables().zeros.T.tolist() == [[1, 2, 3, 8, 13, 14, 15, 0]]
    assert v1.values()[:, 3].tolist() == [(9 - z) / 2 for z in (1, 2, 3, 8, 13, 14, 15, 0)]


def made(tensors, kind, shape, bits_=4, **options):
    """A matrix of quantise.gptq, awq or packed_int."""
    roles = {
        **{"qweight": "codes", "qzeros": "zeros", "g_idx": "group_of", "weight_packed": "codes"},
        **{"weight_scale": "scales", "weight_zero_point": "zeros"},
    }
    dtypes = {"int32": "I32", "float16": "F16"}
    parts = {roles.get(n, n): Part(dtypes[t.dtype.name], t) for n, t in tensors.items()}
    return Stored(kind, shape, parts, bits=bits_, scale_rows=1, **options)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits_", [4, 8])
def test_packed_integers(symmetric, bits_):
    """codes_of knows neither words nor orders: each format gives its product back."""
    values = np.random.default_rng(4).normal(0, 1, (24, 72)).astype(np.float32)
    codes, scales, zeros = quantise.codes_of(values, bits_, 32, symmetric)
    expected = np.repeat(scales.astype(np.float32), 32, axis=1)[:, :72] * (
        codes.astype(np.float32) - np.repeat(zeros, 32, axis=1)[:, :72]
    )
    found = [
        made(
            quantise.packed_int(values, bits_, 32, symmetric), "int", (24, 72), bits_, scale_cols=32
        )
    ]
    for v1 in (True, False):
        tensors = quantise.gptq(values, bits_, 32, symmetric, v1)
        found.append(made(tensors, "gptq", (24, 72), bits_, scale_cols=32, zero_is_less_one=v1))
    if bits_ == 4:
        found.append(made(quantise.awq(values, 32, symmetric), "awq", (24, 72), scale_cols=32))
    for stored in found:
        assert np.array_equal(stored.codes(), codes), stored.kind
        assert np.array_equal(bits(stored.values()), bits(expected)), stored.kind
        parts = [stored.of_rows(a, b) for a, b in ((0, 8), (8, 24))]
        assert np.array_equal(np.concatenate([part.values() for part in parts]), stored.values())


def test_act_order():
    """Columns of GPTQ belong to the groups that g_idx says."""
    values = np.random.default_rng(5).normal(0, 1, (8, 64)).astype(np.float32)
    tensors = quantise.gptq(values)
    order = np.random.default_rng(6).permutation(64)
    plain = made(tensors, "gptq", (8, 64), scale_cols=32, zero_is_less_one=True)
    codes = quantise.words_of(plain.codes()[:, order], 4).T.copy()
    tensors |= {"qweight": codes, "g_idx": tensors["g_idx"][order]}
    stored = made(tensors, "gptq", (8, 64), scale_cols=32, zero_is_less_one=True)
    assert np.array_equal(stored.values(), plain.values()[:, order])
    assert stored.group_of.tolist() == (order // 32).tolist()


@pytest.mark.parametrize("kind", ["fp8", "int8"])
@pytest.mark.parametrize("rows, cols", [(0, 0), (1, 0), (4, 16), (1, 8)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_tables_of_scales(kind, rows, cols, dtype):
    rng = np.random.default_rng(7)
    words = rng.integers(0, 256, (10, 40), np.uint8)
    shape = (-(-10 // (rows or 10)), -(-40 // (cols or 40)))
    scales = layouts.to_bf16(rng.normal(0, 1, shape).astype(np.float32))
    if dtype == "F16":
        scales = scales.astype(np.float16).astype(np.float32)
    stored_scales = {
        "F32": scales,
        "BF16": (scales.view(np.uint32) >> 16).astype(np.uint16),
        "F16": scales.astype(np.float16),
    }[dtype]
    zeros = rng.integers(-5, 5, shape, np.int8) if kind == "int8" else None
    parts = {"codes": Part("I8" if kind == "int8" else "F8_E4M3", words)}
    parts["scales"] = Part(dtype, stored_scales)
    if zeros is not None:
        parts["zeros"] = Part("I8", zeros.view(np.uint8))
    stored = Stored(kind, (10, 40), parts, scale_rows=rows, scale_cols=cols)
    found, levels = stored.values(), layouts.fp8_levels()
    for o in range(10):
        for i in range(40):
            at = o // (rows or 10), i // (cols or 40)
            if zeros is None:
                level = levels[words[o, i]]
            else:
                level = np.float32(words.view(np.int8)[o, i]) - zeros[at]
            assert bits(found[o, i]) == bits(level * scales[at])
    step = stored.row_step
    cut = [stored.of_rows(a, a + step).values() for a in range(0, 10, step)]
    assert np.array_equal(np.concatenate(cut), found, equal_nan=True)


@pytest.mark.parametrize("kind", ["q4_k", "q8_0", "f16"])
def test_rows_that_lie_in_another_order(kind):
    """GGUF's q and k of a Llama: pairs that RoPE turns lie side by side."""
    values = np.random.default_rng(8).normal(0, 1, (16, 256)).astype(np.float32)
    head_dim = 8
    order = [
        h * head_dim + j + s * head_dim // 2 for h in range(2) for j in range(4) for s in range(2)
    ]
    plain, turned = (
        Stored(
            kind,
            values.shape,
            {"codes": Part(kind.upper(), quantise.blocks(kind, rows))},
            turned=turn,
        )
        for rows, turn in ((values, 0), (values[order], head_dim))
    )
    assert np.array_equal(turned.values(), plain.values())
    if kind != "f16":
        assert np.array_equal(turned.codes(), plain.codes())
        assert np.array_equal(turned.tables().scales, plain.tables().scales)
    cut = [turned.of_rows(a, a + 4).values() for a in range(0, 16, 4)]
    assert np.array_equal(np.concatenate(cut), plain.values())


def test_rounding_to_bf16_comes_last():
    stored = random_blocks("q4_k", 9)
    rounded = Stored("q4_k", stored.shape, stored.parts, as_bf16=True)
    assert np.array_equal(bits(rounded.values()), bits(layouts.to_bf16(stored.values())))
    assert not np.array_equal(bits(rounded.values()), bits(stored.values()))
