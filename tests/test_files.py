"""A run as a folder: names, first lines, layout, meta, manifest, nothing half done, and back."""

import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.files import atomic
from llamaprobe.files.fingerprint import fingerprint
from llamaprobe.files.naming import file_names
from llamaprobe.messages import printable
from llamaprobe.saved_run import read_run

IDS = [1, 40, 7, 96, 3]


@pytest.fixture
def model(random_checkpoint):
    return lp.load(random_checkpoint())


def all_points(model):
    return [point.name for point in model.points()]


def test_default_files_of_a_run(model, tmp_path):
    run = model.run(IDS)
    paths = run.save(tmp_path / "x_all_layers")
    layers = range(3)
    expected = {
        *(f"{stem}_layer{i}.csv" for i in layers for stem in ("x", "xnorm")),
        *(f"meta_layer{i}.json" for i in layers),
        *("attention_mask.csv", "position_ids.csv", "manifest.json"),
    }
    assert {path.name for path in paths} == set(os.listdir(tmp_path / "x_all_layers")) == expected
    assert paths[-1].name == "manifest.json"
    for i in layers:
        for stem, point in (("x", "x"), ("xnorm", "x_norm")):
            first, *rows = (tmp_path / f"x_all_layers/{stem}_layer{i}.csv").read_text().splitlines()
            assert first == "# shape=[1, 5, 48]"
            parsed = np.array([[np.float32(word) for word in row.split(",")] for row in rows])
            assert parsed.tobytes() == run[point, i].tobytes()
    mask, positions = (
        (tmp_path / f"x_all_layers/{name}.csv").read_text()
        for name in ("attention_mask", "position_ids")
    )
    assert mask == "# shape=[1, 5]\n1,1,1,1,1\n"
    assert positions == "# shape=[1, 5]\n0,1,2,3,4\n"


def test_every_point_has_its_rows_and_shape(model, tmp_path):
    run = model.run(IDS, points=all_points(model), layers=[2, 0])
    run.save(tmp_path / "out", format="txt")
    rows = {"scores": 4 * 5, "pattern": 4 * 5}
    for point in run.points:
        for layer in run.layers_of(point) or [None]:
            stem = {"x_norm": "xnorm"}.get(point, point)
            name = f"{stem}.txt" if layer is None else f"{stem}_layer{layer}.txt"
            value = run[point] if layer is None else run[point, layer]
            first, *lines = (tmp_path / "out" / name).read_text().splitlines()
            assert first == f"# shape={[1, *value.shape]}"
            assert len(lines) == rows.get(point, 5)
            assert {line.count(" ") + 1 for line in lines} == {value.size // len(lines)}
    assert not list((tmp_path / "out").glob("*_layer1.*"))


def test_meta_has_the_numbers_of_the_maths(model, tmp_path):
    run = model.run(IDS, points=["x", "q"])
    run.save(tmp_path / "out")
    meta = json.loads((tmp_path / "out/meta_layer1.json").read_text())
    config = model.config
    assert meta["layer"] == 1 and meta["dtype"] == "float32"
    assert (meta["num_heads"], meta["num_kv_heads"], meta["head_dim"]) == (4, 2, 16)
    assert (meta["n_heads"], meta["n_kv_heads"]) == (4, 2)
    assert (meta["model"], meta["model_folder"]) == (str(model.path), str(model.path))
    assert (meta["d_model"], meta["d_ff"], meta["rope_theta"]) == (48, 80, 10000.0)
    assert meta["rms_norm_eps"] == meta["rmsnorm_eps"] == 1e-5
    assert meta["token_ids"] == IDS and meta["position_ids"] == list(range(5))
    assert np.array(meta["inv_freq"], np.float32).tobytes() == config.inv_freq.tobytes()
    assert meta["shapes"] == {"x": [1, 5, 48], "q": [1, 5, 4, 16]}
    for key in ("rope_scaling", "attention_scale", "tokens", "attention_bias", "qk_norm", "prompt"):
        assert key in meta
    for key in ("template_date", "model", "revision", "llamaprobe_version"):
        assert key in meta
    assert set(meta["weight_names"]) == {
        n for n in model.weights if n.startswith("model.layers.1.")
    }


def test_the_manifest_matches_the_files(model, tmp_path):
    out = tmp_path / "out"
    model.run(IDS).save(out, hash_weights=True)
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["files"]) == set(os.listdir(out)) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        data = (out / name).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["files"]["xnorm_layer2.csv"]["shape"] == [1, 5, 48]
    assert manifest["files"]["xnorm_layer2.csv"]["dtype"] == "float32"
    weights = (model.path / "model.safetensors").read_bytes()
    expected = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    expected["fingerprint"] = fingerprint(model.path / "model.safetensors")
    assert manifest["weight_files"] == {"model.safetensors": expected}


