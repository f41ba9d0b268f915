"""Edits in the files of a run: what is recorded, read back, and found by verify where it is altered."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edited_runs
import numpy as np
import pytest
from tampering import Folder, emptied, found, left_out, model, mutate, other

import llamaprobe as lp
from llamaprobe.checks.verify import verify_run
from llamaprobe.saved.manifest import FORMAT_VERSION, PLAIN_VERSION

__all__ = ["model"]  # a fixture
IDS = [3, 14, 15, 92, 65, 35]
POINTS = ("x", "z", "z.before", "scores", "pattern", "x_unit", "logits")


def shift(value: np.ndarray, at: Any) -> None:
    value += np.float32(0.25)


def edits_of(model: lp.Model) -> lp.Edits:
    e = lp.Edits()
    e["blocks.1.attn.hook_z"][-1, 1] = 0.5
    e["x", 0][2:] += 0.125
    e["pattern", 1][:, 3:].map(shift)
    e["x_rms", -1][[4, 1]] *= 1.5
    e["logits"][-1, 7] = -np.inf
    e += lp.knockout(0, query=4, key=[1, 2])
    e += lp.like(model.run(IDS[::-1], points="v"), "v", 1, np.s_[:3])
    e["hidden", 1][lp.PROMPT, 5].map(shift)
    return e


@pytest.fixture(scope="module")
def run(model: lp.Model) -> lp.Run:
    return model.run(IDS, points=POINTS, edits=edits_of(model))


@pytest.fixture(scope="module")
def saved(run: lp.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    run.save(folder, format="npy")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Folder:
    return Folder(shutil.copytree(saved, tmp_path / "run"))


def entries(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "manifest.json").read_text())["edits"]


def test_the_manifest_records_each_edit(saved: Path, run: lp.Run):
    z, x, pattern, rms, logits, knocked, v, hidden = entries(saved)
    assert z == {
        "point": "z",
        "layer": 1,
        "index": "-1, 1",
        "resolved": "5, 1",
        "op": "=",
        "value": 0.5,
        "n_changed": 8,
    }
    assert (x["index"], x["resolved"], x["op"], x["value"]) == ("2:", "2:", "+=", 0.125)
    assert (pattern["function"], pattern["verifiable"]) == ("shift", False)
    assert pattern["positions"] == [3, 4, 5] and pattern["before"]["shape"] == [4, 3, 6]
    assert rms["layer"] == 1 and rms["resolved"] == "[4, 1]"
    assert (logits["layer"], logits["value"], knocked["value"]) == (None, "-inf", "-inf")
    files = json.loads((saved / "manifest.json").read_text())["files"]
    assert v["value"] == {"file": "edit_6.npy"} | {
        key: files["edit_6.npy"][key] for key in ("shape", "sha256")
    }
    assert v["source"]["n_tokens"] == 6 and v["source"]["prompt_sha256"] is None
    assert hidden["index"] == "PROMPT, 5" and hidden["resolved"] == "0:6, 5"
    recorded = run.edits[7].recorded
    assert recorded is not None and recorded.before.shape == (6, 1, 1)
    assert (recorded.after == recorded.before + np.float32(0.25)).all()
    assert (np.load(saved / "edit_7_after.npy") == recorded.after).all()
    assert json.loads((saved / "meta_layer0.json").read_text())["edited"] is True


def test_only_runs_that_need_it_are_of_the_new_version(model: lp.Model, saved: Path, tmp_path):
    model.run(IDS, points="x").save(tmp_path / "plain")
    model.run(IDS, points="x.before").save(tmp_path / "before")
    versions = [
        json.loads((path / "manifest.json").read_text())["format_version"]
        for path in (tmp_path / "plain", tmp_path / "before", saved)
    ]
    assert versions == [PLAIN_VERSION, FORMAT_VERSION, FORMAT_VERSION]
    plain = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    assert not {"edits", "generated"} & set(plain)
    assert "edited" not in json.loads((tmp_path / "plain" / "meta_layer0.json").read_text())
    assert found(tmp_path / "before", model) == [] == found(tmp_path / "plain", model)


def test_read_run_gives_the_edits_back(model: lp.Model, run: lp.Run, saved: Path, tmp_path: Path):
    back = lp.read_run(saved)
    assert back.equals(run) and back.saved_in == str(saved)
    assert [e.n_changed for e in back.edits] == [e.n_changed for e in run.edits]
    assert repr(back.edits[:6]) == repr(run.edits[:6]).replace(
        "blocks.1.attn.hook_z", "z[1]"
    ).replace("x_rms[-1]", "x_rms[1]")
    assert back.edits[0].written == "z[1][-1, 1] = 0.5"
    assert (back.edits[6].value == run.edits[6].value).all()
    back.save(tmp_path / "again", format="npy")
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (
        saved / "manifest.json"
    ).read_bytes()
    data = [edit for edit in back.edits if edit.op != "map"]
    again = model.run(IDS, points=POINTS, edits=lp.Edits(data))
    assert again.equals(
        model.run(IDS, points=POINTS, edits=lp.Edits(e for e in run.edits if e.op != "map"))
    )
    with pytest.raises(lp.EditError, match="the function shift was not kept with its edit"):
        model.run(IDS, points=POINTS, edits=back.edits)
    whole = lp.like(back, "x", 0)
    assert whole[0].source is not None and whole[0].source.folder == str(saved)


@pytest.mark.parametrize("name", ["value", "before", "after"])
def test_an_array_of_an_edit_that_is_not_the_saved_one_is_refused(
    saved: Path, tmp_path: Path, name: str
):
    """Damaged, but still an array of that shape: its hash is in the manifest."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    entries = json.loads((folder / "manifest.json").read_text())["edits"]
    file = next(e[name]["file"] for e in entries if isinstance(e.get(name), dict))
    array = np.load(folder / file)
    array.reshape(-1)[0] += 1
    np.save(folder / file, array)
    with pytest.raises(lp.FormatError, match=rf"{file}: its sha256 is not the one that manifest.json"):
        lp.read_run(folder)


