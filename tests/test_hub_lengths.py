"""Answers whose length, or whose part of a file, is given twice or not at all."""

from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, add_model, chosen, hub, ranges, small_model, tree  # noqa: F401

from llamaprobe.hub import NetworkError, TransferError, client, download

SIZE = 300_000

LENGTHS = {
    "the same twice": {"Content-Length": str(SIZE), "content-length": str(SIZE)},
    "the same in one line": {"Content-Length": f"{SIZE}, {SIZE}"},
}


@pytest.mark.parametrize("case", LENGTHS)
def test_a_repeated_length(hub: FakeHub, case: str) -> None:
    files = add_model(hub, size=SIZE)
    hub.fault("header", method="GET", headers=LENGTHS[case], times=100)
    assert tree(download(REPO_ID)) == chosen(files)


@pytest.mark.parametrize(("where", "times"), [("api", 2), ("cdn", 2), ("api", 100), ("cdn", 100)])
def test_two_different_lengths(hub: FakeHub, where: str, times: int) -> None:
    files = add_model(hub, size=SIZE)
    two = {"Content-Length": "7", "content-length": "8"}
    hub.fault("header", where=where, method="GET", headers=two, times=times)
    if times < 5:
        assert tree(download(REPO_ID)) == chosen(files)
        return
    with pytest.raises(
        NetworkError, match="headers that contradict each other, such as two lengths"
    ):
        download(REPO_ID)
    assert len([seen for seen in hub.seen if seen.where == where]) == client.MAX_TRIES


@pytest.mark.parametrize("parallel", [True, False])
def test_a_part_without_its_range(
    hub: FakeHub, tmp_path: Path, parallel: bool, request: pytest.FixtureRequest
) -> None:
    """Whole files are requested of a server of such parts."""
    files = add_model(hub, size=SIZE)
    if parallel:
        request.getfixturevalue("ranges")
    else:  # the rest is requested
        hub.fault("drop", method="GET", after=100_000)
    hub.fault("header", method="GET", headers={"Content-Range": None}, times=100)
    assert tree(download(REPO_ID)) == chosen(files)


def test_parts_always_without_a_range(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO_ID, small_model(size=SIZE))
    monkeypatch.setattr(client, "MAX_TRIES", 3)
    monkeypatch.setattr("llamaprobe.hub.transfer.MAX_TRIES", 3)
    for _ in range(4):
        hub.fault("drop", method="GET", after=100_000)
        hub.fault("header", method="GET", headers={"Content-Range": None})
    match = r"requested bytes 100000-299999/300000, .* sends a part of it without saying which"
    with pytest.raises(TransferError, match=match):
        download(REPO_ID)
