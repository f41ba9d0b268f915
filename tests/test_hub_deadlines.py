"""Every wait has an end: for a server that is never silent and never done, too."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hub_process
import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub, small_model  # noqa: F401

from llamaprobe.errors import HubError
from llamaprobe.hub import NetworkError, client, connection, download

MAX_SECONDS = 20.0
"""Of one answer of a server here: far beyond what the tests allow themselves."""


def for_ever(data: bytes, pause: float) -> Callable[[socket.socket], None]:
    def serve(peer: socket.socket) -> None:
        end = time.monotonic() + MAX_SECONDS
        while time.monotonic() < end:
            peer.sendall(data)
            time.sleep(pause)

    return serve


def dripping(data: bytes, then: bytes = b"a", pause: float = 0.05) -> Callable[[socket.socket], None]:
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
    "nothing": lambda peer: time.sleep(MAX_SECONDS),
}


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that reads a request and serves."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.recv(65536)
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
    monkeypatch.setattr(connection, "MAX_HEAD_SECONDS", 0.4)
    monkeypatch.setattr(client, "MAX_HEAD_SECONDS", 0.4)
    monkeypatch.setattr(client, "MAX_BODY_SECONDS", 0.4)
    monkeypatch.setattr(client, "SLOW_SECONDS", 0.4)
    monkeypatch.setattr(client, "MAX_TRIES", 2)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.4")


@pytest.mark.parametrize("how", ENDLESS)
def test_an_answer_that_does_not_end(how: str, impatient: None, monkeypatch: pytest.MonkeyPatch):
    with serving(ENDLESS[how]) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        start = time.monotonic()
        with pytest.raises(HubError):
            download(REPO_ID, progress=False)
        assert time.monotonic() - start < MAX_SECONDS / 2
        # no thread is left that goes on reading
        end = time.monotonic() + 5
        while any("_ask" in thread.name for thread in threading.enumerate()):
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("how", ["100 Continue at full speed", "headers a byte at a time"])
def test_a_proxy_whose_answer_does_not_end(
    how: str, impatient: None, monkeypatch: pytest.MonkeyPatch
):
    with serving(ENDLESS[how]) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        start = time.monotonic()
        with pytest.raises(NetworkError):
            download(REPO_ID, progress=False)
        assert time.monotonic() - start < MAX_SECONDS / 2


def test_a_name_that_is_looked_up_for_ever(impatient: None, monkeypatch: pytest.MonkeyPatch):
    done = threading.Event()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.2")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(30) and [])
    try:
        with pytest.raises(NetworkError, match="no answer in time"):
            download(REPO_ID, progress=False)
    finally:
        done.set()


@pytest.mark.parametrize("how", ["100 Continue at full speed", "headers a byte at a time"])
def test_ctrl_c_meanwhile(how: str, hub: FakeHub, tmp_path: Path):
    code = "import sys; from llamaprobe.cli.main import main; sys.exit(main())"
    with serving(ENDLESS[how]) as endpoint:
        env = hub_process.environment(HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "h"))
        process = hub_process.start(code, "download", REPO_ID, env=env)
        time.sleep(1.5)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130 and err == "llamaprobe: interrupted\n"
        assert time.monotonic() - start < 5


def test_slow_headers_that_end_in_time_are_fine(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    """Interim answers are skipped, and a connection that was kept alive has its time anew."""
    monkeypatch.setattr(connection, "MAX_HEAD_SECONDS", 2.0)
    files = small_model()
    repo = hub.add(REPO_ID, files)
    assert download(REPO_ID).name == repo.commit
    body = b'{"sha": "%s"}' % repo.commit.encode()

    def serve(peer: socket.socket) -> None:
        for _ in range(3):
            for piece in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 x\r\nA: b\r\n\r\n"):
                peer.sendall(piece)
                time.sleep(0.1)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.9)
            peer.recv(65536)

    with serving(serve) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        for _ in range(3):
            assert download(REPO_ID).name == repo.commit


@pytest.mark.parametrize("name", ["MAX_HEAD_SECONDS"])
def test_the_limits_are_those_of_the_documentation(name: str):
    text = (Path(__file__).parent.parent / "docs" / "hub.md").read_text()
    assert f"{getattr(connection, name):.0f} seconds" in text and os.path.exists(__file__)
