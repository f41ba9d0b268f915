"""What is in the sdist and in the wheel. `make wheel` also has its own two checked, by their paths in
LLAMAPROBE_SDIST and LLAMAPROBE_WHEEL."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import llamaprobe

REPO = Path(__file__).parent.parent
NOT_IN_SDIST = {".gitignore"}
NOT_IN_GIT = {"PKG-INFO", "setup.cfg"}
IN_PACKAGE = (".py", ".pyi", ".typed", ".json", ".safetensors", ".jinja", ".md")
MOST_BYTES = 3_000_000
LIBRARIES = ("numpy", "requests", "tokenizers", "jinja2", "tqdm")


def tracked() -> set[str]:
    if not (REPO / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git repository: the files of the sdist itself are all there is")
    output = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True)
    return {name for name in output.stdout.splitlines() if (REPO / name).exists()}


def files_of_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return {name for name in names if not name.startswith("llamaprobe.egg-info/")}


def files_of_package() -> set[str]:
    """What an installed package has but for the core, from the sources beside the tests."""
    files = (path for path in (REPO / "llamaprobe").rglob("*") if path.suffix in IN_PACKAGE)
    names = {str(path.relative_to(REPO)) for path in files}
    return names | {"llamaprobe/py.typed"}


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of git alone: what was built or left in the checkout is in no sdist."""
    folder = tmp_path_factory.mktemp("copy")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, folder / name)
    return folder


def build(folder: Path, *arguments: str) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    command = [sys.executable, "setup.py", "-q", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if "setuptools>=77" in done.stderr or "project.license" in done.stderr:
        pytest.skip("setuptools is older than pyproject.toml requires")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_sdist_has_what_git_has(clean_copy: Path, tmp_path: Path):
    build(clean_copy, "sdist", "--formats=gztar", "--dist-dir", str(tmp_path))
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert files_of_sdist(sdist) - NOT_IN_GIT == tracked() - NOT_IN_SDIST


@pytest.mark.slow
def test_the_build_installs_every_file_of_the_package(clean_copy: Path, tmp_path: Path):
    build(clean_copy, "build_py", "--build-lib", str(tmp_path))
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == {name for name in tracked() if name.startswith("llamaprobe/")}


# ---- the files that `make wheel` has made ----


def made(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: make wheel sets it")
    return Path(os.environ[variable])


@pytest.fixture
def wheel() -> Path:
    return made("LLAMAPROBE_WHEEL")


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = {name for name in archive.namelist() if not name.endswith("/")}
    information = {name for name in names if ".dist-info/" in name}
    assert names - information == files_of_package() | {"llamaprobe/_core.abi3.so"}
    kinds = {name.partition(".dist-info/")[2] for name in information}
    required = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert required <= kinds <= required | {"top_level.txt", "sboms/auditwheel.cdx.json"}


def test_the_wheel_is_small_and_for_every_cpython(wheel: Path):
    assert wheel.stat().st_size < MOST_BYTES
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version) == ("llamaprobe", llamaprobe.__version__)
    assert (python, abi) == ("cp311", "abi3")
    assert platform.startswith("manylinux_2_28_")


def test_the_metadata_of_the_wheel(wheel: Path):
    metadata = metadata_of(wheel)
    assert metadata["Version"] == llamaprobe.__version__
    assert metadata["Summary"] and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "MIT" and metadata["Requires-Python"] == ">=3.11"
    required = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert sorted(each.split(">")[0] for each in required) == sorted(LIBRARIES)


def test_the_installed_core_is_the_wheels(wheel: Path):
    """Else what the other tests prove is true of another build."""
    from llamaprobe import _core

    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("llamaprobe/_core.abi3.so") == Path(_core.__file__).read_bytes()


def test_the_sdist_of_the_wheel_has_these_sources():
    names = files_of_sdist(made("LLAMAPROBE_SDIST"))
    here = {str(path.relative_to(REPO)) for path in (REPO / "csrc").rglob("*.[ch]")}
    assert here and here <= names
    assert not {name for name in names if name.endswith((".so", ".o", ".pyc"))}
