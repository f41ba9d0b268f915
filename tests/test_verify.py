"""verify accuses no honest run, says what it did not compare, and its margins are neither too wide
nor too narrow."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import honest
import models
import numpy as np
import pytest
import small_tokenizer
from tampering import POINTS, Folder, found, left_out, model, other, saved, write_floats

import llamaprobe as lp
from llamaprobe.files.fingerprint import fingerprint
from llamaprobe.formulas import BAR, Formulas, given
from llamaprobe.origin import ARITHMETIC_VERSION
from llamaprobe.saved.manifest import FORMAT_VERSION, hash_file
from llamaprobe.saved.run_folder import file_name

__all__ = ["model", "saved"]  # fixtures

# ---- honest runs ----


def test_honest_runs_of_random_models_are_not_accused():
    assert list(honest.accused(range(24))) == []


CHAT = [{"role": "user", "content": "the ab"}]
SPELLED = [{"role": "user", "content": "the <|eot|> ab"}]  # a special token as plain text


@pytest.mark.parametrize("format", ["csv", "txt", "npy", "hex", "q8.8"])
@pytest.mark.parametrize("prompt", ["the ab", [1, 2, 260, 2], CHAT, SPELLED], ids=str)
def test_an_honest_run_is_true(model, tmp_path, prompt, format):
    model.run(prompt, points=POINTS).save(tmp_path / "a", format=format, hash_weights=True)
    lp.read_run(tmp_path / "a").save(tmp_path / "b", format=format)
    lp.read_run(tmp_path / "b").save(tmp_path / "c", points=["x", "logits"], digits=2, masks=False)
    lp.read_run(tmp_path / "c").save(tmp_path / "d")
    for name in "abcd":
        assert found(tmp_path / name, model) == [], name
        assert left_out(tmp_path / name, model) == [], name
        assert found(tmp_path / name, None) == [], name


def test_what_was_rounded_before_is_recorded(model, tmp_path):
    """A run of few digits that was read back and saved exactly holds rounded values."""
    model.run("ab").save(tmp_path / "a", digits=3)
    lp.read_run(tmp_path / "a").save(tmp_path / "b", format="npy")
    assert json.loads((tmp_path / "b/manifest.json").read_text())["rounded"] == [["csv", 3]]
    assert "rounded" not in json.loads((tmp_path / "a/manifest.json").read_text())
    assert found(tmp_path / "b", model) == []
    wrong = [..., [], [["csv", 2]], [["csv", 3], ["q2.2", None]], "x", [["csv"]], [["csv", "x"]]]
    for rounded in wrong:
        edit_manifest(tmp_path / "b", rounded=rounded)
        assert found(tmp_path / "b", model), rounded


def test_a_batch_other_dates_and_one_layer_are_true(model, tmp_path):
    runs = model.run(["the ab", "ab"], points=POINTS, layers=[1])
    for i, run in enumerate(runs):
        run.save(tmp_path / f"{i}", layers=[1], digits=3)
    model.run(CHAT, date="2025-02-03", add_generation_prompt=False).save(tmp_path / "2")
    model.run("ab", points=[("z", 0), ("q", 1), "final_rms"]).save(tmp_path / "3")
    for i in range(4):
        assert found(tmp_path / f"{i}", model) == left_out(tmp_path / f"{i}", model) == []


def test_runs_without_a_tokenizer_and_of_the_first_layers_are_true(random_checkpoint, tmp_path):
    folder = random_checkpoint(n_shards=2)
    for i, loaded in enumerate([lp.load(folder), lp.load(folder, layers=1)]):
        loaded.run([1, 2, 3]).save(tmp_path / f"{i}")
        assert found(tmp_path / f"{i}", loaded) == left_out(tmp_path / f"{i}", loaded) == []
    spec = json.dumps(small_tokenizer.byte_level())
    (folder / "tokenizer.json").write_text(spec)  # comes later
    assert found(tmp_path / "0", lp.load(folder)) == []
    (lines,) = left_out(tmp_path / "0", lp.load(folder))
    assert lines.endswith("tokens: the run has none, and the model has a tokenizer now")


def test_a_model_of_fewer_layers_is_named_before_anything_is_compared(random_checkpoint, tmp_path):
    folder = random_checkpoint()
    lp.load(folder).run([1, 2], points="x").save(tmp_path / "run")
    lines = found(tmp_path / "run", lp.load(folder, layers=1))
    assert len(lines) == 1 and "the model of the run had" in lines[0] and "this one has 1" in lines[0]


def test_prompt_and_date_of_a_chat(model, tmp_path):
    model.run(CHAT).save(tmp_path / "run")

    def edit(**keys: Any) -> list[str]:
        folder = Folder(shutil.copytree(tmp_path / "run", tmp_path / "altered", dirs_exist_ok=True))
        folder.change_meta(lambda meta: meta.update(keys))
        folder.close()
        return found(folder.path, model)

    text = json.loads((tmp_path / "run/meta_layer0.json").read_text())["prompt"]
    assert edit(prompt=text.replace("the", "The")) and edit(prompt=text + "a")
    assert edit(template_date=None) and edit(template_date="2025-2-3")
    assert edit(prompt=text, template_date="2025-02-03") == []  # the template does not use it


# ---- versions ----


def edit_manifest(path: Path, **keys: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest |= keys
    kept = {key: value for key, value in manifest.items() if value is not ...}
    (path / "manifest.json").write_text(json.dumps(kept))


def test_another_version_is_not_compared_and_not_accused(model, saved, tmp_path, command):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    edit_manifest(path, format_version=FORMAT_VERSION + 1, points=None)
    assert found(path, model) == []
    assert left_out(path, model) == [
        "manifest.json: not compared: format version 3, and this llamaprobe knows up to 2"
    ]
    code, out, _ = command("verify", path)
    assert code == 3 and "not compared: format version 3" in out
    with pytest.raises(lp.FormatError, match="is of format version 3, and this llamaprobe reads"):
        lp.read_run(path)


def test_another_arithmetic_is_compared_by_the_formulas(model, saved, tmp_path, command):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    other_version = ARITHMETIC_VERSION + 1
    folder = Folder(path)
    folder.change_meta(lambda meta: meta.update(arithmetic_version=other_version))
    folder.manifest["arithmetic_version"] = other_version
    folder.close()
    assert found(path, model) == []
    assert left_out(path, model) == [
        f"the same tokens run again: not compared: arithmetic version {other_version}, and this is"
        f" {ARITHMETIC_VERSION}"
    ]
    assert command("verify", path)[0] == 3
    assert lp.read_run(path).arithmetic_version == other_version
    lp.read_run(path).save(tmp_path / "again")
    assert lp.read_run(tmp_path / "again").arithmetic_version == other_version
    folder = Folder(path)
    write_floats(path / "x_layer1.csv", lambda values: values * np.float32(1.001))
    folder.close()
    assert [line for line in found(path, model) if line.startswith("x: ")]


def test_a_run_without_versions_is_of_version_0(model, saved, tmp_path):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    edit_manifest(path, format_version=..., arithmetic_version=..., weight_files={})
    assert found(path, model) == []
    lines = left_out(path, model)
    assert "tokens, masks, meta: not compared: format version 0, and this is 2" in lines
    folder = Folder(path)
    write_floats(path / "x_layer1.csv", lambda values: values * np.float32(1.001))
    assert "x_layer1.csv: its sha256 is not the one in manifest.json" in found(path, model)
    folder.close()
    assert [line for line in found(path, model) if line.startswith("x: ")]


@pytest.mark.parametrize("key", ["format_version", "arithmetic_version"])
@pytest.mark.parametrize("value", ["1", -1, 1.0, True, None])
def test_rejects_an_invalid_version(model, saved, tmp_path, key, value):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    edit_manifest(path, **{key: value})
    assert found(path, model) == [f"{path}/manifest.json: {key} is not a version number"]


# ---- special files ----


@pytest.mark.parametrize("what", ["fifo", "zero", "folder", "socket", "dangling"])
def test_rejects_special_files_at_once(model, saved, tmp_path, what):
    import socket

    path = shutil.copytree(saved("csv"), tmp_path / "run")
    names = ["x_layer1.csv", "meta_layer1.json", "position_ids.csv"]
    for name in names:
        (path / name).unlink()
        if what == "fifo":
            os.mkfifo(path / name)
        elif what == "zero":
            (path / name).symlink_to("/dev/zero")
        elif what == "folder":
            (path / name).mkdir()
        elif what == "dangling":
            (path / name).symlink_to("nowhere")
        else:
            with socket.socket(socket.AF_UNIX) as one:
                os.chdir(path)  # such a path is short
                one.bind(name)
    lines = found(path, model)
    for name in names:
        assert any(line.startswith(f"{name}: ") for line in lines), name
        if what in ("fifo", "zero", "folder"):
            assert f"{name}: is not a regular file" in lines


def test_a_hash_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for of in (hash_file, fingerprint):
        for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
            with pytest.raises(lp.FileError, match=f"^{path}: is not a regular file$"):
                of(path)


def test_numbers_beyond_float32_are_refused(model, saved, tmp_path):
    folder = Folder(shutil.copytree(saved("csv"), tmp_path / "run"))
    folder.change_meta(lambda meta: meta["inv_freq"].__setitem__(0, 1e300))
    folder.close()
    assert found(folder.path, model)
    with pytest.raises(lp.FormatError, match="inv_freq is beyond float32"):
        lp.read_run(folder.path)


def test_a_link_to_a_file_is_followed(model, saved, tmp_path):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    (path / "x_layer1.csv").rename(tmp_path / "x.csv")
    (path / "x_layer1.csv").symlink_to(tmp_path / "x.csv")
    assert found(path, model) == []


# ---- margins ----


@pytest.mark.parametrize("worst", [False, True])
def test_a_probability_below_float32_has_a_margin(worst):
    """exp(-740) is nothing in float32, and 1e-322 in float64."""
    score = np.array([[[0.0, -np.inf], [0.0, -740.0]]], np.float32)
    p = Formulas(worst).pattern(given(score), np.tri(2, dtype=bool))
    assert p.v[0, 1].tolist() == pytest.approx([1, 0]) and p.s[0, 1, 1] * BAR >= 2.0**-149
    assert p.s[0, 0, 1] == 0  # a key after its query


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("gain", [1e-40, 1e-25, 1e-20, 1e-10, 1, 1e10, 1e18])
def test_the_margin_of_a_sum_grows_with_its_weights(gain, worst):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 300)), rng.normal(size=(4, 300)).astype(np.float32)
    once = Formulas(worst).linear(given(x), lambda a, b: w[a:b], 4, None)
    scaled = Formulas(worst).linear(given(x), lambda a, b: w[a:b] * np.float32(gain), 4, None)
    floor = 300 * 2.0**-149
    assert np.all(scaled.s >= 0.9 * gain * once.s)
    assert np.all(scaled.s <= 1.1 * gain * once.s + 2 * floor)


@pytest.mark.parametrize(("version", "block"), [(0, 256), (1, 64)])
def test_the_bound_of_a_sum_counts_the_roundings_of_its_arithmetic(version, block):
    """A term is rounded with each partial sum of its block, and with each block that is added."""
    n, block_of = 1 << 16, Formulas(True, version)
    y = block_of.linear(given(np.ones((1, n))), lambda a, b: np.ones((1, n), np.float32), 1, None)
    n_roundings = block + n // block
    assert n_roundings < BAR * y.s[0, 0] / (2.0**-24 * n) < n_roundings + n // block + 2


def test_what_may_leave_float32_is_loose():
    w = np.array([[3e38, 3e38, -3e38, -3e38], [1, 1, 1, 1]], np.float32)
    y = Formulas().linear(given(np.ones((1, 4))), lambda a, b: w[a:b], 2, None)
    assert np.isinf(y.s).tolist() == [[True, False]]
    unit = Formulas().unit(given(np.array([[np.inf, 1.0], [2.0, 1.0]])), 1e-5)
    assert np.isinf(unit.s).all(axis=1).tolist() == [True, False]
    z = Formulas().mix(given(np.full((1, 3, 3), 0.3)), given(np.array([[[1]], [[np.nan]], [[1]]])))
    assert np.isinf(z.s[:, 0, 0]).tolist() == [False, True, True]  # as the queries see it


def test_a_pattern_in_the_roundings_is_not_tampering(tmp_path):
    """Weights that are all one number: every rounding of a sum goes the same way."""
    config = models.make_config(hidden_size=64, intermediate_size=300, num_hidden_layers=2)
    shapes = models.weight_shapes(config)
    weights = {name: np.full(shape, np.float32(0.1)) for name, shape in shapes.items()}
    model = lp.load(models.write_checkpoint(tmp_path / "model", config, weights, "F32"))
    every = [point.name for point in lp.Model.points()]
    for i, points in enumerate([every, ["logits"], ["hidden", "mlp_out"]]):
        model.run([1, 2, 3, 3], points=points).save(tmp_path / f"{i}")
        assert found(tmp_path / f"{i}", model) == []


def test_the_margins_of_an_ordinary_run_are_narrow(model, saved, tmp_path):
    """One part in 10,000 is found by the formulas alone, where the values before it are saved."""
    every = [point.name for point in lp.Model.points()]
    model.run("the ab", points=every).save(tmp_path / "run", format="npy")
    for point in every:
        path = tmp_path / "run" / file_name(point, 1, "npy")
        path = path if path.exists() else tmp_path / "run" / file_name(point, None, "npy")
        values, good = np.load(path), path.read_bytes()
        at = np.unravel_index(np.argmax(np.where(np.isfinite(values), values, 0)), values.shape)
        values[at] *= np.float32(1.0001)
        np.save(path, values)
        assert [line for line in found(tmp_path / "run", model) if line.startswith(f"{point}: ")]
        path.write_bytes(good)


# ---- the command ----


def test_json_of_the_command(model, saved, tmp_path, command):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    code, out, err = command("verify", path, "--json")
    shown = json.loads(out)
    assert code == 0 and list(shown) == ["folder", "checks", "verdict", "unchecked", "exit"]
    assert shown["folder"] == str(path) and shown["verdict"] == "ok"
    assert shown["unchecked"] == ["llamaprobe_version"] and shown["exit"]["code"] == 0
    assert [check["what"] for check in shown["checks"]][2:] == [*POINTS, "the same tokens run again"]
    assert all(list(c) == ["what", "fault", "roundings", "note"] for c in shown["checks"])
    assert err.startswith("llamaprobe: the model is the one that the run names")
    (path / "x_layer1.csv").unlink()
    code, out, _ = command("verify", path, "--json")
    shown = json.loads(out)
    assert (code, shown["verdict"], shown["exit"]["code"]) == (1, "altered", 1)
    assert {"what": "x_layer1.csv", "fault": "No such file or directory", "roundings": None} == {
        key: value for key, value in shown["checks"][0].items() if key != "note"
    }
    (path / "manifest.json").unlink()
    code, out, err = command("verify", path, "--json")
    assert code == 1 and json.loads(out)["verdict"] == "error" and "manifest.json: missing" in err


def test_unchecked_facts_are_one_line(model, saved, tmp_path, command):
    path = shutil.copytree(saved("csv"), tmp_path / "run")
    code, out, _ = command("verify", path)
    assert code == 0 and out.splitlines()[-2:] == [
        "cannot be checked here: llamaprobe_version",
        f"all {len(POINTS) + 3} checks passed",
    ]
    folder = Folder(path)
    folder.change_meta(lambda meta: meta.update(model="gone", model_folder="/gone"))
    folder.close()
    code, out, _ = command("verify", path)
    assert code == 3 and "not checked: needs the model" in out
    assert out.splitlines()[-2].endswith(
        "tokens, weight_files, prompt, model, model_folder, llamaprobe_version"
    )


def test_without_the_model_the_numbers_agree_with_each_other(model, saved, tmp_path):
    numbers = ("inv_freq", "attention_scale", "rope_theta", "n_heads")
    for key in (*numbers, "position_ids", "weight_names"):
        folder = Folder(shutil.copytree(saved("csv"), tmp_path / key))
        folder.change_meta(lambda meta, key=key: meta.update({key: other(meta[key])}))
        folder.close()
        assert found(folder.path, None), key


def test_a_run_of_a_repo_in_the_cache(tmp_path, monkeypatch, command):
    """The cache says commit and sha256, without the weights being read."""
    import hashlib

    config = models.make_config(num_hidden_layers=1)
    source = models.write_checkpoint(tmp_path / "source", config, models.make_weights(config))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    repo, commit = tmp_path / "cache/models--org--name", "a" * 40
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    for path in source.iterdir():
        name = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, repo / "blobs" / name)
        (snapshot / path.name).symlink_to(f"../../blobs/{name}")
    out = tmp_path / "run"
    lp.load("org/name", local_files_only=True).run([1, 2, 3]).save(out)
    code, printed, _ = command("verify", out)
    assert code == 0 and "cannot be checked here: llamaprobe_version\n" in printed
    entries = json.loads((out / "manifest.json").read_text())["weight_files"]
    sha256 = entries["model.safetensors"]["sha256"]
    assert (repo / "blobs" / sha256).exists()
    entries["model.safetensors"]["sha256"] = other(sha256)
    edit_manifest(out, weight_files=entries)
    code, printed, _ = command("verify", out)
    assert code == 1 and "weight_files: model.safetensors: sha256 is" in printed
    entries["model.safetensors"]["sha256"] = sha256
    edit_manifest(out, weight_files=entries)
    folder = Folder(out)  # another commit may have the same weights
    folder.change_meta(lambda meta: meta.update(revision="b" * 40))
    folder.close()
    code, printed, _ = command("verify", out, "--model", "org/name")
    assert code == 3 and f"revision: the run's is \"{'b' * 40}\", the model's {commit}" in printed
    folder.change_meta(lambda meta: meta.update(revision="main"))
    folder.close()
    assert command("verify", out, "--model", "org/name")[0] == 1
