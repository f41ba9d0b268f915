"""What was opened is what is used: after a chdir, after the files were replaced, and when only the
first layers are here."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.checks.verify import verify_run
from llamaprobe.model import open_model

IDS = [5, 1, 96, 5, 40]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def two(random_checkpoint, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders that hold another model of the same name, m."""
    places = []
    for seed, name in enumerate(("a", "b")):
        folder = random_checkpoint(seed=seed)
        (tmp_path / name).mkdir()
        folder.rename(tmp_path / name / "m")
        places.append(tmp_path / name)
    return places[0], places[1]


@pytest.mark.parametrize("name", ["m", "./m", Path("m"), "../a/m"])
def test_a_relative_folder_survives_chdir(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: "str | Path"
):
    here, there = two
    monkeypatch.chdir(here)
    model = lp.load(name)
    expected = model.run(IDS)
    monkeypatch.chdir(there)
    assert model.path.is_absolute() and model.path.samefile(here / "m")
    run = model.run(IDS)
    assert run.equals(expected) and run.meta["model"] == os.fspath(name)
    assert os.path.isabs(run.meta["model_folder"])
    assert Path(run.meta["model_folder"]).samefile(here / "m")
    lp.export_weights(model, tmp_path / "w", filter=UP, format="npy", progress=False)
    assert np.array_equal(np.load(tmp_path / "w" / f"{UP}.npy"), model.weights[UP])
    run.save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["weight_files"]["model.safetensors"]["fingerprint"]) == 64
    assert not any(check.fault or check.note for check in verify_run(tmp_path / "out", model))


def test_a_folder_behind_a_link_keeps_its_dots(two: tuple[Path, Path], monkeypatch, tmp_path: Path):
    """link/../m is beside what the link leads to, not beside the link."""
    here, there = two
    (there / "inner").mkdir()
    (here / "link").symlink_to(there / "inner")
    monkeypatch.chdir(here)
    assert lp.load("link/../m").run(IDS).equals(lp.load(there / "m").run(IDS))


def test_an_open_model_whose_files_were_replaced(two: tuple[Path, Path], tmp_path: Path):
    here, there = (place / "m" for place in two)
    model = lp.load(here)
    run = model.run(IDS)
    run.save(tmp_path / "out")
    before = np.asarray(model.weights[UP])
    os.replace(there / "model.safetensors", here / "model.safetensors")
    assert np.array_equal(before, model.weights[UP])
    with pytest.raises(lp.FileChangedError, match="model.safetensors: was replaced or changed"):
        lp.export_weights(model, tmp_path / "w", format="npy", progress=False)
    assert not (tmp_path / "w").exists()
    assert not any(check.fault for check in verify_run(tmp_path / "out", model))
    assert not lp.load(here).run(IDS).equals(run)
    again = lp.load(here)  # what is there now can be exported
    lp.export_weights(again, tmp_path / "w", filter=UP, format="npy", progress=False)
    assert np.array_equal(np.load(tmp_path / "w" / f"{UP}.npy"), again.weights[UP])


def test_a_run_of_a_replaced_file_belongs_to_no_model_here(two, tmp_path: Path, command):
    here, there = (place / "m" for place in two)
    model = lp.load(here)
    os.replace(there / "model.safetensors", here / "model.safetensors")
    model.run(IDS).save(tmp_path / "out")
    status, stdout, stderr = command("verify", tmp_path / "out")
    assert status == 3 and "is another model now, or has changed" in stderr, stdout


@pytest.mark.parametrize("source", [None, 3, b"x", []])
def test_rejects_other_types_for_export(tmp_path: Path, source: object):
    with pytest.raises(lp.ArgumentError, match="a model is a"):
        lp.export_weights(source, tmp_path / "w")


def test_a_closed_model_cannot_be_exported(two, tmp_path: Path):
    model = lp.load(two[0] / "m")
    model.close()
    with pytest.raises(lp.ArgumentError, match="is closed; load it again"):
        lp.export_weights(model, tmp_path / "w")


# ---- only the first layers ----


@pytest.fixture
def part(random_checkpoint: Callable[..., Path]) -> Path:
    """A sharded model whose last shard, that of layer 2, is not here."""
    folder = random_checkpoint(n_shards=3)
    weights = models.read_checkpoint(folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    shards = {1: {}, 2: {}}
    for name, values in weights.items():
        shards[2 if ".layers.2." in name else 1][name] = values
    names = {i: f"model-0000{i}-of-00002.safetensors" for i in shards}
    weight_map = {tensor: names[i] for i, shard in shards.items() for tensor in shard}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / names[1]).write_bytes(models.safetensors_bytes(shards[1], "BF16"))
    return folder


