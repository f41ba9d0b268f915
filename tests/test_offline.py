"""The maths from files alone, and verify: honest files pass, an altered digit is found."""

import json
import os
import re
import shutil

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.checks.provenance import recorded_models
from llamaprobe.checks.verify import BAR, verify_run
from llamaprobe.cli import main as cli
from llamaprobe.files.fingerprint import fingerprint
from llamaprobe.saved.export import export_weights
from llamaprobe.saved.read import Saved

IDS = [1, 40, 7, 96, 3, 55, 2, 81]


def random_model(random_checkpoint, **config):
    return lp.load(random_checkpoint(**config))


def faults(folder, model):
    return [(check.what, check.fault) for check in verify_run(folder, model) if check.fault]


@pytest.mark.parametrize(
    ("run_format", "weight_format"), [("csv", "csv"), ("npy", "txt"), ("txt", "npy")]
)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_key_value_heads": 4, "attention_bias": True},
        {"num_key_value_heads": 1, "head_dim": 8},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ],
)
def test_a_layer_from_files_alone(random_checkpoint, tmp_path, config, run_format, weight_format):
    model = random_model(random_checkpoint, **config)
    run = model.run(
        IDS, points=["x_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z"]
    )
    run.save(tmp_path / "run", points=["x_norm"], format=run_format)
    export_weights(model, tmp_path / "weights", filter="*self_attn*", format=weight_format)
    shutil.rmtree(model.path)
    for layer in run.layers:
        again = offline.attention(tmp_path / "run", tmp_path / "weights", layer)
        assert list(again) == ["q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z"]
        for point, value in again.items():
            expected = run[point, layer]
            assert value.shape == expected.shape and value.dtype == np.float32
            finite = np.isfinite(expected)
            assert np.array_equal(np.isfinite(value), finite)
            size = np.linalg.norm(expected[finite])
            assert np.linalg.norm(value[finite] - expected[finite]) <= 2e-6 * size, point


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("format", ["npy", "hex"])
def test_raw_words_become_their_floats(random_checkpoint, tmp_path, dtype, format):
    model = lp.load(random_checkpoint(dtype=dtype))
    model.run(IDS).save(tmp_path / "run")
    layer = {"filter": "*layers.1.self_attn*", "progress": False, "format": format}
    export_weights(model, tmp_path / "raw", dtype="raw", **layer)
    export_weights(model, tmp_path / "float", **layer)
    raw, wide = (offline.attention(tmp_path / "run", tmp_path / name, 1) for name in ("raw", "float"))
    assert all(raw[point].tobytes() == wide[point].tobytes() for point in wide)


@pytest.mark.parametrize("format", ["csv", "npy", "hex"])
def test_integers_stay_integers(random_checkpoint, tmp_path, format):
    lp.load(random_checkpoint()).run(IDS).save(tmp_path, format=format)
    assert offline.load(tmp_path, "position_ids").tolist() == [list(range(len(IDS)))]
    np.save(tmp_path / "w.npy", np.arange(3, dtype=np.uint16))
    manifest = {"files": {"w.npy": {"source_dtype": "U16"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert offline.load(tmp_path, "w").dtype == np.uint16


def test_rejects_words_of_unknown_dtype(tmp_path):
    np.save(tmp_path / "w.npy", np.zeros((2, 2), np.uint16))
    for manifest in (None, {}, {"files": []}, {"files": {"w.npy": {"source_dtype": "F8_E5M2"}}}):
        if manifest is not None:
            (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(lp.FormatError, match=r"w\.npy: holds uint16.* export the weights as"):
            offline.load(tmp_path, "w")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match=r"meta_layer0\.json"):
        offline.attention(tmp_path, tmp_path, 0)
    with pytest.raises(lp.FileError, match=r"has no a\.weight\.csv, \.txt, \.npy or \.hex"):
        offline.load(tmp_path, "a.weight")


@pytest.mark.slow
def test_a_real_model_from_start_to_end(smollm2, tmp_path):
    model = lp.load(smollm2)
    run = model.run("Once upon a time there was a little girl", points=["x", "x_norm", "pattern"])
    run.save(tmp_path / "run")
    export_weights(model, tmp_path / "weights", filter="*layers.12.self_attn*")
    again = offline.attention(tmp_path / "run", tmp_path / "weights", 12)
    assert np.abs(again["pattern"] - run["pattern", 12]).max() < 2e-5
    assert faults(tmp_path / "run", model) == []
    alter(tmp_path / "run/x_layer20.csv", 3, 100, 3)
    mend_manifest(tmp_path / "run")
    assert "the same tokens run again" in dict(faults(tmp_path / "run", model))


# ---- verify ----

POINT_SETS = {
    "default": (("x", "x_norm"), None),
    "x alone": (("x",), None),
    "one layer in the middle": (("x_norm", "z"), [1]),
    "logits alone": (("logits",), None),
    "layers out of order": (("q", "x_out"), [2, 0]),
}


@pytest.mark.parametrize("name", POINT_SETS)
@pytest.mark.parametrize("digits", [None, 16, 8, 5, 2, 1, 0])
def test_honest_files_pass(random_checkpoint, tmp_path, name, digits):
    points, layers = POINT_SETS[name]
    model = random_model(random_checkpoint, attention_bias=True)
    model.run(IDS, points=points, layers=layers).save(tmp_path / "out", digits=digits)
    checks = list(verify_run(tmp_path / "out", model))
    assert [check.fault for check in checks if check.fault] == []
    sizes = {check.what: check.roundings for check in checks if check.roundings is not None}
    assert set(sizes) == set(points) and all(0 <= size < BAR for size in sizes.values())


@pytest.mark.parametrize("format", ["csv", "txt", "npy"])
@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True, "mlp_bias": True}])
def test_honest_files_with_every_point_pass(random_checkpoint, tmp_path, format, config):
    model = random_model(random_checkpoint, **config)
    points = [point.name for point in model.points()]
    model.run(IDS, points=points).save(tmp_path / "out", format=format)
    checks = list(verify_run(tmp_path / "out", model))
    assert [check.fault for check in checks if check.fault] == []
    sizes = {check.what: check.roundings for check in checks if check.roundings is not None}
    assert list(sizes) == points and sizes["x"] == 0
    # rounding really is what the margin is made of: neither far above it nor far below
    assert all(0.3 < size < 6 for point, size in sizes.items() if point != "x")


