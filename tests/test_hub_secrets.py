"""Who sees the token. The fake hub raises at the end of every test if one reached the CDN, an
address or another name."""

import contextlib
import logging
import os
import pickle
import socket
import traceback
from pathlib import Path

import pytest
import requests
from fakehub import FakeHub
from hub_fixtures import REPO_ID, add_model, chosen, elsewhere, hub, small_model, tree  # noqa: F401

from llamaprobe.errors import ArgumentError, HubError
from llamaprobe.hub import (
    GatedError,
    NetworkError,
    RedirectError,
    ServerError,
    TokenError,
    download,
    plan,
    snapshot,
)
from llamaprobe.hub.check import check
from llamaprobe.hub.connection import check_redirect, failure_of, may_carry_token, origin
from llamaprobe.hub.settings import Token, read_token


def authorized(hub: FakeHub) -> set[str]:
    """Which servers got the token."""
    return {
        seen.where
        for seen in hub.seen
        if seen.headers.get("Authorization") == f"Bearer {hub.token}"
    }


def test_the_token_opens_a_gated_repository_and_stays_on_the_hub(
    hub: FakeHub, tmp_path: Path
) -> None:
    files = small_model()
    hub.add(REPO_ID, files, gated=True)
    assert tree(download(REPO_ID, token=hub.token)) == chosen(files)
    assert authorized(hub) == {"api", "resolve"} and hub.requests("cdn", "GET")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or hub.token.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "how", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "file", "XDG"]
)
def test_where_a_token_is_found(
    hub: FakeHub, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, small_model(), gated=True)
    place = tmp_path / "hf" / "token"
    if how.startswith(("HF_TOKEN", "HUGGING")) and how != "HF_TOKEN_PATH":
        monkeypatch.setenv(how, hub.token)
    else:
        if how == "HF_TOKEN_PATH":
            place = tmp_path / "elsewhere"
            monkeypatch.setenv(how, str(place))
        elif how == "XDG":
            monkeypatch.delenv("HF_HOME")
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
            place = tmp_path / "xdg" / "huggingface" / "token"
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_text(hub.token + "\n")
    download(REPO_ID)
    download(REPO_ID, token=True, force=True)
    hub.forget()
    with pytest.raises(GatedError):
        download(REPO_ID, token=False, force=True)
    assert authorized(hub) == set()
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(GatedError):
        download(REPO_ID, force=True)


def test_rejects_missing_and_malformed_tokens(hub: FakeHub) -> None:
    with pytest.raises(TokenError, match="set HF_TOKEN"):
        download(REPO_ID, token=True)
    for bad in ("", " ", "hf_a b", "hf_\n\nx", "hf_\x00", "hf_é", "x" * 5000):
        with pytest.raises(TokenError) as caught:
            download(REPO_ID, token=bad)
        assert not bad.strip() or bad not in str(caught.value)


