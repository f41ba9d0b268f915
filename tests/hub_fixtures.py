"""What the tests of the hub share: a fake hub, an environment that points at it, and a small model.

No test depends on speed: what must not happen is awaited with DEADLINE seconds, far beyond what a
loaded machine needs, and what must happen is polled for with `wait_for`.
"""

import contextlib
import http.server
import logging
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub

import llamaprobe.hub.transfer  # noqa: F401 - it copies constants: before any is patched

HOLDS_TOKEN = {"token", "elsewhere"}  # files that a test itself puts it into
DEADLINE = 120.0  # seconds
REPO_ID = "meta-llama/Llama-3.2-1B-Instruct"


@pytest.fixture
def hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[FakeHub]:
    """A fake hub; the environment points at it, without a token, with an empty cache in
    tmp_path/hf. Nothing is synced to the disk in this process, which would take a third of the time.
    """
    with running(FakeHub(), monkeypatch, tmp_path, caplog) as fake:
        yield fake


@contextlib.contextmanager
def running(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[FakeHub]:
    """A fake hub with the environment of `hub`. Checks in the end that no connection left this
    machine, and that the token is in no log and in no file that a download wrote."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "REQUESTS_", "CURL_")):
            monkeypatch.delenv(name)
        elif name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", str(DEADLINE))
    monkeypatch.setattr("llamaprobe.hub.client.FIRST_WAIT", 0.002)
    monkeypatch.setattr("os.fsync", lambda fd: None)
    called: set[str] = set()
    connect = socket.socket.connect

    def record_connect(self: socket.socket, address: tuple[str, int]) -> None:
        called.add(str(address[0]))
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", record_connect)
    caplog.set_level(logging.DEBUG)
    yield fake
    fake.close()
    assert called <= {"127.0.0.1", "::1"}
    assert fake.token not in caplog.text
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in HOLDS_TOKEN:
            assert fake.token.encode() not in path.read_bytes()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new certificate of 127.0.0.1 and localhost, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
    command += ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())
    return both


@pytest.fixture
def https(
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[FakeHub]:
    """As `hub`, by https; its certificate is trusted."""
    with running(FakeHub(certificate=certificate), monkeypatch, tmp_path, caplog) as fake:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.parent / "certificate"))
        yield fake


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A third server, over plain http: its address, and the requests it gets, as headers by name and
    the first line as "line"."""
    received: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append({**self.headers, "line": self.requestline})
            self.send_error(404)

        do_HEAD = do_CONNECT = do_GET

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    server.server_close()


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parallel ranges for small files too: the bytes of a range; four make it worth it."""
    monkeypatch.setattr("llamaprobe.hub.transfer.RANGE", 50_000)
    monkeypatch.setattr("llamaprobe.hub.transfer.PARALLEL_FROM", 200_000)
    return 50_000


def noise(n: int, seed: int = 0) -> bytes:
    """Random bytes, which no shift or truncation leaves equal."""
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


def add_model(hub: FakeHub, seed: int = 0, size: int = 300_000) -> dict[str, bytes]:
    """Adds a small model as REPO_ID and returns its files."""
    files = small_model(seed, size)
    hub.add(REPO_ID, files)
    return files


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


def wait_for(true: Callable[[], object]) -> None:
    """Returns when it is true; AssertionError after DEADLINE."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def tree(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files below a folder but the bookkeeping, links followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".cache" not in path.relative_to(folder).parts:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def chosen(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those of the default set."""
    return {path: data for path, data in files.items() if path in NEEDED}


def leftovers(folder: Path) -> list[str]:
    """Unfinished and temporary files anywhere below."""
    return [p.name for p in folder.rglob("*") if p.name.endswith((".incomplete", ".tmp", ".part"))]