def test_two_blocks_of_a_sum_and_long_prompts(random_checkpoint, tmp_path):
    model = random_model(
        random_checkpoint, hidden_size=320, intermediate_size=530, max_position_embeddings=400
    )
    ids = np.random.default_rng(1).integers(0, 97, 300)
    points = ["x", "q", "scores", "z", "mlp_out", "logits"]
    model.run(ids, points=points, layers=[0, 2]).save(tmp_path / "out", format="npy")
    assert faults(tmp_path / "out", model) == []


def alter(path, row, column, place):
    """Changes one digit of one number: its first one that is not 0, or the last that matters, since
    the last of nine digits need not change the float32 that is nearest."""
    lines = path.read_text().split("\n")
    words = lines[1 + row].split(",")
    word = words[column]
    mantissa = re.match(r"-?[0-9.]+", word)[0]
    places = [i for i, char in enumerate(mantissa) if char in "123456789"]
    for at in places[place:] if place >= 0 else reversed(places):
        words[column] = word[:at] + str((int(word[at]) + 4) % 9 + 1) + word[at + 1 :]
        if np.float32(words[column]) != np.float32(word):
            break
    lines[1 + row] = ",".join(words)
    path.write_text("\n".join(lines))


def mend_manifest(out):
    """Makes the manifest agree with the files again, as a forger would."""
    import hashlib

    manifest = json.loads((out / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (out / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("mended", [False, True])
def test_one_altered_digit_is_found_wherever_it_is(random_checkpoint, tmp_path, place, mended):
    model = random_model(random_checkpoint)
    points = [point.name for point in model.points()]
    model.run(IDS, points=points).save(tmp_path / "honest")
    for i, path in enumerate(sorted((tmp_path / "honest").glob("*.csv"))):
        if path.name in ("attention_mask.csv", "position_ids.csv"):
            continue
        out = tmp_path / "altered"
        shutil.copytree(tmp_path / "honest", out)
        rows = path.read_text().count("\n") - 1
        alter(out / path.name, i % rows, 0, place)
        if mended:
            mend_manifest(out)
        found = faults(out, model)
        assert found, path.name
        assert mended or found[0] == (path.name, "its sha256 is not the one in manifest.json")
        assert "the same tokens run again" in dict(found)
        shutil.rmtree(out)


@pytest.mark.slow
def test_the_maths_finds_a_leading_digit_without_the_core(random_checkpoint, tmp_path):
    model = random_model(random_checkpoint)
    points = [point.name for point in model.points()]
    model.run(IDS, points=points).save(tmp_path / "out")
    for point in points:
        if point in ("scores", "pattern"):
            continue
        name = {"x_norm": "xnorm"}.get(point, point)
        path = (
            tmp_path
            / "out"
            / next(
                n for n in os.listdir(tmp_path / "out") if re.match(rf"{name}(_layer1)?\.csv", n)
            )
        )
        before = path.read_text()
        alter(path, 3, 0, 0)
        assert point in dict(faults(tmp_path / "out", model)), point
        path.write_text(before)
    assert faults(tmp_path / "out", model) == []


def test_digits_files_with_an_altered_digit(random_checkpoint, tmp_path):
    model = random_model(random_checkpoint)
    model.run(IDS).save(tmp_path / "out", digits=3)
    alter(tmp_path / "out/x_layer1.csv", 2, 5, -1)
    mend_manifest(tmp_path / "out")
    assert "the same tokens run again" in dict(faults(tmp_path / "out", model))


def test_altered_meta_is_found(random_checkpoint, tmp_path):
    model = random_model(random_checkpoint)
    model.run(IDS).save(tmp_path / "out")
    path = tmp_path / "out/meta_layer1.json"
    path.write_text(path.read_text().replace('"position_ids": [0, 1', '"position_ids": [0, 2'))
    assert [what for what, _ in faults(tmp_path / "out", model)] == ["meta_layer1.json"]


def test_reports_another_model(random_checkpoint, tmp_path):
    model = random_model(random_checkpoint)
    model.run(IDS).save(tmp_path / "out")
    assert "x" in dict(faults(tmp_path / "out", lp.load(random_checkpoint(seed=1))))
    for other in ({"hidden_size": 64}, {"rope_theta": 500.0}, {"vocab_size": 60}):
        with pytest.raises(lp.ArgumentError, match="give the one that the run was made with"):
            faults(tmp_path / "out", random_model(random_checkpoint, **other))


def test_names_in_the_manifest_lead_nowhere(random_checkpoint, tmp_path):
    model = random_model(random_checkpoint)
    model.run(IDS).save(tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    path.write_text(path.read_text().replace('"x_layer0.csv"', '"../../etc/passwd"'))
    with pytest.raises(lp.FormatError, match="not the name of a saved file"):
        faults(tmp_path / "out", model)


def test_the_command(random_checkpoint, tmp_path, capsys):
    folder = random_checkpoint()
    lp.load(folder).run(IDS).save(tmp_path / "out")
    assert cli.main(["verify", str(tmp_path / "out"), "--model", str(folder)]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^x_norm +[0-9.]+  ok$", output, re.MULTILINE) and "altered" not in output
    alter(tmp_path / "out/xnorm_layer2.csv", 4, 7, 3)
    assert cli.main(["verify", str(tmp_path / "out"), "--model", str(folder)]) == 1
    output = capsys.readouterr().out
    assert "xnorm_layer2.csv" in output and re.search(r"x_norm .*of layer 2 at \[4, 7\] is", output)


# ---- missing files, and verify without a model ----


def run_verify(folder, capsys, *options):
    """Exit code, {what: rest of its line}, and stderr of `llamaprobe verify`."""
    code = cli.main(["verify", str(folder), *options])
    out, err = capsys.readouterr()
    lines = (re.match(r"(.{23}\S*)\s+(.*)", line) for line in out.splitlines()[1:])
    return code, {line[1].strip(): line[2] for line in lines if line}, err


def test_reports_missing_files_and_checks_the_rest(random_checkpoint, tmp_path, capsys):
    folder, out = random_checkpoint(), tmp_path / "out"
    points = ["x", "x_norm", "q", "x_out", "logits"]
    lp.load(folder).run(IDS, points=points).save(out)
    for name in ("x_layer1.csv", "meta_layer0.json", "logits.csv"):
        (out / name).unlink()
    (out / "q_layer0.csv").write_text("# shape=[1, 8, 4, 16]\nword\n")
    alter(out / "q_layer2.csv", 4, 7, 1)
    alter(out / "x_out_layer2.csv", 0, 0, 1)
    code, lines, _ = run_verify(out, capsys, "--model", str(folder))
    assert code == 1
    missing = "No such file or directory"
    assert lines["x_layer1.csv"] == lines["meta_layer0.json"] == lines["logits.csv"] == missing
    assert lines["x"] == f"0  of layer 1 cannot be checked: {out}/x_layer1.csv: {missing}"
    assert lines["logits"] == f"cannot be checked: {out}/logits.csv: {missing}"
    assert re.fullmatch(r"[0-9.]+  ok", lines["x_norm"])
    assert re.search(r"of layer 2 at \[4, 0, 7\] is .* \(and 1 more layer\)", lines["q"])
    assert "of layer 2 at [0, 0] is" in lines["x_out"]
    again = lines["the same tokens run again"]
    assert again.startswith("2 values differ, the first in q of layer 2; 3 values could not be read")
    for path in out.glob("meta_layer*.json"):
        path.unlink()
    code, lines, _ = run_verify(out, capsys, "--model", str(folder))
    assert code == 1 and lines["values"].startswith("none can be checked: ")
    (out / "manifest.json").unlink()
    assert cli.main(["verify", str(out), "--model", str(folder)]) == 1
    assert re.fullmatch(r"llamaprobe: .*manifest\.json: missing.*\n", capsys.readouterr().err)


def test_the_model_that_the_run_names_is_taken(random_checkpoint, tmp_path, capsys):
    folder, out = random_checkpoint(), tmp_path / "out"
    lp.load(folder).run(IDS).save(out)
    code, lines, err = run_verify(out, capsys)
    assert (code, lines["the same tokens run again"]) == (0, "ok")
    assert err == f"llamaprobe: the model is the one that the run names, {folder}\n"


def test_the_model_is_found_from_any_folder(random_checkpoint, tmp_path, capsys, monkeypatch):
    """Under the name that the user gave lies another model of the same shape in another folder."""
    folder, other, out = random_checkpoint(), random_checkpoint(seed=1), tmp_path / "out"
    monkeypatch.chdir(folder.parent)
    lp.load(folder.name).run(IDS).save(out)
    (tmp_path / "elsewhere").mkdir()
    other.rename(tmp_path / "elsewhere" / folder.name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, lines, err = run_verify(out, capsys)
    assert (code, lines["the same tokens run again"]) == (0, "ok")
    assert err == f"llamaprobe: the model is the one that the run names, {folder}\n"
    folder.rename(tmp_path / "moved")
    code, lines, err = run_verify(out, capsys)
    assert code == 3 and lines["the same tokens run again"] == "not checked: needs the model"
    assert f"{folder.name} is another model now, or has changed: model.safetensors" in err
    assert f"({folder}: no such folder" in err
    code, lines, err = run_verify(out, capsys, "--model", folder.name)
    assert code == 1 and "this is not the model that the run was made with" in err
    assert run_verify(out, capsys, "--model", str(tmp_path / "moved"))[::2] == (0, "")
    alter(out / "x_layer1.csv", 2, 5, -1)
    assert run_verify(out, capsys)[0] == 1  # found without the model


def test_a_run_of_the_first_layers_is_checked_with_these(random_checkpoint, tmp_path, capsys):
    folder, out = random_checkpoint(), tmp_path / "out"
    lp.load(folder, layers=2).run(IDS, points=["x", "logits"]).save(out)
    for options in ([], ["--model", str(folder)]):
        code, lines, _ = run_verify(out, capsys, *options)
        assert (code, lines["the same tokens run again"]) == (0, "ok")
    with pytest.raises(lp.ArgumentError, match="of the run had 2 layers, and this one has 3"):
        list(verify_run(out, lp.load(folder)))


def test_weights_that_were_replaced_before_the_save_are_not_those_of_the_run(
    random_checkpoint, tmp_path, capsys
):
    folder, other, out = random_checkpoint(), random_checkpoint(seed=1), tmp_path / "out"
    run = lp.load(folder).run(IDS)
    (other / "model.safetensors").replace(folder / "model.safetensors")
    run.save(out, hash_weights=True)
    code, _, err = run_verify(out, capsys)
    assert code == 3 and "is another model now, or has changed: model.safetensors" in err
    entry = json.loads((out / "manifest.json").read_text())["weight_files"]["model.safetensors"]
    assert entry["sha256"] is None


def test_a_run_that_was_read_back_knows_its_weights(random_checkpoint, tmp_path):
    lp.load(random_checkpoint()).run(IDS).save(tmp_path / "a")
    lp.read_run(tmp_path / "a").save(tmp_path / "b", hash_weights=True)
    a, b = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab")
    assert a["weight_files"] == b["weight_files"]


def test_a_path_named_demo_is_not_the_demo(random_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_checkpoint().rename("demo")
    for source, places in (("./demo", [str(tmp_path / "demo")]), ("demo", ["demo"])):
        out = lp.load(source).run(IDS, points="x").save(tmp_path / source.replace("/", "_"))[0].parent
        assert [name for name, _ in recorded_models(Saved(out))] == places


def test_an_old_or_foreign_manifest(random_checkpoint, tmp_path, capsys):
    """Without a fingerprint the size decides; of what makes no sense nothing is believed. The folder
    is of version 0, of which not all is compared."""
    folder, out = random_checkpoint(), tmp_path / "out"
    lp.load(folder).run(IDS).save(out)
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["format_version"]
    size = (folder / "model.safetensors").stat().st_size
    for entry, is_it in (
        ({"bytes": size}, True),
        ({"bytes": size, "sha256": None, "fingerprint": None}, True),
        ({"bytes": size + 1}, False),
        ({"bytes": size, "fingerprint": 7}, False),
        ("word", False),
    ):
        manifest["weight_files"] = {"model.safetensors": entry}
        (out / "manifest.json").write_text(json.dumps(manifest))
        code, _, err = run_verify(out, capsys)
        assert (code, "the model is the one" in err) == (3, is_it), entry
    manifest["weight_files"] = {"../other.safetensors": {}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert run_verify(out, capsys)[0] == 3


def test_a_fingerprint_has_samples_from_all_over_a_file(tmp_path):
    path, data = tmp_path / "file", bytearray(3_000_000)
    found = set()
    for at in (None, 0, 1_480_000, 2_999_999):
        if at is not None:
            data[at] ^= 1
        path.write_bytes(data)
        found.add(fingerprint(path))
    path.write_bytes(data[:-1])
    assert len(found | {fingerprint(path)}) == 5
    path.write_bytes(b"")
    assert len(fingerprint(path)) == 64
    with pytest.raises(lp.FileError, match="missing"):
        fingerprint(tmp_path / "missing")


def test_without_a_model_files_are_checked_with_each_other(random_checkpoint, tmp_path, capsys):
    folder, out = random_checkpoint(), tmp_path / "out"
    model = lp.load(folder)
    points = [point.name for point in model.points()]
    model.run(IDS, points=points).save(out)
    shutil.rmtree(folder)
    code, lines, err = run_verify(out, capsys)
    assert code == 3 and err.startswith("llamaprobe: no model, so only what needs no weights")
    by_weights = {"x_norm", "x_mid_norm", "q", "k", "v", "attn_out", "gate", "up", "mlp_out"}
    by_weights |= {"final_norm", "logits"}
    for point in points:
        if point == "x":
            assert lines[point] == "0  not checked in 1 of 3 layers: needs the weights"
        elif point in by_weights:
            assert lines[point] == "not checked: needs the weights"
        else:
            assert re.fullmatch(r"[0-9.]+  ok", lines[point]), point
    assert lines["the same tokens run again"] == "not checked: needs the model"
    for point in set(points) - by_weights - {"scores", "pattern"}:
        name = "final_rms.csv" if point == "final_rms" else f"{point}_layer1.csv"
        name = "final_unit.csv" if point == "final_unit" else name
        good = (out / name).read_text()
        alter(out / name, 3, 0, 0)
        mend_manifest(out)
        code, lines, _ = run_verify(out, capsys)
        assert code == 1 and " is " in lines[point], point
        (out / name).write_text(good)


def alter_bit(path):
    """One digit, or the lowest bit, of the number in the middle of a file of any format."""
    if path.suffix == ".npy":
        values = np.load(path)
        values.reshape(-1).view(np.uint32)[values.size // 2] ^= 1
        np.save(path, values)
        return
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    while chr(data[at - 1]) not in ", \n":  # the end of a number
        at += 1
    at -= 2
    data[at] = ord("7") if data[at] != ord("7") else ord("4")
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how",
    [
        *({"format": name} for name in ("csv", "txt", "npy", "hex", "q6.10")),
        {"digits": 3},
        {"digits": 8},
    ],
)
def test_one_altered_digit_is_found_in_every_format(random_checkpoint, tmp_path, how):
    model = random_model(random_checkpoint)
    points = ["x", "x_norm", "k_rope", "z", "mlp_out", "logits"]
    out = tmp_path / "out"
    model.run(IDS, points=points).save(out, **how)
    assert faults(out, model) == []
    for path in sorted(out.glob("*_layer1.[!j]*")) + list(out.glob("logits*")):
        good = path.read_bytes()
        before = lp.read(path)
        alter_bit(path)
        if np.array_equal(lp.read(path), before):
            continue  # the last of nine digits need not change the float32
        assert dict(faults(out, model))[path.name] == "its sha256 is not the one in manifest.json"
        mend_manifest(out)
        assert "the same tokens run again" in dict(faults(out, model)), path.name
        path.write_bytes(good)
        mend_manifest(out)