def test_a_model_of_first_layers_is_verified_and_exported(part: Path, tmp_path: Path, command):
    with pytest.raises(lp.FileError, match="1 of 2 shards are missing"):
        lp.load(part)
    model = lp.load(part, layers=2)
    out = tmp_path / "out"
    model.run(IDS, points=("x", "x_norm", "logits")).save(out)
    for how in ([], ["--model", part]):
        status, stdout, stderr = command("verify", out, *how)
        assert status == 0, stdout + stderr
    assert not any(check.fault or check.note for check in verify_run(out, model))
    lp.export_weights(model, tmp_path / "w", format="npy", progress=False)
    assert np.array_equal(np.load(tmp_path / "w" / f"{UP}.npy"), model.weights[UP])
    assert len(list((tmp_path / "w").glob("*.npy"))) == len(model.weights)


def test_a_missing_part_is_an_error_with_the_first_reason(part: Path, tmp_path: Path, command):
    lp.load(part, layers=2).run(IDS).save(tmp_path / "out")
    (part / "model-00001-of-00002.safetensors").unlink()
    status, _, stderr = command("verify", tmp_path / "out", "--model", part)
    assert status == 1 and "2 of 2 shards are missing" in stderr


# ---- the head of a tied model ----


@pytest.fixture
def tied(random_checkpoint) -> Path:
    return random_checkpoint(tie_word_embeddings=True)


def test_a_tied_head_is_named_when_looked_up(tied: Path, tmp_path: Path, command):
    fact = "the head is tied: model.embed_tokens.weight"
    for filter in ("lm_head*", "lm_head.weight", "re:head", "*head.weight"):
        status, stdout, stderr = command("weights", tied, "--list", "--filter", filter)
        assert status == 1 and fact in stderr and not stdout, stderr
    with pytest.raises(lp.ArgumentError, match=fact):
        lp.export_weights(lp.load(tied), tmp_path / "w", filter=lambda name: name.startswith("lm_"))
    with pytest.raises(KeyError, match=fact):
        lp.load(tied).weights["lm_head.weight"]
    lp.export_weights(tied, tmp_path / "w", filter="model.embed*", format="npy", progress=False)
    with pytest.raises(lp.FileError, match="if the head is tied, it is model.embed_tokens.weight"):
        offline.load(tmp_path / "w", "lm_head.weight")
    status, _, stderr = command("weights", tied, "--list", "--filter", "lm_tail*")
    assert "the first is model.embed_tokens.weight" in stderr and "tied" not in stderr


def test_only_a_tied_head_is_said_to_be_tied(random_checkpoint, command):
    folder = random_checkpoint()
    weights = models.read_checkpoint(folder)
    del weights["lm_head.weight"]
    models.write_checkpoint(folder, models.make_config(), weights)
    assert "tied" not in command("weights", folder, "--list", "--filter", "lm_head*")[2]
    (folder / "config.json").unlink()
    file = folder / "model.safetensors"
    stderr = command("weights", file, "--list", "--filter", "lm_head*")[2]
    assert "if the head is tied, it is model.embed_tokens.weight" in stderr


# ---- names of folders ----


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_folder_whose_name_is_not_utf8(random_checkpoint, tmp_path: Path, command):
    folder = random_checkpoint(n_shards=2)
    name = os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le")
    folder.rename(name)
    for source in (name, Path(name)):
        model = lp.load(source)
        assert os.fspath(model.path) == name and model.run(IDS)["x"].shape[0] == 3
        repr(model), repr(model.weights), pickle.dumps(model._opening)
    lp.export_weights(model, tmp_path / "w", filter=UP, format="npy", progress=False)
    assert np.array_equal(np.load(tmp_path / "w" / f"{UP}.npy"), model.weights[UP])
    assert command("inspect", name)[0] == 0
    Path(name, "model-00002-of-00002.safetensors").unlink()
    config = Path(name, "config.json")
    for spoil, error in (
        (lambda: None, lp.FileError),
        (lambda: Path(name, "model.safetensors.index.json").write_text("[]"), lp.FormatError),
        (lambda: Path(name, "model.safetensors.index.json").unlink(), lp.FileError),
        (lambda: Path(name, "model-00001-of-00002.safetensors").unlink(), lp.FileError),
        (lambda: config.write_text("{}"), lp.ConfigError),
        (lambda: config.unlink(), lp.FileError),
        (lambda: shutil.rmtree(name), lp.FileError),
    ):
        spoil()
        with pytest.raises(error) as e:
            lp.load(name)
        assert str(e.value).isprintable() and "mod" in str(e.value)
        assert command("inspect", name)[2].isascii()


def test_the_arguments_that_open_a_model_again(two, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(two[0])
    model = lp.load("m", layers=2, mmap=False, threads=1)
    opening = pickle.loads(pickle.dumps(model._opening))
    monkeypatch.chdir(two[1])
    again = open_model(opening)
    assert again.run(IDS).equals(model.run(IDS)) and again.path == model.path
    assert again.run(IDS).meta == model.run(IDS).meta
    assert again.config.sha256 == model.config.sha256
