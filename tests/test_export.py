"""Weights as files: any safetensors file, nothing lost, nothing half done, resumed after a kill."""

import hashlib
import json
import math
import os
import sys

import numpy as np
import pytest
from weight_files import same, write_safetensors

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.saved.export import export_weights, plan_weights

LP = [sys.executable, "-m", "llamaprobe"]


def words(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**16, n, dtype=np.uint16)


def bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


EVERY_WORD = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize("format", ["csv", "txt", "npy"])
@pytest.mark.parametrize("pad", [0, 1])
def test_every_16_bit_word_is_written_exactly(tmp_path, format, pad):
    raw = EVERY_WORD.tobytes()
    tensors = {"b": ("BF16", [256, 256], raw), "h": ("F16", [2**16], raw)}
    export_weights(
        write_safetensors(tmp_path / "m.safetensors", tensors, pad), tmp_path / "o", format=format
    )
    assert same(lp.read(tmp_path / f"o/b.{format}"), bf16(EVERY_WORD).reshape(256, 256))
    assert same(lp.read(tmp_path / f"o/h.{format}"), EVERY_WORD.view(np.float16).astype(np.float32))


def test_the_text_equals_that_of_the_old_script_with_16_digits(tmp_path):
    bits = words((7, 30))
    bits[(bits & 0x7F80) == 0x7F80] = 0  # savetxt spells no NaN with a sign
    path = write_safetensors(tmp_path / "m.safetensors", {"w": ("BF16", [7, 30], bits.tobytes())})
    export_weights(path, tmp_path / "o", digits=16)
    header = "shape=[7, 30] dtype=float32"
    np.savetxt(tmp_path / "w.csv", bf16(bits), "%.16e", ",", header=header)
    assert (tmp_path / "o/w.csv").read_bytes() == (tmp_path / "w.csv").read_bytes()


DTYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "I8": "<i1",
    "U8": "<u1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
    "BOOL": "?",
}


