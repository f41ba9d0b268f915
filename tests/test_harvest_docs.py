"""The commands and the Python of docs/harvest.md run, and read the same values."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harvests import finish, hashes, leftovers, make_plan
from installed import PLACES

import llamaprobe as lp

REPO = Path(__file__).parent.parent
PAGE = REPO / "docs" / "harvest.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
NEEDS = r"^import (torch|polars|duckdb|pandas)|\"(memory):"  # fsspec


def test_the_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in BLOCKS:
        for found in re.finditer(NEEDS, block, re.MULTILINE):
            with contextlib.suppress(ImportError):
                __import__("fsspec" if found[2] else found[1])
                continue
            break
        else:
            names: dict = {"__name__": "__main__"}
            exec(compile(block, str(PAGE), "exec"), names)
            ran.append(names)
    h = ran[0]["h"]
    assert len(ran) >= 4
    for names in ran[1:]:
        if "made" in names:
            assert names["h"].root and len(names["made"]) == len(names["plan"])
        elif "again" in names:
            assert names["again"].plan.files.is_remote
        elif "torch" in names:
            assert (names["values"].numpy() == h["x", 2][:]).all()
        elif "polars" in names:
            assert h.rows.position[names["rows"]].tolist() == [0, 0]
        elif "duckdb" in names:
            assert sum(n for _, n in names["found"]) == h.n_rows
        else:
            rows = slice(3, 9) if "safe_open" in names else slice(None)
            assert (names["values"] == h["x", 2][rows]).all()


def test_the_shell_commands_run(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"text": "Once"}\n')
    (tmp_path / "prompts.txt").write_text("Once\n")
    lines = [
        line.partition("#")[0].split()[1:]
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        for line in block.splitlines()
        if re.match(r"llamaprobe (harvest )?\w+ (demo|out)", line)
    ]
    assert len(lines) == 6
    for words in lines:
        code, _, error = command(*words)
        assert code == 0 or "needs pyarrow" in error, (words, error)


# ---- more than one process: the commands of the page, with 3 parts, each twice, the last first ----

LAUNCHERS = re.findall(r"(llamaprobe harvest run --plan out --part .*?)(?:\]?\n)", PAGE.read_text())


def command_of(text: str, index: str) -> str:
    """A command of the page with the index of its launcher, for 3 parts and one thread."""
    assert index in text
    return re.sub(r"/(400|64|8)\b", "/3", text).replace("--threads 4", "--threads 1")


INDEXES = {
    **{"{}/8": "{}", "{}/64": "{}"},
    **{"SLURM_ARRAY": "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION": "JOB_COMPLETION_INDEX"},
}


def launcher(mark: str) -> str:
    (found,) = [line for line in LAUNCHERS if mark in line]
    return command_of(found, INDEXES[mark])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    return folder, finish(make_plan(folder, shard_rows=100))


@pytest.fixture
def planned(made, tmp_path, monkeypatch):
    """The plan of `made` without shards, as `out` in the current folder."""
    ignored = shutil.ignore_patterns("shard-*", "manifest.json", "done")
    shutil.copytree(made[0], tmp_path / "out", ignore=ignored)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    return tmp_path / "out"


@pytest.mark.parametrize("mark", INDEXES)
def test_a_launcher_that_runs_parts_twice_and_in_reverse(made, planned, mark, command, monkeypatch):
    text = launcher(mark)
    for part in ("2", "2", "1", "0", "1", "0"):
        if "{}" in INDEXES[mark]:
            words = shlex.split(text.replace("{}", part))
        else:
            monkeypatch.setenv(INDEXES[mark], part)
            words = [os.path.expandvars(word) for word in shlex.split(text)]
        code, _, error = command(*words[1:])
        assert code == 0, error
    assert lp.read_harvest(planned).root == made[1]
    assert hashes(planned) == hashes(made[0]) and not leftovers(planned)


@pytest.mark.slow
@pytest.mark.parametrize("mark", INDEXES)
def test_parts_in_shells_at_the_same_time(made, planned, mark, tmp_path):
    """All parts twice, several at once, each in a shell and a process of its own."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "llamaprobe"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llamaprobe "$@"\n')
    script.chmod(0o755)
    paths = os.pathsep.join([PLACES, os.environ.get("PYTHONPATH", "")])
    path = f"{script.parent}:{os.environ['PATH']}"
    workers = []
    for part in ("2", "1", "0", "0", "1", "2"):
        env = {**os.environ, "PATH": path, "PYTHONPATH": paths, INDEXES[mark]: part}
        text = launcher(mark).replace("{}", part)
        workers.append(subprocess.Popen(["sh", "-c", text], env=env, stderr=subprocess.PIPE))
    for worker in workers:
        _, error = worker.communicate(timeout=300)
        assert worker.returncode == 0, error
    assert lp.read_harvest(planned).root == made[1]
    assert hashes(planned) == hashes(made[0]) and not leftovers(planned)


def test_the_page_has_whole_examples_of_launchers():
    text = PAGE.read_text()
    (job,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(LAUNCHERS) == 4 and "#SBATCH --requeue" in text
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load(job)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == 400
    assert container["args"] == [next(line for line in LAUNCHERS if "JOB_" in line)]
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in spec["template"]["spec"]["volumes"]}


@pytest.mark.parametrize("name", ["harvest", "plan_harvest", "harvest_shard", "read_harvest"])
def test_names_are_public(name):
    assert getattr(lp, name).__doc__ and name in lp.__all__
