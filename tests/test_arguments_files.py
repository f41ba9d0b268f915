"""Arguments of every wrong type, for the public calls that test_arguments.py leaves: models, runs, files, harvests,
weights, tokenizers. Only errors of llamaprobe come out."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wrong_values import faults_of

import llamaprobe as lp
from llamaprobe.data.layout import done_name
from llamaprobe.perf.machine import Roof

IDS = [1, 5, 9]
DATA = [IDS, [4, 2]]
CHAT = [{"role": "user", "content": "a"}]


class Things:
    """One of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = lp.load("demo")
        self.run = self.model.run(IDS, points="all")
        self.run.save(folder / "run", format="npy")
        self.run.save(folder / "csv")
        name = "model.layers.1.self_attn.*"
        lp.export_weights(self.model, folder / "weights", filter=name, progress=False)
        lp.write(folder / "array.csv", np.zeros((2, 3)), header=False)
        self.plan = lp.plan_harvest(self.model, DATA, folder / "plan", points="x:1")
        self.harvest = lp.harvest(self.model, DATA, folder / "done", points="x:1")


Call = tuple[Callable[..., Any], dict[str, Any]]


def of_models(t: Things) -> dict[str, Call]:
    model, path = t.model, t.model.path
    chat: dict[str, Any] = {
        **{"date": None, "add_generation_prompt": None, "template_vars": None, "tools": None},
        "continue_final_message": False,
    }
    stops = {"timeout": None, "cancel": None}
    several = {"points": "x", "layers": 1, "threads": 1, "rope_length": None}
    how = {"threads": 1, "mmap": True, "layers": None, "ignore": (), "file": None}
    hub = {"revision": "main", "token": None, "cache_dir": t.folder}
    tokenizer = model.tokenizer

    def load(**how: Any) -> None:
        lp.load(**how).close()

    def download(call: Callable[..., Any], **how: Any) -> None:
        with contextlib.suppress(lp.OfflineError):
            call(**how)

    return {
        "load": (load, {"source": path, **how, "weights_as": "float32"}),
        "load of a repo": (
            lambda **how: download(lp.load, local_files_only=True, **how),
            {"source": "owner/name", **hub, "layers": 1, "file": "*.gguf"},
        ),
        "download": (
            lambda **how: download(lp.download, local_files_only=True, **how),
            {
                **{"repo_id": "owner/name", **hub, "local_dir": None, "include": None},
                **{"exclude": None, "layers": None, "head": True, "file": None, "force": False},
            },
        ),
        "hub.plan": (
            lambda **how: download(lp.hub.plan, **how),
            {"repo_id": "owner/name", **hub, "layers": [1], "file": "*.gguf"},
        ),
        "Model.run": (model.run, {"prompt": IDS, **several, "progress": False, **stops}),
        "Model.run of a chat": (lambda **how: model.run(CHAT, points="x", **how), chat),
        "Model.run of chats": (lambda chat: model.run(chat, points="x"), {"chat": CHAT}),
        "Model.profile": (model.profile, {"prompt": IDS, **several, **stops}),
        "Model.plan": (model.plan, {"prompt": 8, **several}),
        "Profile.at_roof": (model.profile(IDS).at_roof, {"roof": Roof(1e9, 1e9)}),
        "Config.layer": (model.config.layer, {"i": 1}),
        "weights[]": (lambda name: model.weights[name], {"name": "model.norm.weight"}),
        "in weights": (lambda name: name in model.weights, {"name": "model.norm.weight"}),
        "weights.get": (model.weights.get, {"key": "model.norm.weight"}),
        "Tokenizer.open": (lp.Tokenizer.open, {"folder": path}),
        "Tokenizer.encode": (tokenizer.encode, {"text": "a", "add_special_tokens": True}),
        "Tokenizer.decode": (tokenizer.decode, {"ids": IDS, "skip_special_tokens": True}),
        "Tokenizer.pieces": (tokenizer.pieces, {"ids": IDS}),
        "Tokenizer.spelling": (tokenizer.spelling, {"id": 3}),
        "Tokenizer.gives": (tokenizer.gives, {"text": "a", "ids": IDS, "chat": False}),
        "Tokenizer.chat": (tokenizer.chat, {"messages": CHAT, **chat, "parse_special": False}),
    }


def of_runs(t: Things) -> dict[str, Call]:
    run, folder = t.run, t.folder
    style = {"format": "npy", "digits": None, "header": True}
    weights = {
        **{"model_or_path": t.model, "out": folder / "out", "filter": "model.norm.weight"},
        **{"exclude": None, "format": "csv", "digits": None, "dtype": "float32"},
        **{"part": "values", "file": None, "header": True, "threads": 1, "on_start": None},
    }
    return {
        "Run.save": (
            lambda **how: run.save(**{"force": True, **how}),
            {
                **{"folder": folder / "saved", "points": "x", "layers": [1], **style},
                **{"force": True, "masks": True, "hash_weights": False},
            },
        ),
        "Run.equals": (run.equals, {"other": run}),
        "Run.dims": (run.dims, {"point": "x"}),
        "Run.layers_of": (run.layers_of, {"point": "x"}),
        "Run.fingerprint_of": (run.fingerprint_of, {"path": run.weight_files[0][0]}),
        "in run": (lambda point: point in run, {"point": "x"}),
        "read_run": (lp.read_run, {"folder": folder / "run"}),
        "read": (
            lp.read,
            {"path": folder / "array.csv", "format": "csv", "shape": (2, 3), "dtype": "float32"},
        ),
        "write": (lp.write, {"path": folder / "a.csv", "array": [1.0], **style, "format": "csv"}),
        "export_weights": (
            lambda **how: lp.export_weights(**{"force": True, "progress": False, **how}),
            weights,
        ),
        "offline.load": (lp.offline.load, {"folder": folder / "csv", "stem": "x_layer1"}),
        "offline.attention": (
            lp.offline.attention,
            {"run_folder": folder / "csv", "weight_folder": folder / "weights", "layer": 1},
        ),
    }


