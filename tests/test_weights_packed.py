"""The weights of quantised models by name: values, codes, scales, and what is exported, saved and shown of them."""

import copy
import json
import pickle
import warnings
from pathlib import Path

import models
import numpy as np
import pytest
import quantised_checkpoints as made

import llamaprobe as lp
from llamaprobe.checkpoint import layouts

SOME = ("ct-fp8-block", "ct-int8-zeros", "ct-pack4-zeros", "gptq4-order", "awq")
DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"


def opened(folder: Path, **options) -> lp.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # activations that are not quantised
        return lp.load(folder, **options)


@pytest.fixture(scope="module", params=made.FORMATS)
def each(request, tmp_path_factory):
    """(name of the format, folder, the values of its weights)"""
    folder = tmp_path_factory.mktemp("packed") / "model"
    return request.param, folder, made.FORMATS[request.param].make(folder, made.config_of())


@pytest.fixture(scope="module", params=SOME)
def some(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "model"
    return request.param, folder, made.FORMATS[request.param].make(folder, made.config_of())


def by_formula(weight) -> np.ndarray:
    """The formula of docs/quantised.md, from what the weight says."""
    n_rows, n_cols = weight.shape
    columns = np.arange(n_cols) // weight.group if weight.group_of is None else weight.group_of
    at = (np.arange(n_rows) // weight.group_rows)[:, None], columns[None]

    def spread(table):
        return np.float32(table[0, 0]) if table.size == 1 else table[at].astype(np.float32)

    level = weight.codes.astype(np.float32) if weight.levels is None else weight.levels[weight.codes]
    if weight.zeros is not None:
        level = level - spread(weight.zeros)
    value = spread(weight.scales) * level
    return value if weight.offsets is None else value + spread(weight.offsets)


def test_values_are_those_that_the_codes_mean(each):
    name, folder, values = each
    model = opened(folder)
    quantised = set(made.FORMATS[name].names(made.config_of()))
    assert quantised and {key for key, w in model.weights.items() if w.is_packed} == quantised
    assert set(model.weights) == set(values)
    for key in sorted(quantised):
        weight = model.weights[key]
        found = np.asarray(weight)
        assert found.dtype == np.float32 and found.shape == weight.shape
        assert np.array_equal(found, values[key])
        assert np.array_equal(weight._layout().values(), found)
        assert np.array_equal(by_formula(weight), found)
        assert np.array_equal(weight._read_rows(3, 8), found[3:8])
        assert np.array_equal(np.asarray(weight, np.float64), found)


def test_what_is_stored_is_said(each):
    name, folder, _ = each
    model = opened(folder)
    weight = model.weights[made.FORMATS[name].names(made.config_of())[0]]
    kinds = {"ct-int": "int8", "ct-pack": "int", "awq": "awq", "gptq": "gptq"}
    assert weight.kind == next((kinds[start] for start in kinds if name.startswith(start)), "fp8")
    codes = weight.codes
    assert codes.shape == weight.shape and codes.dtype == (np.int8 if weight.kind == "int8" else np.uint8)
    assert weight.n_bytes == sum(part.n_bytes for part in weight.parts.values())
    assert weight.parts["codes"].name == weight.stored_name and weight.stored_name in model.weights
    assert np.array_equal(weight.parts["codes"].raw, weight.raw)
    assert weight.kind in repr(weight) and str(list(weight.shape)) in repr(weight)
    quantization = model.quantization
    assert set(quantization.tensors) == set(model.weights)
    assert quantization.tensors[weight.name] == weight.kind and quantization.tensors[NORM] == "bf16"
    assert sum(quantization.kinds.values()) == len(model.weights)
    n_bytes = sum(each.n_bytes for each in model.weights.values())
    n_numbers = sum(int(np.prod(each.shape)) for each in model.weights.values())
    assert quantization.bits_per_weight == 8 * n_bytes / n_numbers
    assert quantization.files == ("model.safetensors",) and quantization.weights_as == "float32"
    assert f"{quantization.bits_per_weight:.2f} bits" in repr(model) and "bits" in repr(quantization)
    html = model._repr_html_()
    assert "<code>quantization</code>" in html and repr(quantization)[1:-1] in html


def test_codes_do_not_depend_on_the_bands_they_are_unpacked_in(each, monkeypatch):
    name, folder, _ = each
    weight = opened(folder).weights[made.FORMATS[name].names(made.config_of())[0]]
    whole = weight.codes
    for most in (1, 3 * weight.shape[1], weight._layout().row_step * weight.shape[1] + 1):
        monkeypatch.setattr(layouts, "_BAND", most)
        assert np.array_equal(weight.codes, whole) and weight.codes.flags.c_contiguous


def test_a_plain_tensor_has_no_codes(some):
    weight = opened(some[1]).weights[NORM]
    assert (weight.kind, weight.is_packed, weight.parts, weight.fields) == ("bf16", False, {}, {})
    nothing = (weight.codes, weight.scales, weight.zeros, weight.offsets, weight.group, weight.group_of)
    assert nothing == (None,) * 6 and weight.levels is None
    with pytest.raises(lp.ArgumentError, match="model.norm.weight is not quantised: it is BF16"):
        weight._layout()
    demo = lp.load("demo")
    assert demo.quantization is None and demo.weights[NORM].kind == "bf16"
    assert "bits" not in repr(demo) and "quantization" not in demo._repr_html_()


def test_a_weight_travels(some, tmp_path):
    _, folder, values = some
    weight = opened(folder).weights[DOWN]
    for again in (pickle.loads(pickle.dumps(weight)), copy.copy(weight), copy.deepcopy(weight)):
        assert np.array_equal(again, values[DOWN]) and np.array_equal(again.codes, weight.codes)
        assert (again.kind, again.shape, again.stored_name) == (weight.kind, weight.shape, weight.stored_name)
    data = pickle.dumps(weight)
    file = folder / "model.safetensors"
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-1] + b"\1")
        with pytest.raises(lp.FileChangedError):
            pickle.loads(data)
    finally:
        file.write_bytes(before)