def test_an_honest_run_is_not_accused(model: lp.Model, run: lp.Run, saved: Path, tmp_path: Path):
    assert found(saved, model) == [] == found(saved, None)
    assert left_out(saved, model) == []
    unchecked = {fact for check in verify_run(saved, model) for fact in check.unchecked}
    assert unchecked >= {"source of edits", "functions of edits"}
    for how in ({"format": "csv", "digits": 3}, {"format": "q4.12"}, {"points": ["x"]}):
        run.save(tmp_path / "other", force=True, **how)
        assert found(tmp_path / "other", model) == [], how


UNCHECKED = ("source", "function", "source_sha256", "whole")  # nothing at hand determines these


@pytest.mark.slow
def test_every_altered_key_of_an_edit_is_found(model: lp.Model, saved: Path, tmp_path: Path):
    path, n_tried = tmp_path / "run", 0
    for number, entry in enumerate(entries(saved)):
        for key, value in entry.items():
            for change in ("other", "dropped", "emptied", "of another type"):
                if change == "other" and key in UNCHECKED:
                    continue
                folder = Folder(shutil.copytree(saved, path))
                changed = folder.manifest["edits"][number]
                if change == "dropped":
                    del changed[key]
                else:
                    changed[key] = {"other": other, "emptied": emptied}.get(
                        change, lambda value: [{"a": 1}]
                    )(value)
                is_same = changed.get(key, ...) == value
                is_none = change != "of another type" and key in ("source_sha256", "source")
                folder.close()
                if not is_same and not is_none:
                    assert found(path, model), (entry["point"], key, change)
                    n_tried += 1
                shutil.rmtree(path)
    assert n_tried > 150


@pytest.mark.parametrize("name", ["edit_6", "edit_2_before", "edit_2_after", "edit_7_before"])
def test_an_altered_array_is_found_and_named(model: lp.Model, folder: Folder, name: str):
    values = np.load(folder.path / f"{name}.npy")
    words = values.view(np.uint32)
    words.flat[np.flatnonzero(values)[0]] ^= 1
    np.save(folder.path / f"{name}.npy", values)
    for entry in folder.manifest["edits"]:  # its hash is made to agree
        for key in ("value", "before", "after"):
            if isinstance(entry.get(key), dict) and entry[key]["file"] == f"{name}.npy":
                entry[key]["sha256"] = sha256(folder.path / f"{name}.npy")
    folder.close()
    faults = found(folder.path, model)
    assert faults
    if name.endswith("before"):
        assert any(f"edits: edit {name[5]}" in fault and "before" in fault for fault in faults)


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_function_was_given_is_checked_by_formulas_too(model: lp.Model, tmp_path: Path):
    e = lp.Edits()
    e["act", 1][2].map(shift)
    model.run(IDS, points="all", edits=e).save(tmp_path / "run", format="npy")
    assert found(tmp_path / "run", None) == []
    folder = Folder(tmp_path / "run")
    before = np.load(folder.path / "edit_0_before.npy")
    before[0, 0, 3] += 0.01
    np.save(folder.path / "edit_0_before.npy", before)
    folder.manifest["edits"][0]["before"]["sha256"] = sha256(folder.path / "edit_0_before.npy")
    folder.close()
    assert [
        fault for fault in found(folder.path, None) if "edit 0, act: before of layer 1" in fault
    ]


@pytest.mark.parametrize(
    ("point", "at", "value"),
    [("scores", (1, 4, 2), -1.0), ("pattern", (1, 4, 3), 0.01), ("pattern", (1, 4, 2), 0.01)],
)
def test_a_row_of_knocked_out_keys_is_checked(model, tmp_path: Path, point: str, at, value):
    """By the formulas, without the weights: -inf that an edit wrote is no overflow."""
    points = ("q_rope", "k_rope", "scores", "pattern")
    run = model.run(IDS, points=points, edits=lp.knockout(0, query=4, key=[1, 2]))
    run.save(tmp_path / "run", format="npy")
    assert found(tmp_path / "run", None) == []
    folder = Folder(tmp_path / "run")
    values = np.load(folder.path / f"{point}_layer0.npy")
    values[(0, *at)] = value if point == "scores" else values[(0, *at)] + value
    np.save(folder.path / f"{point}_layer0.npy", values)
    folder.close()
    assert any(line.startswith(f"{point}: of layer 0 at") for line in found(folder.path, None))


