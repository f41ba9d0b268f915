"""README.md as tests: each of its blocks runs as printed, its listing is the code, its picture is what the
demo model computes."""

import inspect
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.cli import main as cli

REPO = Path(__file__).parent.parent
README = REPO / "README.md"


def section(title: str) -> str:
    return README.read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def words(line: str) -> list[str]:
    """The arguments of a llamaprobe command as a shell would give them."""
    name, *arguments = shlex.split(line, comments=True)
    assert name == "llamaprobe"
    return arguments


def test_every_block_has_its_test():
    found = re.findall(r"^```(\w+)$", README.read_text(), re.MULTILINE)
    assert found == ["python", "bash", "text", "bash", "python", "bash", "python", "python"]


def test_the_first_lines_run(demo_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for _ in range(2):
        exec(compile(blocks(README.read_text(), "python")[0], "README.md", "exec"), names)
    run = names["run"]
    assert run["x", 3].shape == (5, 128) and run["pattern", 3][1].shape == (5, 5)
    assert lp.read_run("my_run").equals(run)


def test_the_picture_matches_the_model(tmp_path: Path):
    shown = re.search(r"!\[.+\]\((.+)\)", README.read_text())
    tool = runpy.run_path(str(REPO / "tools/make_readme_picture.py"))
    tool["draw"](tmp_path / "picture.svg")
    picture = (REPO / shown[1]).read_text()
    assert picture == (tmp_path / "picture.svg").read_text()
    assert len(picture) < 60_000 and picture.count("fill-opacity") > 100


def test_the_other_pictures_are_drawn_from_the_model(tmp_path: Path):
    pytest.importorskip("matplotlib")
    shown = re.findall(r"!\[.+\]\((.+)\)", README.read_text())[1:]
    assert shown == ["docs/heads.svg", "docs/lens.svg"]
    tool = runpy.run_path(str(REPO / "tools/make_readme_picture.py"))
    tool["draw_plots"](tmp_path)
    for name in shown:
        files = REPO / name, tmp_path / Path(name).name
        texts = [re.findall(r"<text[^>]*>([^<]*)<", file.read_text()) for file in files]
        assert sorted(texts[0]) == sorted(texts[1]) and len(texts[0]) > 40
        assert files[0].stat().st_size < 60_000


def test_the_command_prints_the_output_shown(demo_folder: Path, command):
    shown = blocks(README.read_text(), "text")[0].splitlines()
    code, printed, _ = command(*words(shown[0].removeprefix("$ ")))
    lines = [line for line in shown[1:] if line != "  ..."]
    assert code == 0 and printed.splitlines()[: len(lines)] == lines


def test_the_set_up_line_is_the_command_whose_output_is_shown():
    first = blocks(section("Two commands"), "bash")[0].splitlines()[0]
    shown = blocks(README.read_text(), "text")[0].splitlines()[0]
    assert words(first.partition(" && ")[2]) == words(shown.removeprefix("$ "))


def test_all_commands_shown_exist(capsys):
    shown = "\n".join(blocks(section("Your own model"), "bash")).splitlines()
    assert len(shown) > 7
    for line in shown:
        args = cli._parser().parse_args(words(line))
        assert args.run


def test_the_listing_is_the_code():
    listing = section("Q, K, V and attention from the files alone")
    assert inspect.getsource(offline.attention).rstrip() in listing


def test_the_listing_runs_as_it_is_called(demo_folder: Path, command, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = section("Q, K, V and attention from the files alone")
    for line in blocks(text, "bash")[0].splitlines():
        assert command(*words(line))[0] == 0
    call = blocks(text, "python")[0].strip()
    pattern = eval(call.splitlines()[-1], {"offline": offline})
    expected = lp.load("demo").run("Once upon a time", points="pattern", layers=[0])["pattern", 0]
    assert (
        call.startswith("from llamaprobe import offline\n")
        and np.abs(pattern - expected).max() < 1e-5
    )


def test_the_notebook_runs(demo_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(section("In a notebook"), "python")[0]
    names: dict = {}
    for _ in range(2):  # as a cell that is run again
        exec(compile(code, "README.md", "exec"), names)
    assert names["run"]["pattern", 1].ndim == 3
    assert len(names["runs"]) == len(list(tmp_path.glob("batch/*/manifest.json"))) == 2
    saved = lp.read_run(tmp_path / "x_all_layers")
    assert np.array_equal(saved["x"], names["model"].run("Once upon a time")["x"])
