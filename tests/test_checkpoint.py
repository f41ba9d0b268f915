"""Folders of weights: which files are opened, and where links may lead. What an index may not say is
in bad_inputs/index.py."""

import json
import os
from pathlib import Path

import models
import numpy as np
import pytest

from llamaprobe import FileError, FormatError, load
from llamaprobe.checkpoint.folder import INDEX, SINGLE, open_checkpoint


@pytest.fixture
def sharded(random_checkpoint) -> Path:
    return random_checkpoint(n_shards=3)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def write_shard(path: Path, weights: dict[str, np.ndarray]) -> None:
    path.write_bytes(models.safetensors_bytes(weights, "BF16"))


# ---- what is opened ----


def test_shards_equal_a_single_file(random_checkpoint):
    whole, parts = (
        open_checkpoint(random_checkpoint()),
        open_checkpoint(random_checkpoint(n_shards=3)),
    )
    assert len(whole.files) == 1 and len(parts.files) == 3
    assert set(whole.tensors) == set(parts.tensors)
    assert whole.n_bytes == parts.n_bytes
    for name, tensor in whole.tensors.items():
        assert (tensor.file.raw(name) == parts.tensors[name].file.raw(name)).all()


def test_the_single_file_comes_first(sharded: Path, random_checkpoint):
    (sharded / SINGLE).write_bytes((random_checkpoint() / SINGLE).read_bytes())
    assert [Path(file.path).name for file in open_checkpoint(sharded).files] == [SINGLE]


def test_paths_are_those_of_the_folder_given(sharded: Path, monkeypatch: pytest.MonkeyPatch):
    assert [Path(file.path) for file in open_checkpoint(sharded).files] == shards(sharded)
    monkeypatch.chdir(sharded.parent)
    assert Path(open_checkpoint(sharded.name).files[0].path).exists()


@pytest.mark.parametrize("mmap", [True, False])
def test_mapped_or_read(sharded: Path, mmap: bool):
    checkpoint = open_checkpoint(sharded, mmap=mmap)
    expected = models.read_checkpoint(sharded)
    for name, tensor in checkpoint.tensors.items():
        assert (tensor.file.read(name) == expected[name]).all()


def test_data_may_start_at_an_odd_offset(random_checkpoint):
    folder = random_checkpoint(odd_start=True)
    checkpoint = open_checkpoint(folder)
    assert any(tensor.offset % 2 for tensor in checkpoint.tensors.values())
    for name, values in models.read_checkpoint(folder).items():
        assert (checkpoint.tensors[name].file.read(name) == values).all()


def test_safetensors_make_other_formats_harmless(random_checkpoint):
    folder = random_checkpoint()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert open_checkpoint(folder).tensors


def test_a_folder_without_weights(tmp_path: Path):
    with pytest.raises(FileError, match=f"{SINGLE} nor {INDEX}$"):
        open_checkpoint(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(FileError, match="there is adapter_model.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("path", ["missing", "file", "nul\0inside"])
def test_rejects_what_is_not_a_folder(tmp_path: Path, path: str):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileError, match="missing|file|nul"):
        open_checkpoint(f"{tmp_path}/{path}")


@pytest.mark.parametrize("kind", ["dir", "fifo", "dangling"])
def test_rejects_what_is_not_a_regular_file(tmp_path: Path, kind: str):
    path = tmp_path / SINGLE
    if kind == "dir":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match=rf"{tmp_path}: {SINGLE}: "):
        open_checkpoint(tmp_path)


def test_a_broken_file_is_named_with_its_folder(random_checkpoint):
    folder = random_checkpoint()
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:-1])
    with pytest.raises(FormatError, match=rf"{folder}: {SINGLE}: .*{len(data) - 1}"):
        open_checkpoint(folder)


