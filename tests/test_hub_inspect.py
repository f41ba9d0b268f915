"""llamaprobe inspect of a repo: what is on the hub is listed where it is, by a few small requests;
what is in the cache without any."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import quantised_checkpoints
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub, noise  # noqa: F401
from models import safetensors_bytes

from llamaprobe.cli.main import main
from llamaprobe.hub import download
from llamaprobe.hub.fetch import FIRST_BYTES

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Inspect:
    """inspect(*arguments) -> (exit code, stdout, stderr). Nothing may be left of it."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["inspect", *map(str, arguments)])
        assert not list(scratch.iterdir())
        return code, *capsys.readouterr()

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_remote_quantised_model(hub: FakeHub, inspect: Inspect, tmp_path: Path) -> None:
    """What kind each weight is of is in the data, for GPTQ's zeros at least: the method is shown."""
    folder = tmp_path / "model"
    quantised_checkpoints.FORMATS["gptq4-v1"].make(folder, quantised_checkpoints.config_of())
    hub.add(REPO_ID, files_of(folder))
    code, out, errors = inspect(REPO_ID)
    assert (code, errors) == (0, "") and "quantization\n  format           gptq\n" in out
    assert "cannot be run" not in out and "mlp.down_proj.qweight" in out


def test_a_remote_model_of_a_method_that_does_not_run(
    hub: FakeHub, inspect: Inspect, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    quantised_checkpoints.FORMATS["gptq4-v1"].make(folder, quantised_checkpoints.config_of())
    quantised_checkpoints.change_config(folder, {"quantization_config": {"quant_method": "hqq"}})
    hub.add(REPO_ID, files_of(folder))
    code, out, _ = inspect(REPO_ID)
    assert code == 0 and "cannot be run: " in out and "hqq weights cannot be run" in out


def test_a_remote_model_of_many_shards(
    hub: FakeHub, inspect: Inspect, random_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """As a 70B model is: 80 layers, 723 tensors, 30 shards. The list is that of the files."""
    folder = random_checkpoint(n_shards=30, num_hidden_layers=80, hidden_size=96)
    files = files_of(folder)
    repo = hub.add(REPO_ID, files)
    code, out, errors = inspect(REPO_ID, "--json")
    assert (code, errors) == (0, "")
    there = json.loads(out)
    requests = list(hub.seen)
    here = json.loads(inspect(folder, "--json")[1])
    assert there.pop("path") == f"{REPO_ID} at {repo.commit}" and here.pop("path") == str(folder)
    assert there == here and len(there["tensors"]) == 723 and len(there["files"]) == 30
    assert hub.seen == requests and not (tmp_path / "hf").exists()
    # commit and listing; index and config; a HEAD and a piece of every shard
    assert len(requests) == 2 + 4 + 2 * 30
    shards = sum(len(data) for name, data in files.items() if name.endswith(".safetensors"))
    assert hub.sent() <= 30 * FIRST_BYTES < shards
    assert all(
        seen.headers["Range"] == f"bytes=0-{FIRST_BYTES - 1}" for seen in hub.requests("cdn")
    )


def test_a_model_in_one_file_as_text(
    hub: FakeHub, inspect: Inspect, random_checkpoint: Callable[..., Path]
) -> None:
    folder = random_checkpoint()
    repo = hub.add(REPO_ID, files_of(folder))
    code, out, errors = inspect(REPO_ID)
    assert (code, errors) == (0, "")
    first, *lines = out.splitlines()
    assert first == f"{REPO_ID} at {repo.commit}" and lines == inspect(folder)[1].splitlines()[1:]


def test_a_cached_model_needs_no_request(
    hub: FakeHub,
    inspect: Inspect,
    random_checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repo = hub.add(REPO_ID, files_of(random_checkpoint(n_shards=3)))
    cached = download(REPO_ID)
    hub.forget()
    for arguments in ([], ["--revision", repo.commit]):
        code, out, _ = inspect(REPO_ID, "--json", *arguments)
        assert code == 0 and json.loads(out)["path"] == str(cached) and hub.seen == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert inspect(REPO_ID)[0] == 0
    code, out, errors = inspect("other/model")
    assert (code, out) == (1, "") and "HF_HUB_OFFLINE is set; run it once with" in errors
    assert hub.seen == []


def test_half_a_cached_model_is_inspected_on_the_hub(
    hub: FakeHub, inspect: Inspect, random_checkpoint: Callable[..., Path]
) -> None:
    repo = hub.add(REPO_ID, files_of(random_checkpoint(n_shards=3)))
    (download(REPO_ID) / "model-00002-of-00003.safetensors").unlink()
    code, out, _ = inspect(REPO_ID)
    assert code == 0 and out.startswith(f"{REPO_ID} at {repo.commit}\n")


def test_a_folder_of_the_same_name_wins(
    hub: FakeHub,
    inspect: Inspect,
    random_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = random_checkpoint()
    (tmp_path / "owner").mkdir()
    folder.rename(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert inspect("owner/name")[1].startswith("owner/name\n") and hub.seen == []


def test_a_header_longer_than_the_first_request(
    hub: FakeHub, inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaprobe.hub.fetch.FIRST_BYTES", 100)
    data = tensors(50)
    header = int.from_bytes(data[:8], "little") + 8
    hub.add("a/b", {"model.safetensors": data})
    assert "\n50 tensors\n" in inspect("a/b")[1]
    pieces = [seen.headers["Range"] for seen in hub.requests("cdn")]
    assert pieces == ["bytes=0-99", f"bytes=100-{header - 1}"]


def test_a_model_that_cannot_be_run(hub: FakeHub, inspect: Inspect) -> None:
    files = {"model.safetensors": tensors(1)}
    repo = hub.add("a/b", files)
    assert "cannot be run: there is no config.json" in inspect("a/b")[1]
    repo.update(files | {"config.json": b'{"model_type": "mamba"}'})
    out = inspect("a/b")[1]
    assert f"cannot be run: a/b at {repo.commit}: config.json: " in out and "mamba" in out


def tensors(n: int) -> bytes:
    return safetensors_bytes({f"t{i}": np.full((64, 8), i, np.float32) for i in range(n)}, "BF16")


BROKEN = {
    "empty": (b"", "8 bytes"),
    "short": (bytes(7), "8 bytes"),
    "no header": (bytes(100), ""),
    "header of 2^64 - 1 bytes": (b"\xff" * 8 + noise(100_000), "header too large"),
    "header longer than the file": (b"\xff\xff" + bytes(98), "truncated"),
    "no JSON": ((50).to_bytes(8, "little") + b"{" * 92, ""),
    "trailing bytes": (tensors(2) + b"x", "trailing bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_header(hub: FakeHub, inspect: Inspect, case: str) -> None:
    data, match = BROKEN[case]
    repo = hub.add("a/b", {"model.safetensors": data, "config.json": b"{}"})
    code, out, errors = inspect("a/b")
    assert (code, out) == (1, "") and errors.count("\n") == 1 and match in errors
    assert errors.startswith(f"llamaprobe: a/b at {repo.commit}: model.safetensors: ")
    assert hub.sent() <= 2 * FIRST_BYTES


def test_an_index_that_contradicts_its_shards(
    hub: FakeHub, inspect: Inspect, random_checkpoint: Callable[..., Path]
) -> None:
    files = files_of(random_checkpoint(n_shards=2))
    index = json.loads(files["model.safetensors.index.json"])
    index["metadata"]["total_size"] = 5
    repo = hub.add("a/b", files | {"model.safetensors.index.json": json.dumps(index).encode()})
    code, _, errors = inspect("a/b")
    where = f"a/b at {repo.commit}: model.safetensors.index.json: "
    assert code == 0 and errors.startswith(f"llamaprobe: warning: {where}total_size is 5")
    index["weight_map"]["nobody.has.it"] = "model-00001-of-00002.safetensors"
    repo.update(files | {"model.safetensors.index.json": json.dumps(index).encode()})
    code, out, errors = inspect("a/b")
    assert (code, out) == (1, "") and "nobody.has.it" in errors and errors.count("\n") == 1


def test_a_server_without_ranges_cannot_be_inspected(hub: FakeHub, inspect: Inspect) -> None:
    hub.add("a/b", {"model.safetensors": tensors(1) + bytes(32 << 20)})
    hub.fault("ignore-range", method="GET", times=100)
    code, _, errors = inspect("a/b")
    assert code == 1 and "download it instead" in errors and hub.sent() < 32 << 20


def test_what_a_repo_lacks(hub: FakeHub, inspect: Inspect) -> None:
    hub.add("a/b", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    hub.add("a/gated", {"model.safetensors": tensors(1)}, gated=True)
    for repo_id, match in [
        ("a/b", "has no weights in safetensors"),
        ("a/gated", "accept the licence at"),
        ("a/none", "there is no folder a/none here either"),
    ]:
        code, out, errors = inspect(repo_id)
        assert (code, out) == (1, "") and match in errors and errors.count("\n") == 1


def test_rejects_small_files_listed_as_large(hub: FakeHub, inspect: Inspect) -> None:
    """What would have to be held in memory is bounded, whatever the listing says."""
    name = "model.safetensors.index.json"
    entry = {"type": "file", "oid": "a" * 40, "size": 1 << 40}
    repo = hub.add("a/b", {}, extra_entries=[entry | {"path": name}])
    assert f"{name}: has {1 << 40} bytes" in inspect("a/b")[2]
    repo.extra_entries[:] = [entry | {"path": "config.json"}]
    repo.update({"model.safetensors": tensors(1)})
    assert f"config.json: has {1 << 40} bytes" in inspect("a/b")[2]
    assert hub.requests("resolve") == []
