"""The weights of a model in GGUF by name: the original's names and rows, GGUF's blocks; the files and tables of them."""

import json
import pickle

import gguf_maker
import models
import numpy as np
import pytest
import quantise
from gguf_cases import gguf_cases

import llamaprobe as lp
from llamaprobe.checkpoint.layouts import BLOCKS

CASES = {case.name: case for case in gguf_cases()}
SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 16, "num_key_value_heads": 4}
KINDS = ("f16", *BLOCKS)
Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"
NORM = "model.norm.weight"


def write(path, name, kind):
    """A model of a case whose matrices are of one kind, and the values of its weights by the definition of gguf-py."""
    case = CASES[name]
    values = case.weights(**SIZES)

    def matrix(name, rows):
        data = quantise.blocks(kind, rows)
        return gguf_maker.Stored(kind.upper(), rows.shape, data.tobytes())

    case.write(path, values, matrix, **SIZES)
    return values


def expected(name, values, kind):
    """The values of a matrix: quantising goes row by row, so the order of the rows does not matter."""
    gguf = pytest.importorskip("gguf")
    kinds = {each.name.lower(): each for each in gguf.GGMLQuantizationType}
    return gguf.dequantize(quantise.blocks(kind, values[name]), kinds[kind])


@pytest.fixture(scope="module", params=KINDS)
def each(request, tmp_path_factory):
    """(kind, file, the values before they were quantised)"""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return request.param, path, write(path, "llama", request.param)


def test_values_are_those_of_gguf_py_in_the_order_of_the_original(each):
    kind, path, values = each
    model = lp.load(path)
    assert set(model.weights) == set(values) and len(model.weights) == len(values)
    for name, value in values.items():
        weight = model.weights[name]
        if value.ndim == 1:
            assert np.array_equal(weight, value) and weight.kind == "f32" and not weight.is_packed
            continue
        found = np.asarray(weight)
        assert found.dtype == np.float32 and weight.kind == kind
        assert np.array_equal(found, expected(name, values, kind)), name
        assert weight.n_bytes == len(weight.raw) * weight.raw[0].nbytes
        if weight.is_packed:
            assert np.array_equal(weight._layout().values(), found)
            assert np.array_equal(weight._read_rows(5, 50), found[5:50])
    assert model.quantization.kinds == {kind: 9, "f32": 3}


def test_codes_and_tables_are_in_the_order_of_the_original(each):
    kind, path, values = each
    weight = lp.load(path).weights[Q]
    assert weight.is_packed
    if kind == "f16":
        assert (weight.codes, weight.scales, weight.group, weight.group_rows) == (None,) * 4
        return
    level = (
        weight.codes.astype(np.float32) if weight.levels is None else weight.levels[weight.codes]
    )
    level = level - np.float32(0 if weight.zeros is None else weight.zeros[0, 0])
    found = np.repeat(weight.scales, weight.group, axis=1) * level
    if weight.offsets is not None:
        found = found + np.repeat(weight.offsets, weight.group, axis=1)
    assert np.array_equal(found, expected(Q, values, kind))
    assert set(weight.parts) == {"codes"} and weight.group_of is None and weight.group_rows == 1
    if fields := weight.fields:
        per_block = fields["s"].shape[1] // fields["d"].shape[1]
        assert np.array_equal(
            np.repeat(fields["d"], per_block, axis=1) * fields["s"], weight.scales
        )
    assert bool(fields) == (kind.endswith("_k") or kind == "iq4_xs")


def test_exported_tables(each, tmp_path):
    """A zero that all codes have in common is one number."""
    kind, path, _ = each
    weight = lp.load(path).weights[Q]
    how = {"format": "npy", "progress": False, "filter": Q}
    if kind == "f16":
        with pytest.raises(lp.ArgumentError, match="no quantised weights, which alone have scales"):
            lp.export_weights(path, tmp_path / "s", part="scales", **how)
        return
    lp.export_weights(path, tmp_path / "s", part="scales", **how)
    found = {each.stem.removeprefix(f"{Q}."): np.load(each) for each in (tmp_path / "s").glob("*.npy")}
    levels = None if weight.levels is None else weight.levels[None]
    tables = {"scales": weight.scales, "zeros": weight.zeros, "offsets": weight.offsets, "levels": levels}
    tables = {name: table for name, table in tables.items() if table is not None} | weight.fields
    assert found.keys() == tables.keys()
    for name, table in tables.items():
        assert np.array_equal(found[name], table) and found[name].dtype == table.dtype, name


