"""The pages of docs/howto do what they say: their commands and programs run in the order in which they stand. The site
is built where Sphinx is installed (`make docs`)."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import llamaprobe

REPO = Path(__file__).parent.parent
PAGES = sorted(REPO.glob("docs/howto/*.md"))
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN_COMMANDS = """
import contextlib, io, sys
from llamaprobe.cli.main import main
def command(words):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0, words
"""


def program_of(page: Path) -> str:
    """A page as one program; an expression alone on a line is evaluated, as in a notebook."""
    parts = [RUN_COMMANDS]
    for language, block in BLOCK.findall(page.read_text()):
        if language == "python":
            parts.append(block)
        else:
            words = [shlex.split(line) for line in block.splitlines()]
            assert all(each[0] == "llamaprobe" for each in words)
            parts += [f"command({each[1:]!r})" for each in words]
    return "\n".join(parts)


def test_there_are_pages():
    assert sum(BLOCK.search(page.read_text()) is not None for page in PAGES) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path):
    env = os.environ | {"PYTHONPATH": str(Path(llamaprobe.__file__).parent.parent)}
    command = [sys.executable, "-W", "error", "-c", program_of(page)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_values_that_the_first_steps_show():
    """A comment that begins with a list or a tuple is the value of its line."""
    names: dict[str, object] = {}
    checked = 0
    for language, block in BLOCK.findall((REPO / "docs/howto/first-steps.md").read_text()):
        for line in block.splitlines() if language == "python" else []:
            if match := re.fullmatch(r"(\S.*?) {2,}# (\[.*?\]|\(.*?\))(?::.*)?", line):
                assert repr(eval(match[1], names)) == match[2]
                checked += 1
            else:
                exec(line, names)
    assert checked >= 3


def test_every_page_is_in_the_site():
    entries = {"index"}
    for path in (REPO / "docs/index.md", REPO / "docs/reference/index.md"):
        for block in re.findall(r"```{toctree}\n(.*?)```", path.read_text(), re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            entries |= {str(path.parent.relative_to(REPO / "docs") / name) for name in names}
    pages = {str(page.relative_to(REPO / "docs").with_suffix("")) for page in REPO.glob("docs/**/*.md")}
    assert pages == entries


def test_the_reference_has_every_public_name():
    """By its own directive, or as a member of a module."""
    from test_surface import RETURNED

    text = "".join(path.read_text() for path in REPO.glob("docs/reference/*.md"))
    listed = set(re.findall(r":: llamaprobe\.(\S+)", text))
    names = {name for name in llamaprobe.__all__ if not name.startswith("__")}
    errors = {name for name in names if isinstance(getattr(llamaprobe, name), type) and name.endswith("Error")}
    errors |= {"OutOfMemory", "Timeout", "Cancelled"}  # of the modules of errors, listed as a whole
    spans = {"PROMPT", "NEW", "DECIDING"}  # members of Span
    same = {"download"}  # as hub.download
    assert {"errors", "hub.errors", "offline", "reference", "ray"} <= listed
    assert names - errors - spans - same - listed == set()
    assert set(RETURNED) - listed == set()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx is not installed")
def test_the_site_builds_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert not [page for page in pages if re.search(r'(src|href)="https?://[^"]*\.(js|css|woff2?)', page)]
    assert "Search.setIndex(" in (tmp_path / "searchindex.js").read_text()