def test_bf16_values_are_rounded_once(some):
    _, folder, values = some
    model = opened(folder, weights_as="bf16")
    expected = made.rounded(values[DOWN], "BF16")
    weight = model.weights[DOWN]
    assert np.array_equal(weight, expected) and np.array_equal(weight._layout().values(), expected)
    assert model.quantization.weights_as == "bf16" and "as bf16" in repr(model.quantization)


# ---- files ----


@pytest.mark.parametrize("source", ["model", "folder"])
def test_exported_values(some, tmp_path, source):
    _, folder, values = some
    out = tmp_path / "w"
    paths = lp.export_weights(opened(folder) if source == "model" else folder, out, format="npy", progress=False)
    assert {path.name.removesuffix(".npy") for path in paths[:-1]} == set(values)
    for name, value in values.items():
        assert np.array_equal(np.load(out / f"{name}.npy"), value)
        assert np.array_equal(lp.offline.load(out, name), value)
    entries = json.loads((out / "manifest.json").read_text())["files"]
    entry = entries[f"{DOWN}.npy"]
    assert entry["part"] == "values" and entry["kind"] == opened(folder).weights[DOWN].kind
    assert entry["dtype"] == "float32" and entry["shape"] == list(values[DOWN].shape)
    assert "part" not in entries[f"{NORM}.npy"]


@pytest.mark.parametrize("format", ["npy", "csv", "hex"])
def test_exported_codes_and_scales_give_the_values(some, tmp_path, format):
    """The formula once more, from files alone."""
    _, folder, values = some
    weight = opened(folder).weights[DOWN]
    codes, scales = tmp_path / "codes", tmp_path / "scales"
    lp.export_weights(folder, codes, part="codes", format=format, filter="*.1.mlp*", progress=False)
    lp.export_weights(folder, scales, part="scales", format=format, filter="*.1.mlp*", progress=False)
    found = lp.offline.load(codes, f"{DOWN}.codes")
    assert found.dtype == weight.codes.dtype and np.array_equal(found, weight.codes)
    tables = {"scales": weight.scales, "zeros": weight.zeros, "levels": weight.levels, "group_of": weight.group_of}
    for name, table in tables.items():
        assert (scales / f"{DOWN}.{name}.{format}").exists() == (table is not None)
        if table is not None:
            read = lp.offline.load(scales, f"{DOWN}.{name}")
            assert np.array_equal(np.squeeze(read), np.squeeze(table), equal_nan=name == "levels")
    entry = json.loads((codes / "manifest.json").read_text())["files"][f"{DOWN}.codes.{format}"]
    assert entry["tensor"] == DOWN and entry["part"] == "codes" and entry["group"] == weight.group
    assert entry["matrix"] == list(weight.shape) and entry["shape"] == list(weight.shape)


