"""The README tells the truth: its commands and notebook lines run as printed, its listing is the code, its
links lead somewhere."""

import inspect
import re
import shlex
from pathlib import Path

import numpy as np

import llamaprobe as lp
from llamaprobe.cli import main as cli
from llamaprobe import offline

README = Path(__file__).parent.parent / "README.md"


def section(title: str) -> str:
    return README.read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def words(line: str) -> list[str]:
    """The arguments of a llamaprobe command as a shell would give them."""
    name, *arguments = shlex.split(line, comments=True)
    assert name == "llamaprobe"
    return arguments


def test_the_first_example_prints_what_it_shows(demo_folder: Path, command):
    shown = blocks(README.read_text(), "text")[0].splitlines()
    code, told, _ = command(*words(shown[0].removeprefix("$ ")))
    lines = [line for line in shown[1:] if line != "  ..."]
    assert code == 0 and told.splitlines()[: len(lines)] == lines


def test_the_set_up_line_can_be_repeated(demo_folder: Path, command, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = blocks(section("Two commands"), "bash")[0].splitlines()[0]
    for _ in range(2):
        code, _, errors = command(*words(first.partition(" && ")[2]))
        assert code == 0 and f"`{errors.strip()}`" in section("Two commands")


def test_all_commands_that_are_shown_exist(capsys):
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
    wanted = lp.load("demo").run("Once upon a time", points="pattern", layers=[0])["pattern", 0]
    assert call.startswith("from llamaprobe import offline\n") and np.abs(pattern - wanted).max() < 1e-5


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_notebook_runs(demo_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(section("In a notebook"), "python")[0]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"]["pattern", 1].ndim == 3
    assert len(names["runs"]) == len(list(tmp_path.glob("batch/*/manifest.json"))) == 2
    saved = lp.read_run(tmp_path / "x_all_layers")
    assert np.array_equal(saved["x"], names["model"].run("Once upon a time")["x"])