@pytest.mark.parametrize("format", ["csv", "txt", "npy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_numpy_dtype_is_exact(tmp_path, dtype, format):
    kind = np.dtype(DTYPES[dtype])
    raw = np.random.default_rng(0).bytes(24 * kind.itemsize)
    if dtype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    array = np.frombuffer(raw, kind).reshape(2, 3, 4)
    path = write_safetensors(tmp_path / "m.safetensors", {"t": (dtype, [2, 3, 4], raw)}, pad=3)
    export_weights(path, tmp_path / "o", format=format)
    assert same(lp.read(tmp_path / f"o/t.{format}"), array)


def test_raw_words(tmp_path):
    bits = words((4, 8))
    tensors = {
        "b": ("BF16", [4, 8], bits.tobytes()),
        "h": ("F16", [32], bits.tobytes()),
        "e": ("F8_E4M3", [64], bits.tobytes()),
        "f": ("F32", [16], bits.tobytes()),
    }
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    export_weights(path, tmp_path / "o", format="npy", dtype="raw")
    assert same(np.load(tmp_path / "o/b.npy"), bits)
    assert same(np.load(tmp_path / "o/h.npy"), bits.reshape(-1))
    assert same(np.load(tmp_path / "o/e.npy"), bits.reshape(-1).view(np.uint8))
    assert np.load(tmp_path / "o/f.npy").tobytes() == bits.tobytes()
    with pytest.raises(lp.ArgumentError, match="'raw' is for format 'npy'"):
        export_weights(path, tmp_path / "o2", dtype="raw")


def test_rejects_by_name_what_cannot_be_exact_before_writing(tmp_path):
    tensors = {
        "good": ("F32", [1], bytes(4)),
        "bad.one": ("F8_E4M3", [4], bytes(4)),
        "bad.two": ("C64", [1], bytes(8)),
        "bad.three": ("F4", [8], bytes(4)),
    }
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    with pytest.raises(
        lp.UnsupportedError, match=r"bad\.one \(F8_E4M3\), bad\.two \(C64\), bad\.three"
    ):
        export_weights(path, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    export_weights(path, tmp_path / "o", exclude="bad.*")
    with pytest.raises(lp.UnsupportedError, match=r"^bad\.three \(F4\): cannot"):
        export_weights(path, tmp_path / "o", format="npy", dtype="raw")
    export_weights(path, tmp_path / "o", filter=["good", "bad.t?o"], format="npy")
    assert np.load(tmp_path / "o/bad.two.npy").dtype == np.complex64


def test_shapes(tmp_path):
    shapes = {
        "scalar": [],
        "vector": [5],
        "matrix": [2, 3],
        "4d": [2, 3, 2, 2],
        "none": [0, 4],
        "hollow": [4, 0],
    }
    tensors = {n: ("BF16", s, words(math.prod(s)).tobytes()) for n, s in shapes.items()}
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    export_weights(path, tmp_path / "o")
    rows = {"scalar": 1, "vector": 1, "matrix": 2, "4d": 2, "none": 0, "hollow": 0}
    for name, shape in shapes.items():
        first, *lines = (tmp_path / f"o/{name}.csv").read_text().splitlines()
        assert first == f"# shape={shape} dtype=float32"
        assert len(lines) == rows[name]
        assert lp.read(tmp_path / f"o/{name}.csv").shape == tuple(shape)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_model_a_folder_and_a_shard_give_the_same_files(random_checkpoint, tmp_path, n_shards):
    folder = random_checkpoint(n_shards=n_shards)
    model = lp.load(folder)
    paths = export_weights(model, tmp_path / "model")
    export_weights(folder, tmp_path / "folder")
    for shard in folder.glob("*.safetensors"):
        export_weights(shard, tmp_path / "shards")
    assert {path.name for path in paths} == {
        *(f"{name}.csv" for name in model.weights),
        "manifest.json",
    }
    for path in paths[:-1]:
        assert same(lp.read(path), np.asarray(model.weights[path.name.removesuffix(".csv")]))
        for other in ("folder", "shards"):
            assert (tmp_path / other / path.name).read_bytes() == path.read_bytes()


def test_the_manifest(random_checkpoint, tmp_path):
    folder = random_checkpoint()
    export_weights(folder, tmp_path / "o", digits=4)
    manifest = json.loads((tmp_path / "o/manifest.json").read_text())
    assert set(manifest["files"]) == set(os.listdir(tmp_path / "o")) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        data = (tmp_path / "o" / name).read_bytes()
        assert entry["bytes"] == len(data) and entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert name == entry["tensor"] + ".csv" and entry["digits"] == 4
    entry = manifest["files"]["model.norm.weight.csv"]
    assert (entry["shape"], entry["dtype"], entry["source_dtype"]) == ([48], "float32", "BF16")
    size = (folder / "model.safetensors").stat().st_size
    assert manifest["weight_files"]["model.safetensors"]["bytes"] == size


HOSTILE = [
    "../../x",
    "/x",
    "a/b",
    "",
    ".",
    "..",
    "x" * 300,
    "A.w",
    "a.w",
    "é",
    "e\u0301",
    "CON",
    "-rf",
    "a\nb",
    "~",
]


def test_tensor_names_that_cannot_be_file_names(tmp_path):
    tensors = {name: ("I32", [1], i.to_bytes(4, "little")) for i, name in enumerate(HOSTILE)}
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    export_weights(path, tmp_path / "deep/er/o")
    manifest = json.loads((tmp_path / "deep/er/o/manifest.json").read_text())
    values = {
        entry["tensor"]: lp.read(tmp_path / "deep/er/o" / name)
        for name, entry in manifest["files"].items()
    }
    assert {name: int(value[0]) for name, value in values.items()} == {
        n: i for i, n in enumerate(HOSTILE)
    }
    assert len(os.listdir(tmp_path / "deep/er/o")) == len(HOSTILE) + 1
    assert sorted(os.listdir(tmp_path)) == ["deep", "m.safetensors"]


# ---- which tensors ----

ATTENTION = "model.layers.1.self_attn.{}_proj.weight"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"filter": "model.norm.*"}, ["model.norm.weight"]),
        ({"filter": ["model.norm.weight", "lm_head*"]}, ["lm_head.weight", "model.norm.weight"]),
        ({"filter": "*.1.self_attn.*"}, [ATTENTION.format(p) for p in "koqv"]),
        ({"filter": r"re:layers\.1\.self_attn\.[qk]_"}, [ATTENTION.format(p) for p in "kq"]),
        ({"filter": r"re:^model\.n"}, ["model.norm.weight"]),
        ({"filter": lambda n: ".1." in n and "v_proj" in n}, [ATTENTION.format("v")]),
        (
            {"filter": "*.1.self_attn.*", "exclude": ["*[ko]_proj*", "re:v_"]},
            [ATTENTION.format("q")],
        ),
        (
            {"exclude": "model.layers.*"},
            ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"],
        ),
    ],
)
def test_filters(random_checkpoint, choice, expected):
    assert sorted(p.tensor.name for p in plan_weights(random_checkpoint(), **choice).files) == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"filter": "q_proj"}, "filter 'q_proj' matches none of 30 tensors; the first is "),
        ({"filter": ["*norm*", "re:^q_proj"]}, "filter 're:^q_proj' matches none"),
        ({"filter": lambda name: False}, "matches none"),
        ({"exclude": "*"}, "no tensor of 30 is left"),
        ({"filter": "re:("}, "not a regular expression"),
        ({"filter": [3]}, "neither a string nor a predicate"),
        ({"format": "xls"}, "not one of csv"),
        ({"dtype": "float16"}, "give one of float32, raw"),
    ],
)
def test_rejects_meaningless_choices(random_checkpoint, tmp_path, choice, message):
    with pytest.raises(lp.ArgumentError) as caught:
        export_weights(random_checkpoint(), tmp_path / "o", **choice)
    assert message in str(caught.value) and not (tmp_path / "o").exists()


