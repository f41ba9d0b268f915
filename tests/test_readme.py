"""The README tells the truth: its listing is the code, its notebook lines run, its links lead somewhere."""

import inspect
import re
from pathlib import Path

import numpy as np

import llamaprobe as lp
from llamaprobe import offline

README = Path(__file__).parent.parent / "README.md"


def test_the_listing_is_the_code():
    assert inspect.getsource(offline.attention).rstrip() in README.read_text()


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_notebook_runs(demo_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = README.read_text().split("## In a notebook")[1]
    code = section.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"]["pattern", 1].ndim == 3
    assert len(names["runs"]) == 2
    saved = lp.read_run(tmp_path / "x_all_layers")
    assert np.array_equal(saved["x"], names["model"].run("Once upon a time")["x"])