def test_weights_are_not_read_for_the_manifest(model, tmp_path):
    model.run(IDS).save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["weight_files"]["model.safetensors"]["sha256"] is None


@pytest.mark.parametrize("format", ["csv", "txt", "npy"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_saved_run_comes_back_bit_for_bit(random_checkpoint, tmp_path, format, bias):
    model = lp.load(random_checkpoint(attention_bias=bias, mlp_bias=bias, tie_word_embeddings=bias))
    points = [*all_points(model)[3:], "x", ("x_norm", 2)]
    run = model.run(IDS, points=points, layers=[2, 1])
    run.save(tmp_path / "out", format=format)
    back = read_run(tmp_path / "out")
    assert back.points == run.points and back.layers == run.layers
    for point in run.points:
        assert back.layers_of(point) == run.layers_of(point)
        assert back[point].shape == run[point].shape and back[point].dtype == np.float32
        assert back[point].tobytes() == run[point].tobytes()
    assert back.meta == run.meta and back.tokens == run.tokens and len(back) == len(run)
    assert run.equals(back) and back.equals(run)
    back.save(tmp_path / "again", format=format)
    names = set(os.listdir(tmp_path / "out")) - {"manifest.json"}
    assert names == set(os.listdir(tmp_path / "again")) - {"manifest.json"}
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_values_outside_of_the_layers(model, tmp_path):
    run = model.run(IDS, points=["logits", "final_rms"])
    run.save(tmp_path / "out")
    assert {"logits.csv", "final_rms.csv", "meta_layer0.json"} <= set(os.listdir(tmp_path / "out"))
    back = read_run(tmp_path / "out")
    assert back["logits"].tobytes() == run["logits"].tobytes()
    assert back["final_rms"].shape == (5,)


def test_each_run_of_a_batch_has_its_own_folder(model, tmp_path):
    for i, run in enumerate(model.run([IDS, [9, 8]])):
        run.save(tmp_path / str(i))
    assert read_run(tmp_path / "0")["x"].shape == (3, 5, 48)
    assert read_run(tmp_path / "1").token_ids.tolist() == [9, 8]


def test_digits(model, tmp_path):
    run = model.run(IDS)
    run.save(tmp_path / "16", digits=16)
    text = (tmp_path / "16/x_layer0.csv").read_text()
    assert text.split("\n")[1].split(",")[0] == f"{run['x', 0][0, 0]:.16e}"
    assert read_run(tmp_path / "16")["x"].tobytes() == run["x"].tobytes()
    run.save(tmp_path / "2", digits=2)
    rough = read_run(tmp_path / "2")["x"]
    assert np.allclose(rough, run["x"], rtol=0.006) and not np.array_equal(rough, run["x"])


def test_equal_runs(model):
    run = model.run(IDS)
    assert run.equals(model.run(IDS))
    others = [
        model.run([*IDS[:-1], 4]),
        model.run(IDS[:-1]),
        model.run(IDS, layers=[0, 1]),
        model.run(IDS, points=["x"]),
    ]
    assert not any(run.equals(other) or other.equals(run) for other in others)
    again = model.run(IDS)
    for value, same in [(np.nan, True), (-np.nan, True), (0.0, True), (-0.0, False)]:
        run["x"][2, 1, 3], again["x"][2, 1, 3] = np.copysign(value, 1), value
        assert run.equals(again) is same


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"masks": False, "layers": [2, 0]}, {"x_layer0", "x_layer2", "scores_layer2", "logits"}),
        ({"masks": False, "layers": range(1), "points": ["x", "scores"]}, {"x_layer0"}),
        ({"points": ["logits"], "masks": True}, {"logits", "attention_mask", "position_ids"}),
    ],
)
def test_part_of_a_run_is_saved(model, tmp_path, options, files):
    run = model.run(IDS, points=["x", ("scores", 2), "logits"])
    run.save(tmp_path / "out", format="npy", digits="shortest", **options)
    assert {path.stem for path in (tmp_path / "out").glob("*.npy")} == files
    back = read_run(tmp_path / "out")
    for point in back.points:
        for layer in back.layers_of(point):
            assert back[point, layer].tobytes() == run[point, layer].tobytes()


