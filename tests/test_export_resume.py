"""An export that is repeated, disturbed, stopped or killed: nothing lost, nothing half done."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from weight_files import same, write_safetensors

import llamaprobe as lp
from llamaprobe.saved import journal
from llamaprobe.saved.export import export_weights
from llamaprobe.saved.manifest import hash_file

LP = [sys.executable, "-m", "llamaprobe"]


def inodes(folder):
    return {path.name: path.stat().st_ino for path in folder.glob("*.csv")}


def test_a_second_call_writes_nothing(random_checkpoint, tmp_path):
    folder, out = random_checkpoint(), tmp_path / "o"
    export_weights(folder, out, filter="*norm*")
    before = inodes(out)
    export_weights(folder, out)
    after = inodes(out)
    assert len(after) == 30 and before.items() <= after.items()
    export_weights(folder, out, force=True)
    assert inodes(out) == after
    export_weights(folder, out, filter="*norm*")
    assert len(json.loads((out / "manifest.json").read_text())["files"]) == 30


@pytest.mark.slow
def test_incomplete_files_are_not_trusted(random_checkpoint, tmp_path):
    folder, out = random_checkpoint(), tmp_path / "o"
    export_weights(folder, out)
    path = out / "model.norm.weight.csv"
    good = path.read_bytes()
    path.write_bytes(good[:-2] + b"9\n")
    with pytest.raises(lp.FileError, match=r"model\.norm\.weight\.csv: exists"):
        export_weights(folder, out)
    export_weights(folder, out, force=True)
    assert path.read_bytes() == good
    path.unlink()
    export_weights(folder, out)
    assert path.read_bytes() == good
    with pytest.raises(lp.FileError, match="as do 29 more"):
        export_weights(folder, out, digits=3)


def test_a_foreign_file_is_not_overwritten(random_checkpoint, tmp_path):
    (tmp_path / "model.norm.weight.csv").write_text("mine")
    with pytest.raises(lp.FileError, match=r"exists; .*--force"):
        export_weights(random_checkpoint(), tmp_path)
    assert (tmp_path / "model.norm.weight.csv").read_text() == "mine"
    assert not (tmp_path / "manifest.json").exists() and not (tmp_path / journal.EXPORT).exists()


def test_other_weights_in_the_same_folder(random_checkpoint, tmp_path):
    export_weights(random_checkpoint(), tmp_path / "o", filter="*norm*")
    other = random_checkpoint(seed=1)
    with pytest.raises(lp.FileError, match="is of other weights"):
        export_weights(other, tmp_path / "o", filter="lm_head*")
    export_weights(other, tmp_path / "o", force=True)
    weights = lp.load(other).weights
    for name, entry in json.loads((tmp_path / "o/manifest.json").read_text())["files"].items():
        assert same(lp.read(tmp_path / "o" / name), np.asarray(weights[entry["tensor"]]))


def test_weights_with_other_file_names_are_other_weights(random_checkpoint, tmp_path):
    """Two models whose files have no name in common do not share a manifest by accident."""
    folder = random_checkpoint()
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    export_weights(tmp_path / "a.safetensors", tmp_path / "o", filter="*norm*")
    with pytest.raises(lp.FileError, match="is of other weights"):
        export_weights(tmp_path / "b.safetensors", tmp_path / "o", filter="lm_head*")
    export_weights(tmp_path / "b.safetensors", tmp_path / "o", filter="lm_head*", force=True)


def test_the_shards_of_one_model_share_a_manifest(random_checkpoint, tmp_path):
    folder, out = random_checkpoint(n_shards=3), tmp_path / "o"
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in sorted(set(where.values())):
        export_weights(folder, out, filter=lambda name, shard=shard: where[name] == shard)
    assert len(json.loads((out / "manifest.json").read_text())["files"]) == len(where)


def test_a_file_is_hashed_once_by_the_next_call(random_checkpoint, tmp_path, monkeypatch):
    folder, out = random_checkpoint(), tmp_path / "o"
    export_weights(folder, out)
    manifest = json.loads((out / "manifest.json").read_text())
    lines = [{"file": name, "entry": entry} for name, entry in manifest["files"].items()]
    entries = [{"weight_files": manifest["weight_files"]}, *lines]
    (out / journal.EXPORT).write_text("".join(json.dumps(line) + "\n" for line in entries))
    hashed = []
    monkeypatch.setattr(
        journal, "hash_file", lambda path: hashed.append(path.name) or hash_file(path)
    )
    export_weights(folder, out)
    assert sorted(hashed) == sorted(manifest["files"])


def test_a_journal_survives_short_writes(
    random_checkpoint, tmp_path, monkeypatch
):
    folder, out = random_checkpoint(), tmp_path / "o"
    lines = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    monkeypatch.setattr(os, "writev", lambda fd, parts: write(fd, bytes(parts[0])[:7]))
    monkeypatch.setattr(os, "unlink", lambda path: lines.extend(read_lines(path)))
    export_weights(folder, out, format="npy", filter="*norm*")
    assert [line["file"] for line in lines[1:]] == list(
        json.loads((out / "manifest.json").read_text())["files"]
    )
    assert len(lines) == 8


def read_lines(path):
    return [json.loads(line) for line in open(path)] if str(path).endswith(journal.EXPORT) else []


def test_the_folders_of_runs_and_of_weights_are_kept_apart(random_checkpoint, tmp_path):
    folder = random_checkpoint()
    run = lp.load(folder).run([1, 2])
    run.save(tmp_path / "run")
    with pytest.raises(lp.FileError, match="is not of exported weights"):
        export_weights(folder, tmp_path / "run", force=True)
    export_weights(folder, tmp_path / "weights")
    with pytest.raises(lp.FileError, match="is of exported weights"):
        run.save(tmp_path / "weights", force=True)


def test_a_damaged_journal_is_ignored(random_checkpoint, tmp_path):
    folder, out = random_checkpoint(), tmp_path / "o"
    out.mkdir()
    for text in (
        b"\xff\n",
        b"[]\n3\nnull\n",
        b'{"weight_files": {}}\n{"file": "x/../../y", "entry": {}}\n{"fi',
        b"[" * 99999,
    ):
        (out / journal.EXPORT).write_bytes(text)
        export_weights(folder, out, filter="model.norm*", force=True)
        assert sorted(os.listdir(out)) == ["manifest.json", "model.norm.weight.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_export_killed_at_random_times_resumes(random_checkpoint, tmp_path, seed):
    folder = random_checkpoint(hidden_size=320, intermediate_size=500, vocab_size=2000)
    export_weights(folder, tmp_path / "whole")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.csv")}
    out, rng, n_kills = tmp_path / "o", random.Random(seed), 0
    seen: dict[str, int] = {}
    for _ in range(60):
        child = subprocess.Popen(
            [*LP, "weights", str(folder), "--out", str(out)], stdout=subprocess.DEVNULL
        )
        # count from when the folder exists, not from the start of the interpreter
        while child.poll() is None and not (out / journal.EXPORT).exists():
            time.sleep(0.001)
        time.sleep(rng.random() * 0.04)
        child.send_signal(signal.SIGKILL)
        code = child.wait()
        for path in out.glob("*.csv"):
            assert path.read_bytes() == expected[path.name]
            assert seen.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino
        if code == 0 and n_kills:
            break
        if code == 0:  # a busy machine: it ended before the kill
            shutil.rmtree(out)
            seen.clear()
        n_kills += code != 0
    subprocess.run(
        [*LP, "weights", str(folder), "--out", str(out)], check=True, stdout=subprocess.DEVNULL
    )
    assert n_kills >= 1 and seen.items() <= inodes(out).items()
    assert sorted(os.listdir(out)) == sorted([*expected, "manifest.json"])
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == expected


def test_killed_between_the_journal_and_the_name(random_checkpoint, tmp_path):
    """The journal has the line; the file is missing, or is the one that --force was to replace."""
    folder, out = random_checkpoint(), tmp_path / "o"
    script = f"""
