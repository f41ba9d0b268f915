"""The Python and the commands of docs/generation.md run."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "generation.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(
    number: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[number], str(PAGE), "exec"), names)
    if number == 0:
        run = names["run"]
        assert run.text == " Hopoa. Hopoa was happy and thanked everybody."
        assert (run.stopped_by, run.new_ids.shape, run.logprobs.shape) == ("eos", (16,), (16,))


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines():
        code, out, error = command(*shlex.split(line)[1:])
        assert code == 0 and out.strip(), error
    assert len(block.splitlines()) == 3 and (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["Sample", "Session", "GeneratedRun"])
def test_names_are_public(name: str):
    import llamaprobe

    assert getattr(llamaprobe, name).__doc__ and name in llamaprobe.__all__
