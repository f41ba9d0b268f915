"""The Python and the commands of docs/sweeps.md run."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp

PAGE = Path(__file__).parent.parent / "docs" / "sweeps.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number: int):
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[number], str(PAGE), "exec"), names)
    s = names["s"]
    if number == 0:
        assert s.normalized.shape == (4, len(s.tokens)) and s.n_skipped > s.values.size / 2
    else:
        assert s.values.shape == (16,) and np.all(names["far"].values >= 0)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines():
        code, out, error = command(*shlex.split(line)[1:])
        assert code == 0 and out.strip(), error
    assert lp.read("map.npy").shape == (3, 2, 4)


@pytest.mark.parametrize("name", ["Sweep", "logit_diff", "logprob", "kl"])
def test_names_are_public(name: str):
    assert getattr(lp, name).__doc__ and name in lp.__all__
