"""The real huggingface_hub against the fake hub, and each client with what the other one fetched.

The other client runs in processes of its own: it reads its environment at import.
"""

import hashlib
import json
import os
import threading
from pathlib import Path

import hub_process
import pytest
from fakehub import FakeHub
from hub_fixtures import (  # noqa: F401
    DEADLINE,
    REPO_ID,
    add_model,
    chosen,
    hub,
    noise,
    small_model,
    tree,
    wait_for,
)

from llamaprobe.hub import download, snapshot

pytest.importorskip("huggingface_hub")

THEIRS = """
import json, sys, warnings
from huggingface_hub import snapshot_download, hf_hub_download
print(json.dumps({name: eval(code) for name, code in json.loads(sys.argv[1]).items()}))
"""


def theirs(hub: FakeHub, tmp_path: Path, **expressions: str) -> dict[str, str]:
    """What the other client returns; it has the same cache and the same hub."""
    env = hub_process.environment(
        HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"), HOME=str(tmp_path)
    )
    return json.loads(hub_process.run(THEIRS, json.dumps(expressions), env=env))


def about_files(hub: FakeHub) -> list[str]:
    """Requests for a repository; the other client also requests files of its own."""
    return [seen.path for seen in hub.seen if REPO_ID in seen.path or seen.where == "cdn"]


@pytest.mark.slow
def test_the_fake_hub_is_like_the_real_one(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub)
    hub.page_size = 3
    found = theirs(hub, tmp_path, folder=f"snapshot_download('{REPO_ID}')")
    assert tree(Path(found["folder"])) == files


@pytest.mark.slow
def test_the_fake_hub_refuses_like_the_real_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("a/gated", small_model(), gated=True)
    hub.add("a/fine", small_model())
    code = """
import sys
from huggingface_hub import errors, hf_hub_download
for repo, revision, name, error in [
    ("a/gated", "main", "config.json", errors.GatedRepoError), ("a/none", "main", "config.json",
    errors.RepositoryNotFoundError),
    ("a/fine", "nope", "config.json", errors.RevisionNotFoundError), ("a/fine", "main", "nope",
    errors.EntryNotFoundError),
]:
    try:
        hf_hub_download(repo, name, revision=revision)
    except error:
        continue
    raise SystemExit(f"{repo}: no {error}")
"""  # fmt: skip
    env = hub_process.environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
    hub_process.run(code, env=env)


@pytest.mark.slow
def test_the_other_client_finds_our_download(hub: FakeHub, tmp_path: Path) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    folder, plain = download(REPO_ID), download(REPO_ID, local_dir=tmp_path / "out")
    hub.forget()
    found = theirs(
        hub,
        tmp_path,
        offline=f"snapshot_download('{REPO_ID}', local_files_only=True)",
        scan="[str(w) for w in __import__('huggingface_hub').scan_cache_dir().warnings]",
        commit=f"hf_hub_download('{REPO_ID}', 'model.safetensors', revision='{repo.commit}')",
        plain=f"hf_hub_download('{REPO_ID}', 'model.safetensors', revision='{repo.commit}',"
        f" local_dir={str(plain)!r})",
    )
    assert Path(found["offline"]) == folder and about_files(hub) == [] and found["scan"] == []
    assert Path(found["commit"]) == folder / "model.safetensors"
    assert Path(found["plain"]) == plain / "model.safetensors"
    theirs(hub, tmp_path, online=f"snapshot_download('{REPO_ID}', local_dir={str(plain)!r})")
    assert hub.requests("cdn", "GET") == [s for s in hub.requests("cdn", "GET") if s.sent <= 1000]
    assert tree(plain) == files


@pytest.mark.slow
def test_finds_a_download_of_the_other_client(hub: FakeHub, tmp_path: Path) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    out = tmp_path / "out"
    found = theirs(
        hub,
        tmp_path,
        cache=f"snapshot_download('{REPO_ID}')",
        plain=f"snapshot_download('{REPO_ID}', local_dir={str(out)!r})",
    )
    hub.forget()
    assert snapshot(REPO_ID) == Path(found["cache"]) and hub.seen == []
    assert download(REPO_ID, revision=repo.commit, local_dir=out) == out and hub.seen == []
    assert tree(out) == files
    (out / ".cache/huggingface/llamaprobe.json").unlink(missing_ok=True)
    assert download(REPO_ID, local_dir=out, local_files_only=True) == out and hub.seen == []
    assert download(REPO_ID) == Path(found["cache"]) and len(hub.seen) == 1


@pytest.mark.slow
def test_completes_a_download_of_the_other_client(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub)
    found = theirs(hub, tmp_path, one=f"hf_hub_download('{REPO_ID}', 'model.safetensors')")
    hub.forget()
    folder = snapshot(REPO_ID)
    assert folder == Path(found["one"]).parent and tree(folder) == chosen(files)
    assert hub.requests("cdn") == []


def test_reads_the_shared_blob_store_of_the_other_client(
    hub: FakeHub, tmp_path: Path
) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    blob = (folder / "model.safetensors").resolve()
    shared = tmp_path / "hf" / "hub" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    hub.forget()
    assert snapshot(REPO_ID) == folder and hub.seen == []
    blob.unlink()
    blob.symlink_to("../../../../../secret")
    (tmp_path / "secret").write_bytes(noise(300_000, 5))
    assert tree(snapshot(REPO_ID)) == chosen(files) and not blob.is_symlink()
    assert (tmp_path / "secret").read_bytes() == noise(300_000, 5)


def test_both_wait_for_the_same_lock(hub: FakeHub, tmp_path: Path) -> None:
    filelock = pytest.importorskip("filelock")
    files = add_model(hub)
    etag = hashlib.sha256(files["model.safetensors"]).hexdigest()
    locks = tmp_path / "hf/hub/.locks/models--meta-llama--Llama-3.2-1B-Instruct"
    locks.mkdir(parents=True)
    worker = threading.Thread(target=download, args=(REPO_ID,))
    with filelock.FileLock(locks / f"{etag}.lock"):
        worker.start()
        wait_for(lambda: len(list(locks.parent.parent.rglob("snapshots/*/*"))) == 5)
        worker.join(0.2)
        assert worker.is_alive() and hub.requests("cdn") == []
    worker.join(DEADLINE)
    assert not worker.is_alive() and tree(snapshot(REPO_ID)) == chosen(files)
