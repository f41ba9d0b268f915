"""load and Model.weights: what is a model, what must fit together, and weights by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from bad_inputs import weights_file

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.checkpoint.folder import TensorInfo
from llamaprobe.checkpoint.weights import Weight, WeightError

IDS = [5, 1, 96, 5, 40]


@pytest.fixture
def folder(random_checkpoint) -> Path:
    return random_checkpoint(attention_bias=True)


@pytest.fixture
def model(folder: Path) -> lp.Model:
    return lp.load(folder)


# ---- weights ----


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_weights_are_float32_and_lazy(random_checkpoint, dtype: str):
    folder = random_checkpoint(dtype=dtype, odd_start=True)
    weights = lp.load(folder).weights
    expected = models.read_checkpoint(folder)
    assert set(weights) == set(expected) and len(weights) == len(expected)
    for name, weight in weights.items():
        values = np.asarray(weight)
        assert values.dtype == np.float32 and np.array_equal(values, expected[name])
        assert (weight.name, weight.dtype, weight.shape) == (name, dtype, values.shape)
        bits = models.to_bits(expected[name], dtype).reshape(values.shape)
        assert weight.raw.dtype == bits.dtype and np.array_equal(weight.raw, bits)
        assert weight.n_bytes == bits.nbytes and weight.path.parent == folder


def test_weights_follow_the_array_protocol(model: lp.Model):
    weight = model.weights["model.norm.weight"]
    assert np.asarray(weight, dtype=np.float64).dtype == np.float64
    assert np.array(weight).flags.writeable and (np.array(weight) == weight).all()
    with pytest.raises(ValueError, match="copy"):
        np.array(weight, copy=False)


@pytest.mark.parametrize("n_elements", [(1 << 19) - 1, 1 << 19, (1 << 20) + 1, (1 << 23) + 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_large_weight_is_made_by_all_threads(tmp_path: Path, dtype: str, n_elements: int):
    values = np.arange(n_elements, dtype=np.float32) % 251 - 125  # exact in each dtype
    path = tmp_path / "m.safetensors"
    path.write_bytes(models.safetensors_bytes({"w": values}, dtype))
    assert np.array_equal(_core.Safetensors(path).read("w"), values)


@pytest.mark.parametrize("shape", [[0, 2**62], [2**40, 0, 2**40], [3, 0, 2**61]])
def test_an_empty_tensor_may_have_axes_too_long_for_an_array(tmp_path: Path, shape: list[int]):
    path = tmp_path / "m.safetensors"
    path.write_bytes(weights_file.image({"w": weights_file.entry(0, 0, "F32", shape)}))
    file = _core.Safetensors(path)
    assert file.tensors()[0][2] == tuple(shape) and file.raw("w").size == 0
    weight = Weight("w", tmp_path, TensorInfo(file, "F32", tuple(shape), 0, 0))
    for use in (lambda: file.read("w"), lambda: np.asarray(weight), lambda: weight.raw):
        with pytest.raises(lp.UnsupportedError, match="w.* has 0 elements and axes that are too long"):
            use()


def test_the_file_cannot_be_written_through_raw(model: lp.Model):
    raw = model.weights["model.norm.weight"].raw
    with pytest.raises(ValueError, match="read-only"):
        raw[0] = 0
    for view in (raw, raw.base if raw.base is not None else raw):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True


@pytest.mark.parametrize("name", ["model.norm.wieght", "", "model.norm.weight\0", 3, None])
def test_unknown_weights(model: lp.Model, name: Any):
    with pytest.raises(WeightError, match="there is no tensor 'norm'; near: model.layers.0.input_layer"):
        model.weights["norm"]
    with pytest.raises(WeightError, match="there is no tensor"):
        model.weights[name]
    assert name not in model.weights
    with pytest.raises(lp.ArgumentError, match="near: .*model.norm.weight"):
        model.weights["model.norm.wieght"]


@pytest.mark.parametrize(
    "config", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}]
)
def test_n_params_counts_the_weights(random_checkpoint, config: dict[str, Any]):
    folder = random_checkpoint(**config)
    assert lp.load(folder).n_params == sum(w.size for w in models.read_checkpoint(folder).values())


# ---- loading ----


def test_the_first_layers_alone(folder: Path, model: lp.Model):
    short, whole = lp.load(folder, layers=2), model.run(IDS, points=("x", "x_out"))
    run = short.run(IDS, points=("x", "x_out", "final_norm"))
    assert short.config.n_layers == 2 and run["x"].shape == (2, 5, 48)
    assert np.array_equal(run["x_out"], whole["x_out"][:2])
    assert short.n_params < model.n_params
    assert np.array_equal(lp.load(folder, layers=range(2)).run(IDS)["x"], run["x"])
    wrong_ranges = (range(0), range(1, 3), range(0, 3, 2), range(4))
    for layers in (0, 4, -1, True, "2", 1.5, *wrong_ranges):
        with pytest.raises(lp.ArgumentError, match="how many of the first|the model has 3"):
            lp.load(folder, layers=layers)


def test_layers_not_opened_may_be_missing(folder: Path):
    weights = models.read_checkpoint(folder)
    kept = {name: w for name, w in weights.items() if ".layers.2." not in name}
    (folder / "model.safetensors").write_bytes(models.safetensors_bytes(kept, "BF16"))
    assert lp.load(folder, layers=2).run(IDS)["x"].shape == (2, 5, 48)
    with pytest.raises(lp.FormatError, match=r"model\.layers\.2\."):
        lp.load(folder)


def test_a_head_in_the_file_wins_over_the_flag(random_checkpoint):
    folder = random_checkpoint()
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    model = lp.load(folder)
    run = model.run(IDS, points=("final_norm", "logits"))
    head = np.asarray(model.weights["lm_head.weight"])
    assert np.allclose(run["logits"], run["final_norm"] @ head.T, atol=1e-4)
    assert not model.config.tied_head


def drop(name: str) -> Callable[[dict], dict]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def cut(name: str) -> Callable[[dict], dict]:
    return lambda weights: weights | {name: weights[name][:-1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("model.norm.weight"), "model.norm.weight"),
        (drop("lm_head.weight"), "lm_head.weight"),
        (drop("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight"),
        (drop("model.layers.2.self_attn.o_proj.bias"), "model.layers.2.self_attn.o_proj.bias"),
        (cut("model.layers.0.mlp.down_proj.weight"), r"down_proj.weight.*47.*48"),
        (cut("model.embed_tokens.weight"), r"embed_tokens.weight.*96.*97"),
        (lambda weights: {}, "model.embed_tokens.weight"),
    ],
)
def test_rejects_weights_that_contradict_the_config(
    folder: Path, change: Callable[[dict], dict], message: str
):
    weights = change(models.read_checkpoint(folder))
    (folder / "model.safetensors").write_bytes(models.safetensors_bytes(weights, "BF16"))
    with pytest.raises(lp.FormatError, match=f"{folder}: .*{message}"):
        lp.load(folder)


def test_rejects_a_dtype_that_cannot_be_computed_with(folder: Path):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data.replace(b'"BF16"', b'"I16" '))
    with pytest.raises(lp.UnsupportedError, match="I16"):
        lp.load(folder)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("/no/such/folder", lp.FileError, "/no/such/folder: no such folder, and not a repo id"),
        ("./missing", lp.FileError, "no such folder"),
        ("missing", lp.FileError, "owner/name"),
        ("", lp.FileError, "^'': no such folder, .*owner/name"),
        ("a/b/c", lp.FileError, "no such folder"),
        ("a\0b", lp.FileError, r"a\\x00b: no such folder"),
        (Path("owner/name"), lp.FileError, "owner/name: no such folder"),
        (b"demo", lp.ArgumentError, "a folder or a repo id"),
        (None, lp.ArgumentError, "a folder or a repo id"),
        (3, lp.ArgumentError, "a folder or a repo id"),
    ],
)
def test_rejects_what_is_not_a_model(name: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        lp.load(name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_is_not_a_folder(folder: Path, name: str):
    with pytest.raises(lp.FileError, match=f"{name}: is not a folder; give the folder"):
        lp.load(folder / name)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.PTH"])
def test_a_file_of_another_format(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(lp.UnsupportedError, match=f"{name}: only safetensors"):
        lp.load(tmp_path / name)


def test_a_folder_has_no_revision(folder: Path):
    with pytest.raises(lp.ArgumentError, match="is a folder, which has no revision 'v2'"):
        lp.load(folder, revision="v2")


def test_a_folder_wins_over_a_repo_id(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder.parent / "owner").mkdir()
    folder.rename(folder.parent / "owner" / "name")
    monkeypatch.chdir(folder.parent)
    assert lp.load("owner/name").run(IDS)["x"].shape == (3, 5, 48)


def test_demo_is_always_the_built_in_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, demo_folder
):
    folder.rename(folder.parent / "demo")
    monkeypatch.chdir(folder.parent)
    assert lp.load("demo").path == Path(lp.__file__).parent / "demo"
    assert lp.load("./demo").path == folder.parent / "demo"


def test_a_bad_thread_count_is_an_error_of_load(folder: Path):
    with pytest.raises(lp.ArgumentError, match="at least 1"):
        lp.load(folder, threads=0)


def test_a_config_without_a_key(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    del config["rms_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(lp.ConfigError, match="rms_norm_eps"):
        lp.load(folder)


# ---- repo ids ----


def test_a_repo_id_goes_to_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []

    def snapshot(repo_id: str, **how: Any) -> Path:
        calls.append((repo_id, how))
        return folder

    monkeypatch.setattr("llamaprobe.hub.snapshot", snapshot)
    model = lp.load(
        "owner/name", revision="v2", token="secret", cache_dir="c", local_files_only=True
    )
    assert model.run(IDS).meta["model"] == "owner/name" and "secret" not in repr(model)
    how = {"revision": "v2", "token": "secret", "cache_dir": "c", "local_files_only": True}
    assert calls == [("owner/name", how)]
    lp.load("owner/name", layers=2)
    assert calls[1][1]["layers"] == range(2) and calls[1][1]["head"] is True


def test_an_error_of_the_hub_mentions_the_folder(monkeypatch: pytest.MonkeyPatch):
    def snapshot(repo_id: str, **how: Any) -> Path:
        raise lp.HubError(f"{repo_id}: no such repository")

    monkeypatch.setattr("llamaprobe.hub.snapshot", snapshot)
    message = r"no such repository \(there is no folder owner/name here either\)$"
    with pytest.raises(lp.HubError, match=message):
        lp.load("owner/name")


def test_warnings_name_the_line_that_loads(random_checkpoint):
    folder = random_checkpoint(n_shards=2, logit_scale=2.0)
    index = folder / "model.safetensors.index.json"
    message = json.loads(index.read_text()) | {"metadata": {"total_size": 1}}
    index.write_text(json.dumps(message))
    with pytest.warns(UserWarning) as warned:
        lp.load(folder)
    assert len(warned) == 2 and {warning.filename for warning in warned} == {__file__}
