"""The examples run as they are, and use nothing but public names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llamaprobe as lp

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
IDS = [path.stem for path in EXAMPLES]


def test_there_are_examples():
    assert len(EXAMPLES) > 3


@pytest.mark.parametrize("path", EXAMPLES, ids=IDS)
def test_an_example_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=IDS)
def test_an_example_imports_public_names(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            assert not {name for name in names if name.startswith("llamaprobe.")}, path.name
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "llamaprobe":
            assert node.module == "llamaprobe", path.name
            assert {alias.name for alias in node.names} <= set(lp.__all__), path.name