def of_harvests(t: Things) -> dict[str, Call]:
    plan, h = t.plan, t.harvest
    options = {
        **{"positions": "all", "max_tokens": 8, "long": "split", "stride": 0, "bos": "auto"},
        **{"order": "data", "limit_tokens": None, "field": None, "ids": None, "chat": None},
        "on_bad": "stop",
    }
    numbers = iter(range(1 << 30))

    def make(**how: Any) -> None:
        lp.plan_harvest(t.model, **{"out": t.folder / f"plan{next(numbers)}", **how})

    def collect(**how: Any) -> None:
        lp.collect(t.model, [IDS], stats="range", points="x:1", **how)

    def make_rows(**how: Any) -> None:
        (t.folder / "done" / done_name(0)).unlink(missing_ok=True)
        lp.harvest(data=DATA, out=t.folder / "done", points="x:1", **how)

    def make_shard(**how: Any) -> None:
        (t.folder / "plan" / done_name(0)).unlink(missing_ok=True)
        lp.harvest_shard(**how)

    def batches(**how: Any) -> None:
        for _ in h.batches(**how):
            break

    return {
        "plan_harvest": (
            make,
            {
                **{"data": [IDS], "points": "x:1", "dtype": "float32", "shard_rows": None},
                **{"new_plan": True, "progress": False, **options},
            },
        ),
        "plan_harvest out": (
            lambda **how: lp.plan_harvest(data=DATA, points="x:1", **how),
            {"model": t.model, "out": t.folder / "plan"},
        ),
        "collect": (collect, options),
        "harvest": (
            make_rows,
            {
                "model": t.model,
                "threads": 1,
                "batch_tokens": 9,
                "progress": False,
                "on_shard": None,
            },
        ),
        "harvest_shard": (
            make_shard,
            {
                **{"plan": plan, "shard": 0, "model": t.model, "threads": 1, "batch_tokens": 9},
                "report": None,
            },
        ),
        "ray.Worker": (
            lambda **how: lp.ray.Worker(**how).make(0),
            {"plan": t.folder / "done", "threads": 1, "batch_tokens": 9, "model": None},
        ),
        "read_harvest": (lp.read_harvest, {"folder": t.folder / "done", "cache": None}),
        "harvest[]": (lambda point: h[point], {"point": "x:1"}),
        "Harvest.name_of": (h.name_of, {"point": "x:1"}),
        "Harvest.tokens": (h.tokens, {"document": 1}),
        "Harvest.place": (h.place, {"document": 1}),
        "Harvest.where": (h.where, {"doc": 1}),
        "Harvest.batches": (
            batches,
            {
                **{"point": "x", "layer": 1, "size": 2, "shuffle": 3, "epoch": 1, "start": 0},
                "pool": 2,
            },
        ),
        "rows[]": (lambda rows: h["x", 1][rows], {"rows": 2}),
        "h.rows[]": (lambda rows: h.rows.document[rows], {"rows": 2}),
    }


def calls(t: Things) -> dict[str, Call]:
    return {**of_models(t), **of_runs(t), **of_harvests(t)}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Things]:
    things = Things(tmp_path_factory.mktemp("arguments"))
    with things.model:
        yield things


NAMES = (
    *("load", "load of a repo", "download", "hub.plan", "Model.run", "Model.run of a chat"),
    *("Model.run of chats", "Model.profile", "Model.plan", "Profile.at_roof", "Config.layer"),
    *("weights[]", "in weights", "weights.get", "Tokenizer.open", "Tokenizer.encode"),
    *("Tokenizer.decode", "Tokenizer.pieces", "Tokenizer.spelling", "Tokenizer.gives"),
    *("Tokenizer.chat", "Run.save", "Run.equals", "Run.dims", "Run.layers_of"),
    *("Run.fingerprint_of", "in run", "read_run", "read", "write", "export_weights"),
    *("offline.load", "offline.attention", "plan_harvest", "plan_harvest out", "collect"),
    *("harvest", "harvest_shard", "ray.Worker", "read_harvest", "harvest[]", "Harvest.name_of"),
    *("Harvest.tokens", "Harvest.place", "Harvest.where", "Harvest.batches", "rows[]"),
    "h.rows[]",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_of_any_type_is_refused_or_has_a_meaning(
    things: Things, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(things.folder)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no file outlives the test
    faults = faults_of(*calls(things)[name])
    assert not faults, "\n".join([f"{name}: {len(faults)}", *faults])


def test_every_call_is_tried(things: Things):
    assert tuple(calls(things)) == NAMES
