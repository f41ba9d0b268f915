"""A hub that speaks https, with a certificate that only REQUESTS_CA_BUNDLE knows: the token goes
there and nowhere else, and nothing leads from https to plain http."""

from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import (  # noqa: F401
    REPO_ID,
    add_model,
    certificate,
    chosen,
    elsewhere,
    https,
    ranges,
    small_model,
    tree,
)

from llamaprobe.errors import HubError
from llamaprobe.hub import NetworkError, RedirectError, download

Elsewhere = tuple[str, list[dict[str, str]]]


def test_the_token_goes_to_the_hub_by_https(https: FakeHub) -> None:
    files = small_model()
    https.add(REPO_ID, files, gated=True)
    assert https.endpoint.startswith("https://") and https.cdn.startswith("https://")
    assert tree(download(REPO_ID, token=https.token)) == chosen(files)
    places = {seen.where for seen in https.seen if "Authorization" in seen.headers}
    assert places == {"api", "resolve"} and https.requests("cdn", "GET")


def test_an_untrusted_certificate(https: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    https.add(REPO_ID, small_model())
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    pauses: list[float] = []
    monkeypatch.setattr("llamaprobe.hub.client.Client.pause", lambda _, s: pauses.append(s))
    with pytest.raises(NetworkError, match="not trusted; .* set REQUESTS_CA_BUNDLE"):
        download(REPO_ID, token=https.token)
    assert https.seen == [] and pauses == []


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_rejects_a_ca_file_without_a_certificate(
    https: FakeHub, tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    pauses: list[float] = []
    monkeypatch.setattr("llamaprobe.hub.client.Client.pause", lambda _, s: pauses.append(s))
    with pytest.raises(NetworkError, match="REQUESTS_CA_BUNDLE .* correct the path, or unset it"):
        download(REPO_ID)
    assert https.seen == [] and pauses == []


@pytest.mark.parametrize("where", ["api", "resolve", "cdn"])
def test_a_redirect_to_plain_http_is_refused(
    https: FakeHub, tmp_path: Path, where: str, elsewhere: Elsewhere
) -> None:
    https.add(REPO_ID, small_model())
    url, received = elsewhere
    https.fault("redirect", where=where, location=f"{url}/x?sig=y", times=100)
    with pytest.raises(RedirectError, match="from https to plain http; refused"):
        download(REPO_ID, token=https.token)
    assert received == [] and not list((tmp_path / "hf").rglob("model.safetensors"))


def test_pages_by_plain_http_are_refused(https: FakeHub, elsewhere: Elsewhere) -> None:
    https.add(REPO_ID, small_model())
    url, received = elsewhere
    link = {"Link": f'<{url}/tree>; rel="next"'}
    https.fault("header", where="api", path="*/tree/*", headers=link, times=100)
    with pytest.raises(RedirectError, match="another server; refused"):
        download(REPO_ID, token=https.token)
    assert received == []


def test_a_proxy_does_not_see_the_token(
    https: FakeHub, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = elsewhere
    monkeypatch.setenv("HTTPS_PROXY", url)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    with pytest.raises(HubError, match="check the connection and HTTPS_PROXY"):
        download(REPO_ID, token=https.token)
    assert received and all(
        seen["line"].startswith("CONNECT hub.example:443 ") for seen in received
    )
    assert not any(https.token in value for seen in received for value in seen.values())


@pytest.mark.parametrize("kind", ["drop", "reset", "stall", "flip"])
def test_broken_connections_are_cured(
    https: FakeHub, ranges: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "stall":
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    files = add_model(https, size=600_000)
    for _ in range(3):
        https.fault(kind, method="GET", after=11_111)
    assert tree(download(REPO_ID)) == chosen(files)
