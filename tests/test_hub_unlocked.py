"""Two writers and no lock between them, a shared unfinished file, and files that a user put there:
a final name is the promised file all the same."""

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, add_model, chosen, hub, leftovers, noise, small_model, tree  # noqa: F401

from llamaprobe import FileError
from llamaprobe.hub import OfflineError, TransferError, download, folder
from llamaprobe.hub.folder import Folder, Partial
from llamaprobe.hub.listing import RepoFile
from llamaprobe.hub.local_store import LocalStore
from llamaprobe.hub.store import INCOMPLETE, CacheStore, Store

COMMIT = "a" * 40
DATA = noise(100_000)
FILE = RepoFile("model.safetensors", len(DATA), "b" * 40, hashlib.sha256(DATA).hexdigest())


def no_locks(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    if why == "the file system has none":
        monkeypatch.setattr("llamaprobe.files.lock.fcntl.flock", refuse)
    else:
        monkeypatch.setattr(Folder, "_open_lock", lambda self, name: None)


def make_store(kind: str, path: Path) -> Store:
    return CacheStore(path, "o/m", COMMIT) if kind == "cache" else LocalStore(path, "o/m", COMMIT)


@contextlib.contextmanager
def writing(store: Store) -> Iterator[tuple[Partial, str]]:
    """A partial file as a download opens it."""
    with (
        store.hold(FILE, time.sleep, print) as is_locked,
        store.incomplete(FILE, is_locked) as (folder, name),
    ):
        part = Partial(folder, name, FILE, is_new=not is_locked)
        part.resume(lambda: None)
        yield part, name
        part.close()


@pytest.mark.parametrize("why", ["the file system has none", "the lock file cannot be opened"])
@pytest.mark.parametrize("kind", ["cache", "folder"])
def test_two_writers_without_a_lock_share_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, why: str
) -> None:
    no_locks(monkeypatch, why)
    a, b = make_store(kind, tmp_path), make_store(kind, tmp_path)
    with writing(a) as (first, name), writing(b) as (second, other):
        assert name != other
        first.append(DATA[:50_000])
        second.append(DATA[:1000])
        first.append(DATA[50_000:])
        first.finish()
        a.publish(FILE, name)
        second.restart()
        second.append(b"wrong")
        assert a.has(FILE) and a.read(FILE, len(DATA)) == DATA
        second.restart()
        second.append(DATA)
        second.finish()
        b.publish(FILE, other)
        assert b.has(FILE) and b.read(FILE, len(DATA)) == DATA
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("to", ["cache", "folder"])
def test_downloads_at_the_same_time_without_locks(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    no_locks(monkeypatch, "the file system has none")
    files = add_model(hub)
    hub.fault("drop", method="GET", after=100_000, times=3)
    local = None if to == "cache" else tmp_path / "out"
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(download, REPO_ID, local_dir=local) for _ in range(3)]
        assert all(tree(call.result()) == chosen(files) for call in calls)
    assert not leftovers(tmp_path)


def test_a_link_that_others_replace_is_never_missing(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as here, ThreadPoolExecutor(2) as pool:
        here.link("name", "first")
        writers = [
            pool.submit(lambda target: [here.link("name", target) for _ in range(500)], target)
            for target in ("first", "second")
        ]
        while not all(writer.done() for writer in writers):
            assert here.readlink("name") in ("first", "second")
        assert all(all(writer.result()) for writer in writers)
    assert os.listdir(tmp_path) == ["name"]


def test_a_folder_in_place_of_a_link_is_kept(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with Folder.open(tmp_path) as here, pytest.raises(FileError, match=r"/name: .*remove it"):
        here.link("name", "target")
    assert os.listdir(tmp_path) == ["name"]


def test_old_private_unfinished_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch, "the file system has none")
    blobs = tmp_path / "models--o--m/blobs"
    blobs.mkdir(parents=True)
    old, new, shared, others = (
        blobs / (FILE.etag + middle + INCOMPLETE)
        for middle in (".123-00ff", ".124-00ff", "", ".note")
    )
    for path in (old, new, shared, others):
        path.write_bytes(b"x")
        os.utime(path, (0, 0) if path is not new else None)
    with writing(make_store("cache", tmp_path)):
        assert not old.exists() and new.exists() and shared.exists() and others.exists()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_whose_name_was_taken_is_not_published(tmp_path: Path, how: str) -> None:
    with writing(make_store("cache", tmp_path)) as (part, name):
        part.append(DATA)
        path = tmp_path / "models--o--m/blobs" / name
        path.unlink()
        if how == "replaced":
            path.write_bytes(bytes(len(DATA)))
        with pytest.raises(TransferError, match="was removed or replaced while it was written"):
            part.finish()


def test_a_restart_leaves_the_old_bytes(tmp_path: Path) -> None:
    """Another process may have given them their final name."""
    with writing(make_store("cache", tmp_path)) as (part, name):
        part.append(DATA)
        os.link(tmp_path / "models--o--m/blobs" / name, tmp_path / "whole")
        part.restart()
        part.append(b"wrong")
    assert (tmp_path / "whole").read_bytes() == DATA


def test_an_unreadable_disk_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store("cache", tmp_path)
    with writing(store) as (part, _):
        part.append(DATA[:10])

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder.os, "pread", fail)
    with pytest.raises(FileError, match=rf"{FILE.etag}.*: Input/output error"):
        with writing(store):
            pass


# ---- what the user put there ----


@pytest.mark.slow
def test_files_of_the_user_are_hashed(hub: FakeHub, tmp_path: Path) -> None:
    """In a copied folder all files are newer than its metadata says, and their bytes are right; a
    file with an old time, copied or moved into the folder, is hashed."""
    files, out = small_model(), tmp_path / "out"
    repo = hub.add(REPO_ID, files)
    download(REPO_ID, local_dir=out)
    time.sleep(1.2)  # changes within a second count as part of the download
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    hub.forget()
    assert download(REPO_ID, local_dir=copy, local_files_only=True) == copy
    assert tree(download(REPO_ID, revision=repo.commit, local_dir=copy)) == chosen(files)
    assert hub.requests("cdn") == []
    for name, place in (("model.safetensors", shutil.copy2), ("tokenizer.json", os.replace)):
        other = tmp_path / "other"
        other.write_bytes(bytes(len(files[name])))
        os.utime(other, (1, 1))
        place(other, out / name)
        assert (out / name).stat().st_mtime == 1
        with pytest.raises(OfflineError, match="not complete"):
            download(REPO_ID, local_dir=out, local_files_only=True)
        assert tree(download(REPO_ID, revision=repo.commit, local_dir=out)) == chosen(files)
