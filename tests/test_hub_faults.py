"""A hub and a CDN that misbehave: what is retried, what is refused, and that nothing wrong gets
a final name."""

import hashlib
import json
import pickle
import socket
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import (  # noqa: F401
    REPO_ID,
    add_model,
    chosen,
    hub,
    leftovers,
    noise,
    ranges,
    small_model,
    tree,
)

from llamaprobe.errors import HubError
from llamaprobe.hub import (
    CaptivePortalError,
    ChecksumError,
    DisabledError,
    EntryNotFoundError,
    GatedError,
    MetadataError,
    NetworkError,
    RedirectError,
    RepoNotFoundError,
    RevisionNotFoundError,
    ServerError,
    TokenError,
    TransferError,
    client,
    download,
)

SIZE = 300_000


def weights(hub: FakeHub, tmp_path: Path) -> list[Path]:
    """Whatever calls itself the weights, anywhere."""
    return [p for p in tmp_path.rglob("*") if p.name == "model.safetensors" and p.exists()]


# ---- what a retry cures ----

CURED = {
    "drop at once": ("drop", {"after": 0}),
    "drop in the middle": ("drop", {"after": 123_456}),
    "drop before the end": ("drop", {"after": SIZE - 1}),
    "reset": ("reset", {"after": 100_000}),
    "no length, early end": ("no-length", {"after": 200_000}),
    "no length, whole": ("no-length", {"after": SIZE}),
    "flipped byte": ("flip", {"after": 7}),
    "503 twice": ("status", {"times": 2}),
    "500": ("status", {"status": 500}),
    "429 with Retry-After": ("status", {"status": 429, "headers": {"Retry-After": "0"}}),
    "stale address": ("status", {"status": 403}),
    "more bytes than promised": ("long", {}),
    "wrong length": ("header", {"headers": {"Content-Length": str(SIZE + 1)}}),
    "etag of another file": ("etag", {}),
}


@pytest.mark.parametrize("case", CURED)
def test_faults_cured_by_a_retry(hub: FakeHub, tmp_path: Path, case: str) -> None:
    files = add_model(hub, size=SIZE)
    kind, options = CURED[case]
    fault = hub.fault(kind, method="GET", **options)
    assert tree(download(REPO_ID)) == chosen(files) and fault.times == 0
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("where", ["api", "resolve"])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_retried(hub: FakeHub, where: str, status: int) -> None:
    files = add_model(hub)
    hub.fault("status", where=where, status=status, times=2)
    assert tree(download(REPO_ID)) == chosen(files)


@pytest.mark.parametrize(
    "kind", ["drop", "reset", "flip", "ignore-range", "wrong-start", "wrong-total"]
)
def test_wrong_ranges_cured_by_a_retry(hub: FakeHub, ranges: int, kind: str) -> None:
    files = add_model(hub, size=600_000)
    for _ in range(3):
        hub.fault(kind, method="GET", after=11_111)
    assert tree(download(REPO_ID)) == chosen(files)


def test_a_server_without_ranges(hub: FakeHub, ranges: int) -> None:
    files = add_model(hub, size=600_000)
    hub.fault("drop", method="GET", after=30_000)
    hub.fault("ignore-range", method="GET", times=1000)
    assert tree(download(REPO_ID)) == chosen(files)


def test_waits_as_long_as_the_server_requests(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client.Client, "pause", lambda self, seconds: waits.append(seconds))
    hub.add(REPO_ID, small_model())
    hub.fault("status", where="api", status=429, headers={"RateLimit": '"resolvers";r=0;t=2'})
    hub.fault("status", where="api", status=503, headers={"Retry-After": "5"})
    hub.fault("status", where="api", status=503, headers={"Retry-After": "999999"})
    download(REPO_ID)
    assert 3 <= waits[0] <= 3.75 and 5 <= waits[1] <= 6.25
    assert client.MAX_REQUESTED_WAIT <= waits[2] <= 1.25 * client.MAX_REQUESTED_WAIT


# ---- no network ----