@pytest.mark.parametrize(
    ("points", "held"),
    [
        ("pattern", {"pattern": (2, 0)}),
        ("blocks.2.attn.hook_pattern", {"pattern": (2,)}),
        (("x", 0), {"x": (0,)}),
        ([("x", 0), "q"], {"x": (0,), "q": (2, 0)}),
        ([("q", 0), ("q", 2)], {"q": (0, 2)}),
        (["embed", "hook_q", ("q", 0)], {"x": (0,), "q": (2, 0)}),
        (["model.layers.2.self_attn.q_proj", "logits"], {"q": (2,), "logits": ()}),
        (iter(["logits"]), {"logits": ()}),
    ],
)
def test_points_mean_the_same_as_in_run(model, tmp_path, points, held):
    run = model.run(IDS, points=["x", "q", "k", "pattern", "logits"], layers=[2, 0])
    run.save(tmp_path / "out", points=points, masks=False)
    back = read_run(tmp_path / "out")
    assert {point: back.layers_of(point) for point in back.points} == held
    for point, layers in held.items():
        for layer in layers:
            assert back[point, layer].tobytes() == run[point, layer].tobytes()
    if not isinstance(points, type(iter([]))):
        again = model.run(IDS, points=points, layers=[2, 0])
        assert {point: again.layers_of(point) for point in again.points} == held


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"points": "qk"}, "there is no point 'qk'"),
        ({"points": ("x", 1)}, "x of layer 1 was not captured"),
        ({"points": "blocks.1.hook_resid_pre"}, "x of layer 1 was not captured"),
        ({"points": [("x", 2)], "layers": [0]}, "names a layer that layers leaves out"),
        ({"points": 5}, "points is empty or not a list"),
        ({"points": [5]}, "5 is not the name of a point"),
    ],
)
def test_rejects_points_not_in_the_run(model, tmp_path, wrong, message):
    run = model.run(IDS, points=["x", "q", "k"], layers=[2, 0])
    with pytest.raises(lp.PointError, match=message):
        run.save(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["csv", "txt", "hex", "q8.8"])
def test_a_run_without_first_lines_comes_back(model, tmp_path, format):
    run = model.run(IDS, points=all_points(model))
    run.save(tmp_path / "bare", format=format, header=False)
    run.save(tmp_path / "full", format=format)
    bare, full = read_run(tmp_path / "bare"), read_run(tmp_path / "full")
    assert bare.equals(full) and (bare.equals(run) or format == "q8.8")
    manifests = [json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("bare", "full")]
    assert manifests[0]["header"] is False and "header" not in manifests[1]
    for name, entry in manifests[0]["files"].items():
        text = (tmp_path / "bare" / name).read_text()
        rest = (tmp_path / "full" / name).read_text()
        assert text == (rest if name.endswith("json") else rest.split("\n", 1)[1])
        assert entry["bytes"] == len(text)


def test_npy_has_no_first_line_to_omit(model, tmp_path, command):
    with pytest.raises(lp.ArgumentError, match="header=False is for text"):
        model.run(IDS).save(tmp_path / "out", format="npy", header=False)
    with pytest.raises(lp.ArgumentError, match="header=False is for text"):
        lp.export_weights(model, tmp_path / "out", format="npy", header=False)
    for args in (
        ["run", "demo", "Once", "--no-header"],
        ["run", "demo", "x", "--out", "o", "--format", "npy", "--no-header"],
    ):
        code, _, err = command(*args)
        assert code == 2 and "--no-header is for" in err
    assert not (tmp_path / "out").exists()


