"""A hub cache of which parts lie on another disk, with links in their place; and what is said of a
cache that lacks something."""

import os
import shutil
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, chosen, hub, small_model, tree  # noqa: F401

import llamaprobe as lp
from llamaprobe.hub import download, snapshot
from llamaprobe.hub.errors import OfflineError


def _move(path: Path, disk: Path) -> None:
    """To another disk, with a link in its place."""
    disk.mkdir(exist_ok=True)
    os.rename(path, disk / path.name)
    path.symlink_to(disk / path.name)


@pytest.mark.parametrize("listed", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize("moved", [("blobs",), ("snapshots",), ("blobs", "snapshots"), ("a blob",)])
def test_a_cache_that_was_moved_piece_by_piece(
    hub: FakeHub, tmp_path: Path, moved: tuple[str, ...], listed: bool
) -> None:
    files = small_model()
    hub.add(REPO_ID, files)
    folder = download(REPO_ID)
    cache = folder.parent.parent
    if not listed:
        for place in (".llamaprobe", "trees"):
            shutil.rmtree(cache / place, ignore_errors=True)
    for what in moved:
        path = (folder / "model.safetensors").resolve() if what == "a blob" else cache / what
        _move(path, tmp_path / "disk")
    hub.forget()
    assert snapshot(REPO_ID) == folder and hub.seen == []
    assert tree(folder) == chosen(files)
    assert all((cache / what).is_symlink() for what in moved if what != "a blob")


@pytest.mark.parametrize("moved", ["blobs", "snapshots"])
def test_what_is_missing_is_fetched_into_a_moved_cache(
    hub: FakeHub, tmp_path: Path, moved: str
) -> None:
    files = small_model()
    hub.add(REPO_ID, files)
    folder = download(REPO_ID)
    (folder / "model.safetensors").resolve().unlink()
    (folder / "model.safetensors").unlink()
    _move(folder.parent.parent / moved, tmp_path / "disk")
    hub.forget()
    assert tree(download(REPO_ID)) == chosen(files)
    assert len(hub.requests("cdn", "GET")) == 1
    assert (folder.parent.parent / moved).is_symlink()


def test_offline_the_reason_is_what_is_in_the_cache(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, small_model())
    folder = download(REPO_ID)
    shutil.rmtree(folder.parent.parent / ".llamaprobe")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weights = folder / "model.safetensors"
    target = os.readlink(weights)

    def reason() -> str:
        with pytest.raises(OfflineError) as e:
            lp.load(REPO_ID)
        return str(e.value)

    weights.resolve().unlink()
    assert f"(model.safetensors is a link to {target}, which is not there)" in reason()
    weights.unlink()
    assert "(neither model.safetensors nor model.safetensors.index.json is there)" in reason()
    (folder / "pytorch_model.bin").touch()
    assert "(it holds no safetensors, but pytorch_model.bin, which is PyTorch pickle" in reason()
    weights.touch()
    (folder / "config.json").unlink()
    assert "(config.json is not there)" in reason()
