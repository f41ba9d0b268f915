"""What docs/harvest.md promises of failures that other tests of harvests do not show."""

import itertools
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from harvests import finish, hashes, leftovers, make_plan

import llamaprobe as lp
from llamaprobe.data import patience, tensor_file
from llamaprobe.data.plan import Plan


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    return folder, finish(make_plan(folder))


@pytest.fixture
def plan(made, tmp_path):
    ignored = shutil.ignore_patterns("shard-*", "manifest.json", "done")
    shutil.copytree(made[0], tmp_path / "out", ignore=ignored)
    return Plan(tmp_path / "out")


class FullDisk:
    """Files of a disk with room for so many bytes; each pause of the writer makes more room."""

    def __init__(self, monkeypatch, room: int, more: int) -> None:
        self.room, self.pauses = room, []
        real = tensor_file.open_temporary

        def pause(seconds):
            self.pauses.append(seconds)
            self.room += more

        def open_temporary(folder):
            file, path = real(folder)
            return _OnFullDisk(file, self), path

        monkeypatch.setattr(time, "sleep", pause)
        monkeypatch.setattr(tensor_file, "open_temporary", open_temporary)


class _OnFullDisk:
    def __init__(self, file, disk: FullDisk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        """A part of the data, as write(2) does where the disk ends."""
        if not self._disk.room:
            raise OSError(28, "No space left on device")
        n = self._file.write(data[: self._disk.room])
        self._disk.room -= n
        return n


def test_a_full_disk_is_waited_for(plan, made, monkeypatch):
    disk = FullDisk(monkeypatch, 50_000, 100_000)
    assert finish(plan) == made[1] and len(disk.pauses) > 10
    assert hashes(plan.folder) == hashes(made[0])


def test_a_disk_that_stays_full_ends_the_command_with_the_name_of_the_file(
    plan, made, monkeypatch, command
):
    lp.harvest_shard(plan, 0)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, 50_000, 0)
        code, out, error = command("harvest", "run", "--plan", plan.folder)
        assert code == 1 and not out
        assert re.search(r"/shard-00001\.safetensors: No space left on device", error)
        waits = zip(disk.pauses, patience.WAITS, strict=True)
        assert all(wait <= pause <= 1.5 * wait for pause, wait in waits)
    assert plan.is_done(0) and not leftovers(plan.folder)
    assert finish(plan) == made[1]


def test_only_what_may_pass_is_repeated(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    calls = itertools.count()

    def fail():
        raise [OSError(28, "full"), ValueError("wrong")][next(calls) > 1]

    with pytest.raises(ValueError, match="wrong"):
        patience.retry(fail, lambda error: isinstance(error, OSError))
    assert next(calls) == 3
    with pytest.raises(ZeroDivisionError):
        patience.retry(lambda: 1 // 0, lambda error: next(calls) > 0)
    assert next(calls) == 4 + len(patience.WAITS)


def test_another_tokenizer_is_another_plan_and_changes_no_shard(tmp_path, demo_folder):
    shutil.copytree(demo_folder, tmp_path / "copy")
    texts = ["Once upon a time"]
    plan = make_plan(tmp_path / "out", texts, lp.load(tmp_path / "copy"))
    root = finish(plan)
    path = tmp_path / "copy" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] = {
        token: number for token, number in sorted(tokenizer["model"]["vocab"].items())
    }
    path.write_text(json.dumps(tokenizer))
    model = lp.load(tmp_path / "copy")
    with pytest.raises(lp.ArgumentError, match=r"holds another plan: model\.tokenizer"):
        make_plan(tmp_path / "out", texts, model)
    (plan.folder / "done/shard-00000.json").unlink()
    assert finish(plan, model=model) == root


def test_every_reason_is_listed_with_its_place(tmp_path, command):
    lines = ['{"text": "Once"}', "{", '{"text": ""}', '{"text": 5}', '{"text": "a b c d e f g"}']
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines) + "\n")
    words = ("harvest", "plan", "demo", data, "--out", tmp_path / "out", "--points", "x:1")
    more = ("--on-bad", "skip", "--long", "refuse", "--max-tokens", "5")
    code, _, error = command(*words, *more)
    assert code == 0 and "documents left out: 1 empty, 2 bad, 1 long" in error
    listed = [
        json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().split("\n")[:-1]
    ]
    places = [(Path(each["document"].split(": ")[0]).name, each["kind"]) for each in listed]
    assert places == [("data.jsonl", kind) for kind in ("bad", "empty", "bad", "long")]
    assert [each["document"].rsplit("line ")[1] for each in listed] == ["2", "3", "4", "5"]
