"""Models in GGUF of a repository: which file is downloaded, and that it runs."""

from pathlib import Path

import gguf_maker
import pytest
from fakehub import FakeHub
from gguf_cases import gguf_cases
from hub_fixtures import REPO_ID, hub  # noqa: F401

import llamaprobe as lp

CASE = next(case for case in gguf_cases() if case.name == "qwen2")
PARTS = [f"Q6_K/m-Q6_K-{i:05d}-of-00002.gguf" for i in (1, 2)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    data = CASE.write(tmp_path / "m.gguf", CASE.weights()).read_bytes()
    files = {"m-Q8_0.gguf": data, "m-Q4_K_M.gguf": data, "mmproj-m.gguf": b"x"}
    tensors = gguf_maker.model_tensors(
        CASE.architecture, CASE.weights(), 16, lambda _, v: gguf_maker.stored(v, "F32")
    )
    names = list(tensors)
    for i, part in enumerate(PARTS):
        metadata = gguf_maker.model_metadata("qwen2", CASE.hub_keys()) if i == 0 else {}
        metadata |= {"split.no": ("u16", i), "split.count": ("u16", 2)}
        held = {name: tensors[name] for name in names[i::2]}
        files[part] = gguf_maker.write_gguf(tmp_path / part, metadata, held).read_bytes()
    return files | {"README.md": b"readme", "config.json": b"{}", "tokenizer_config.json": b"{}"}


def test_one_of_several(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO_ID, files)
    with pytest.raises(
        lp.ArgumentError, match="holds 2 models in GGUF: m-Q4_K_M.gguf, m-Q8_0.gguf"
    ):
        lp.load(REPO_ID)
    with pytest.raises(lp.ArgumentError, match="'[*]Q5[*]' matches none of the models in GGUF"):
        lp.load(REPO_ID, file="*Q5*")
    model = lp.load(REPO_ID, file="*Q4_K_M*")
    assert {path.name for path in model.path.iterdir()} == {
        "m-Q4_K_M.gguf",
        "config.json",
        "tokenizer_config.json",
    }
    run = model.run([1, 2, 3], points="logits")
    assert run.meta["model"] == REPO_ID and run.meta["model_file"] == "m-Q4_K_M.gguf"
    assert run.meta["revision"] == hub.repos[REPO_ID].commit
    hub.forget()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert lp.load(REPO_ID, file="*Q4_K_M*").path == model.path and hub.seen == []


def test_all_parts_of_a_split(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.add(REPO_ID, files)
    model = lp.load(REPO_ID, file="*Q6_K*")
    assert [path[-30:] for path, *_ in model.origin.weight_files] == [p[-30:] for p in PARTS]
    other = lp.load(REPO_ID, file="m-Q8_0.gguf")
    assert model.run([1, 2, 3], points="logits").equals(other.run([1, 2, 3], points="logits"))


def test_a_link_out_of_a_download(hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    """Also in a folder of it."""
    hub.add(REPO_ID, files)
    model = lp.load(REPO_ID, file="*Q6_K*")
    place = model.path / PARTS[1]
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(place.read_bytes())
    place.unlink()
    place.symlink_to(elsewhere)
    with pytest.raises(lp.FileError, match="is a link out of its download"):
        lp.load(model.path, file="*Q6_K*")


def test_the_only_one(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.add(REPO_ID, {name: files[name] for name in ("m-Q8_0.gguf", "mmproj-m.gguf")})
    assert lp.load(REPO_ID).config.family == "qwen2"


def test_a_part_is_missing(hub: FakeHub, files: dict[str, bytes]) -> None:
    del files[PARTS[1]]
    hub.add(REPO_ID, files)
    with pytest.raises(lp.FormatError, match="m-Q6_K-00002-of-00002.gguf is missing"):
        lp.load(REPO_ID, file="*Q6_K*")


def test_safetensors_are_the_default(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.add(REPO_ID, files | {"model.safetensors": b"x"})
    folder = lp.download(REPO_ID)
    assert not list(folder.glob("*.gguf")) and (folder / "model.safetensors").exists()
    assert (lp.download(REPO_ID, file="*Q8_0*") / "m-Q8_0.gguf").exists()


def test_the_command_line(hub: FakeHub, files: dict[str, bytes], command, tmp_path: Path) -> None:
    hub.add(REPO_ID, files)
    code, out, err = command("download", REPO_ID, "--file", "*Q8_0*")
    assert code == 0, err
    folder = Path(out.strip())
    assert [path.name for path in folder.glob("*.gguf")] == ["m-Q8_0.gguf"]
    (tmp_path / "ids").write_text("1 2 3")
    run = ["run", REPO_ID, "--file", "*Q8_0*", "--ids", tmp_path / "ids", "--points", "logits"]
    assert command(*run, "--out", tmp_path / "run")[0] == 0
    assert lp.read_run(tmp_path / "run").meta["model_file"] == "m-Q8_0.gguf"
    code, _, err = command("run", REPO_ID, "--ids", tmp_path / "ids")
    assert code != 0 and "choose one with file= (--file GLOB)" in err
    code, _, err = command("verify", tmp_path / "run")
    assert code == 0 and "the model is the one that the run names" in err, err
