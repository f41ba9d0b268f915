"""The Python and the command of docs/edits.md run, and do what the page says."""

import re
import shlex
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parent.parent / "docs" / "edits.md"


def test_the_blocks_run():
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(blocks[0], str(PAGE), "exec"), names)
    run = names["run"]
    shown = re.search(r"^run\.edits +# (.*)$", blocks[0], re.MULTILINE)[1]
    assert repr(run.edits) == shown
    assert (run["z", 3][-1, 1] == 0).all() and run["z.before", 3][-1, 1].all()
    exec(compile(blocks[1], str(PAGE), "exec"), names)
    pattern = names["cut"]["pattern", 3]
    assert (pattern[:, 9, 3:5] == 0).all() and pattern[:, 10, 3:5].all()
    assert np.abs(names["clipped"]["x", 3]).max() == 8
    for name in ("ablated", "resampled", "neuron", "steered", "cut", "direct", "clipped"):
        assert not np.array_equal(names[name]["logits"], names["clean"]["logits"]), name
    assert len(blocks) == 2


def test_the_command_runs(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", np.ones(128))
    block = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    code, _, error = command(*shlex.split(block)[1:])
    assert code == 0 and "x[2][1:] += 4 * v.npy  # 512 elements changed" in error