@pytest.mark.parametrize("name", ["awq", "ct-pack4-zeros", "ct-int8-zeros"])
def test_what_is_encoded_in_many_parts(tmp_path, monkeypatch, name):
    """Fewer numbers at a time than a file has, with boundaries inside rows."""
    from llamaprobe.files import encode

    folder = tmp_path / "model"
    values = made.FORMATS[name].make(folder, made.config_of())
    monkeypatch.setattr(encode, "CHUNK", 33)
    weight = opened(folder).weights[DOWN]
    for part, name, expected in (
        ("codes", f"{DOWN}.codes", weight.codes),
        ("scales", f"{DOWN}.zeros", weight.zeros),
        ("values", DOWN, values[DOWN]),
    ):
        lp.export_weights(folder, tmp_path / part, part=part, format="csv", filter=DOWN, progress=False)
        assert np.array_equal(lp.offline.load(tmp_path / part, name), expected)


def test_stored_tensors_are_exported_raw(tmp_path):
    folder = tmp_path / "model"
    made.FORMATS["gptq4-v1"].make(folder, made.config_of())
    lp.export_weights(folder, tmp_path / "w", format="npy", dtype="raw", filter="*.1.mlp.down*", progress=False)
    module = DOWN.removesuffix("weight")
    names = {path.name for path in (tmp_path / "w").glob("*.npy")}
    assert names == {f"{module}{part}.npy" for part in ("qweight", "qzeros", "scales", "g_idx")}
    assert np.load(tmp_path / "w" / f"{module}qweight.npy").dtype == np.int32


def test_parts_that_there_are_not(some, tmp_path):
    for source in ("demo", lp.load("demo")):
        with pytest.raises(lp.ArgumentError, match="there are no quantised weights, which alone have codes"):
            lp.export_weights(source, tmp_path / "w", part="codes", progress=False)
    with pytest.raises(lp.ArgumentError, match="part is 'bits'; give one of values, codes, scales"):
        lp.export_weights(some[1], tmp_path / "w", part="bits", progress=False)
    with pytest.raises(lp.ArgumentError, match="dtype 'raw' is of stored floats; scales have their own"):
        lp.export_weights(some[1], tmp_path / "w", part="scales", format="npy", dtype="raw", progress=False)


def test_a_folder_whose_model_is_unknown_has_its_stored_tensors(tmp_path):
    folder = tmp_path / "model"
    made.FORMATS["gptq4-v1"].make(folder, made.config_of())
    made.change_config(folder, {"model_type": "mamba", "architectures": ["MambaForCausalLM"]})
    lp.export_weights(folder, tmp_path / "w", format="npy", filter="*.1.mlp.down*", progress=False)
    assert (tmp_path / "w" / f"{DOWN.removesuffix('weight')}qweight.npy").exists()


# ---- runs ----


def test_a_saved_run_names_its_weights(some, tmp_path, command):
    name, folder, _ = some
    model = opened(folder)
    ids = models.make_token_ids(model.config.raw, 9)
    run = model.run(ids, points="all")
    run.save(tmp_path / "run")
    entry = model.quantization.entry()
    assert entry["files"] == ["model.safetensors"] and entry["weights_as"] == "float32"
    for file in ("meta_layer0.json", "manifest.json"):
        assert json.loads((tmp_path / "run" / file).read_text())["quantization"] == entry
    again = lp.read_run(tmp_path / "run")
    assert again.meta["quantization"] == entry and again.equals(run)
    code, out, error = command("verify", str(tmp_path / "run"))
    assert code == 0, out + error
    made_up = entry | {"kinds": {"q4_k": 1}}
    for path in [tmp_path / "run" / "manifest.json", *(tmp_path / "run").glob("meta*.json")]:
        text = path.read_text()
        path.write_text(text.replace(json.dumps(entry["kinds"]), json.dumps(made_up["kinds"])))
        assert path.read_text() != text
    code, out, error = command("verify", str(tmp_path / "run"))
    assert code == 1 and "quantization" in out


