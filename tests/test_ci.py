"""Which tests run when: the marker `slow`, --rest, and the parts of .ci/nightly that are due."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout
REPO = Path(__file__).parent.parent
TESTS = """
import pytest

def test_quick():
    pass

@pytest.mark.slow
@pytest.mark.parametrize("i", [1, 2])
def test_slow(i):
    pass

def test_waits():
    pytest.importorskip("llamaprobe_waits")
"""


@pytest.fixture
def tiers(tmp_path: Path):
    """tiers(*args) -> names of the tests that pytest passed in a folder with TESTS."""
    (tmp_path / "tests").mkdir()
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    shutil.copy(REPO / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_tiers.py").write_text(TESTS)

    def run(*args: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-rA", *args]
        env = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        env["PYTHONPATH"] = str(tmp_path)
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        lines = done.stdout.splitlines()
        return sorted(line.split("::")[1] for line in lines if line.startswith("PASSED "))

    return run


@pytest.mark.slow
def test_slow_tests_run_when_requested(tiers):
    slow = ["test_slow[1]", "test_slow[2]"]
    assert tiers() == ["test_quick"]
    assert tiers("--slow") == ["test_quick", *slow]
    assert tiers("-m", "slow") == slow
    assert tiers("tests/test_tiers.py::test_slow") == slow
    assert tiers("tests/test_tiers.py::test_slow[2]") == slow[1:]
    assert tiers("tests/test_tiers.py") == ["test_quick"]


@pytest.mark.slow
def test_rest_selects_tests_that_have_not_passed(tiers, tmp_path: Path):
    assert tiers() == ["test_quick"]
    (tmp_path / "llamaprobe_waits.py").touch()
    for _ in range(2):
        assert tiers("--rest") == ["test_slow[1]", "test_slow[2]", "test_waits"]
    assert len(tiers("--slow")) == 4
    assert tiers("--rest") == []


@pytest.fixture
def clone(tmp_path: Path):
    """(folder, git): a repository with .ci/nightly and a file of each kind that its parts watch."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    shutil.copytree(REPO / ".ci", tmp_path / ".ci", ignore=shutil.ignore_patterns("*.log"))
    (tmp_path / "README.md").write_text("1\n")
    (tmp_path / "csrc" / "kernels").mkdir(parents=True)
    (tmp_path / "csrc" / "kernels" / "exp.h").write_text("1\n")

    def git(*args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *args]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    return tmp_path, git


def due(folder: Path) -> list[str]:
    command = [folder / ".ci" / "nightly", "--due"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_part_is_due_when_its_files_have_changed(clone):
    folder, git = clone
    assert {"compilers", "tsan", "qemu", "fuzz"} <= set(every := due(folder))
    head = git("rev-parse", "HEAD").strip()
    log = folder / ".ci" / "nightly.log"
    log.write_text("".join(f"{part} {head} 2026-01-01 7\n" for part in every))
    assert due(folder) == []
    for name, expected in (("README.md", set()), ("csrc/kernels/exp.h", {"compilers", "macos", "qemu", "wheels"})):
        (folder / name).write_text("2\n")
        git("commit", "-qam", "a change")
        assert set(due(folder)) == expected
    log.write_text(log.read_text().replace(head, "0" * 40))  # as in a shallow clone
    assert due(folder) == every


def test_a_recorded_part_reports_its_seconds(clone):
    folder, _ = clone
    (folder / ".ci" / "nightly.log").write_text("qemu abc 2026-01-01 123\n")
    command = [folder / ".ci" / "nightly", "--seconds", "qemu"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "123\n"


def test_an_unknown_part_is_refused():
    done = subprocess.run([REPO / ".ci" / "nightly", "moon"], capture_output=True, text=True)
    assert done.returncode == 2 and "no part is named moon" in done.stderr