def test_names_of_the_file_are_known_too(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q4_k")
    weights = lp.load(tmp_path / "m.gguf").weights
    for stored, name in (("blk.0.attn_q.weight", Q), ("output_norm.weight", NORM)):
        weight = weights[stored]
        assert (weight.name, weight.stored_name) == (name, stored) and stored in weights
        assert np.array_equal(weight, weights[name])
    assert (
        weights[Q].dtype == "Q4_K"
        and weights[Q].raw.shape == (256, 144)
        and weights[Q].raw.dtype == np.uint8
    )
    assert [weights[name].offset for name in weights] == sorted(
        weight.offset for weight in weights.values()
    )
    with pytest.raises(lp.ArgumentError, match="there is no tensor 'blk.0.attn_w.weight'"):
        weights["blk.0.attn_w.weight"]
    with pytest.raises(lp.ArgumentError, match="near: blk.0.ffn_down.weight$"):
        weights["blk.0.ffn_down"]


@pytest.mark.parametrize("name", [Q, DOWN, NORM])
def test_a_weight_travels(tmp_path, name):
    write(tmp_path / "m.gguf", "llama", "q6_k")
    weight = lp.load(tmp_path / "m.gguf").weights[name]
    again = pickle.loads(pickle.dumps(weight))
    assert np.array_equal(again, weight) and (again.name, again.stored_name) == (
        weight.name,
        weight.stored_name,
    )


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3", "llama", "qwen3"])
def test_gains_of_gemma_are_the_ones_that_multiply(tmp_path, name):
    values = write(tmp_path / "m.gguf", name, "q8_0")
    model = lp.load(tmp_path / "m.gguf")
    is_gemma = name.startswith("gemma")
    for key, value in values.items():
        if key.endswith("norm.weight"):
            weight = model.weights[key]
            assert np.array_equal(weight, value + np.float32(is_gemma))
            assert (
                weight.note
                == is_gemma * "the gain as it multiplies; the original's safetensors hold it less 1"
            )
            assert ("less 1" in repr(weight)) == is_gemma
            assert pickle.loads(pickle.dumps(weight)).note == weight.note
    assert model.weights[DOWN].note == ""


# ---- files ----


@pytest.mark.parametrize("source", ["model", "file", "folder"])
def test_exported_parts(tmp_path, source):
    values = write(tmp_path / "m" / "m.gguf", "llama", "q4_k")
    path = tmp_path / "m" if source == "folder" else tmp_path / "m" / "m.gguf"
    how = {"format": "npy", "progress": False, "file": "m*" if source == "folder" else None}
    source = lp.load(path) if source == "model" else path
    lp.export_weights(source, tmp_path / "w", **how)
    assert {each.stem for each in (tmp_path / "w").glob("*.npy")} == set(values)
    for name, value in values.items():
        wanted = expected(name, values, "q4_k") if value.ndim == 2 else value
        assert np.array_equal(np.load(tmp_path / "w" / f"{name}.npy"), wanted)
    weight = lp.load(path).weights[Q]
    lp.export_weights(source, tmp_path / "c", part="codes", filter=Q, **how)
    assert np.array_equal(np.load(tmp_path / "c" / f"{Q}.codes.npy"), weight.codes)
    lp.export_weights(source, tmp_path / "s", part="scales", filter=Q, **how)
    found = {
        each.stem.removeprefix(f"{Q}."): np.load(each) for each in (tmp_path / "s").glob("*.npy")
    }
    tables = {"scales": weight.scales, "offsets": weight.offsets, **weight.fields}
    assert found.keys() == tables.keys() == {"scales", "offsets", "d", "dmin", "s", "m"}
    for name, table in tables.items():
        assert np.array_equal(found[name], table) and found[name].dtype == table.dtype
    entry = json.loads((tmp_path / "s/manifest.json").read_text())["files"][f"{Q}.scales.npy"]
    assert (entry["kind"], entry["group"], entry["format"], entry["source_dtype"]) == (
        "q4_k",
        32,
        "gguf",
        "Q4_K",
    )


def test_stored_bytes_have_no_words(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q4_k")
    with pytest.raises(lp.UnsupportedError, match=r"blk.0.attn_q.weight \(Q4_K\).*--part codes"):
        lp.export_weights(
            tmp_path / "m.gguf",
            tmp_path / "w",
            dtype="raw",
            format="npy",
            filter="*attn_q.*",
            progress=False,
        )


def test_the_maths_of_a_layer_from_exported_values(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q5_k")
    model = lp.load(tmp_path / "m.gguf")
    run = model.run(models.make_token_ids({"vocab_size": model.config.vocab_size}, 9), points="all")
    run.save(tmp_path / "run", format="npy")
    lp.export_weights(model, tmp_path / "w", format="npy", progress=False)
    for point, found in lp.offline.attention(tmp_path / "run", tmp_path / "w", 0).items():
        seen = np.isfinite(run[point, 0])
        assert np.allclose(found[seen], run[point, 0][seen], rtol=1e-4, atol=1e-5), point


def test_inspect_shows_any_metadata(tmp_path, command):
    """JSON has no infinity; texts are shown as far as a line goes."""
    case = CASES["llama"]
    values = case.weights()
    metadata = {"a.inf": float("inf"), "a.list": [1.5, float("nan")], "a.text": "x\n" * 200}
    tensors = gguf_maker.model_tensors("llama", values, 16, lambda _, rows: gguf_maker.stored(rows, "F16"))
    known = gguf_maker.model_metadata("llama", case.hub_keys(), **case.metadata)
    gguf_maker.write_gguf(tmp_path / "m.gguf", known | metadata, tensors)
    code, out, error = command("inspect", str(tmp_path / "m.gguf"))
    assert code == 0 and "      a.inf: inf\n      a.list: [1.5, 'nan']\n      a.text: x\\x0ax\\x0a" in out, error
    facts = json.loads(command("inspect", str(tmp_path / "m.gguf"), "--json")[1])
    assert facts["files"][0]["metadata"]["a.list"] == [1.5, "nan"] and "cannot_run" not in facts


def test_inspect_of_what_does_not_run(tmp_path, command):
    """Its tensors are listed all the same."""
    values = CASES["llama"].weights()
    tensors = gguf_maker.model_tensors("llama", values, 16, lambda _, rows: gguf_maker.stored(rows, "F16"))
    gguf_maker.write_gguf(tmp_path / "m.gguf", {"general.architecture": "mamba"}, tensors)
    code, out, error = command("inspect", str(tmp_path / "m.gguf"))
    assert code == 0 and "cannot be run: " in out and "mamba" in out and "blk.0.attn_q.weight" in out, error


def test_inspect_and_verify(tmp_path, command):
    values = write(tmp_path / "m.gguf", "gemma3", "q8_0")
    code, out, error = command("inspect", str(tmp_path / "m.gguf"))
    assert code == 0, error
    assert "  format           gguf\n" in out and "general.architecture: gemma3" in out
    assert (
        f"{sum(value.size for value in values.values()):,} parameters" in out
        and "blk.0.attn_q.weight" in out
    )
    model = lp.load(tmp_path / "m.gguf")
    model.run([1, 2, 3, 4], points="all").save(tmp_path / "run")
    entry = json.loads((tmp_path / "run/manifest.json").read_text())["quantization"]
    assert entry == model.quantization.entry() and entry["files"] == ["m.gguf"]
    code, out, error = command("verify", str(tmp_path / "run"))
    assert code == 0 and "cannot be checked here: llamaprobe_version\n" in out, out + error
    assert lp.read_run(tmp_path / "run").meta["quantization"] == entry
    code, out, error = command("verify", str(tmp_path / "run"), "--weights-as", "bf16")
    assert code == 1
    assert 'quantization: weights_as is "float32" and should be "bf16"' in out


def test_weights_of_a_model_that_does_not_run(tmp_path):
    """By the names of the file, rows in its order."""
    values = write(tmp_path / "m.gguf", "llama", "q8_0")
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(data.replace(b"llama", b"falco", 1))
    with pytest.raises(lp.UnsupportedError, match="falco"):
        lp.load(tmp_path / "m.gguf")
    with pytest.warns(UserWarning, match="keep the names of the file"):
        lp.export_weights(
            tmp_path / "m.gguf", tmp_path / "w", filter="blk.0.*", format="npy", progress=False
        )
    found = np.load(tmp_path / "w" / "blk.0.ffn_down.weight.npy")
    assert np.array_equal(found, expected(DOWN, values, "q8_0"))


def test_a_choice_among_files_is_for_a_folder(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q8_0")
    (tmp_path / "plain.safetensors").write_bytes(models.safetensors_bytes({"a": np.ones(2)}, "F32"))
    for source, message in (
        (lp.load(tmp_path / "m.gguf"), "file is for a folder or a repo, not for <Model"),
        (tmp_path / "m.gguf", "give its folder to choose another"),
        (tmp_path / "plain.safetensors", "plain.safetensors is a file; file is for a folder"),
    ):
        with pytest.raises(lp.ArgumentError, match=message):
            lp.export_weights(source, tmp_path / "w", file="other.gguf", progress=False)
    with pytest.raises(lp.ArgumentError, match="name of a .gguf file or a glob"):
        lp.export_weights(tmp_path, tmp_path / "w", file=3, progress=False)


def test_rounded_values_say_so(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q4_k")
    model = lp.load(tmp_path / "m.gguf", weights_as="bf16")
    weight = model.weights[DOWN]
    assert weight.note.startswith("values rounded to bf16") and model.weights[NORM].note == ""
    assert pickle.loads(pickle.dumps(weight)).note == weight.note
    assert "bits, as bf16" in repr(model)


def test_statistics_know_how_weights_were_read(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q4_k")
    models_read = [lp.load(tmp_path / "m.gguf", weights_as=each) for each in ("float32", "bf16")]
    ids = [[1, 2, 3], [4, 5]]
    exact, rounded = (
        lp.collect(model, ids, points="x:0", part=(i, 2)) for i, model in enumerate(models_read)
    )
    with pytest.raises(lp.ArgumentError, match='differ in model.quantization.weights_as: "float32" and "bf16"'):
        exact + rounded
