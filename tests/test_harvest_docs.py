"""The Python of docs/harvest.md runs, block after block, and reads the same values."""

import contextlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "harvest.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in BLOCKS:
        for name in re.findall(r"^import (torch|polars|duckdb|pandas)", block, re.MULTILINE):
            with contextlib.suppress(ImportError):
                __import__(name)
                continue
            break
        else:
            names: dict = {}
            exec(compile(block, str(PAGE), "exec"), names)
            ran.append(names)
    assert len(ran) >= 3
    h = ran[0]["h"]
    assert (ran[1]["values"] == h["x", 2][3:9]).all() and (ran[2]["values"] == h["x", 2][:]).all()
    for names in ran[3:]:
        if "torch" in names:
            assert (names["values"].numpy() == h["x", 2][:]).all()
        elif "polars" in names:
            assert h.rows.position[names["rows"]].tolist() == [0, 0]
        else:
            assert sum(n for _, n in names["found"]) == h.n_rows


def test_the_shell_commands_run(tmp_path, monkeypatch, command):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"text": "Once"}\n')
    (tmp_path / "prompts.txt").write_text("Once\n")
    lines = [
        line.partition("#")[0].split()[1:]
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        for line in block.splitlines()
        if re.match(r"llamaprobe (harvest )?\w+ (demo|out)", line)
    ]
    assert len(lines) == 5
    for words in lines:
        code, _, error = command(*words)
        assert code == 0, (words, error)


@pytest.mark.parametrize("name", ["harvest", "plan_harvest", "harvest_shard", "read_harvest"])
def test_names_are_public(name):
    import llamaprobe

    assert getattr(llamaprobe, name).__doc__ and name in llamaprobe.__all__