import os, llamaprobe.files.writer as writer
from llamaprobe.saved.export import export_weights
writer.os.replace = lambda old, new: os._exit(9) if "norm" in str(new) else os.rename(old, new)
export_weights({str(folder)!r}, {str(out)!r}, filter="model.norm*", force=True)
"""
    for before in (None, "mine"):
        out.mkdir(exist_ok=True)
        if before:
            (out / "model.norm.weight.csv").write_text(before)
        assert subprocess.run([sys.executable, "-c", script]).returncode == 9
        assert (out / journal.EXPORT).read_text().count("\n") == 2
        if before:
            with pytest.raises(lp.FileError, match="exists"):
                export_weights(folder, out)
        export_weights(folder, out, force=before is not None)
        assert same(
            lp.read(out / "model.norm.weight.csv"),
            np.asarray(lp.load(folder).weights["model.norm.weight"]),
        )
        assert not list(out.glob(".llamaprobe*"))
        for path in out.iterdir():
            path.unlink()


@pytest.mark.slow
def test_an_interrupt_leaves_whole_files_and_ends_with_130(random_checkpoint, tmp_path):
    folder = random_checkpoint(hidden_size=320, intermediate_size=2000, vocab_size=20000)
    out = tmp_path / "o"
    for _ in range(20):  # on a busy machine an export may end before this process sees it begin
        shutil.rmtree(out, ignore_errors=True)
        child = subprocess.Popen(
            [*LP, "weights", str(folder), "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while child.poll() is None and not (out / journal.EXPORT).exists():
            time.sleep(0.001)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate()
        if child.returncode:
            break
    assert (child.returncode, errors.splitlines()[-1]) == (130, "llamaprobe: interrupted")
    assert not list(out.glob("*.part")) and not (out / "manifest.json").exists()
    export_weights(folder, out)
    assert len(inodes(out)) == 30


def test_a_limit_on_file_size_names_the_file(random_checkpoint, tmp_path):
    folder = random_checkpoint(vocab_size=9000)
    script = f"""
