"""Objects that travel: pickled, copied, sent to the workers of a pool and back."""

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from fakehub import FakeHub
from hub_fixtures import REPO_ID, hub  # noqa: F401

import llamaprobe as lp

IDS = [5, 1, 96, 5, 40]
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


COPIES = pytest.mark.parametrize("through", [pickled, copy.copy, copy.deepcopy])


@pytest.fixture
def folder(random_checkpoint: Callable[..., Path]) -> Path:
    return random_checkpoint()


@COPIES
def test_a_run(through: Callable[[Any], Any], folder: Path, tmp_path: Path):
    runs = lp.load(folder).run([IDS, [7]], points="all", layers=[2, 0])
    for run in runs:
        other = through(run)
        assert other.equals(run) and other.meta == run.meta and repr(other) == repr(run)
        assert other.weight_files == run.weight_files and not other.config.inv_freq.flags.writeable
        other.save(tmp_path / "run", force=True)
        assert lp.read_run(tmp_path / "run").equals(run)


def test_a_copied_run_has_arrays_of_its_own(folder: Path):
    run = lp.load(folder).run(IDS)
    other = copy.deepcopy(run)
    other["x"][...] = 7
    assert not np.shares_memory(run["x"], other["x"]) and not other.equals(run)


def test_a_run_of_a_batch_travels_alone(folder: Path):
    """Its own bytes, not those of the batch that it is a view of."""
    model = lp.load(folder)
    assert len(pickle.dumps(model.run([IDS] * 100)[3])) < 2 * len(pickle.dumps(model.run(IDS)))


def test_the_tokens_of_a_text_travel(demo_folder: Path, tmp_path: Path):
    shutil.copytree(demo_folder, tmp_path / "model")
    model = lp.load(tmp_path / "model")
    text, ids = model.run("Once upon a time", points="x"), model.run([1, 2, 3], points="x")
    tokens = list(lp.load("demo").run("Once upon a time").tokens)
    here = pickled(ids)
    assert here.tokens == ids.tokens and here.tokens
    sent = pickle.dumps(text)
    shutil.rmtree(tmp_path / "model")
    assert pickle.loads(sent).tokens == tokens


def edit_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|eot_id|>", "<|other|>"))


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "added_tokens.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (edit_tokenizer, "tokenizer.json: is not the file that was pickled"),
        (remove_tokenizer, "tokenizer.json: is not there, unlike when pickled"),
        (add_a_file, "added_tokens.json: is there, unlike when pickled"),
        (shutil.rmtree, "is not there, unlike when pickled"),
    ],
)
@pytest.mark.parametrize("twice", [False, True])
def test_a_pickled_run_does_not_use_another_tokenizer(
    demo_folder: Path, tmp_path: Path, change: Callable[[Path], object], fact: str, twice: bool
):
    folder = shutil.copytree(demo_folder, tmp_path / "model")
    model = lp.load(folder)
    run = model.run([1, 2, 3], points="x")
    sent = pickle.dumps((run, lp.load(folder).run([1])))
    tokenizer = pickle.dumps(model.tokenizer)
    if twice:
        sent = pickle.dumps(pickle.loads(sent))
    change(folder)
    late = pickle.dumps(run)  # its values travel all the same
    for one in (*pickle.loads(sent), pickle.loads(late)):
        with pytest.raises(lp.FileChangedError, match="load the model again"):
            _ = one.tokens
    with pytest.raises(lp.FileChangedError, match=fact):
        pickle.loads(tokenizer)


@COPIES
def test_a_tokenizer(through: Callable[[Any], Any], demo_folder: Path, tmp_path: Path):
    folder = shutil.copytree(demo_folder, tmp_path / "model")
    tokenizer = lp.load(folder).tokenizer
    other = through(tokenizer)
    ids = tokenizer.encode("Once upon a time")
    assert other.encode("Once upon a time").tolist() == ids.tolist()
    chat = [{"role": "user", "content": "a<|eot_id|>"}]
    assert other.chat(chat).ids.tolist() == tokenizer.chat(chat).ids.tolist()
    shutil.copytree(folder, tmp_path / "copy")
    sent = pickle.dumps(tokenizer)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)  # the same bytes in other files
    assert pickle.loads(sent).pieces(ids) == tokenizer.pieces(ids)