def test_few_tries_for_an_unknown_host(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts: list[str] = []

    def look_up(host: str, *_: object, **__: object) -> None:
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("HF_ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for shown in (True, False):
        with pytest.raises(NetworkError, match="Name or service not known; check the connection"):
            download(REPO_ID, progress=shown)
        err = capsys.readouterr().err
        assert err.count("Name or service not known; trying again\n") == (1 if shown else 0)
    assert hosts == ["nowhere.invalid"] * 4


def test_a_network_that_fails_temporarily(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a server has answered, a name lookup is retried as often as anything else."""
    files, look_up, fails = small_model(), socket.getaddrinfo, [3]

    def sometimes(*args: object, **options: object) -> object:
        if hub.requests("api") and fails[0]:
            fails[0] -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", sometimes)
    hub.add(REPO_ID, files)
    assert tree(download(REPO_ID)) == chosen(files) and fails == [0]


def test_a_retry_is_shown_once_for_each_reason(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("status", where="api", status=503, times=3)
    download(REPO_ID)
    lines = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert len(lines) == 1 and "503" in lines[0]


# ---- interrupted anywhere, resumed ----


def only_the_rest(hub: FakeHub, local: Path | None, cut: int, size: int) -> None:
    """One try that is cut, then a run that fetches what is missing and no more."""
    hub.faults = []
    hub.fault("drop", method="GET", after=cut)
    hub.fault("status", method="GET", times=100)
    with pytest.raises(ServerError):
        download(REPO_ID, local_dir=local)
    hub.faults = []
    hub.forget()
    download(REPO_ID, local_dir=local)
    assert hub.sent() == size - cut
    if 0 < cut < size:
        assert [s.headers["Range"] for s in hub.requests("cdn", "GET")] == [
            f"bytes={cut}-{size - 1}"
        ]


@pytest.mark.parametrize("to", ["cache", "folder"])
def test_only_the_rest_is_fetched(hub: FakeHub, tmp_path: Path, to: str) -> None:
    size = 70_001
    for seed, cut in enumerate([0, 1, 8191, 8192, 30_000, 65_535, 65_536, 65_537, 70_000]):
        files = add_model(hub, seed, size)
        local = tmp_path / f"out{seed}" if to == "folder" else None
        only_the_rest(hub, local, cut, size)
        assert tree(download(REPO_ID, local_dir=local)) == chosen(files)
    assert not leftovers(tmp_path)


def test_an_old_commit_is_not_used_for_a_new_one(hub: FakeHub) -> None:
    repo = hub.add(REPO_ID, small_model(1))
    download(REPO_ID)
    repo.update(small_model(2))
    hub.fault("status", method="GET", times=100)
    with pytest.raises(ServerError):
        download(REPO_ID)


def test_discards_an_unfinished_file_that_is_wrong_or_too_long(
    hub: FakeHub, tmp_path: Path
) -> None:
    files = small_model(size=SIZE)
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    hub.add(REPO_ID, files)
    for rubbish in (bytes(1000), bytes(SIZE), bytes(SIZE + 1), files["model.safetensors"] + b"x"):
        place = tmp_path / "hf/hub/models--meta-llama--Llama-3.2-1B-Instruct/blobs"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{sha256}.llamaprobe.incomplete").write_bytes(rubbish)
        (place / sha256).unlink(missing_ok=True)
        assert tree(download(REPO_ID)) == chosen(files)


# ---- what is refused ----


def test_a_hash_always_wrong(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO_ID, small_model(size=SIZE))
    hub.fault("flip", method="GET", after=SIZE - 1, times=100)
    with pytest.raises(ChecksumError, match="model.safetensors: all 300000 bytes arrived"):
        download(REPO_ID)
    assert len(hub.requests("cdn", "GET")) == 2
    sha256 = hashlib.sha256(small_model(size=SIZE)["model.safetensors"]).hexdigest()
    assert not weights(hub, tmp_path) and not list(tmp_path.rglob(f"{sha256}*incomplete"))


FOR_EVER = {
    "drop": ("drop", {"after": 0}, TransferError, "ended 300000 bytes early|broke"),
    "503": ("status", {}, ServerError, "503"),
    "403": ("status", {"status": 403}, ServerError, "403"),
    "wrong length": (
        "header",
        {"headers": {"Content-Length": "5"}},
        TransferError,
        "announces 5 bytes, not 300000",
    ),
    "web page": ("html", {"status": 200}, CaptivePortalError, "web page"),
    "compressed": ("gzip", {}, MetadataError, "compressed"),
    "too long": ("long", {}, TransferError, "more bytes"),
    "endless error": ("big-error", {"status": 500}, ServerError, "500"),
    "stall": ("stall", {"after": 1}, NetworkError, "no answer in time"),
}


@pytest.mark.parametrize("case", FOR_EVER)
def test_a_cdn_that_stays_broken(
    hub: FakeHub, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "stall":
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    hub.add(REPO_ID, small_model(size=SIZE))
    kind, options, error, match = FOR_EVER[case]
    hub.fault(kind, method="GET", times=10_000, **options)
    with pytest.raises(HubError, match=match) as caught:
        download(REPO_ID)
    assert isinstance(caught.value, error) or case == "drop"
    assert len(hub.requests("cdn")) <= 12 and not weights(hub, tmp_path)
    assert "\n" not in str(caught.value) and "sig=" not in str(caught.value)


def test_ranges_always_wrong(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO_ID, small_model(size=SIZE))
    for _ in range(30):
        hub.fault("drop", method="GET", after=1000)
        hub.fault("wrong-start", method="GET")
    with pytest.raises((TransferError, NetworkError)):
        download(REPO_ID)
    assert len(hub.requests("cdn", "GET")) <= 10 and not weights(hub, tmp_path)


HEADERS = {
    "no commit": {"X-Repo-Commit": None},
    "bad commit": {"X-Repo-Commit": "../../x"},
    "another commit": {"X-Repo-Commit": "a" * 40},
    "no etag": {"X-Linked-Etag": None},
    "etag is a path": {"X-Linked-Etag": '"../../x"'},
    "another etag": {"X-Linked-Etag": f'"{"b" * 64}"'},
    "no size": {"X-Linked-Size": None},
    "size is not a number": {"X-Linked-Size": "1e3"},
    "another size": {"X-Linked-Size": "17"},
}


@pytest.mark.parametrize("case", HEADERS)
def test_rejects_headers_that_contradict_the_listing(
    hub: FakeHub, tmp_path: Path, case: str
) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault(
        "header",
        where="resolve",
        path="*safetensors",
        method="HEAD",
        headers=HEADERS[case],
        times=100,
    )
    with pytest.raises(MetadataError):
        download(REPO_ID)
    assert hub.requests("cdn") == [] and not weights(hub, tmp_path)


# ---- answers that are errors ----


def test_errors_say_what_to_do(hub: FakeHub) -> None:
    files = small_model()
    hub.add("a/gated", files, gated=True)
    hub.add("a/private", files, private=True)
    hub.add("a/closed", files, disabled=True)
    hub.add("a/fine", files)
    for repo_id, options, error, match in [
        ("a/gated", {}, GatedError, "accept the licence at .*/a/gated, then set HF_TOKEN"),
        ("a/private", {}, RepoNotFoundError, "not found, or private; .* HF_TOKEN"),
        ("a/none", {}, RepoNotFoundError, "check the spelling"),
        ("a/none", {"token": hub.token}, RepoNotFoundError, "token may lack access"),
        ("a/closed", {}, DisabledError, "disabled"),
        ("a/fine", {"revision": "nope"}, RevisionNotFoundError, "nope: no such branch"),
        ("a/fine", {"revision": "f" * 40}, RevisionNotFoundError, "no such branch"),
        ("a/fine", {"token": "hf_wrongwrongwrong"}, TokenError, "does not know this token"),
        ("a/fine", {"include": "nope"}, EntryNotFoundError, "none of its"),
    ]:  # fmt: skip
        hub.forget()
        if "wrong" in str(options):
            hub.broken_rules.append("expected")
        with pytest.raises(error, match=match) as caught:
            download(repo_id, **options)
        hub.broken_rules.clear()
        assert isinstance(caught.value, OSError) and "\n" not in str(caught.value)
        status = {seen.path for seen in hub.seen}
        assert len(status) == len(hub.seen), "401, 403 and 404 are not requested twice"
    hub.repos["a/gated"].gated = "forbidden"
    with pytest.raises(GatedError, match="account of this token has no access yet"):
        download("a/gated", token=hub.token)


STEPS = {
    "wrong hash": ({"kind": "flip", "method": "GET"}, ChecksumError, "run it again; if that does"),
    "cut": (
        {"kind": "no-length", "method": "GET"},
        TransferError,
        "run it again: it resumes where",
    ),
    "no hub": ({"kind": "body", "where": "api"}, MetadataError, "check HF_ENDPOINT and the proxy"),
    "away": (
        {"kind": "redirect", "where": "api", "location": "ftp://x"},
        RedirectError,
        "check HF_ENDPOINT, and log in",
    ),
    "login": (
        {"kind": "html", "where": "api", "status": 200},
        CaptivePortalError,
        "log in to your network in a browser, or set HTTPS_PROXY",
    ),
    "out of order": ({"kind": "status", "where": "api"}, ServerError, "try again later"),
    "too many": ({"kind": "status", "where": "api", "status": 429}, ServerError, "wait some min"),
    "forbidden": ({"kind": "status", "where": "api", "status": 403}, TokenError, "check that the"),
    "silent": (
        {"kind": "silent", "where": "api"},
        NetworkError,
        "check the connection and HTTPS_PROXY, then run it again",
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_errors_in_between_say_what_to_do(
    hub: FakeHub, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "silent":
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.1")
    hub.add(REPO_ID, small_model())
    fault, error, step = STEPS[case]
    hub.fault(**fault, times=1000)
    with pytest.raises(error, match=step) as caught:
        download(REPO_ID)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and type(again) is error


def test_server_text_is_cleaned_and_cut(hub: FakeHub) -> None:
    hub.add(REPO_ID, small_model())
    body = json.dumps({"error": "\x1b[31mred\x07\r\nline" + "x" * 5000}).encode()
    hub.fault("status", where="api", status=403, body=body)
    with pytest.raises(TokenError) as caught:
        download(REPO_ID)
    text = str(caught.value)
    assert "\\x1b[31mred\\x07\\x0d\\x0aline" in text and "\x1b" not in text and len(text) < 500


def test_an_endless_error_is_not_read_to_the_end(hub: FakeHub) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("big-error", where="api", status=404)
    with pytest.raises(HubError):
        download(REPO_ID)
    assert hub.sent("api") < 32 << 20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"\xff",
        b"[" * 100_000,
        b'{"sha": "../../x"}',
        b'{"sha": 5}',
        b"{}",
        b"[]",
        b"null",
    ],
)
def test_rejects_answers_that_are_not_the_expected_json(hub: FakeHub, body: bytes) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("body", where="api", body=body, times=100)
    with pytest.raises(MetadataError):
        download(REPO_ID)


@pytest.mark.parametrize(
    "body", [b'{"sha": "a", "sha": "b"}', b'{"sha": NaN}', b"\xef\xbb\xbf{}", b"[" * 100_000]
)
def test_rejects_json_that_is_not_strict(hub: FakeHub, body: bytes) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("body", where="api", body=body, times=100)
    with pytest.raises(MetadataError, match="answers with something that is not JSON"):
        download(REPO_ID)


def test_rejects_endless_json(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_JSON", 1 << 20)
    hub.add(REPO_ID, small_model())
    hub.fault("big-error", where="api", status=200)
    with pytest.raises(MetadataError, match="over 1048576 bytes"):
        download(REPO_ID)


@pytest.mark.parametrize("where", ["api", "resolve"])
def test_a_login_page_instead_of_the_hub(hub: FakeHub, tmp_path: Path, where: str) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("html", where=where, status=200, times=100)
    with pytest.raises(CaptivePortalError, match="log in to your network"):
        download(REPO_ID)
    assert not weights(hub, tmp_path)


def test_a_login_page_by_redirect(hub: FakeHub) -> None:
    hub.add(REPO_ID, small_model())
    hub.fault("redirect", where="api", location=f"{hub.cdn}/login?a=b")
    with pytest.raises(RedirectError, match="login page"):
        download(REPO_ID)


@pytest.mark.parametrize("link", ["next to itself", "to another server", "endlessly"])
def test_an_endless_listing(
    hub: FakeHub, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.add(REPO_ID, small_model())
    monkeypatch.setattr("llamaprobe.hub.repo.MAX_PAGES", 20)
    url = f"{hub.endpoint}/api/models/{REPO_ID}/tree/{repo.commit}?recursive=True"
    if link == "next to itself":
        hub.fault(
            "header",
            where="api",
            path="*/tree/*",
            times=1000,
            headers={"Link": f'<{url}>; rel="next"'},
        )
    elif link == "to another server":
        hub.fault(
            "header",
            where="api",
            path="*/tree/*",
            headers={"Link": f'<{hub.cdn}/tree>; rel="next"'},
        )
    else:
        for n in range(100):
            hub.fault(
                "header",
                where="api",
                path="*/tree/*",
                headers={"Link": f'<{url}&cursor=0&n={n}>; rel="next"'},
            )
    with pytest.raises((MetadataError, RedirectError)):
        download(REPO_ID)
    assert len(hub.seen) <= 25
