"""The package as it is installed: public names, what an import costs, kernel variants, threads."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import llamaprobe
from llamaprobe.perf import machine

REPO = Path(__file__).parent.parent
PACKAGE = Path(llamaprobe.__file__).parent
AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")  # csrc/kernels/dispatch.c
LAZY = ["Model", "Run", "download", "kernels", "load", "read", "write"]


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter that finds this package first."""
    paths = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", LAZY)
def test_public_names_exist(name: str):
    assert callable(getattr(llamaprobe, name))
    assert name in llamaprobe.__all__ and name in dir(llamaprobe)
    assert getattr(llamaprobe, name).__doc__


@pytest.mark.parametrize("module", ["hub", "offline", "reference"])
def test_these_modules_need_no_import_of_their_own(module: str):
    code = f"import llamaprobe as lp; print(lp.{module}.__name__)"
    assert run_python(code).stdout == f"llamaprobe.{module}\n"


def test_dir_lists_public_names():
    code = (
        "import llamaprobe as lp; lp.load; print(*(n for n in dir(lp) if n not in lp.__all__"
        " and not n.startswith('__')))"
    )
    assert run_python(code).stdout == "hub offline plot ray reference\n"


def test_all_is_complete_and_true():
    assert all(hasattr(llamaprobe, name) for name in llamaprobe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llamaprobe.nothing  # noqa: B018


def test_every_error_of_the_hub_is_public():
    from llamaprobe.hub import errors

    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    hub_errors = {kind.__name__ for kind in kinds if issubclass(kind, llamaprobe.HubError)}
    assert "GatedError" in hub_errors
    assert {name for name in hub_errors if name[0] != "_"} <= set(llamaprobe.__all__)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("FormatError", ValueError),
        ("ConfigError", ValueError),
        ("ArgumentError", ValueError),
        ("TokenizerError", ValueError),
        ("TemplateError", ValueError),
        ("PointError", KeyError),
        ("PointError", llamaprobe.ArgumentError),
        ("FileError", OSError),
        ("FileChangedError", OSError),
        ("HubError", OSError),
        ("OutOfMemory", MemoryError),
        ("UnsupportedError", NotImplementedError),
    ],
)
def test_errors_derive_from_builtin_classes(name: str, builtin: type[Exception]):
    error = getattr(llamaprobe, name)
    assert issubclass(error, llamaprobe.Error) and issubclass(error, builtin)
    assert str(error("a message")) == "a message"


def test_import_loads_nothing_heavy():
    code = "import sys, llamaprobe; print(*sorted(sys.modules))"
    loaded = set(run_python(code).stdout.split())
    assert "llamaprobe.errors" in loaded
    heavy = {"numpy", "requests", "tokenizers", "jinja2", "tqdm", "huggingface_hub", "ssl"}
    assert not loaded & heavy


def test_running_ids_loads_no_tokenizer_and_no_network(random_checkpoint):
    folder = random_checkpoint()
    code = (
        "import sys, llamaprobe\n"
        f"llamaprobe.load({str(folder)!r}).run([1, 2, 3])\n"
        "print(*sorted(sys.modules))"
    )
    result = run_python(code)
    loaded = set(result.stdout.split())
    assert "numpy" in loaded, result.stderr
    assert not loaded & {"requests", "tokenizers", "jinja2", "tqdm", "torch"}


def test_a_checkout_without_the_core_says_how_to_build_it(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "llamaprobe", ignore=shutil.ignore_patterns("*.so"))
    result = subprocess.run(
        # without site-packages: an editable install would supply the core to any llamaprobe
        [sys.executable, "-S", "-c", "import llamaprobe"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and "pip install -e ." in last


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="no stable ABI there")
def test_the_core_is_built_for_the_stable_abi():
    from llamaprobe import _core

    assert _core.__file__.endswith(".abi3.so")


def test_the_build_names_every_folder_of_the_package():
    config = tomllib.loads((REPO / "pyproject.toml").read_text())
    source = REPO / "llamaprobe"
    folders = {path.parent for path in source.rglob("*.py")} | {source / "demo"}
    named = {".".join(path.relative_to(REPO).parts) for path in folders}
    assert set(config["tool"]["setuptools"]["packages"]) == named


def test_the_version_is_written_once():
    config = tomllib.loads((REPO / "pyproject.toml").read_text())
    assert "version" not in config["project"]
    assert config["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "llamaprobe.__version__"
    assert llamaprobe.__version__.count(".") == 2


# ---- kernel variants ----


def test_kernels_lists_variants_and_the_one_in_use():
    variants = llamaprobe.kernels()
    assert "generic" in {one.name for one in variants}
    assert [one.supported for one in variants if one.in_use] == [True]


def test_emulated_variants_are_built_where_requested():
    if os.environ.get("LLAMAPROBE_EMULATED", "0") in ("", "0"):
        pytest.skip("LLAMAPROBE_EMULATED is not set: the build need not have emulated kernels")
    assert {"emu16", "emu16_zen4"} <= {one.name for one in llamaprobe.kernels()}


@pytest.mark.linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks for features of x86-64")
def test_the_features_of_this_cpu_are_found():
    """As /proc/cpuinfo has them; a build that does not find them computes the same, but much slower."""
    cpu = dict(re.findall(r"^([^:\n]*?)\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    flags = set(cpu["flags"].split())
    supported = {one.name for one in llamaprobe.kernels() if one.supported}
    assert ("avx2" in supported) == ({"avx2", "fma"} <= flags)
    assert ("avx512" in supported) == ({"avx2", "fma", *AVX512} <= flags)


def test_a_variant_can_be_forced():
    code = "import llamaprobe; print([one.name for one in llamaprobe.kernels() if one.in_use])"
    assert run_python(code, LLAMAPROBE_KERNELS="generic").stdout == "['generic']\n"


def test_a_missing_variant_is_an_error_without_fallback():
    code = "import llamaprobe; llamaprobe.kernels()"
    result = run_python(code, LLAMAPROBE_KERNELS="sse9")
    assert "ArgumentError" in result.stderr and "sse9" in result.stderr


# ---- threads ----


@pytest.mark.parametrize("threads", [0, -1, True, "4", 2.0, object(), [2]])
def test_bad_thread_counts(threads: object):
    with pytest.raises(llamaprobe.ArgumentError, match="at least 1"):
        machine.thread_count(threads)


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", " "])
def test_bad_thread_counts_in_the_environment(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLAMAPROBE_NUM_THREADS", text)
    with pytest.raises(llamaprobe.ArgumentError, match="LLAMAPROBE_NUM_THREADS"):
        machine.thread_count()


def test_where_the_thread_count_comes_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLAMAPROBE_NUM_THREADS", "3")
    assert machine.thread_count() == 3
    assert machine.thread_count(5) == 5
    assert machine.thread_count(10**6) == 10**6  # legal; the core makes no more than it needs
    monkeypatch.delenv("LLAMAPROBE_NUM_THREADS")
    assert 1 <= machine.thread_count() <= (os.cpu_count() or 1)
