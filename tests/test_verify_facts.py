"""verify and facts that nothing at hand determines: they must be possible ones."""

import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from tampering import Folder, found, model, saved

import llamaprobe as lp

__all__ = ["model", "saved"]  # fixtures


def edit(run: Path, at: Path, **facts: Any) -> Path:
    """A copy of a run with other facts in all its meta files, and in the manifest where it has
    them; keys stay and come where `Run.meta` has them."""
    folder = Folder(shutil.copytree(run, at))
    inputs = ("template_vars", "tools", "continue_final_message")

    def change(meta: dict) -> None:
        new = meta | facts
        order = [key for key in meta if key not in inputs]
        at = order.index("template_date") + 1
        order[at:at] = inputs
        meta.clear()
        meta.update({key: new[key] for key in order if key in new})

    folder.change_meta(change)
    folder.manifest |= {key: value for key, value in facts.items() if key in folder.manifest}
    folder.close()
    return folder.path


def test_template_inputs_belong_to_a_chat(model, saved, tmp_path):
    assert found(edit(saved("csv"), tmp_path / "same"), model) == []
    for i, facts in enumerate([{"template_vars": {"a": 1}}, {"tools": []}]):
        faults = found(edit(saved("csv"), tmp_path / f"{i}", **facts), model)
        assert len(faults) == 1 and "without template_date, which every chat has" in faults[0]


@pytest.mark.parametrize(
    "facts",
    [
        *({"template_vars": each} for each in (None, [], "x", 1, {"a b": 1}, {"messages": 1})),
        *({"tools": each} for each in (None, {}, "x", [1], ["x"])),
        *({"continue_final_message": each} for each in (None, False, "", 1, [])),
    ],
    ids=str,
)
def test_inputs_that_no_chat_takes(model, tmp_path, facts):
    chat, inputs = [{"role": "user", "content": "ab"}], {"template_vars": {"a": [1]}, "tools": [{}]}
    run = model.run(chat, points="x", continue_final_message=True, **inputs)
    run.save(tmp_path / "run")
    assert found(tmp_path / "run", model) == []
    assert found(edit(tmp_path / "run", tmp_path / "a"), model) == []
    assert found(edit(tmp_path / "run", tmp_path / "b", **facts), model)
    assert found(edit(tmp_path / "run", tmp_path / "c", **facts), None)


def test_globs_that_do_not_let_the_model_open(saved, model, tmp_path):
    (faults,) = found(edit(saved("csv"), tmp_path / "a", ignore=["x*"]), model)
    assert "ignore 'x*' matches" in faults
    config = models.make_config()
    bias = {"lm_head.bias": np.ones(config["vocab_size"], np.float32)}
    folder = models.write_checkpoint(tmp_path / "m", config, models.make_weights(config) | bias)
    biased = lp.load(folder, ignore="*bias")
    biased.run([1, 2]).save(tmp_path / "run")
    assert found(edit(tmp_path / "run", tmp_path / "b", ignore=["lm_head*"]), biased) == []
    (faults,) = found(edit(tmp_path / "run", tmp_path / "c", ignore=[]), biased)
    assert "ignore does not match lm_head.bias" in faults


@pytest.mark.parametrize("tokens", [["x"], [], [1, 2], ["a", None], ["a", "b", "c"]], ids=str)
def test_tokens_without_a_tokenizer_are_texts(random_checkpoint, tmp_path, tokens):
    plain = lp.load(random_checkpoint())
    plain.run([1, 2]).save(tmp_path / "run")
    assert found(edit(tmp_path / "run", tmp_path / "a", tokens=["a", "b"]), plain) == []
    faults = found(edit(tmp_path / "run", tmp_path / "b", tokens=tokens), plain)
    assert any("tokens is not a list of 2 texts" in each for each in faults)


def test_a_folder_that_is_not_absolute(model, saved, tmp_path):
    (faults,) = found(edit(saved("csv"), tmp_path / "a", model_folder="m"), model)
    assert "is not absolute" in faults


def test_npy_without_a_header(model, saved, tmp_path):
    folder = Folder(shutil.copytree(saved("npy"), tmp_path / "run"))
    folder.manifest["header"] = False
    folder.close()
    assert any("header is not a key" in each for each in found(folder.path, model))


_EXACT = [["npy", None], ["csv", None], ["csv", 16], ["hex", 3]]


@pytest.mark.parametrize("rounded", _EXACT, ids=str)
def test_rejects_rounding_by_a_format_that_does_not_round(model, saved, tmp_path, rounded):
    folder = Folder(shutil.copytree(saved("csv"), tmp_path / "run"))
    folder.manifest["rounded"] = [rounded]
    folder.close()
    assert any("rounded is not a list" in each for each in found(folder.path, model))