def test_the_command_omits_the_first_line(tmp_path, command):
    out = tmp_path / "out"
    assert command("run", "demo", "Once upon", "--out", out, "--no-header")[0] == 0
    assert not (out / "x_layer0.csv").read_text().startswith("#")
    assert read_run(out).equals(lp.load("demo").run("Once upon"))
    assert (
        command("weights", "demo", "--out", tmp_path / "w", "--no-header", "--filter", "*norm*")[0]
        == 0
    )
    assert not (tmp_path / "w/model.norm.weight.csv").read_text().startswith("#")


def test_a_small_save_takes_memory_of_its_own_size(model, tmp_path):
    """Four buffers of 11 MB were zeroed for five tokens."""
    run = model.run(IDS)
    tracemalloc.start()
    run.save(tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_rejects_a_layer_not_in_the_run(model, tmp_path):
    run = model.run(IDS, layers=[0, 1])
    for wrong in ([2], [0, 3], [], 2, [0, 0]):
        with pytest.raises(lp.PointError, match="layer"):
            run.save(tmp_path / "out", layers=wrong)
    with pytest.raises(lp.PointError, match="points is empty"):
        run.save(tmp_path / "out", points=[])
    assert not (tmp_path / "out").exists()


def test_existing_files_are_not_overwritten(model, tmp_path):
    run = model.run(IDS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/xnorm_layer1.csv").write_text("mine")
    with pytest.raises(lp.FileError, match=r"xnorm_layer1\.csv: exists; .*--force"):
        run.save(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["xnorm_layer1.csv"]
    run.save(tmp_path / "out", force=True)
    assert lp.read(tmp_path / "out/xnorm_layer1.csv").shape == (1, 5, 48)
    with pytest.raises(lp.FileError, match="holds a saved run; .* --force"):
        run.save(tmp_path / "out")
    run.save(tmp_path / "out", force=True, points=["x"], format="npy")
    assert read_run(tmp_path / "out").points == ("x",)


def test_reports_a_folder_in_the_way_before_writing(model, tmp_path):
    (tmp_path / "out/x_layer2.csv").mkdir(parents=True)
    with pytest.raises(lp.FileError, match=r"x_layer2\.csv: is a folder"):
        model.run(IDS).save(tmp_path / "out", force=True)
    assert os.listdir(tmp_path / "out") == ["x_layer2.csv"]


def test_links_are_replaced_and_not_followed(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out/x_layer0.csv").symlink_to(tmp_path / "precious")
    run = model.run(IDS)
    with pytest.raises(lp.FileError, match="exists"):
        run.save(tmp_path / "out")
    run.save(tmp_path / "out", force=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out/x_layer0.csv").is_symlink()


def test_wrong_arguments_write_nothing(model, tmp_path):
    run = model.run(IDS)
    for wrong in (
        {"format": "xls"},
        {"digits": 99},
        {"points": ["logits"]},
        {"points": ["x_nrom"]},
    ):
        with pytest.raises(lp.ArgumentError):
            run.save(tmp_path / "out", **wrong)
    for place in ("/proc/nowhere", tmp_path / "file/out", tmp_path / "file", "nul\0"):
        (tmp_path / "file").write_text("")
        with pytest.raises(lp.FileError):
            run.save(place)
    assert not (tmp_path / "out").exists()


def test_reports_too_little_space_before_writing(model, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: usage)
    run, message = model.run(IDS), r"about .* kB are to be written and 1\.0 kB are free; save less"
    for format, more in [("csv", ", or with --format npy"), ("npy", ""), ("q4.12", "")]:
        with pytest.raises(lp.FileError, match=message + more + "$"):
            run.save(tmp_path / "deep/out", format=format)
        with pytest.raises(lp.FileError, match=message + more + "$"):
            lp.export_weights(model, tmp_path / "deep/out", format=format)
    assert not (tmp_path / "deep").exists(), "no empty folder is left"
    (tmp_path / "out").mkdir()
    with pytest.raises(lp.FileError, match=message):
        run.save(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


# ---- folders without a sound run ----


def change(path, **changes):
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | changes))


BAD_MANIFESTS = {
    "kind": {"kind": "weights"},
    "format": {"format": "../csv"},
    "digits": {"digits": "many"},
    "files": {"files": []},
    "entries": {"files": {"x_layer0.csv": 3}},
    "points": {"points": ["x"]},
    "unknown point": {"points": {"y": [0]}},
    "no layers": {"points": {"x": []}},
    "layer twice": {"points": {"x": [0, 0]}},
    "layer of logits": {"points": {"logits": [0]}},
    "negative layer": {"points": {"x": [-1]}},
    "numbers": {"model_numbers": {"n_layers": "3"}},
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_rejects_a_damaged_manifest(model, tmp_path, name):
    model.run(IDS).save(tmp_path / "out")
    change(tmp_path / "out/manifest.json", **BAD_MANIFESTS[name])
    with pytest.raises(lp.FormatError):
        read_run(tmp_path / "out")


def test_rejects_a_folder_without_its_files(model, tmp_path):
    with pytest.raises(lp.FileError, match="manifest.json: missing"):
        read_run(tmp_path)
    model.run(IDS).save(tmp_path / "out")
    (tmp_path / "out/xnorm_layer1.csv").unlink()
    with pytest.raises(lp.FileError, match=r"xnorm_layer1\.csv: No such file"):
        read_run(tmp_path / "out")
    lp.write(tmp_path / "out/xnorm_layer1.csv", np.ones((1, 4, 48), np.float32))
    with pytest.raises(lp.FormatError, match=r"\[1, 4, 48\], and 5 tokens .* \[1, 5, 48\]"):
        read_run(tmp_path / "out")
    change(tmp_path / "out/meta_layer0.json", token_ids=[1, -1])
    with pytest.raises(lp.FormatError, match="token_ids"):
        read_run(tmp_path / "out")


# ---- names ----


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("../../x", "..%2F..%2Fx"),
        ("/x", "%2Fx"),
        ("a b", "a%20b"),
        ("a%2Fb", "a%252Fb"),
        ("é", "%C3%A9"),
        ("a\nb", "a%0Ab"),
        ("a\0b", "a%00b"),
        (".", "%2E"),
        ("..", "%2E."),
        ("-rf", "%2Drf"),
        ("CON", "%43ON"),
        ("nul.weight", "%6Eul.weight"),
        ("console", "console"),
        ("a~b", "a%7Eb"),
        ("\ud800", "%ED%A0%80"),
        ("", "~e3b0c44298fc"),
    ],
)
def test_tensor_names_become_file_names(tensor, name):
    assert file_names([tensor], ".csv") == {tensor: name + ".csv"}


def test_long_and_colliding_names_stay_apart():
    tensors = ["a" * 200, "a" * 201, "a" * 5000, "é" * 200, "A.w", "a.w", "é", "e\u0301", "b"]
    files = file_names(tensors, ".csv")
    assert len({name.casefold() for name in files.values()}) == len(tensors)
    assert all(name.isascii() and len(name) < 225 and "/" not in name for name in files.values())
    assert files["a" * 200] == "a" * 200 + ".csv" and files["b"] == "b.csv"
    assert files["A.w"].startswith("A.w~") and files["a.w"].startswith("a.w~")


def test_printable():
    assert printable("a\x1b[31m\n\u202e\U000e0001é") == "a\\x1b[31m\\x0a\\u202e\\U000e0001é"
    assert printable("x" * 300, 10) == "xxxxxxx..."


def test_force_removes_files_of_the_previous_run(random_checkpoint, tmp_path):
    """A deeper model's files beside those of this one would be taken for this one's."""
    deep = lp.load(random_checkpoint(num_hidden_layers=4)).run([1, 2], points=("x", "z"))
    flat = lp.load(random_checkpoint(num_hidden_layers=2)).run([1, 2])
    deep.save(tmp_path / "run")
    mine = {
        "notes.txt",
        "x_layer01.csv",
        "y_layer0.csv",
        "logits_layer0.csv",
        "x.csv",
        "meta_layer.json",
    }
    for name in mine:
        (tmp_path / "run" / name).write_text("mine")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    manifest["files"] |= {name: {} for name in [*mine, "../run/x_layer0.csv", "", "."]}
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    paths = flat.save(tmp_path / "run", force=True)
    assert set(os.listdir(tmp_path / "run")) - {path.name for path in paths} == mine