def test_shards_of_later_layers_may_be_missing(random_checkpoint):
    folder = random_checkpoint(num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    weights = models.read_checkpoint(folder)
    (folder / SINGLE).unlink()
    late = {name for name in weights if ".layers.1." in name}
    files = {name: "late.safetensors" if name in late else "early.safetensors" for name in weights}
    write_shard(folder / "early.safetensors", {n: w for n, w in weights.items() if n not in late})
    index = {
        "weight_map": files,
        "metadata": {"total_size": 2 * sum(w.size for w in weights.values())},
    }
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(FileError, match="1 of 2 shards are missing: late.safetensors"):
        load(folder)
    assert set(open_checkpoint(folder, layers=1).tensors) == set(weights) - late
    assert load(folder, layers=1).run([1, 2])["x"].shape == (1, 2, config["hidden_size"])
    write_shard(folder / "late.safetensors", {name: weights[name] for name in late})
    assert len(open_checkpoint(folder, layers=1).files) == 1
    assert len(open_checkpoint(folder, layers=2).files) == 2


# ---- links ----


def test_plain_files_are_not_links(random_checkpoint):
    assert open_checkpoint(random_checkpoint()).links == {}


def in_hub_cache(folder: Path, commit: str = "a" * 40) -> Path:
    snapshot = folder.parent / "models--some--model" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    return folder.rename(snapshot)


@pytest.mark.parametrize("blobs", ["../../blobs", "../../../blobs/bb"])
def test_follows_the_links_of_a_hub_cache(random_checkpoint, blobs: str):
    snapshot = in_hub_cache(random_checkpoint())
    blob = snapshot / blobs / ("b" * 64)
    blob.parent.mkdir(parents=True)
    (snapshot / SINGLE).rename(blob)
    (snapshot / SINGLE).symlink_to(f"{blobs}/{blob.name}")
    assert open_checkpoint(snapshot).links == {SINGLE: blob.resolve()}
    run = load(snapshot).run([1])
    assert run.weight_files == ((str(snapshot / SINGLE), blob.stat().st_size, "b" * 64),)
    assert run.meta["revision"] == "a" * 40


BLOB = "b" * 64


@pytest.fixture
def cached(random_checkpoint) -> Path:
    """A snapshot in a hub cache, whose files are links to its blobs."""
    snapshot = in_hub_cache(random_checkpoint())
    cache = snapshot.parent.parent
    (cache / "blobs").mkdir()
    (snapshot / SINGLE).rename(cache / "blobs" / BLOB)
    (snapshot / SINGLE).symlink_to(f"../../blobs/{BLOB}")
    return snapshot


def move(path: Path, to: Path) -> Path:
    """To another disk, with a link in its place."""
    to.mkdir(exist_ok=True)
    moved = path.rename(to / path.name)
    path.symlink_to(moved)
    return moved


@pytest.mark.parametrize("what", ["blobs", "the blob", "both", "the cache", "snapshots and blobs"])
def test_blobs_and_snapshots_may_be_on_another_disk(cached: Path, tmp_path: Path, what: str):
    expected = load(cached).run([1, 2])
    cache, disk = cached.parent.parent, tmp_path / "disk"
    if what in ("the blob", "both"):
        move(cache / "blobs" / BLOB, tmp_path / "other")
    if what in ("blobs", "both", "snapshots and blobs"):
        move(cache / "blobs", disk)
    if what == "snapshots and blobs":
        move(cache / "snapshots", disk)
    if what == "the cache":
        move(cache, disk)
    (tmp_path / "link").symlink_to(cached)
    for folder in (cached, tmp_path / "link", cached.resolve()):
        run = load(folder).run([1, 2])
        assert run.equals(expected)
        assert run.weight_files[0][2] == (None if what in ("the blob", "both") else BLOB)


def test_snapshots_elsewhere_with_whole_paths(cached: Path, tmp_path: Path):
    cache = cached.parent.parent
    (cached / SINGLE).unlink()
    (cached / SINGLE).symlink_to(cache / "blobs" / BLOB)
    move(cache / "snapshots", tmp_path / "disk")
    assert load(cached).run([1]).meta["revision"] == "a" * 40


def test_links_of_a_snapshot_still_end_in_its_blobs(cached: Path, tmp_path: Path):
    """What a repository can say is a link of the snapshot and a name among the blobs."""
    cache, weights = cached.parent.parent, tmp_path / "elsewhere"
    weights.mkdir()
    (cache / "blobs" / BLOB).rename(weights / BLOB)  # named by a hash, but no blob
    move(cache / "blobs", tmp_path / "disk")
    link, blobs = cached / SINGLE, cache / "blobs"
    (weights / "plain").symlink_to(weights / BLOB)
    (blobs / "plain").symlink_to(weights / BLOB)
    (blobs / BLOB[:40]).symlink_to(weights / BLOB)
    for target in (weights / BLOB, weights / "plain", "../../blobs/plain", "../../../../elsewhere/" + BLOB):
        link.unlink()
        link.symlink_to(target)
        with pytest.raises(FileError, match="is a link out of its download, to .*; download it"):
            open_checkpoint(cached)
    link.unlink()
    link.symlink_to(f"../../blobs/{BLOB[:40]}")
    assert open_checkpoint(cached).links == {SINGLE: weights / BLOB}


def test_circular_links(cached: Path):
    (cached / SINGLE).unlink()
    (cached / SINGLE).symlink_to(SINGLE)
    with pytest.raises(FileError):
        open_checkpoint(cached)


# ---- files that change ----


def test_a_file_truncated_after_opening(random_checkpoint):
    from llamaprobe import FileChangedError

    folder = random_checkpoint()
    model = load(folder)
    weight = model.weights["model.norm.weight"]
    os.truncate(folder / SINGLE, 100)
    for use in (lambda: model.run([1, 2]), lambda: np.asarray(weight), lambda: weight.raw):
        with pytest.raises(FileChangedError, match=f"{folder}: {SINGLE}: "):
            use()