@COPIES
def test_a_config_and_a_weight(through: Callable[[Any], Any], folder: Path):
    model = lp.load(folder)
    config = through(model.config)
    assert config.inv_freq.tolist() == model.config.inv_freq.tolist()
    assert not config.inv_freq.flags.writeable and config.raw == model.config.raw
    weight = model.weights["model.layers.1.mlp.up_proj.weight"]
    other = through(weight)
    assert np.array_equal(np.asarray(other), np.asarray(weight)) and repr(other) == repr(weight)
    assert (other.offset, other.path) == (weight.offset, weight.path)
    with pytest.raises(lp.ArgumentError, match="pickle the model, or the Weight"):
        through(model.weights)


@COPIES
def test_a_model_keeps_its_options(through: Callable[[Any], Any], folder: Path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    model = lp.load(folder.name, threads=1, mmap=False, layers=2)
    other = through(model)
    assert other is not model and other.config.n_layers == 2
    options = {"threads": 1, "mmap": False, "layers": 2, "ignore": (), "weights_as": "float32"}
    assert other._opening.options == model._opening.options == options
    assert other.run(IDS, points="all").equals(model.run(IDS, points="all"))
    model.close()
    assert other.run(IDS)["x"].shape == (2, 5, 48)


def test_a_model_is_opened_again_by_its_absolute_path(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    sent = pickle.dumps(lp.load(folder.name))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert os.path.samefile(pickle.loads(sent).path, folder)


def test_a_model_is_small_and_holds_no_token(folder: Path):
    sent = pickle.dumps(lp.load(folder, token="hf_secretsecretsecret"))
    assert len(sent) < 5000 and b"secret" not in sent


def test_the_demo_is_that_of_the_other_installation(demo_folder: Path):
    sent = pickle.dumps(lp.load("demo"))
    assert os.fsencode(demo_folder) not in sent and pickle.loads(sent).path == demo_folder


def change_weights(folder: Path) -> None:
    config = models.make_config()
    models.write_checkpoint(folder, config, models.make_weights(config, seed=1))


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))


@pytest.mark.parametrize("change", [change_weights, change_config])
def test_another_model_in_its_place_is_an_error(folder: Path, change: Callable[[Path], None]):
    sent = pickle.dumps(lp.load(folder))
    change(folder)
    with pytest.raises(lp.FileChangedError, match="is not the file that was pickled") as e:
        pickle.loads(sent)
    assert str(folder) in str(e.value.filename)


def test_a_model_of_replaced_files_is_not_pickled(folder: Path):
    model = lp.load(folder)
    weight = model.weights["model.norm.weight"]
    os.replace(shutil.copy(folder / "model.safetensors", folder / "new"), folder / "model.safetensors")
    change_weights(folder)
    with pytest.raises(lp.FileChangedError, match="cannot be pickled"):
        pickle.dumps(model)
    sent = pickle.dumps(lp.load(folder).weights["model.norm.weight"])
    config = models.make_config()
    models.write_checkpoint(folder, config, models.make_weights(config, seed=2))
    with pytest.raises(lp.FileChangedError, match="is not the file that was pickled"):
        pickle.loads(sent)
    del weight


def test_a_missing_or_closed_model(folder: Path):
    model = lp.load(folder)
    sent = pickle.dumps(model)
    weight = pickle.dumps(model.weights["model.norm.weight"])
    model.close()
    with pytest.raises(lp.ArgumentError, match="closed"):
        pickle.dumps(model)
    shutil.rmtree(folder)
    for data in (sent, weight):
        with pytest.raises(FileNotFoundError) as e:
            pickle.loads(data)
        assert isinstance(e.value, lp.FileError)


