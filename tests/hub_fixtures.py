"""What the tests of the hub share: a fake hub, an environment that knows nothing but it, and a
small model."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub

REPO_ID = "meta-llama/Llama-3.2-1B-Instruct"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A fake hub; the environment points at it, without a token, with an empty cache in
    tmp_path/hf."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    fake = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2")
    monkeypatch.setattr("llamaprobe.hub.failure.FIRST_WAIT", 0.01)
    yield fake
    fake.close()


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parallel ranges for small files too: so many bytes each, from four of them on."""
    monkeypatch.setattr("llamaprobe.hub.transfer.RANGE", 50_000)
    monkeypatch.setattr("llamaprobe.hub.transfer.PARALLEL_FROM", 200_000)
    return 50_000


def noise(n: int, seed: int = 0) -> bytes:
    """Bytes that no compression and no shift leaves alike."""
    return random.Random(seed).randbytes(n)


def small_model(seed: int = 0, size: int = 300_000) -> dict[str, bytes]:
    """The files of a repository: what is needed, and what must never be fetched."""
    return {
        "config.json": b'{"model_type": "llama", "seed": %d}' % seed,
        "generation_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}' * 100,
        "tokenizer_config.json": b'{"chat_template": ""}',
        "special_tokens_map.json": b"{}",
        "model.safetensors": noise(size, seed),
        "README.md": b"# a model",
        "LICENSE.txt": b"a licence",
        ".gitattributes": b"*.bin filter=lfs",
        "pytorch_model.bin": noise(1000, 9),
        "modeling_llama.py": b"raise SystemExit",
        "original/consolidated.00.pth": noise(1000, 8),
        "original/params.json": b"{}",
    }


NEEDED = sorted(
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ]
    + ["model.safetensors"]
)


def tree(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files below a folder but the bookkeeping, links followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".cache" not in path.relative_to(folder).parts:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def chosen(files: dict[str, bytes]) -> dict[str, bytes]:
    """What the default set is of them."""
    return {path: data for path, data in files.items() if path in NEEDED}


def leftovers(folder: Path) -> list[str]:
    """Unfinished and temporary files anywhere below."""
    return [p.name for p in folder.rglob("*") if p.name.endswith((".incomplete", ".tmp", ".part"))]