def test_a_run_that_is_passed_off_as_plain_is_found(model: lp.Model, folder: Folder):
    del folder.manifest["edits"]
    folder.manifest["format_version"] = PLAIN_VERSION
    folder.change_meta(lambda meta: meta.pop("edited"))
    for path in folder.path.glob("edit_*"):
        folder.drop(path.name, listed=False)
    folder.close()
    faults = found(folder.path, model)
    for point in ("x: of layer 0", "x_unit: of layer 1", "z: of layer 1", "pattern: of layer 1"):
        assert [fault for fault in faults if fault.startswith(point)], point


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda m: m.update(format_version=1), "format_version is 1 and should be 2"),
        (lambda m: m["edits"].pop(), "edit_7_before.npy: is listed in"),
        (lambda m: m["edits"].append(m["edits"][0]), "edits: edit 8, z[1][5, 1]: n_changed is 8"),
        (lambda m: m["edits"][0].update(value=0.25), "z: of layer 1 at [5, 1, 0]"),
        (lambda m: m["edits"][0].update(resolved="4, 1"), "means 5, 1 of a prompt of 6 tokens"),
        (lambda m: m["edits"][0].update(n_changed=7), "n_changed is 7 and should be 8"),
        (lambda m: m["edits"][3].update(layer=0), "x_unit: of layer 0"),
        (lambda m: m["edits"][2].update(positions=[3, 4, 4]), "before is not of its rows"),
        (
            lambda m: m["edits"][5].update(index=":, 1, [0, 1]", resolved=":, 1, [0, 1]"),
            "edits: cannot be made: ",
        ),
        (lambda m: m["edits"][0].update(resolved="5, 9"), "edits: cannot be made: "),
        (lambda m: m["edits"][1].update(resolved="2000000:"), "edits: cannot be made: "),
        (lambda m: m.update(edits=[]), "edits is not a key of this file"),
        (lambda m: m.update(session_prompt_tokens=0), "session_prompt_tokens is not a number"),
        (lambda m: m.update(session_prompt_tokens=9), "means 8, 1 of a prompt of 9 tokens"),
    ],
)
def test_what_was_altered_is_named(model: lp.Model, folder: Folder, change: Callable, fault: str):
    change(folder.manifest)
    folder.close()
    faults = found(folder.path, model)
    assert [line for line in faults if fault in line], faults


@pytest.mark.parametrize("point", ["z.before", "z", "x_unit", "scores"])
def test_an_altered_value_of_an_edited_run_is_found(model: lp.Model, folder: Folder, point: str):
    path = folder.path / f"{point}_layer1.npy"
    values = np.load(path)
    values.flat[np.flatnonzero(np.isfinite(values))[-1]] += np.float32(0.01)
    np.save(path, values)
    folder.close()
    assert any(line.startswith(f"{point}: of layer 1") for line in found(folder.path, model))
    assert any(f"in {point} of layer 1" in line for line in found(folder.path, model))


@pytest.mark.parametrize("seed", range(25))
def test_mutated_edits_raise_only_errors(model: lp.Model, folder: Folder, seed: int):
    rng = random.Random(seed)
    for _ in range(1 + seed % 3):
        mutate(rng, folder.manifest["edits"])
    folder.close()
    found(folder.path, model)
    found(folder.path, None)


@pytest.mark.parametrize("seed", range(30))
def test_random_runs_are_not_accused(model: lp.Model, tmp_path: Path, seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert edited_runs.accused(model, seed, tmp_path / "run") == []


def test_a_save_over_an_edited_run_removes_its_arrays(model: lp.Model, run: lp.Run, tmp_path: Path):
    run.save(tmp_path / "run", format="npy")
    model.run(IDS, points="x").save(tmp_path / "run", force=True)
    assert not [*tmp_path.glob("run/edit_*")] and not [*tmp_path.glob("run/*.before*")]
    shutil.copy(tmp_path / "run" / "x_layer0.csv", tmp_path / "run" / "edit_0.npy")
    assert "edit_0.npy: is a file of another run: manifest.json does not list it" in found(
        tmp_path / "run", model
    )


@pytest.mark.slow
def test_random_runs_of_every_family_are_not_accused():
    pytest.importorskip("transformers")
    assert list(edited_runs.all_accused(4)) == []


def test_run_saves_edits_on_the_command_line(command, tmp_path: Path):
    np.save(tmp_path / "v.npy", np.ones(128, np.float32))
    words = ("--edit", "z[2][-1, 1] = 0", "--edit", f"x[1][2:] += 0.5 * {tmp_path}/v.npy")
    out = tmp_path / "out"
    assert command("run", "demo", "Once upon a time", "--out", out, *words)[0] == 0
    code, text, _ = command("verify", out)
    assert code == 0 and "2 edits made again" in text
    assert [e.written for e in lp.read_run(out).edits] == [
        "z[2][-1, 1] = 0",
        "x[1][2:] += <float32 [128]>",
    ]