def test_a_repo_opens_again_without_the_hub(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    hub.add(REPO_ID, {path.name: path.read_bytes() for path in folder.iterdir()})
    model = lp.load(REPO_ID)
    sent = pickle.dumps(model)
    hub.forget()
    hub.add(REPO_ID, {"config.json": b"{}"})  # main moves on
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    other = pickle.loads(sent)
    assert other.path == model.path and other.run(IDS).equals(model.run(IDS)) and not hub.seen
    assert other.run(IDS).meta["revision"] == model.run(IDS).meta["revision"]
    monkeypatch.delenv("HF_ENDPOINT")
    shutil.rmtree(model.path.parent.parent)
    with pytest.raises(lp.OfflineError):
        pickle.loads(sent)
    assert not hub.seen


def work(model: lp.Model, ids: list[int]) -> tuple[lp.Run, lp.Model, Any]:
    return model.run(ids, points=("x", "pattern")), model, model.weights["model.norm.weight"]


def fail(kind: str) -> None:
    if kind == "file":
        lp.read("/nowhere/x.csv")
    lp.load("demo").run("Once", points="nonsense")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools(method: str, folder: Path):
    model = lp.load(folder)
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        run, back, weight = pool.submit(work, model, IDS).result(timeout=120)
        assert run.equals(model.run(IDS, points=("x", "pattern")))
        assert back.run(IDS).equals(model.run(IDS))
        assert np.array_equal(np.asarray(weight), np.asarray(model.weights["model.norm.weight"]))
        with pytest.raises(lp.PointError, match="no point 'nonsense'"):
            pool.submit(fail, "point").result(timeout=120)
        with pytest.raises(lp.FileMissingError, match="/nowhere/x.csv") as e:
            pool.submit(fail, "file").result(timeout=120)
        assert e.value.filename == "/nowhere/x.csv"


# ---- results of several runs, and what looks at a run ----


@COPIES
def test_what_looks_at_runs(through: Callable[[Any], Any]):
    """Sweeps, statistics, differences, lenses and attributions, with all that they hold."""
    model = lp.load("demo")
    run, other = model.run(IDS, points="all"), model.run([5, 2, 96, 5, 40], points="all")
    how = {"metric": lp.logprob(3), "layers": 3}
    stats = lp.collect(model, [IDS, [7, 8]], points="x:1", stats=("range", "moments", "top:2"), exact=())
    for value, facts in (
        (model.patch_map(IDS, other.token_ids, **how), lambda s: (s.values.tolist(), s.tokens, s.clean)),
        (lp.diff(run, other), lambda d: (repr(d), d.first, [one.rows.tolist() for one in d.values])),
        (stats, lambda s: (s.sha256, s["x", 1].top(3)[0].context.tolist())),
        (stats["x", 1], lambda c: (c.mean.tolist(), c.of("first").max.tolist())),
        (model.lens(run, position=None), lambda v: (v.logits.tobytes(), v.rows, v.labels, v.top(1, 2), repr(v))),
        (model.attribute(run, 3, by="head"), lambda v: (list(v), v.bound, v.token, repr(v), v.run.equals(run))),
        (lp.kl(run), lambda v: repr(v)),
        (lp.Sample(0.5, top_k=3), lambda v: v),
    ):
        again = through(value)
        assert type(again) is type(value) and facts(again) == facts(value)


@COPIES
def test_edits(through: Callable[[Any], Any]):
    model = lp.load("demo")
    made = model.run(IDS, points="x", edits=lp.Edits.parse("x[1][2] = 0")).edits
    for edits in (lp.Edits.parse("x[1][2] *= 2"), made):
        assert repr(through(edits)) == repr(edits)


def test_a_session_stays_in_its_process():
    session = lp.load("demo").start(IDS, points="x")
    for through in (pickle.dumps, copy.deepcopy):
        with pytest.raises(lp.ArgumentError, match="pickle session.run"):
            through(session)
    other = copy.copy(session)
    other.extend([3])
    assert len(session) == len(IDS) == len(other) - 1
    assert pickled(session.run).equals(session.run)
