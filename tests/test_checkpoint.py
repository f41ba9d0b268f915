"""Folders of weights: which files are opened, what an index may say, where links may lead."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest

from llamaprobe import FileError, FormatError, UnsupportedError, load
from llamaprobe.checkpoint import INDEX, SINGLE, open_checkpoint

Edit = Callable[[dict], object]


@pytest.fixture
def sharded(random_checkpoint) -> Path:
    return random_checkpoint(n_shards=3)


def edit_index(folder: Path, edit: Edit) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def write_shard(path: Path, weights: dict[str, np.ndarray]) -> None:
    path.write_bytes(models.safetensors_bytes(weights, "BF16"))


# ---- what is opened ----


def test_shards_hold_what_one_file_holds(random_checkpoint):
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


def test_an_odd_start_is_legal(random_checkpoint):
    folder = random_checkpoint(odd_start=True)
    checkpoint = open_checkpoint(folder)
    assert any(tensor.offset % 2 for tensor in checkpoint.tensors.values())
    for name, values in models.read_checkpoint(folder).items():
        assert (checkpoint.tensors[name].file.read(name) == values).all()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.gguf", "GGUF"),
        ("pytorch_model.bin", "pickle"),
        ("consolidated.00.pth", "pickle"),
        ("MODEL.PT", "pickle"),
    ],
)
def test_other_formats_are_named_with_a_way_out(tmp_path: Path, name: str, told: str):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UnsupportedError, match=f"{name}.*{told}.*(convert|take)"):
        open_checkpoint(tmp_path)


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
def test_what_is_no_folder(tmp_path: Path, path: str):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileError, match="missing|file|nul"):
        open_checkpoint(f"{tmp_path}/{path}")


@pytest.mark.parametrize("kind", ["dir", "fifo", "dangling"])
def test_what_is_no_regular_file(tmp_path: Path, kind: str):
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


# ---- the index ----


@pytest.mark.parametrize(
    "name",
    [
        "../m.safetensors",
        "/abs/m.safetensors",
        "a/../../m.safetensors",
        "a\\..\\m.safetensors",
        "C:\\m.safetensors",
        "\\\\host\\m.safetensors",
        "%2e%2e/m.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "m.safetensors\n",
        "m.safetensors\0",
        "m .safetensors",
        "ü.safetensors",
        "m.bin",
        "m.SAFETENSORS",
        "m" * 250 + ".safetensors",
        3,
        None,
        ["m.safetensors"],
    ],
)
def test_a_file_name_that_could_leave_the_folder(sharded: Path, name: object):
    edit_index(sharded, lambda index: index["weight_map"].update({"model.norm.weight": name}))
    with pytest.raises(FormatError, match=rf'{INDEX}: weight_map of "model.norm.weight" is '):
        open_checkpoint(sharded)


def test_nothing_is_opened_outside_the_folder(sharded: Path):
    """The names are refused before any of them is touched."""
    outside = sharded.parent / "m.safetensors"
    os.mkfifo(outside)  # opening it would be seen as "not a regular file"
    edit_index(sharded, lambda index: index["weight_map"].update({"a": "../m.safetensors"}))
    with pytest.raises(FormatError, match="weight_map"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", 7])
def test_a_weight_map_that_maps_nothing(sharded: Path, weight_map: object):
    edit_index(sharded, lambda index: index.update(weight_map=weight_map))
    with pytest.raises(FormatError, match="weight_map is .*; it must map tensors to files"):
        open_checkpoint(sharded)


def test_an_index_without_a_weight_map(sharded: Path):
    edit_index(sharded, lambda index: index.pop("weight_map"))
    with pytest.raises(FormatError, match="weight_map"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b'{"weight_map": {}, "weight_map": {}}'])
def test_an_index_that_is_no_json(sharded: Path, text: bytes):
    (sharded / INDEX).write_bytes(text)
    with pytest.raises(FormatError, match=INDEX):
        open_checkpoint(sharded)


def test_missing_shards_are_listed(sharded: Path):
    first, _, last = shards(sharded)
    first.unlink(), last.unlink()
    with pytest.raises(FileError, match=f"2 of 3 shards are missing: {first.name}, {last.name}; "):
        open_checkpoint(sharded)


def test_a_tensor_that_no_shard_has(sharded: Path):
    name = shards(sharded)[0].name
    edit_index(sharded, lambda index: index["weight_map"].update({"model.extra": name}))
    with pytest.raises(FormatError, match=f'{name} has a tensor "model.extra", which no shard has'):
        open_checkpoint(sharded)


def test_a_tensor_in_another_shard(sharded: Path):
    one, other = shards(sharded)[:2]
    name = next(iter(json.loads((sharded / INDEX).read_text())["weight_map"]))
    edit_index(sharded, lambda index: index["weight_map"].update({name: other.name}))
    with pytest.raises(
        FormatError, match=f'{other.name} has a tensor "{name}", which is in {one.name}'
    ):
        open_checkpoint(sharded)


def test_a_tensor_in_two_shards(sharded: Path):
    one, other = shards(sharded)[:2]
    name = next(iter(json.loads((sharded / INDEX).read_text())["weight_map"]))
    kept = {n: t for n, t in models.read_checkpoint(sharded).items()}
    in_other = [
        n
        for n, f in json.loads((sharded / INDEX).read_text())["weight_map"].items()
        if f == other.name
    ]
    write_shard(other, {n: kept[n] for n in [*in_other, name]})
    with pytest.raises(FormatError, match=f'"{name}" is in two files, {one.name} and {other.name}'):
        open_checkpoint(sharded)


def test_a_tensor_that_the_index_does_not_name_is_there_all_the_same(sharded: Path):
    edit_index(sharded, lambda index: index["weight_map"].pop("model.norm.weight"))
    assert "model.norm.weight" in open_checkpoint(sharded).tensors


@pytest.mark.parametrize("total", [0, 10**15, "12", 1.5])
def test_a_wrong_total_is_only_told(sharded: Path, total: object):
    edit_index(sharded, lambda index: index.update(metadata={"total_size": total}))
    with pytest.warns(UserWarning, match="total_size is .*, but the tensors have"):
        assert open_checkpoint(sharded).tensors


@pytest.mark.parametrize("metadata", [None, {}, [], {"total_size": None}])
def test_no_total_is_no_news(sharded: Path, metadata: object, recwarn: pytest.WarningsRecorder):
    edit_index(sharded, lambda index: index.update(metadata=metadata))
    assert open_checkpoint(sharded).tensors and not recwarn.list


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


def link_out(folder: Path) -> Path:
    """Puts the weights beside the folder's parent and a link in their place."""
    target = folder.parent.parent / "elsewhere.safetensors"
    (folder / SINGLE).rename(target)
    (folder / SINGLE).symlink_to(target)
    return target


