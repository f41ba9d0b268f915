"""Any path works, or is refused in one line: bytes that are not UTF-8, ~, NUL, lone surrogates, nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.checks.provenance import recorded_models
from llamaprobe.checks.verify import verify_run
from llamaprobe.cli import main as cli
from llamaprobe.files.paths import path_entries, path_entry, path_text
from llamaprobe.prompts.template import Template
from llamaprobe.saved.read import Saved

LATIN = os.fsdecode(b"mod\xe8le")
ONE = np.ones(2, np.float32)


@pytest.fixture
def latin_folder(random_checkpoint, tmp_path, monkeypatch):
    """The current folder and a model in it, both with names that are not UTF-8."""
    here = tmp_path / os.fsdecode(b"caf\xe9")
    here.mkdir()
    shutil.move(random_checkpoint(), here / LATIN)
    monkeypatch.chdir(here)
    return here


def test_a_path_that_is_not_utf8_round_trips(latin_folder):
    model = lp.load(LATIN)
    run = model.run([1, 2, 3])
    run.save(b"out\xff")
    back = lp.read_run(b"out\xff")
    assert run.equals(back) and back.meta == run.meta
    assert (back.origin.model, back.origin.folder) == (LATIN, str(latin_folder / LATIN))
    assert not [check for check in verify_run(b"out\xff", model) if check.fault]
    assert recorded_models(Saved(b"out\xff"))[0] == (str(latin_folder / LATIN), "main")
    assert repr(back).startswith("<Run of mod\\xe8le:")


def test_any_reader_accepts_the_json(latin_folder):
    lp.load(LATIN).run([1]).save("out")
    data = Path("out/meta_layer0.json").read_bytes()
    meta = json.loads(data.decode("ascii"))
    assert (meta["model"], meta["model_bytes"]) == ("mod\\xe8le", "6d6f64e86c65")
    assert bytes.fromhex(meta["model_folder_bytes"]) == os.fsencode(latin_folder / LATIN)
    json.dumps(meta, ensure_ascii=False).encode("utf-8")
    Path("out/meta_layer0.json").write_text(json.dumps(meta | {"model_bytes": "6d00"}))
    assert (
        lp.read_run("out").origin.model == "mod\\xe8le"
    )  # bytes of another path count for nothing


def test_a_utf8_path_is_a_single_entry(random_checkpoint, tmp_path):
    (tmp_path / "modèle").mkdir()
    shutil.move(random_checkpoint(), tmp_path / "modèle/m")
    run = lp.load(tmp_path / "modèle/m").run([1])
    assert run.meta["model"] == str(tmp_path / "modèle/m")
    assert "model_bytes" not in run.meta and "model_folder_bytes" not in run.meta


def test_the_command_verifies_what_it_saved(latin_folder, capfd):
    assert cli.main(["run", LATIN, "--ids", "ids.txt", "--out", "out"]) == 1  # there is no ids.txt
    (latin_folder / "ids.txt").write_text("1 2 3")
    assert cli.main(["run", LATIN, "--ids", "ids.txt", "--out", "out"]) == 0
    assert cli.main(["verify", "out"]) == 0
    assert "the model is the one that the run names" in capfd.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_the_command_prints_paths_as_they_are(latin_folder, encoding):
    (latin_folder / "ids.txt").write_text("1 2 3")
    command = [
        sys.executable,
        "-m",
        "llamaprobe",
        "run",
        LATIN,
        "--ids",
        "ids.txt",
        "--out",
        b"o\xff",
    ]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert b"o\xff/x_layer0.csv\n" in result.stdout
    assert rb"in o\xff: 3 tokens" in result.stderr


def test_weights_of_a_file_that_is_not_utf8_are_kept_by_a_second_call(latin_folder):
    shutil.copy(latin_folder / LATIN / "model.safetensors", b"w\xe8.safetensors")
    for n_left in (1, 0):
        todo = []
        paths = lp.export_weights(
            os.fsdecode(b"w\xe8.safetensors"),
            b"out\xff",
            filter="model.norm.weight",
            on_start=todo.extend,
        )
        assert len(todo) == n_left
    entry = json.loads(paths[-1].read_text())["files"]["model.norm.weight.csv"]
    assert (entry["weight_file"], entry["weight_file_bytes"]) == (
        "w\\xe8.safetensors",
        b"w\xe8.safetensors".hex(),
    )


@pytest.mark.parametrize(
    "path", ["plain", "caf\u00e9", LATIN, "\\xe8", "\U0001f600", os.fsdecode(bytes(range(1, 256)))]
)
def test_path_entries_are_paths_again(path):
    entries = json.loads(json.dumps(path_entries("p", path)))
    json.dumps(entries, ensure_ascii=False).encode("utf-8")
    assert path_entry(entries, "p") == path
    assert (path_text(path)[1] is None) == (entries == {"p": path})


def calls(run, model, path):
    """Everything that takes a path of files."""
    return {
        "write": lambda: lp.write(path, ONE, format="csv"),
        "read": lambda: lp.read(path, format="csv"),
        "save": lambda: run.save(path),
        "read_run": lambda: lp.read_run(path),
        "export_weights": lambda: lp.export_weights(model, path, filter="*norm*", progress=False),
        "attention": lambda: offline.attention(path, path, 0),
        "load": lambda: offline.load(path, "x"),
    }


NO_PATHS = {
    "empty": ("", lp.FileError, "the path is empty"),
    "NUL": ("a\0b", lp.FileError, r"^a\\x00b: a path cannot hold a NUL$"),
    "surrogate": ("\ud800", lp.FileError, r"^\\ud800: a path cannot hold half of a surrogate"),
    "None": (None, lp.ArgumentError, "a path is a str or a Path, not NoneType"),
    "number": (5, lp.ArgumentError, "a path is a str or a Path, not int"),
    "too long": ("x" * 5000, lp.FileError, "name too long|no such folder|has no x"),
}


@pytest.mark.parametrize("name", NO_PATHS)
def test_rejects_what_is_not_a_path_in_one_line(random_checkpoint, tmp_path, monkeypatch, name):
    path, kind, message = NO_PATHS[name]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = lp.load(random_checkpoint())
    for call in calls(model.run([1]), model, path).values():
        with pytest.raises(kind, match=f"(?i){message}") as caught:
            call()
        assert str(caught.value).isprintable()
    assert os.listdir() == []


def test_messages_are_one_line_whatever_the_path_is(random_checkpoint, tmp_path):
    model = lp.load(random_checkpoint())
    path = tmp_path / os.fsdecode(b"a\nb\x1b[31m\xff")
    path.mkdir()
    for call in calls(model.run([1]), model, path).values():
        try:
            call()
        except lp.Error as error:
            assert str(error).isprintable() and r"a\x0ab\x1b[31m\xff" in str(error)


def test_a_missing_file_has_its_number_and_name(tmp_path):
    for call, name in [
        (lambda: lp.read(tmp_path / "a.csv"), "a.csv"),
        (lambda: lp.read_run(tmp_path / "run"), "run"),
        (lambda: lp.read_run(tmp_path), "manifest.json"),
        (lambda: lp.write(tmp_path / "no/a.csv", ONE), "no/a.csv"),
        (lambda: offline.attention(tmp_path, tmp_path, 0), "meta_layer0.json"),
    ]:
        with pytest.raises(lp.FileError) as caught:
            call()
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == str(tmp_path / name)


def test_a_tilde_is_the_home_everywhere(random_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    shutil.move(random_checkpoint(), tmp_path / "home/m")
    model = lp.load("~/m")
    run = model.run([1])
    run.save("~/run")
    lp.write("~/a.csv", ONE)
    lp.export_weights("~/m", "~/w", filter="model.norm.weight", progress=False)
    assert {"run", "a.csv", "w"} <= set(os.listdir(tmp_path / "home"))
    assert run.equals(lp.read_run("~/run")) and lp.read("~/a.csv").tolist() == [1, 1]
    assert offline.load("~/w", "model.norm.weight").size == 48
    assert recorded_models(Saved("~/run"))[0] == (str(tmp_path / "home/m"), "main")
    assert os.listdir() == []
    run.save("./~")  # that name, and not twice expanded
    lp.write("./~b.csv", ONE)
    assert run.equals(lp.read_run("./~")) and sorted(os.listdir()) == ["~", "~b.csv"]
    run.save("~nobody-of-that-name/x")
    assert (tmp_path / "here/~nobody-of-that-name/x/manifest.json").exists()


def test_errors_about_tokenizers_and_templates_are_one_line(tmp_path):
    folder = tmp_path / "a\nb"
    folder.mkdir()
    for open_it in (lp.Tokenizer.open, Template.find):
        with pytest.raises(lp.Error) as error:
            open_it(folder)
        assert "\n" not in str(error.value) and r"a\x0ab: " in str(error.value)


@pytest.mark.slow
def test_json_of_the_command_line_accepts_any_path(latin_folder, capsys):
    """Text that any JSON reader takes, and the bytes beside it."""
    Path("ids").write_text("1 2 3")
    out, result = os.fsdecode(b"out\xff"), {}
    for command in (
        ["run", LATIN, "--ids", "ids", "--out", out, "--quiet"],
        ["verify", out, "--quiet"],
        ["inspect", LATIN],
        ["bench", LATIN, "--tokens", "2", "--repeat", "1"],
    ):
        assert cli.main([*command, "--json"]) == 0
        shown = capsys.readouterr().out
        assert "\\ud" not in shown
        result[command[0]] = json.loads(shown)
    run, of_bench = result["run"], result["bench"][0]
    assert run["model"].endswith("mod\\xe8le")
    assert bytes.fromhex(run["model_bytes"]) == os.fsencode(latin_folder / LATIN)
    assert run["files"][0] == "out\\xff/x_layer0.csv"
    assert bytes.fromhex(run["files_bytes"][0]) == b"out\xff/x_layer0.csv"
    assert result["verify"]["folder"] == "out\\xff"
    assert bytes.fromhex(result["verify"]["folder_bytes"]) == b"out\xff"
    assert bytes.fromhex(result["inspect"]["path_bytes"]).endswith(b"mod\xe8le")
    assert bytes.fromhex(of_bench["model_bytes"]).endswith(b"mod\xe8le")