def test_a_rounded_run_is_verified_with_rounded_weights(tmp_path, command):
    folder = tmp_path / "model"
    made.FORMATS["gptq4-order"].make(folder, made.config_of())
    model = opened(folder, weights_as="bf16")
    model.run(models.make_token_ids(model.config.raw, 5), points="all").save(tmp_path / "run")
    assert json.loads((tmp_path / "run/manifest.json").read_text())["quantization"]["weights_as"] == "bf16"
    code, out, error = command("verify", str(tmp_path / "run"))
    assert code == 0, out + error


def test_a_plain_run_says_nothing_of_it(tmp_path):
    run = lp.load("demo").run("Once", points="x", layers=0)
    run.save(tmp_path / "run")
    assert "quantization" not in run.meta
    assert "quantization" not in json.loads((tmp_path / "run/manifest.json").read_text())


def test_the_maths_of_a_layer_from_exported_values(some, tmp_path):
    _, folder, _ = some
    model = opened(folder)
    run = model.run(models.make_token_ids(model.config.raw, 9), points="all")
    run.save(tmp_path / "run", format="npy")
    lp.export_weights(model, tmp_path / "w", format="npy", progress=False)
    for layer in (0, 1):
        for point, found in lp.offline.attention(tmp_path / "run", tmp_path / "w", layer).items():
            expected = run[point, layer]
            seen = np.isfinite(expected)
            assert np.allclose(found[seen], expected[seen], rtol=1e-4, atol=1e-5), (layer, point)


# ---- commands ----


def test_the_command_that_lists_and_writes_parts(some, tmp_path, command):
    _, folder, values = some
    code, out, error = command("weights", str(folder), "--list", "--filter", DOWN, "--part", "codes")
    assert code == 0, error
    assert f"{DOWN}.codes" in out and "1 file" in out
    out_dir = tmp_path / "w"
    code, out, error = command(
        "weights", str(folder), "--out", str(out_dir), "--filter", DOWN, "--part", "codes", "--format", "hex"
    )
    assert code == 0, error
    first, *words = (out_dir / f"{DOWN}.codes.hex").read_text().splitlines()
    codes = opened(folder).weights[DOWN].codes
    assert first == f"// shape={list(codes.shape)} dtype={codes.dtype}"
    assert words == [f"{code & 0xFF:02x}" for code in codes.reshape(-1).tolist()]
    code, out, error = command("weights", str(folder), "--out", str(out_dir), "--filter", DOWN, "--format", "npy")
    assert code == 0 and np.array_equal(np.load(out_dir / f"{DOWN}.npy"), values[DOWN])
    assert len(json.loads((out_dir / "manifest.json").read_text())["files"]) == 2


def test_inspect_shows_what_is_quantised(each, command):
    _, folder, values = each
    quantization = opened(folder).quantization
    code, out, error = command("inspect", str(folder))
    assert code == 0, error
    kinds = ", ".join(f"{n} {kind}" for kind, n in quantization.kinds.items())
    assert f"tensors          {kinds}\n" in out and f"{quantization.bits_per_weight:.3f}\n" in out
    assert f"{sum(value.size for value in values.values()):,} parameters" in out
    code, out, error = command("inspect", str(folder), "--json")
    facts = json.loads(out)
    assert facts["quantization"]["tensors"] == dict(quantization.tensors)
    assert facts["quantization"]["notes"] == list(quantization.notes)
    assert facts["unused"] == [] and "cannot_run" not in facts


def test_notes_of_activations_are_shown(tmp_path, command):
    folder = tmp_path / "model"
    made.FORMATS["fp8-tensor"].make(folder, made.config_of())
    notes = opened(folder).quantization.notes
    assert len(notes) == 1 and "activations" in notes[0] and "not applied" in notes[0]
    assert f"  note: {notes[0]}" in command("inspect", str(folder))[1]
