"""Every wait ends, also with a server that keeps sending and never finishes."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hub_process
import pytest
from fakehub import FakeHub
from hub_fixtures import DEADLINE, REPO_ID, hub, wait_for  # noqa: F401

from llamaprobe.errors import HubError
from llamaprobe.hub import NetworkError, client, connection, download
from llamaprobe.hub.settings import read_settings

SHORT = 0.15  # seconds: the deadlines of the tests


def for_ever(data: bytes, pause: float) -> Callable[[socket.socket], None]:
    def serve(peer: socket.socket) -> None:
        end = time.monotonic() + 2 * DEADLINE
        while time.monotonic() < end:
            peer.sendall(data)
            time.sleep(pause)

    return serve


def dripping(
    data: bytes, then: bytes = b"a", pause: float = 0.05
) -> Callable[[socket.socket], None]:
    def serve(peer: socket.socket) -> None:
        peer.sendall(data)
        for_ever(then, pause)(peer)

    return serve


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "100 Continue at full speed": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", 0),
    "100 Continue now and then": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "102 with headers": for_ever(b"HTTP/1.1 102 Processing\r\nA: b\r\n\r\n", 0.001),
    "a status a byte at a time": for_ever(b"H", 0.05),
    "headers a byte at a time": dripping(b"HTTP/1.1 200 OK\r\nX-A: "),
    "a chunk's length a byte at a time": dripping(CHUNKED, b"0"),
    "trailers without end": dripping(CHUNKED + b"0\r\n", b"A: b\r\n", 0),
    "trailers now and then": dripping(CHUNKED + b"2\r\n{}\r\n0\r\n", b"A: b\r\n"),
    "a body a byte at a time": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "an error a byte at a time": dripping(b"HTTP/1.1 403 No\r\nContent-Length: 100000\r\n\r\n"),
    "nothing": lambda peer: peer.recv(1),
}


@contextlib.contextmanager
def serving(
    serve: Callable[[socket.socket], None], requested: threading.Event | None = None
) -> Iterator[str]:
    """The address of a server that reads a request and serves; `requested` is set with the first."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.recv(65536)
            if requested is not None:
                requested.set()
            serve(peer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            for _ in range(100):
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.fixture
def impatient(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_SECONDS", SHORT)
    monkeypatch.setattr(client, "MAX_HEAD_SECONDS", SHORT)
    monkeypatch.setattr(client, "MAX_BODY_SECONDS", SHORT)
    monkeypatch.setattr(client, "SLOW_SECONDS", SHORT)
    monkeypatch.setattr(client, "MAX_TRIES", 2)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", str(SHORT))


@pytest.mark.parametrize("how", ENDLESS)
def test_an_endless_answer(how: str, impatient: None, monkeypatch: pytest.MonkeyPatch):
    with serving(ENDLESS[how]) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        start = time.monotonic()
        with pytest.raises(HubError):
            download(REPO_ID, progress=False)
        assert time.monotonic() - start < DEADLINE
        # no thread is still reading
        wait_for(lambda: not any("_send" in thread.name for thread in threading.enumerate()))


@pytest.mark.parametrize("how", ["100 Continue at full speed", "headers a byte at a time"])
def test_an_endless_answer_of_a_proxy(
    how: str, impatient: None, monkeypatch: pytest.MonkeyPatch
):
    with serving(ENDLESS[how]) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        start = time.monotonic()
        with pytest.raises(NetworkError):
            download(REPO_ID, progress=False)
        assert time.monotonic() - start < DEADLINE


@pytest.mark.slow
def test_an_endless_name_lookup(impatient: None, monkeypatch: pytest.MonkeyPatch):
    done = threading.Event()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", str(SHORT))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(DEADLINE) and [])
    try:
        with pytest.raises(NetworkError, match="no answer in time"):
            download(REPO_ID, progress=False)
    finally:
        done.set()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["100 Continue at full speed", "headers a byte at a time"])
def test_ctrl_c_during_an_endless_answer(how: str, hub: FakeHub, tmp_path: Path):
    code = "import sys; from llamaprobe.cli.main import main; sys.exit(main())"
    requested = threading.Event()
    with serving(ENDLESS[how], requested) as endpoint:
        env = hub_process.environment(HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "h"))
        process = hub_process.start(code, "download", REPO_ID, env=env)
        assert requested.wait(DEADLINE)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130 and err == "llamaprobe: interrupted\n"
        assert time.monotonic() - start < connection.MAX_HEAD_SECONDS


def test_slow_headers_within_the_deadline_are_fine(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    """Interim answers are skipped, and each answer of a kept-alive connection has its own time."""
    late = 0.0  # seconds that a clock of ours is ahead
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr(connection, "time", clock)
    connections = []

    def serve(peer: socket.socket) -> None:
        nonlocal late
        connections.append(peer)
        for _ in range(3):
            for _ in range(2):
                late += connection.MAX_HEAD_SECONDS / 4
                peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            peer.recv(65536)

    with serving(serve) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        hub_client = client.Client(read_settings(), None)
        subject = client.Subject("x", endpoint)
        for _ in range(3):
            assert hub_client.get_json(endpoint, subject) == ({}, None)
        hub_client.close()
    assert len(connections) == 1 and late > connection.MAX_HEAD_SECONDS


def test_the_documentation_gives_the_limit():
    text = (Path(__file__).parent.parent / "docs" / "hub.md").read_text()
    assert f"{connection.MAX_HEAD_SECONDS:.0f} seconds" in text