def test_a_netrc_file_neither_replaces_nor_adds(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(
        "machine 127.0.0.1 login u password p\nmachine localhost login u password p\ndefault login"
        " u password p\n"
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    hub.add(REPO_ID, small_model())
    download(REPO_ID)
    assert not any("Authorization" in seen.headers for seen in hub.seen)
    download(REPO_ID, token=hub.token, force=True)
    assert authorized(hub) == {"api", "resolve"}


def test_cookies_are_not_kept(hub: FakeHub) -> None:
    hub.add(REPO_ID, small_model())
    for where in ("api", "resolve", "cdn"):
        hub.fault("header", where=where, headers={"Set-Cookie": "a=b; Path=/"}, times=100)
    download(REPO_ID)
    assert not any("Cookie" in seen.headers for seen in hub.seen)


REFUSED = [
    *("file:///etc/passwd", "ftp://localhost/x", "gopher://x/", "javascript:1"),
    *("//", "http://", "http://[::1/x", "http://u:p@localhost/x"),
    *("http://localhost/a/../b", "http://localhost/%2e%2e/b", "http://localhost/%2E./b"),
]


@pytest.mark.parametrize("location", REFUSED)
def test_rejects_redirects(hub: FakeHub, tmp_path: Path, location: str) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault(
        "header", where="resolve", path="*safetensors", headers={"Location": location}, times=100
    )
    with pytest.raises(HubError):
        download(REPO_ID, token=hub.token)
    assert hub.requests("cdn") == [] and not list(
        (tmp_path / "hf").rglob("snapshots/*/model.safetensors")
    )


@pytest.mark.parametrize("where", ["api", "resolve", "cdn"])
def test_the_body_of_a_redirect_is_not_read(hub: FakeHub, where: str) -> None:
    hub.add(REPO_ID, small_model())
    location = {"Location": f"{hub.cdn}/x?sig=y"}
    hub.fault("big-error", where=where, method="GET", status=302, headers=location, times=3)
    with contextlib.suppress(HubError):
        download(REPO_ID)
    assert hub.sent(where) < 64 << 20


def test_where_a_redirect_may_lead() -> None:
    assert check_redirect("https://hub.x/a", "https://cdn.x/a") is None
    assert check_redirect("http://127.0.0.1:1/a", "http://localhost:2/a") is None
    assert "plain http" in str(check_redirect("https://hub.x/a", "http://hub.x/a"))
    assert (
        origin("https://HUB.x/a") == origin("https://hub.x:443/b") != origin("https://hub.x:444/b")
    )
    assert origin("http://hub.x/a") != origin("https://hub.x/a")
    assert origin("http://[::1/") != origin("http://[::1/x")


@pytest.mark.parametrize("where", ["api", "resolve", "cdn"])
def test_circular_redirects(hub: FakeHub, where: str) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("redirect", where=where, times=1000)
    with pytest.raises(RedirectError, match="redirects"):
        download(REPO_ID)
    assert len(hub.seen) < 100


def test_a_redirect_to_another_port_gets_no_token(
    hub: FakeHub, elsewhere: tuple[str, list[dict[str, str]]]
) -> None:
    url, received = elsewhere
    hub.add(REPO_ID, small_model())
    for where in ("api", "resolve"):
        hub.faults = []
        hub.fault("redirect", where=where, location=f"{url}/x", times=1000)
        with pytest.raises(HubError):
            download(REPO_ID, token=hub.token)
    hub.faults = []
    hub.fault("redirect", where="cdn", location=f"{url}/x", times=1000)
    with pytest.raises(ServerError):
        download(REPO_ID, token=hub.token)
    assert received and not any("Authorization" in headers for headers in received)


def test_a_redirect_off_the_hub_and_back_gets_no_token(hub: FakeHub) -> None:
    add_model(hub)
    back = f"{hub.endpoint}/api/whoami-v2"
    hub.fault("redirect", where="cdn", location=back, times=1000)
    with pytest.raises(HubError):
        download(REPO_ID, token=hub.token)
    there = [seen for seen in hub.seen if seen.path == "/api/whoami-v2"]
    assert there and not any("Authorization" in seen.headers for seen in there)


def test_a_token_goes_over_https_or_inside_this_machine(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        may_carry_token("https://huggingface.co")
        and may_carry_token(hub.endpoint)
        and may_carry_token("http://[::1]:80")
    )
    assert not may_carry_token("http://mirror.example") and not may_carry_token(
        "http://127.0.0.1.example"
    )
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert not may_carry_token(hub.endpoint) and may_carry_token("https://huggingface.co")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    with pytest.raises(TokenError, match="https only"):
        download(REPO_ID, token=hub.token)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(TokenError, match="https only"):
        download(REPO_ID, token=True)


def test_an_implicit_token_is_not_sent_over_plain_http(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 is this machine too, but counts as another one."""
    monkeypatch.setattr("llamaprobe.hub.connection._is_loopback", lambda host: False)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add(REPO_ID, small_model())
    download(REPO_ID)
    assert authorized(hub) == set()


def test_proxies_are_honoured(
    hub: FakeHub, elsewhere: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = elsewhere
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(HubError):
        download(REPO_ID)
    assert received and received[0]["Host"] == "hub.example"


def test_a_socks_proxy_without_its_package() -> None:
    missing = requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")
    error = failure_of(missing, "https://hub.example/x?sig=y")
    assert isinstance(error, NetworkError)
    assert str(error).startswith("https://hub.example/x: the proxy speaks SOCKS; pip install req")


def everything_of(error: BaseException) -> str:
    """All that an exception, its chain, its frames and what they hold reveal."""
    parts, seen = [], set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        parts += [
            "".join(
                traceback.TracebackException.from_exception(link, capture_locals=True).format()
            ),
            repr(vars(link)),
        ]
        parts += [repr(vars(value)) for value in vars(link).values() if hasattr(value, "__dict__")]
        link = link.__cause__ or link.__context__
    return "\n".join(parts)


@pytest.mark.parametrize("fault", ["status", "drop", "reset", "html", "body", "refused"])
@pytest.mark.parametrize("where", ["api", "resolve", "cdn"])
def test_no_error_and_no_log_shows_the_token(
    hub: FakeHub,
    where: str,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add(REPO_ID, small_model())
    caplog.set_level(logging.DEBUG)
    if fault == "refused":
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    hub.fault(fault, where=where, status=500, times=1000)
    try:
        download(REPO_ID, token=hub.token, progress=False)
    except HubError as error:
        error.__traceback__ = error.__traceback__.tb_next  # skips this frame, which holds the token
        assert hub.token not in everything_of(error)
    else:
        assert fault in ("drop", "reset", "body") and where != "cdn"
    assert hub.token not in caplog.text


def test_the_repr_of_a_token_hides_it() -> None:
    token = Token(" hf_secret\n")
    assert "secret" not in f"{token} {token!r} {[token]}" and token.header() == "Bearer hf_secret"
    with pytest.raises(TypeError):
        pickle.dumps(token)
    assert read_token(False) is None


def test_a_token_in_place_of_a_repository_is_not_sent(hub: FakeHub) -> None:
    with pytest.raises(ArgumentError) as caught:
        download(hub.token)
    assert hub.token not in str(caught.value) and hub.seen == []


BAD_IDS = [
    *("a/b/c", "../x", "x/..", "a--b", "a/b--c", "x" * 97, f"a/{'x' * 97}", "x.git", "hf://a/b"),
    *("", "/", "a/", "/a", "-a", "a-", "a/.b", "a b", "a/b\n", "a\0", "a\\b", "é"),
    *("https://huggingface.co/a/b", "a/b?x", "a/b#x", "a%2e/b", "datasets/a/b", 5, None),
]


@pytest.mark.parametrize("repo_id", BAD_IDS, ids=lambda text: ascii(text)[:12])
def test_rejects_bad_repository_ids(hub: FakeHub, repo_id: object) -> None:
    for call in (download, plan):
        with pytest.raises(ArgumentError):
            call(repo_id)
    assert hub.seen == []


@pytest.mark.parametrize(
    "revision", ["", "../x", "/x", "a\nb", "a\\b", "x" * 300, "a//b", ".", 5, None]
)
def test_rejects_bad_revisions(hub: FakeHub, revision: object) -> None:
    with pytest.raises(ArgumentError):
        download(REPO_ID, revision=revision)
    assert hub.seen == []


def test_a_revision_with_a_slash(hub: FakeHub) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    repo.refs["refs/pr/1"] = repo.commit
    folder = download(REPO_ID, revision="refs/pr/1")
    assert tree(folder) == chosen(files) and hub.seen[0].path.endswith("/revision/refs%2Fpr%2F1")
    assert (folder.parent.parent / "refs/refs/pr/1").read_text() == repo.commit


@pytest.mark.parametrize(
    "revisions", [["v", "v/1"], ["v/1", "v"], ["a/b", "a/b/c/d", "a", "a/b/c"]]
)
def test_a_revision_below_another_one(
    hub: FakeHub, revisions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository may have had both, one after the other."""
    commits = {}
    repo = hub.add(REPO_ID, small_model())
    for n, revision in enumerate(revisions):
        commits[revision] = repo.update(small_model(n), branch=revision)
        assert download(REPO_ID, revision=revision).name == commits[revision]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for revision in revisions:
        assert download(REPO_ID, revision=revision).name == commits[revision]
        assert snapshot(REPO_ID, revision=revision).name == commits[revision]
        assert {f.state for f in check(REPO_ID, revision=revision)} == {"ok"}
    monkeypatch.delenv("HF_HUB_OFFLINE")
    commits[revisions[1]] = repo.update(small_model(9), branch=revisions[1])
    assert download(REPO_ID, revision=revisions[1]).name == commits[revisions[1]]
    assert download(REPO_ID, revision=revisions[0]).name == commits[revisions[0]]


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://x",
        "x",
        "http://",
        "https://u:hf_secret@x",
        "https://x?a",
        "http://[::1",
        "https://x/a\tb",
    ],
)
def test_rejects_bad_endpoints(
    hub: FakeHub, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ArgumentError) as caught:
        download(REPO_ID)
    assert "secret" not in str(caught.value)


def test_timeouts_come_from_the_environment(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("x", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
        with pytest.raises(ArgumentError, match="HF_HUB_DOWNLOAD_TIMEOUT"):
            download(REPO_ID)


def test_the_cache_is_where_the_environment_says(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, small_model())
    monkeypatch.setenv("PLACE", "there")
    monkeypatch.setenv("HF_HUB_CACHE", "~/$PLACE")
    assert download(REPO_ID).is_relative_to(tmp_path / "there")
    assert download(REPO_ID, cache_dir=tmp_path / "here").is_relative_to(tmp_path / "here")
    assert os.path.isdir(tmp_path / "here/.locks")
