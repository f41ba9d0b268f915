"""A save that is killed over an earlier run: the next one leaves no file of either behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import llamaprobe as lp
from llamaprobe.files.writer import Writer
from llamaprobe.saved import journal, run_folder

IDS = [1, 40, 7]


@pytest.fixture
def run(random_checkpoint):
    return lp.load(random_checkpoint()).run(IDS, points=["x", "q", "pattern"])


def listed(folder):
    """The files of the manifest, which are all that is there."""
    names = set(json.loads((folder / "manifest.json").read_text())["files"])
    assert set(os.listdir(folder)) == names | {"manifest.json"}
    return names


class Killed(BaseException):
    """Stands for a kill: nothing is cleaned up."""


def killed_save(run, folder, monkeypatch, at, **how):
    """A save that ends where `at` says, as a kill would end it."""
    with monkeypatch.context() as patch:

        def kill(*args):
            raise Killed

        patch.setattr(journal, "_remove", lambda path: None)
        if at == "first file":
            patch.setattr(Writer, "add", kill)
        elif at == "old files":
            patch.setattr(run_folder, "sync_folder", kill)
        else:
            patch.setattr(run_folder, "write_json", kill)
        with pytest.raises(Killed):
            run.save(folder, **how)


@pytest.mark.parametrize("at", ["first file", "old files", "manifest"])
def test_the_files_of_the_previous_run_are_known_after_a_kill(run, tmp_path, monkeypatch, at):
    out = tmp_path / "out"
    run.save(out)
    (out / "notes.txt").write_text("mine")
    killed_save(run, out, monkeypatch, at, points="x", force=True)
    run.save(out, points="x", force=True, masks=False)
    (out / "notes.txt").unlink()  # foreign files stay
    assert not [name for name in listed(out) if name.startswith(("q_", "pattern_", "attention_"))]
    assert lp.read_run(out).points == ("x",)


def test_two_consecutive_kills(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run.save(out, points="q")
    killed_save(run, out, monkeypatch, "manifest", points="x", force=True)
    killed_save(run, out, monkeypatch, "first file", points="pattern", force=True)
    run.save(out, points="pattern", format="npy", force=True)
    assert {name.split("_")[0] for name in listed(out)} == {
        "pattern",
        "attention",
        "position",
        "meta",
    }


def test_reports_an_unfinished_run_before_mixing_it_with_another(
    run, tmp_path, monkeypatch, command
):
    out, message = tmp_path / "out", r"out: holds an unfinished run \(no manifest\.json\); .*--force"
    killed_save(run, out, monkeypatch, "manifest", points="q")
    for points in ("q", "x"):  # x shares no file with those in the folder
        with pytest.raises(lp.FileError, match=message):
            run.save(out, points=points)
    code, _, err = command("run", "demo", "Once", "--out", out)
    assert code == 1 and "holds an unfinished run" in err
    run.save(out, points="x", force=True)
    assert "q_layer0.csv" not in listed(out)


def test_reports_files_without_a_manifest(run, tmp_path):
    (tmp_path / "x_layer0.csv").write_text("mine")
    with pytest.raises(
        lp.FileError, match=r"x_layer0\.csv: exists; there is no manifest\.json: not ours"
    ):
        run.save(tmp_path)
    run.save(tmp_path / "out")
    with pytest.raises(lp.FileError, match=r"/out: holds a saved run; choose another .* --force"):
        run.save(tmp_path / "out")


def test_a_save_that_fails_with_nothing_written_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Writer, "add", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_untrusted_journal_removes_no_other_files(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("mine")
    (out / "notes.txt").write_text("mine")
    for text in (
        json.dumps(
            {"files": ["../precious", "notes.txt", 5, "/etc/x", "x_layer0.csv/../../precious"]}
        ),
        "damaged",
        "[]",
        '{"files": {"notes.txt": 1}}',
    ):
        (out / journal.SAVE).write_text(text)
        run.save(out, force=True)
        assert (tmp_path / "precious").exists() and (out / "notes.txt").exists()
        assert lp.read_run(out).equals(run)


@pytest.mark.slow
def test_kills_at_random_moments_leave_no_mixture(random_checkpoint, tmp_path):
    """Saves of two kinds over each other, killed; then one that completes."""
    folder, out = random_checkpoint(), tmp_path / "out"
    script = f"""
import llamaprobe as lp
run = lp.load({str(folder)!r}).run([1, 2, 3] * 20, points=["x", "q", "pattern"])
print("ready", flush=True)
for i in range(1000):
    run.save({str(out)!r}, points=["x", "q"] if i % 2 else "pattern", format="npy" if i % 3 else "csv", force=True)
"""
    rng = random.Random(0)
    run = lp.load(folder).run([1, 2, 3] * 20, points=["x"])
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if (out / "manifest.json").exists():
            lp.read_run(out)
        run.save(out, force=True)
        assert listed(out) and lp.read_run(out).equals(run)
