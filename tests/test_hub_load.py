"""lp.load of a repo: what it fetches, what it requests when all files are present, and that the model runs."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
import quantised_checkpoints as made
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub  # noqa: F401

import llamaprobe as lp

IDS = [1, 40, 7]


N_LAYERS = 6


def shard_name(n: int) -> str:
    return f"model-{n + 1:05d}-of-{N_LAYERS:05d}.safetensors"


@pytest.fixture
def folder(random_checkpoint: Callable[..., Path]) -> Path:
    """A model with one shard per layer: the embeddings are in the first, norm and head in the
    last."""
    folder = random_checkpoint(num_hidden_layers=N_LAYERS)
    shards: list[dict[str, np.ndarray]] = [{} for _ in range(N_LAYERS)]
    for name, weight in models.read_checkpoint(folder).items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0 if "embed" in name else -1
        shards[layer][name] = weight
    weight_map = {name: shard_name(n) for n, shard in enumerate(shards) for name in shard}
    for n, shard in enumerate(shards):
        (folder / shard_name(n)).write_bytes(models.safetensors_bytes(shard, "BF16"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def repo(hub: FakeHub, folder: Path) -> str:
    hub.add(REPO_ID, {path.name: path.read_bytes() for path in folder.iterdir()})
    return REPO_ID


def test_a_repo_is_fetched_once_and_runs(
    hub: FakeHub, repo: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = lp.load(repo), lp.load(folder)
    for point in ("x", "logits"):
        assert np.array_equal(
            there.run(IDS, points=point)[point], here.run(IDS, points=point)[point]
        )
    assert there.run(IDS).meta["model"] == repo
    hub.forget()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert lp.load(repo).path == there.path and hub.seen == []


def test_the_first_layers_come_without_the_other_shards(
    hub: FakeHub, repo: str, folder: Path
) -> None:
    part = lp.load(repo, layers=range(2))
    assert {path.name for path in part.path.glob("*.safetensors")} == set(
        map(shard_name, (0, 1, N_LAYERS - 1))
    )
    assert np.array_equal(part.run(IDS)["x"], lp.load(folder, layers=2).run(IDS)["x"])
    hub.forget()
    assert lp.load(repo, layers=2).config.n_layers == 2 and hub.seen == []
    assert lp.load(repo).config.n_layers == N_LAYERS and len(hub.requests("cdn", "GET")) == 3


@pytest.mark.parametrize("name", ["gptq4-beside", "awq-beside", "modelopt"])
def test_a_quantised_repo_comes_with_what_its_quantiser_wrote(
    hub: FakeHub, tmp_path: Path, name: str
) -> None:
    made.FORMATS[name].make(tmp_path, made.config_of())
    hub.add(REPO_ID, {path.name: path.read_bytes() for path in tmp_path.iterdir()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # activations that are not quantised
        there, here = lp.load(REPO_ID, weights_as="bf16"), lp.load(tmp_path, weights_as="bf16")
    assert there.run(IDS, points="all").equals(here.run(IDS, points="all"))
