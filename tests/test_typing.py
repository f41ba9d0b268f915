"""What mypy says of programs that use llamaprobe: README's and one that calls most of the API."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from inspect import Parameter, signature
from pathlib import Path
from typing import get_type_hints

import pytest

import llamaprobe as lp
from llamaprobe.model import RunOptions

README = Path(__file__).parent.parent / "README.md"
PROGRAM = '''
from collections.abc import Iterator
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import llamaprobe as lp

model = lp.load("demo")
run = model.run("Once upon a time")
assert_type(run, lp.Run)
x: NDArray[np.float32] = run["x"]
print(x.shape, run["x_norm", 3].mean(), run.tokens, run.save("x_all_layers"))
assert_type(model.run([1, 2, 3], points="all", layers=slice(-2, None), timeout=5.0), lp.Run)
assert_type(model.run(run.token_ids), lp.Run)
assert_type(model.run(range(3)), lp.Run)
assert_type(model.run((1, 2)), lp.Run)
chat = [{"role": "user", "content": "Who has the key?"}]
assert_type(model.run(chat, date="today", add_generation_prompt=True), lp.Run)
assert_type(model.run(["Once", "upon"]), list[lp.Run])
assert_type(model.run(("Once", "upon")), list[lp.Run])
assert_type(model.run([[1, 2], [3]]), list[lp.Run])
assert_type(model.run([run.token_ids, run.token_ids]), list[lp.Run])
assert_type(model.run([chat, chat]), list[lp.Run])
texts: list[str] = [f"number {i}" for i in range(3)]
for one in model.run(texts, layers=-1, points=["x", ("z", 3), "blocks.1.hook_resid_mid"]):
    print(one["x"].dtype)


def many() -> Iterator[str]:
    yield "Once"


assert_type(model.run(many(), cancel=lp.Cancel()), lp.Run | list[lp.Run])
lens = model.lens(run, position=slice(-2, None), tokens=["a", 5], layers=[0, -1])
assert_type(lens, lp.Lens)
assert_type(lens.top(0, 0)[0].logprob, float | None)
shares = model.attribute(run, "a", against=5, by="head")
assert_type(shares, lp.Attribution)
assert_type(model.attribute(run, 5, position=[1, -1]), list[lp.Attribution])
assert_type(model.direct_effect(run, 5, component=("head", 3, 1)), float)
assert_type(model.head_out(run, -1), NDArray[np.float32])
print(shares["head", 3, 1], lens.ranks.shape, run.html("run.html", model=model, heads=[(3, 1)]))
edits = lp.Edits()
edits["z", 3][-1, 1] = 0
patches = model.patch_map("a b", "a c", metric=lp.logprob("a"), heads=True, point="z")
assert_type(patches, lp.Sweep)
assert_type(model.sweep("a b", [edits], lambda row: float(row.max())), lp.Sweep)
assert_type(lp.diff(run, "folder"), lp.Diff)
stats = lp.collect(model, [[1, 2]], stats=("histogram",))
print(patches.to_pandas(), lp.diff(run, run).to_xarray(), stats["x", 2].to_pandas(), stats.to_xarray())
lp.plot.patch_map(patches, head=1).savefig("patches.png")
lp.plot.stats(stats)
lp.plot.stats({"x": run["x"]})
lp.plot.diff(lp.diff(run, run))
weight = model.weights["model.norm.weight"]
assert_type(np.asarray(weight), NDArray[np.float32])
assert_type(np.asarray(weight, dtype=np.float64), NDArray[np.float64])
try:
    print(model.profile("Once", timeout=1).seconds)
except (lp.Timeout, lp.Cancelled, lp.WeightError, lp.OfflineError, lp.UnsupportedConfigError) as e:
    print(e)
except lp.FileError as e:
    print(e.errno, e.filename)
'''


def mypy() -> list[str]:
    if importlib.util.find_spec("mypy"):
        return [sys.executable, "-m", "mypy"]
    found = shutil.which("mypy")
    if not found:
        pytest.skip("mypy is not installed")
    return [found, "--python-executable", sys.executable]


def complaints(program: str, folder: Path) -> str:
    """What mypy --strict prints; an error in our own files is not the program's. mypy does not see
    what an editable install has put in the way of an import, so it gets the path of the package."""
    (folder / "program.py").write_text(program)
    home = Path(lp.__file__).parent.parent
    where = {} if home.name == "site-packages" else {"MYPYPATH": str(home)}
    done = subprocess.run(
        [*mypy(), "--strict", "--no-incremental", "--follow-imports=silent", "program.py"],
        cwd=folder,
        env=os.environ | where,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.stderr, done.stderr
    return "" if done.returncode == 0 else done.stdout


@pytest.mark.slow
def test_a_program_of_a_user(tmp_path: Path):
    assert complaints(PROGRAM, tmp_path) == ""


@pytest.mark.slow
def test_a_wrong_program_is_found(tmp_path: Path):
    wrong = 'import llamaprobe as lp\nprint(lp.load("demo").run("Once", layer=3))\n'
    assert "layer" in complaints(wrong, tmp_path)


@pytest.mark.slow
def test_the_notebook_of_the_readme(tmp_path: Path):
    section = README.read_text().split("## In a notebook\n")[1]
    block = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    assert complaints(block, tmp_path) == ""


def test_the_overloads_know_every_option():
    options = [
        name
        for name, parameter in signature(lp.Model.run).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    ]
    assert options == list(get_type_hints(RunOptions))
    assert options[-2:] == ["timeout", "cancel"]