import resource, sys
from llamaprobe.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
sys.exit(main(["weights", {str(folder)!r}, "--out", {str(tmp_path / "o")!r}]))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == ""
    name = "lm_head.weight" if "lm_head" in run.stderr else "model.embed_tokens.weight"
    assert run.stderr == f"llamaprobe: {tmp_path}/o/{name}.csv: File too large\n"
    assert not list((tmp_path / "o").glob("*.part")) and not (tmp_path / "o/manifest.json").exists()
    export_weights(folder, tmp_path / "o")


@pytest.mark.linux
@pytest.mark.slow
def test_memory_does_not_grow_with_the_tensor(tmp_path):
    """One row of 30 million numbers; as float32 they would be 120 MB, their text 200 MB."""
    n = 30_000_000
    tensors = {
        "v": ("BF16", [n], (np.arange(n, dtype=np.uint16) % 97 + 16000).astype("<u2").tobytes())
    }
    write_safetensors(tmp_path / "m.safetensors", tensors)
    script = f"""
import shutil, threading, time
from llamaprobe.saved.export import export_weights
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
import numpy, hashlib, llamaprobe._core
before, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)
thread = threading.Thread(target=watch); thread.start()
for format in ("csv", "hex", "q4.12", "npy"):
    shutil.rmtree({str(tmp_path / "o")!r}, ignore_errors=True)
    export_weights({str(tmp_path / "m.safetensors")!r}, {str(tmp_path / "o")!r}, format=format)
done.set(); thread.join()
print(peak[0] - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 100, "MB beyond the mapping"
    assert np.load(tmp_path / "o/v.npy", mmap_mode="r").shape == (n,)


def test_threads_do_not_change_the_text(random_checkpoint, tmp_path):
    folder = random_checkpoint(vocab_size=5000)
    digests = set()
    for threads in (1, 2, 3, 7):
        out = tmp_path / str(threads)
        export_weights(folder, out, threads=threads)
        files = json.loads((out / "manifest.json").read_text())["files"]
        digests.add(str(sorted((name, entry["sha256"]) for name, entry in files.items())))
    assert len(digests) == 1


def test_with_or_without_first_lines_are_different_files(random_checkpoint, tmp_path):
    how = {"filter": "model.norm.weight", "progress": False, "force": True}
    folder = random_checkpoint()
    for header, n_left in [(True, 1), (False, 1), (False, 0), (True, 1), (True, 0)]:
        todo = []
        lp.export_weights(folder, tmp_path / "w", header=header, on_start=todo.extend, **how)
        assert len(todo) == n_left
        text = (tmp_path / "w/model.norm.weight.csv").read_text()
        assert text.startswith("#") is header
