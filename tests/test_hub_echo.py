"""A server that echoes the token: it is *** in every message, log, traceback and file. The fixture
`hub` searches all logs and files at the end of each test."""

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, chosen, hub, running, small_model, tree  # noqa: F401
from test_hub_secrets import everything_of

import llamaprobe as lp
from llamaprobe.cli import main as cli
from llamaprobe.errors import ArgumentError, HubError
from llamaprobe.hub import MetadataError, RedirectError, UnsafeNameError, download, plan
from llamaprobe.hub.settings import Token

ODD = "t0k/en+with=odd&chars%s" * 2


@pytest.fixture(params=["plain", "odd"])
def echo(request, monkeypatch, tmp_path, caplog) -> Iterator[FakeHub]:
    """A hub whose token is of the usual form, and one whose token looks different in an address."""
    fake = FakeHub() if request.param == "plain" else FakeHub(token=ODD)
    with running(fake, monkeypatch, tmp_path, caplog) as running_hub:
        yield running_hub


def forms(token: str) -> list[str]:
    every = "".join(f"%{byte:02x}" for byte in token.encode())
    return [token, f"Bearer {token}", quote(token, safe=""), quote(quote(token, safe="")), every]


def refused(hub: FakeHub, is_new: bool = True, **how: object) -> HubError:
    """What a download raises, after a search for the token; `is_new`: into an empty cache."""
    if is_new:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    with pytest.raises(HubError) as caught:
        download(REPO_ID, token=hub.token, progress=False, **how)
    error = caught.value
    error.__traceback__ = error.__traceback__.tb_next  # skips this frame, which holds the token
    text = everything_of(error).lower()
    for form in forms(hub.token):
        assert form.lower() not in text, text
    return error