def test_a_link_in_a_folder_of_ones_own_is_followed_and_told(random_checkpoint):
    folder = random_checkpoint()
    target = link_out(folder)
    assert open_checkpoint(folder).links == {SINGLE: target.resolve()}


def test_plain_files_are_no_links(random_checkpoint):
    assert open_checkpoint(random_checkpoint()).links == {}


def in_hub_cache(folder: Path, commit: str = "a" * 40) -> Path:
    snapshot = folder.parent / "models--some--model" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    return folder.rename(snapshot)


@pytest.mark.parametrize("blobs", ["../../blobs", "../../../blobs/bb"])
def test_the_links_of_a_hub_cache_are_followed(random_checkpoint, blobs: str):
    snapshot = in_hub_cache(random_checkpoint())
    blob = snapshot / blobs / ("b" * 64)
    blob.parent.mkdir(parents=True)
    (snapshot / SINGLE).rename(blob)
    (snapshot / SINGLE).symlink_to(f"{blobs}/{blob.name}")
    assert open_checkpoint(snapshot).links == {SINGLE: blob.resolve()}
    run = load(snapshot).run([1])
    assert run.weight_files == ((str(snapshot / SINGLE), blob.stat().st_size, "b" * 64),)
    assert run.meta["revision"] == "a" * 40


@pytest.mark.parametrize("made_by", ["cache", "local dir"])
def test_a_link_out_of_a_download_is_refused(random_checkpoint, made_by: str):
    folder = random_checkpoint()
    if made_by == "cache":
        folder = in_hub_cache(folder)
        link_out(folder)
        target = folder.parents[3] / "elsewhere.safetensors"
        (folder.parent.parent / "elsewhere.safetensors").rename(target)
        (folder / SINGLE).unlink()
        (folder / SINGLE).symlink_to(target)
    else:
        (folder / ".cache" / "huggingface").mkdir(parents=True)
        link_out(folder)
    with pytest.raises(FileError, match=f"{SINGLE}: is a link out of its download, to .*elsewhere"):
        open_checkpoint(folder)


# ---- files that change ----


def test_a_file_cut_short_after_opening(random_checkpoint):
    from llamaprobe import FileChangedError

    folder = random_checkpoint()
    model = load(folder)
    weight = model.weights["model.norm.weight"]
    os.truncate(folder / SINGLE, 100)
    for use in (lambda: model.run([1, 2]), lambda: np.asarray(weight), lambda: weight.raw):
        with pytest.raises(FileChangedError, match=f"{folder}: {SINGLE}: "):
            use()


def test_a_file_read_into_memory_does_not_care(random_checkpoint):
    folder = random_checkpoint()
    model = load(folder, mmap=False)
    before = model.run([1, 2])["x"]
    os.truncate(folder / SINGLE, 100)
    assert (model.run([1, 2])["x"] == before).all()


def test_a_file_replaced_by_rename_stays_what_it_was(random_checkpoint):
    folder, other = random_checkpoint(), random_checkpoint(seed=1)
    model = load(folder)
    before = model.run([1, 2])["x"]
    os.replace(other / SINGLE, folder / SINGLE)
    assert (model.run([1, 2])["x"] == before).all()
    assert (load(folder).run([1, 2])["x"] != before).any()
