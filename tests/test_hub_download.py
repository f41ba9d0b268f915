"""Downloads that go well: which files, where they go, which requests are sent."""

import json
import os
import shutil
from pathlib import Path

import pytest
from fakehub import FakeHub
from fakerepo import git_sha1
from hub_fixtures import (  # noqa: F401
    NEEDED,
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

from llamaprobe.errors import ArgumentError, FileError, FormatError
from llamaprobe.hub import EntryNotFoundError, NetworkError, OfflineError, download, plan, snapshot
from llamaprobe.hub.check import check


def test_the_default_set_lands_in_the_cache_in_its_layout(hub: FakeHub, tmp_path: Path) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    folder = download(REPO_ID)
    root = tmp_path / "hf" / "hub" / "models--meta-llama--Llama-3.2-1B-Instruct"
    assert folder == root / "snapshots" / repo.commit
    assert tree(folder) == chosen(files)
    assert (root / "refs" / "main").read_text() == repo.commit
    config = folder / "config.json"
    assert os.readlink(config) == f"../../blobs/{git_sha1(files['config.json'])}"
    assert not leftovers(tmp_path)
    assert hub.requests("cdn", "GET") and not any("original" in seen.path for seen in hub.seen)


def test_files_present_are_not_requested_again(hub: FakeHub) -> None:
    repo = hub.add(REPO_ID, small_model())
    folder = download(REPO_ID)
    hub.forget()
    assert snapshot(REPO_ID) == folder and hub.seen == []
    assert download(REPO_ID, revision=repo.commit) == folder and hub.seen == []
    assert download(REPO_ID) == folder and [seen.where for seen in hub.seen] == ["api"]


def test_a_moved_branch_shares_unchanged_files(hub: FakeHub) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    first, old = download(REPO_ID), repo.commit
    new = repo.update(files | {"config.json": b'{"new": 1}'})
    hub.forget()
    assert snapshot(REPO_ID) == first and hub.seen == []
    second = download(REPO_ID)
    assert second.name == new and (second / "config.json").read_bytes() == b'{"new": 1}'
    assert hub.requests("cdn") == []
    assert snapshot(REPO_ID) == second and snapshot(REPO_ID, revision=old) == first


def test_force_fetches_again(hub: FakeHub) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    (folder / "model.safetensors").resolve().write_bytes(bytes(300_000))
    assert [f.path for f in check(REPO_ID) if f.state == "damaged"] == ["model.safetensors"]
    assert download(REPO_ID, force=True) == folder and tree(folder) == chosen(files)
    assert {f.state for f in check(REPO_ID)} == {"ok"}


def test_a_blob_of_the_wrong_size_counts_as_missing(hub: FakeHub) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    (folder / "model.safetensors").resolve().write_bytes(b"short")
    assert download(REPO_ID) == folder and tree(folder) == chosen(files)


def test_include_exclude_and_files_never_fetched(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub)
    everything = download(REPO_ID, include="*", local_dir=tmp_path / "a")
    never = {
        "pytorch_model.bin",
        "modeling_llama.py",
        "original/consolidated.00.pth",
        "original/params.json",
    }
    assert tree(everything) == {path: data for path, data in files.items() if path not in never}
    some = download(
        REPO_ID, include=["*.json", "LICENSE*"], exclude="tok*", local_dir=tmp_path / "b"
    )
    assert sorted(tree(some)) == [
        "LICENSE.txt",
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
    ]
    with pytest.raises(EntryNotFoundError, match="--include"):
        download(REPO_ID, include="*.bin")
    with pytest.raises(ArgumentError):
        download(REPO_ID, include=[1])


def test_a_repository_without_a_tokenizer_is_fine(hub: FakeHub) -> None:
    files = {"config.json": b"{}", "model.safetensors": noise(1000)}
    hub.add("a/b", files)
    assert tree(download("a/b")) == files


def test_empty_files_and_subfolders(hub: FakeHub, tmp_path: Path) -> None:
    files = {
        "config.json": b"",
        "sub/deep/x.json": b"1",
        "model.safetensors": b"",
        "sub/model.safetensors": noise(99),
    }
    hub.add("a/b", files)
    assert tree(download("a/b", include="*")) == files
    assert os.readlink(download("a/b", include="*") / "sub/deep/x.json").startswith(
        "../../../../blobs/"
    )
    assert tree(download("a/b", include="*", local_dir=tmp_path / "x")) == files


def test_one_or_many_pages_of_the_listing(hub: FakeHub) -> None:
    files = small_model() | {f"images/{n:04d}.png": b"x" for n in range(230)}
    hub.add(REPO_ID, files)
    hub.page_size = 10
    assert tree(download(REPO_ID)) == chosen(files)
    assert len([s for s in hub.seen if "/tree/" in s.path]) == 25


def test_a_renamed_repository_is_followed(hub: FakeHub) -> None:
    files = small_model()
    hub.add("new/name", files)
    hub.add("old/name", files, moved_to="new/name")
    assert tree(download("old/name")) == chosen(files)


def test_ranges_in_parallel_give_the_same_bytes(hub: FakeHub, ranges: int) -> None:
    files = add_model(hub, size=1_234_567)
    assert tree(download(REPO_ID)) == chosen(files)
    starts = sorted(int(s.headers["Range"][6:].split("-")[0]) for s in hub.requests("cdn"))
    assert starts == list(range(0, 1_234_567, ranges))
    assert hub.sent() == 1_234_567


@pytest.mark.linux
@pytest.mark.parametrize("to", ["cache", "folder"])
def test_bytes_are_synced_before_the_rename(
    hub: FakeHub, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file, rename, fsync of the folder; the ref comes after all of them."""
    done: list[tuple[str, str]] = []
    came_from: dict[str, str] = {}  # each name that was given, and the temporary one before
    replace = os.replace

    def path_of(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}")

    def record_replace(name: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        replace(name, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        final = f"{path_of(dst_dir_fd)}/{new}"
        came_from[final] = f"{path_of(src_dir_fd)}/{name}"
        done.append(("to", final))  # other threads write to this list too

    monkeypatch.setattr("os.fsync", lambda fd: done.append(("sync", path_of(fd))))
    monkeypatch.setattr("os.replace", record_replace)
    repo = hub.add(REPO_ID, small_model())
    root = tmp_path / "hf/hub/models--meta-llama--Llama-3.2-1B-Instruct"
    if to == "folder":
        root = tmp_path / "out"
        download(REPO_ID, local_dir=root)
        final = [root / path for path in NEEDED]
        last = root / ".cache/huggingface/llamaprobe.json"
    else:
        folder = download(REPO_ID)
        final = [(folder / path).resolve() for path in NEEDED]
        last = root / "refs/main"
        assert ("sync", str(root / "snapshots" / repo.commit)) in done
    ends = []
    for path in {*final, last}:
        named = max(n for n, event in enumerate(done) if event == ("to", str(path)))
        assert ("sync", came_from[str(path)]) in done[:named]
        ends.append(done.index(("sync", str(path.parent)), named) if path != last else named)
    assert max(ends) == done.index(("to", str(last)), max(ends))


# ---- a plain folder ----


def test_a_plain_folder_gets_files_and_bookkeeping(hub: FakeHub, tmp_path: Path) -> None:
    files = small_model()
    repo = hub.add(REPO_ID, files)
    folder = download(REPO_ID, local_dir=tmp_path / "out")
    assert folder == tmp_path / "out" and tree(folder) == chosen(files)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    lines = (folder / ".cache/huggingface/download/config.json.metadata").read_text().split("\n")
    assert (
        lines[:2] == [repo.commit, git_sha1(files["config.json"])]
        and float(lines[2]) > 0
        and lines[3:] == [""]
    )
    assert (folder / ".cache/huggingface/.gitignore").read_text() == "*"
    hub.forget()
    assert download(REPO_ID, revision=repo.commit, local_dir=folder) == folder and hub.seen == []
    assert not leftovers(tmp_path)


def test_a_plain_folder_copies_files_of_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub)
    download(REPO_ID)
    hub.forget()
    assert tree(download(REPO_ID, local_dir=tmp_path / "out")) == chosen(files)
    assert hub.requests("cdn") == hub.requests("resolve") == []


def test_a_damaged_copy_in_the_cache_is_not_used(hub: FakeHub, tmp_path: Path) -> None:
    files = add_model(hub)
    (download(REPO_ID) / "model.safetensors").resolve().write_bytes(bytes(300_000))
    assert tree(download(REPO_ID, local_dir=tmp_path / "out")) == chosen(files)


def test_a_changed_file_is_replaced_and_an_equal_one_is_recognised(
    hub: FakeHub, tmp_path: Path
) -> None:
    files, out = small_model(), tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(files["model.safetensors"])
    (out / "config.json").write_bytes(b"x" * len(files["config.json"]))
    (out / "mine.txt").write_bytes(b"mine")
    hub.add(REPO_ID, files)
    assert tree(download(REPO_ID, local_dir=out)) == chosen(files) | {"mine.txt": b"mine"}
    assert hub.requests("cdn") == []


def test_a_folder_holds_one_repository(hub: FakeHub, tmp_path: Path) -> None:
    for repo_id in ("a_b/c", "a/b_c"):
        hub.add(repo_id, small_model())
    download("a_b/c", local_dir=tmp_path / "a_b_c")
    with pytest.raises(FileError, match="holds 'a_b/c'"):
        download("a/b_c", local_dir=tmp_path / "a_b_c")


# ---- offline ----


def test_offline_with_and_without_files(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, small_model())
    with pytest.raises(OfflineError, match="local_files_only"):
        download(REPO_ID, local_files_only=True)
    folder, plain = download(REPO_ID), download(REPO_ID, local_dir=tmp_path / "out")
    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(REPO_ID) == snapshot(REPO_ID) == folder
    assert download(REPO_ID, local_dir=plain) == plain
    for call in (download, snapshot, plan):
        with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
            call("other/model")
    with pytest.raises(OfflineError):
        download(REPO_ID, revision="dev")
    assert hub.seen == []


def test_a_complete_model_is_used_when_the_hub_is_down(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, small_model())
    folder = download(REPO_ID)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert snapshot(REPO_ID) == folder
    with pytest.warns(UserWarning, match="may be older"):
        assert download(REPO_ID) == folder
    with pytest.raises(NetworkError, match="refused"):
        download("other/model")


def test_half_a_model_is_completed(hub: FakeHub) -> None:
    files = add_model(hub)
    folder = download(REPO_ID)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OfflineError):
        snapshot(REPO_ID, local_files_only=True)
    assert tree(snapshot(REPO_ID)) == chosen(files)
    shutil.rmtree(folder.parent.parent / ".llamaprobe")  # as an older client leaves it
    hub.forget()
    assert snapshot(REPO_ID) == folder and hub.seen == []
    (folder / "tokenizer.json").unlink()
    assert snapshot(REPO_ID, local_files_only=True) == folder
    assert tree(snapshot(REPO_ID)) == chosen(files)


# ---- shards ----


def sharded(n_layers: int = 4) -> dict[str, bytes]:
    """Embeddings and layer 0 in the first shard, a layer in each of the next, norm and head in the
    last."""
    names = [f"model-{n + 1:05d}-of-{n_layers + 1:05d}.safetensors" for n in range(n_layers + 1)]
    weight_map = {
        "model.embed_tokens.weight": names[0],
        "model.norm.weight": names[-1],
        "lm_head.weight": names[-1],
    }
    for n in range(n_layers):
        weight_map |= {
            f"model.layers.{n}.{part}.weight": names[n]
            for part in ("self_attn.q_proj", "mlp.up_proj")
        }
    files = {name: noise(5000, n) for n, name in enumerate(names)}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()
    extra = {"consolidated.safetensors": noise(100), "config.json": b"{}", "tokenizer.json": b"{}"}
    return files | extra | {"model.safetensors.index.json": index}


def weights(folder: Path) -> list[int]:
    """Numbers of the shards that are there."""
    return sorted(int(path.name[6:11]) for path in folder.glob("model-*.safetensors"))


def test_only_the_shards_of_some_layers(hub: FakeHub) -> None:
    hub.add("a/b", sharded())
    assert weights(snapshot("a/b", layers=[2])) == [3]
    hub.forget()
    assert weights(snapshot("a/b", layers=[2])) == [3] and hub.seen == []
    assert weights(download("a/b", layers=range(2))) == [1, 2, 3]
    assert weights(download("a/b", layers=[1], head=True)) == [1, 2, 3, 5]
    whole = snapshot("a/b")
    assert weights(whole) == [1, 2, 3, 4, 5] and "consolidated.safetensors" not in tree(whole)
    with pytest.raises(ArgumentError, match="0 to 3"):
        download("a/b", layers=[4])
    for wrong in ([-1], [1.5], [True], ["0"]):
        with pytest.raises(ArgumentError, match="layer numbers"):
            download("a/b", layers=wrong)


@pytest.mark.parametrize(
    "name",
    [
        *("../m.safetensors", "/abs/m.safetensors", "a/../../m.safetensors", "a\\m.safetensors"),
        *("C:m.safetensors", "\\\\host\\m.safetensors", "%2e%2e/m.safetensors"),
        *("m.bin", "", ".safetensors", 5, None),
    ],
)
def test_an_index_may_only_name_files_beside_it(hub: FakeHub, tmp_path: Path, name: object) -> None:
    index = json.dumps({"weight_map": {"x": name}}).encode()
    hub.add("a/b", {"config.json": b"{}", "model.safetensors.index.json": index})
    with pytest.raises(FormatError, match="weight_map"):
        download("a/b")
    assert not any("m.safetensors" in seen.path for seen in hub.seen)


def test_an_index_that_names_an_absent_file(hub: FakeHub) -> None:
    files = sharded()
    del files["model-00002-of-00005.safetensors"]
    hub.add("a/b", files)
    with pytest.raises(FormatError, match="model-00002-of-00005"):
        download("a/b")


# ---- looking without fetching ----


def test_a_plan_writes_nothing(hub: FakeHub, tmp_path: Path) -> None:
    files = sharded()
    hub.add("a/b", files)
    listed = plan("a/b", layers=[0, 1, 2, 3], head=True)
    expected = {path: len(data) for path, data in files.items() if path != "consolidated.safetensors"}
    assert {file.path: file.size for file, _ in listed} == expected
    assert not any(here for _, here in listed) and not (tmp_path / "hf").exists()
    download("a/b")
    assert all(here for _, here in plan("a/b"))


def test_check_finds_damaged_and_missing_files(hub: FakeHub, tmp_path: Path) -> None:
    hub.add(REPO_ID, small_model())
    cached, plain = download(REPO_ID), download(REPO_ID, local_dir=tmp_path / "out")
    for where in (REPO_ID, cached, plain):
        assert {f.path: f.state for f in check(where)} == dict.fromkeys(NEEDED, "ok")
    for folder in (cached, plain):
        data = bytearray((folder / "tokenizer.json").read_bytes())
        data[7] ^= 1
        (folder / "tokenizer.json").resolve().write_bytes(data)
        (folder / "config.json").unlink()
        (folder / "mine.txt").write_text("mine")
        states = {f.path: f.state for f in check(folder)}
        assert states["tokenizer.json"] == "damaged" and states["config.json"] == "missing"
        assert states["mine.txt"] == "unknown" and states["model.safetensors"] == "ok"
    with pytest.raises(ArgumentError, match="was not made by a download"):
        check(tmp_path)
    with pytest.raises(OfflineError):
        check("not/here")