def test_sizes_are_exact_for_npy_and_near_for_text(random_checkpoint, tmp_path):
    folder = random_checkpoint(hidden_size=320, vocab_size=900)
    for format, slack in (("npy", 0), ("csv", 0.02), ("txt", 0.02)):
        plan = plan_weights(folder, format=format)
        export_weights(folder, tmp_path / format, format=format)
        for planned in plan.files:
            size = (tmp_path / format / planned.tensor.file).stat().st_size
            assert abs(planned.n_bytes - size) <= slack * size, planned.tensor.name
            assert planned.exact == (format == "npy")


def test_rejects_a_file_that_is_not_safetensors(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(lp.FormatError):
        export_weights(tmp_path / "m.safetensors", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_the_core_formatters_never_write_beyond_a_buffer():
    out, values = bytearray(_core.text_capacity(10)), np.ones(10, np.float32)
    table = _core.text_table(True, -1)
    good = (0, 5, ",", -1, 1)
    assert _core.format_floats(out, values, *good) == [(0, 40)]
    for wrong in (
        (bytearray(10), values, *good),
        (out, values, 0, 0, ",", -1, 1),
        (out, values, 0, 5, ",,", -1, 1),
        (out, values, 0, 5, "", -1, 1),
        (out, values, 0, 5, ",", 26, 1),
        (out, values, 0, 5, ",", -2, 1),
        (out, values, -1, 5, ",", -1, 1),
        (out, values, 0, 5, ",", -1, 0),
        (out, np.ones(41, np.uint8)[1:], *good),
        (out, np.ones(7, np.uint8), *good),
        (bytes(len(out)), values, *good),
    ):
        with pytest.raises((ValueError, BufferError, TypeError)):
            _core.format_floats(*wrong)
    for wrong in (
        (out, np.ones(3, np.uint8), 0, 5, ",", table, 1),
        (out, values, 0, 5, ",", object(), 1),
    ):
        with pytest.raises((ValueError, TypeError)):
            _core.format_words(*wrong)
    with pytest.raises((ValueError, MemoryError)):
        _core.text_capacity(-1)
    with pytest.raises(ValueError, match="start"):
        _core.parse_floats(values, b"1", 2, ",", 1)
