"""A hub cache of which parts lie on another disk, with links in their place; and the
messages about an incomplete cache."""

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, add_model, chosen, hub, small_model, tree  # noqa: F401

import llamaprobe as lp
from llamaprobe.hub import download, snapshot
from llamaprobe.hub.check import check
from llamaprobe.hub.errors import OfflineError


def move(path: Path, to: Path) -> None:
    """To another place, with a link in the old one."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, to)
    path.symlink_to(to)


@pytest.mark.parametrize("listed", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize("moved", [("blobs",), ("snapshots",), ("blobs", "snapshots"), ("a blob",)])
def test_a_cache_moved_piece_by_piece(
    hub: FakeHub, tmp_path: Path, moved: tuple[str, ...], listed: bool
) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    cache = folder.parent.parent
    if not listed:
        for place in (".llamaprobe", "trees"):
            shutil.rmtree(cache / place, ignore_errors=True)
    for what in moved:
        path = (folder / "model.safetensors").resolve() if what == "a blob" else cache / what
        move(path, tmp_path / "disk" / path.name)
    hub.forget()
    assert snapshot(REPO_ID) == folder and hub.seen == []
    assert tree(folder) == chosen(files)
    assert all((cache / what).is_symlink() for what in moved if what != "a blob")


@pytest.mark.parametrize("moved", ["blobs", "snapshots"])
def test_a_model_of_a_moved_cache_knows_its_commit(
    hub: FakeHub, tmp_path: Path, moved: str, random_checkpoint: Callable[..., Path]
) -> None:
    hub.add(REPO_ID, {path.name: path.read_bytes() for path in random_checkpoint().iterdir()})
    folder = download(REPO_ID)
    before = lp.load(REPO_ID).run([1], points="x")
    move(folder.parent.parent / moved, tmp_path / "disk" / "another name")
    hub.forget()
    model = lp.load(REPO_ID)
    for one in (model, pickle.loads(pickle.dumps(model))):
        run = one.run([1], points="x")
        assert run.meta["revision"] == before.meta["revision"] == folder.name
        assert run.meta["model"] == REPO_ID and run.meta["model_folder"] is None


@pytest.mark.parametrize("moved", ["blobs", "snapshots"])
def test_missing_files_are_fetched_into_a_moved_cache(
    hub: FakeHub, tmp_path: Path, moved: str
) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    (folder / "model.safetensors").resolve().unlink()
    (folder / "model.safetensors").unlink()
    move(folder.parent.parent / moved, tmp_path / "disk" / moved)
    hub.forget()
    assert tree(download(REPO_ID)) == chosen(files)
    assert len(hub.requests("cdn", "GET")) == 1
    assert (folder.parent.parent / moved).is_symlink()


def test_offline_errors_say_what_is_missing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
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


def assert_here(hub: FakeHub, files: dict[str, bytes], folder: Path) -> None:
    """It is found, without a request for a file, and is whole."""
    hub.forget()
    assert snapshot(REPO_ID) == folder and hub.seen == []
    assert tree(snapshot(REPO_ID, local_files_only=True)) == chosen(files)
    assert tree(download(REPO_ID)) == chosen(files) and hub.requests("cdn") == []
    assert {finding.state for finding in check(REPO_ID)} == {"ok"}


@pytest.mark.parametrize(
    "parts",
    [["blobs"], ["refs"], ["snapshots", "blobs"], [".llamaprobe"], ["snapshots", "blobs", "refs"]],
)
def test_a_folder_of_the_cache_is_a_link(hub: FakeHub, tmp_path: Path, parts: list[str]) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    folder = download(REPO_ID)
    for part in parts:
        move(folder.parent.parent / part, tmp_path / "big" / part)
    assert_here(hub, files, folder)
    newer = small_model(seed=1)
    repo.update(newer)
    assert tree(download(REPO_ID)) == chosen(newer)
    for part in parts:
        assert (folder.parent.parent / part).is_symlink()


def test_snapshots_alone_is_a_link(hub: FakeHub, tmp_path: Path) -> None:
    """Its links to ../../blobs lead elsewhere then; they are recreated."""
    files = add_model(hub)
    folder = download(REPO_ID)
    move(folder.parent, tmp_path / "big" / "deep" / "snapshots")
    assert not (folder / "config.json").exists()
    assert_here(hub, files, folder)


def test_a_blob_is_a_link_to_another_cache(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    blobs = folder.parent.parent / "blobs"
    for blob in list(blobs.iterdir()):
        move(blob, tmp_path / "new" / blobs.parent.name / "blobs" / blob.name)
    assert_here(hub, files, folder)


@pytest.mark.parametrize("size", ["another", "none"])
def test_a_link_to_no_usable_blob(hub: FakeHub, tmp_path: Path, size: str) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    blob = (folder / "model.safetensors").resolve()
    move(blob, tmp_path / "new" / "blobs" / blob.name)
    if size == "none":
        os.unlink(tmp_path / "new" / "blobs" / blob.name)
    else:
        (tmp_path / "new" / "blobs" / blob.name).write_bytes(b"other")
    assert tree(download(REPO_ID)) == chosen(files)
    assert size == "none" or (tmp_path / "new" / "blobs" / blob.name).read_bytes() == b"other"


def test_a_linked_commit_is_not_followed(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.add(REPO_ID, small_model())
    folder = download(REPO_ID)
    move(folder, tmp_path / "outside")
    for path in (tmp_path / "outside").iterdir():
        path.unlink()
    with pytest.raises(OSError, match="in the way"):
        download(REPO_ID)
    assert list((tmp_path / "outside").iterdir()) == [] and repo.commit == folder.name


@pytest.mark.linux
def test_refs_on_another_disk(hub: FakeHub, tmp_path: Path) -> None:
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another disk")
    files = small_model()
    repo = hub.add(REPO_ID, files)
    refs = download(REPO_ID).parent.parent / "refs"
    with tempfile.TemporaryDirectory(dir=disk) as place:
        move(refs, Path(place) / "refs")
        repo.update(small_model(seed=1))
        assert snapshot(REPO_ID, revision="main").name != repo.commit
        assert download(REPO_ID).name == repo.commit == snapshot(REPO_ID).name
        assert (refs / "main").read_text() == repo.commit