@pytest.mark.parametrize("status", [401, 403, 404, 418, 429, 500])
@pytest.mark.parametrize("where", ["api", "resolve"])
def test_an_error_that_echoes_the_token(
    echo: FakeHub, where: str, status: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("llamaprobe.hub.client.MAX_TRIES", 2)  # the second one is logged
    echo.add(REPO_ID, small_model())
    for form in forms(echo.token):
        body = json.dumps({"error": f"bad credentials {form} \u2028"}).encode()
        for how in (
            {"body": body},
            {
                "headers": {"X-Error-Message": f"no access for {form}", "X-Error-Code": form}
                | {"Retry-After": form, form.encode("ascii").hex(): form}
            },
        ):
            echo.faults.clear()
            echo.fault("status", where=where, status=status, times=100, **how)
            error = refused(echo, is_new=False)
            if "body" in how and where == "api" and status in (418, 500):
                assert "***" in str(error)


def test_a_token_escaped_in_json_is_masked(echo: FakeHub):
    echo.add(REPO_ID, small_model())
    escaped = "".join(f"\\u{ord(char):04x}" for char in echo.token)
    echo.fault("status", where="api", status=400, body=f'{{"error": "for {escaped}"}}'.encode())
    assert "answers 400: for ***;" in str(refused(echo))


@pytest.mark.parametrize("where", ["api", "resolve"])
def test_a_redirect_that_echoes_the_token_is_not_followed(echo: FakeHub, where: str):
    echo.add(REPO_ID, small_model())
    for form in (
        quote(echo.token, safe=""),
        quote(quote(echo.token, safe="")),
        forms(echo.token)[-1],
    ):
        for target in (f"{echo.endpoint}/x?t={form}", f"{echo.cdn}/{form}", f"/login/{form}"):
            echo.faults.clear()
            echo.fault("redirect", where=where, location=target, times=100)
            assert isinstance(refused(echo), RedirectError)
    assert not any("login" in seen.path or "?t=" in seen.path for seen in echo.seen)


def test_a_next_page_that_echoes_the_token_is_not_requested(echo: FakeHub):
    echo.add(REPO_ID, small_model())
    link = f'<{echo.endpoint}/api/x?cursor={quote(echo.token, safe="")}>; rel="next"'
    echo.fault("header", where="api", path="*/tree/*", headers={"Link": link})
    assert isinstance(refused(echo), RedirectError)


def test_a_commit_or_a_file_name_that_echoes_the_token(echo: FakeHub):
    repo = echo.add(REPO_ID, small_model())
    echo.fault("body", where="api", body=json.dumps({"sha": f"x{echo.token}"}).encode())
    assert isinstance(refused(echo), MetadataError)
    echo.fault("header", where="resolve", headers={"X-Repo-Commit": echo.token}, times=100)
    assert "commit '***'" in str(refused(echo))
    echo.faults.clear()
    etags = {"ETag": echo.token, "X-Linked-Etag": echo.token}
    echo.fault("header", where="resolve", method="HEAD", headers=etags, times=100)
    assert isinstance(refused(echo), MetadataError)
    echo.faults.clear()
    for name in (f"{echo.token}.json", f"../{echo.token}", f"a\n{echo.token}", echo.token):
        entry = {"type": "file", "oid": "a" * 40, "size": 1, "path": name}
        repo.extra_entries[:] = [entry]
        assert isinstance(refused(echo, include=["*"]), UnsafeNameError)


def test_the_content_of_a_download_is_not_touched(echo: FakeHub, tmp_path: Path):
    files = small_model() | {"config.json": b'{"a": "***", "b": "%68%66"}'}
    echo.add(REPO_ID, files, gated=True)
    assert tree(download(REPO_ID, token=echo.token)) == chosen(files)


class Raw:
    """A server that answers every connection with the same bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._socket = data, socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for _ in range(50):
            try:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(self._data)
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 200 {0}\r\nContent-Length: 2\r\n\r\n{{}}",
        "HTTP/1.1 200 OK\r\nno colon {0}\r\nContent-Length: 2\r\n\r\n{{}}",
        "HTTP/1.1 200 OK\r\n{0}: x\r\nContent-Length: 2\r\n\r\n{{}}",
        "HTTP/1.1 {0} OK\r\n\r\n",
        "{0}\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSet-Cookie: a={0}\r\nTransfer-Encoding: chunked\r\n\r\n{0}\r\n\r\n",
        "HTTP/1.1 407 {0}\r\nContent-Type: {0}\r\nContent-Encoding: {0}\r\n\r\n",
    ],
)
def test_a_malformed_answer_that_echoes_the_token(
    hub: FakeHub, answer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    server = Raw(answer.format(hub.token).encode())
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    try:
        refused(hub)
    finally:
        server.close()
    assert hub.token not in caplog.text


def test_what_urllib3_logs(hub: FakeHub, capsys: pytest.CaptureFixture):
    """Its warnings about headers go to stderr where logging is not set up."""
    token = Token(hub.token)
    token.mask_logs()
    logger = logging.getLogger("urllib3.connection")
    try:
        raise ValueError(f"unparsed data: {hub.token}")
    except ValueError:
        logger.warning("Failed to parse headers (url=%s)", f"/x?{hub.token}", exc_info=True)
    logger.warning("nothing of %s", "note")
    assert token.mask(hub.token) == "***"


def test_what_is_masked():
    token = Token("hf_AbC/d+e%f")
    assert token.mask("x hf_AbC/d+e%f, y") == "x ***, y"
    assert token.mask("HF_ABC%2fD%2BE%25F.") == "***."
    assert token.mask("%68f_AbC/d+e%25f and more") == "***"
    assert token.mask("100% hf_ else") == "100% hf_ else"
    assert token.mask_json({"hf_AbC/d+e%f": ["a", 1, None, "hf_AbC/d+e%f"]}) == {
        "***": ["a", 1, None, "***"]
    }
    assert "hf_" not in repr(token)
    short = Token("short")
    assert short.mask("short hf_AbC") == "short hf_AbC" and short.mask_json(["a"]) == ["a"]


# ---- a token in place of a name ----

PLACES = ["{}", "org/{}", "{}/name", "https://huggingface.co/org/{}", "org/name/{}", " {} "]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("token", ["hf_" + "aB3" * 12, "my-own_token.of-this-hub"])
def test_a_token_in_place_of_a_model(
    hub: FakeHub,
    place: str,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.setenv("HF_TOKEN", token)
    name = place.format(token)
    for call in (lp.load, download, plan, lambda m: lp.export_weights(m, "out")):
        with pytest.raises(ArgumentError) as caught:
            call(name)
        assert token not in str(caught.value) and "token" in str(caught.value)
    commands = [
        ["run", name, "x"],
        ["inspect", name],
        ["points", name],
        ["weights", name, "--list"],
    ]
    commands += [["bench", name], ["download", name], ["download", name, "org/x", "--offline"]]
    for words in commands:
        assert cli.main(words) == 1
        out, err = capsys.readouterr()
        assert token not in out and (token not in err or token[:3] != "hf_"), (words, err)
    assert hub.seen == []


def test_a_token_in_place_of_a_revision(hub: FakeHub, tmp_path: Path):
    token = "hf_" + "aB3" * 12
    for source in ("org/name", "demo", tmp_path):
        for call in (lp.load, download, plan):
            with pytest.raises(ArgumentError) as caught:
                call(source, revision=f"refs/{token}")
            assert token not in str(caught.value)
    assert hub.seen == []


@pytest.mark.parametrize(
    "name", ["hf_small", "org/hf_model-v1", "hf-internal-testing/tiny", "org/half_a"]
)
def test_names_that_only_begin_like_a_token(hub: FakeHub, name: str):
    hub.add(name, small_model())
    assert download(name).is_dir()
