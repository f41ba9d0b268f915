"""The notebooks run as they are on the demo model, and are committed with small outputs."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPO / "examples" / "notebooks").glob("*.ipynb"))
NEEDS = ("nbclient", "nbformat", "ipykernel", "matplotlib")
MOST = 200_000  # bytes of a notebook


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell: dict) -> list[list[str]]:
    """What each output of a cell is."""
    return [sorted(output.get("data", [output["output_type"]])) for output in cell["outputs"]]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 4
    first = next(path for path in NOTEBOOKS if path.stem == "first_look")
    assert len(json.loads(first.read_text())["cells"]) < 16
    assert len(code_cells(json.loads(first.read_text()))) <= 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed(path: Path):
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < MOST and code_cells(notebook)
    for cell in code_cells(notebook):
        assert cell["outputs"], cell["source"]
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        assert not any("stderr" == output.get("name") for output in cell["outputs"])
    assert any(["image/png", "text/plain"] in kinds(cell) for cell in code_cells(notebook)) or (
        path.stem == "offline_attention"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDS)), reason="needs pip install 'llamaprobe[notebook]'"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path):
    run = runpy.run_path(str(REPO / "tools" / "run_notebooks.py"))["run"]
    done = run(path, tmp_path)
    expected = json.loads(path.read_text())
    for cell, saved in zip(code_cells(done), code_cells(expected), strict=True):
        assert cell["source"] == "".join(saved["source"])
        assert kinds(cell) == kinds(saved), "run tools/run_notebooks.py and commit the outputs"
