"""What the files of runs and plans say of quantised weights, and how they find them again."""

import json
import pickle
from pathlib import Path

import models
import pytest
import quantised_checkpoints as made

import llamaprobe as lp

IDS = models.make_token_ids(made.config_of(), 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.FORMATS["gptq4-v1"].make(tmp_path / "model", made.config_of())
    return tmp_path / "model"


@pytest.mark.parametrize("weights_as", ["float32", "bf16"])
def test_verify_opens_the_weights_as_the_run_did(folder: Path, tmp_path: Path, command, weights_as):
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    how = [] if weights_as == "float32" else ["--weights-as", weights_as]
    out = tmp_path / "run"
    ids = ["--ids", tmp_path / "ids.json", "--points", "x,logits", "--out", out]
    code, _, error = command("run", folder, *ids, *how)
    assert code == 0, error
    run = lp.load(folder, weights_as=weights_as).run(IDS, points=["x", "logits"])
    assert lp.read_run(out)["logits"].tobytes() == run["logits"].tobytes()
    meta = json.loads((out / "meta_layer0.json").read_text())
    assert meta["quantization"]["weights_as"] == weights_as
    code, _, error = command("verify", out)
    assert code == 0, error
    for other in {"float32", "bf16"} - {weights_as}:
        code, printed, error = command("verify", out, "--model", folder, "--weights-as", other)
        assert code != 0, printed


def test_a_plan_keeps_weights_as(folder: Path, tmp_path: Path):
    from llamaprobe.data.model_place import numbers_of, place_of

    rounded, exact = lp.load(folder, weights_as="bf16"), lp.load(folder)
    assert place_of(rounded)["weights_as"] == numbers_of(rounded)["weights_as"] == "bf16"
    assert "weights_as" not in place_of(exact) and "weights_as" not in numbers_of(exact)


def test_a_harvest_is_of_one_way_to_read_the_weights(folder: Path, tmp_path: Path):
    from llamaprobe.data.model_place import check_model, model_of
    from llamaprobe.data.plan import open_plan

    model = lp.load(folder, weights_as="bf16")
    out = tmp_path / "harvest"
    found = lp.harvest(model, [IDS], out, points=("x:1",), max_tokens=40)
    again = model_of(open_plan(out))
    ids, wanted = models.make_token_ids(made.config_of(), 9), ["x"]
    assert again.run(ids, points=wanted).equals(model.run(ids, points=wanted))
    with pytest.raises(lp.ArgumentError, match="weights_as is not that of"):
        check_model(lp.load(folder), open_plan(out))
    with pytest.raises(lp.ArgumentError, match='model.weights_as is "bf16" there and missing here'):
        lp.harvest(lp.load(folder), [IDS], out, points=("x:1",), max_tokens=40)
    assert found.root


def test_a_harvest_and_statistics_say_how_the_weights_are_stored(folder: Path, tmp_path: Path):
    for model in (lp.load(folder, weights_as="bf16"), lp.load("demo")):
        out = tmp_path / model.path.name
        lp.plan_harvest(model, [IDS], out / "plan", points=("x:1",), max_tokens=40)
        lp.collect(model, [IDS], points="x:1", stats="range", max_tokens=40).save(out / "stats")
        entry = model.quantization and model.quantization.entry()
        assert json.loads((out / "plan" / "model.json").read_text()).get("quantization") == entry
        assert lp.read_stats(out / "stats").facts["model"].get("quantization") == entry


def test_a_quantiser_file_that_changed_is_another_model(tmp_path: Path):
    from llamaprobe.data.model_place import numbers_of

    made.FORMATS["gptq4-beside"].make(tmp_path, made.config_of())
    model = lp.load(tmp_path)
    kept, before = pickle.dumps(model), numbers_of(model)
    ids = models.make_token_ids(made.config_of(), 5)
    assert pickle.loads(kept).run(ids, points="all").equals(model.run(ids, points="all"))
    made.change_config(tmp_path, {"damp_percent": 0.1}, "quantize_config.json")
    with pytest.raises(lp.FileChangedError, match="config.json"):
        pickle.loads(kept)
    assert numbers_of(lp.load(tmp_path)) != before
