"""Fixtures that several test files share: folders with models, made or found.

Data that is not in the repository is looked for in LLAMAPROBE_TEST_DATA, or else in shared/models
beside the checkout; what needs it is skipped, with that reason, where it is absent.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

# A shell that starts the tests in the background lets them ignore Ctrl-C; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).parent.parent
PASSED = "llamaprobe/passed"  # in pytest's cache: ids of the tests that passed in the last run


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llamaprobe")
    group.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    group.addoption(
        "--quick",
        action="store_true",
        help="the first case of each test, and none that needs torch or transformers",
    )
    group.addoption(
        "--rest",
        action="store_true",
        help="run what did not pass in the last whole run: it was "
        "skipped, it is slow, or it failed",
    )


def pytest_configure(config: pytest.Config) -> None:
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        # a busy machine is no fault of what is tested
        settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("busy")
    if config.option.quick:
        for name in ("torch", "transformers"):  # importorskip skips what needs them
            sys.modules[name] = None  # type: ignore[assignment]


def _beyond_quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """The cases of each test after its first."""
    seen: set[str] = set()
    beyond = []
    for item in items:
        name = item.nodeid.partition("[")[0]
        if name in seen:
            beyond.append(item)
        seen.add(name)
    return beyond


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests wait for --slow, for an expression after -m, or for their name on the command line;
    --rest leaves out what passed before."""
    if config.option.rest:
        passed = set(config.cache.get(PASSED, []))
        left_out = [item for item in items if item.nodeid in passed]
    elif config.option.slow or config.option.markexpr:
        return
    else:
        named = {arg.rpartition("::")[2].partition("[")[0] for arg in config.args if "::" in arg}
        left_out = [
            item
            for item in items
            if item.get_closest_marker("slow")
            and getattr(item, "originalname", item.name) not in named
        ]
    if config.option.quick:
        slow = set(map(id, left_out))
        left_out += _beyond_quick([item for item in items if id(item) not in slow])
    out = {id(item) for item in left_out}
    items[:] = [item for item in items if id(item) not in out]
    config.hook.pytest_deselected(items=left_out)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("checkout") and not (REPO / ".git").exists():
        pytest.skip("looks at a checkout with git")
    if item.get_closest_marker("linux") and sys.platform != "linux":
        pytest.skip("uses what Linux alone has")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not (config.option.slow or config.option.rest or config.option.markexpr):
        terminalreporter.write_line(
            "slow tests wait for --slow (all tests) or -m slow (only these)"
        )
    whole = config.args == config.getini("testpaths") and not config.option.keyword
    options = config.option
    if whole and not (options.rest or options.quick or options.markexpr):
        reports = terminalreporter.stats.get("passed", [])
        config.cache.set(PASSED, [report.nodeid for report in reports if report.when == "call"])


def _found(path: Path, what: str) -> Path:
    if not path.exists():
        pytest.skip(f"{what} is not at {path}; see docs/tests.md, Test data")
    return path


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of test data that is not in the repository."""
    default = REPO.parent / "shared" / "models"
    return _found(Path(os.environ.get("LLAMAPROBE_TEST_DATA") or default), "the test data")


def _data(request: pytest.FixtureRequest, name: str) -> Path:
    folder: Path = request.getfixturevalue("test_data")
    return folder / name


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct, bf16; LLAMAPROBE_SMOLLM2 says where if not among the test data."""
    place = os.environ.get("LLAMAPROBE_SMOLLM2") or _data(request, "smollm2-135m")
    _found(Path(place) / "model.safetensors", "SmolLM2-135M-Instruct")
    return Path(place)


@pytest.fixture(scope="session")
def gemma3(request: pytest.FixtureRequest) -> Path:
    """Gemma 3 270M, bf16; LLAMAPROBE_GEMMA3 says where if not among the test data."""
    place = os.environ.get("LLAMAPROBE_GEMMA3") or _data(request, "gemma3-270m")
    _found(Path(place) / "model.safetensors", "Gemma 3 270M")
    return Path(place)


@pytest.fixture(scope="session")
def llama3_tokenizer(test_data: Path) -> Path:
    """A folder with the tokenizer and chat template of Llama 3."""
    return _found(test_data / "llama3-tokenizer", "the tokenizer of Llama 3")


@pytest.fixture(scope="session")
def stories(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K as a Hugging Face folder: a real trained model without a tokenizer."""
    import stories260k

    source = _found(test_data / "stories260k" / "source", "stories260K")
    return stories260k.make_folder(source, tmp_path_factory.mktemp("models") / "stories260k")


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The model that comes with the package."""
    from installed import PACKAGE

    folder = PACKAGE / "demo"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"the demo model has not been made: {folder}")
    return folder


@pytest.fixture
def random_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """random_checkpoint(seed=0, dtype="BF16", n_shards=1, odd_start=False, **config) -> new folder.

    `config` overrides keys of `models.make_config`; a key given as ... is left out.
    """
    import models

    def make(
        seed: int = 0,
        dtype: str = "BF16",
        n_shards: int = 1,
        odd_start: bool = False,
        **config: Any,
    ) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        keys = models.make_config(**config)
        weights = models.make_weights(keys, seed, dtype)
        return models.write_checkpoint(folder, keys, weights, dtype, n_shards, odd_start)

    return make


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """command(*args) -> (exit code, stdout, stderr) of `llamaprobe ARGS`."""
    from llamaprobe.cli import main as cli

    def run(*args: Any) -> tuple[int, str, str]:
        try:
            code = cli.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run
