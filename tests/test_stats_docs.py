"""The Python and the commands of docs/statistics.md run, and read the same values."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "statistics.md"
TEXT = PAGE.read_text()


def test_the_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        names: dict = {}
        exec(compile(block, str(PAGE), "exec"), names)
        ran.append(names)
    assert len(ran) == 4
    assert np.allclose(ran[3]["rms"] ** 2, ran[0]["x"].mean_square, rtol=1e-15)
    assert ran[0]["best"].value == ran[0]["x"].max[7]


def test_the_commands_run(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"text": "Once"}\n{"text": "One night"}\n')
    lines = [
        line.split()[1:]
        for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) == 5
    hashes = []
    for words in lines:
        (tmp_path / "stats.safetensors").unlink(missing_ok=True)
        code, out, error = command(*words)
        assert code == 0, (words, error)
        hashes += [out.split()[-2]] if "--out" in words else []
    assert hashes[0] == hashes[3], "parts add up to the whole"


def test_every_tensor_is_described():
    import llamaprobe as lp

    stats = lp.collect(
        lp.load("demo"),
        [[1, 2, 3]],
        stats=("range", "moments", "histogram", "gram", "top:2", "firing:0"),
        points="x:2",
        exact=(0.5,),
    )
    table = TEXT[TEXT.index("| tensor |") :].partition("\n\n")[0]
    for name in stats.arrays():
        last = name.split("/")[1]
        assert re.search(rf"[`/.]{last.removeprefix('top.').removeprefix('gram.')}`", table), name


@pytest.mark.parametrize("name", ["collect", "read_stats", "merge_stats"])
def test_names_are_public(name):
    import llamaprobe

    assert getattr(llamaprobe, name).__doc__ and name in llamaprobe.__all__
