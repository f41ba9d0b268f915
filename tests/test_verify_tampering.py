"""verify finds every kind of tampering that the files and the model reveal, even with hashes made to
agree."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tampering import (
    Folder,
    emptied,
    found,
    model,
    mutate,
    other,
    saved,
    write_floats,
    write_integers,
)

from llamaprobe.checks.verify import verify_run
from llamaprobe.saved import run_folder

__all__ = ["model", "saved"]  # fixtures
STATED = ["model", "model_folder", "llamaprobe_version"]  # nothing at hand determines these
_KINDS: dict[str, Callable[[Folder], None]] = {}

# ---- every key ----


def keys_of(path: Path) -> list[str]:
    return list(json.loads(path.read_text()))


META_KEYS = [
    *("layer", "d_model", "num_heads", "num_kv_heads", "n_heads", "n_kv_heads", "head_dim", "d_ff"),
    *("rms_norm_eps", "rmsnorm_eps", "rope_theta", "rope_scaling", "inv_freq", "attention_scale"),
    *("token_ids", "tokens", "position_ids", "attention_bias", "qk_norm", "prompt"),
    *("template_date", "model", "model_folder", "revision", "ignore", "unused_tensors"),
    *("arithmetic_version", "llamaprobe_version", "dtype", "shapes", "weight_names"),
]


def test_the_lists_of_keys_are_complete(saved) -> None:
    assert keys_of(saved("csv") / "meta_layer0.json") == META_KEYS
    assert set(keys_of(saved("csv") / "manifest.json")) == {*MANIFEST_KEYS, "kind", "files"}


@pytest.mark.parametrize("change", ["other", "dropped", "emptied", "of another type"])
@pytest.mark.parametrize("only", ["1", ""], ids=["one layer", "all layers"])
@pytest.mark.parametrize("key", META_KEYS)
def test_a_changed_key_of_the_meta_files_is_found(model, saved, tmp_path, key, only, change):
    folder = Folder(shutil.copytree(saved("csv"), tmp_path / "run"))

    def edit(meta: dict) -> None:
        if change == "dropped":
            del meta[key]
        elif change == "other":
            meta[key] = other(meta[key])
        elif change == "emptied":
            meta[key] = emptied(meta[key])
        else:
            meta[key] = {"a": 1}

    before = [path.read_bytes() for path in folder.metas()]
    folder.change_meta(edit, only)
    if [json.loads(data) for data in before] == [json.loads(p.read_text()) for p in folder.metas()]:
        pytest.skip("it is null as it is")
    is_open = not only and key in STATED and change == "other"
    if is_open and key == "llamaprobe_version":
        folder.manifest[key] = other(folder.manifest[key])
    folder.close()
    if is_open:
        assert found(folder.path, model) == []
        assert key in [fact for c in verify_run(folder.path, model) for fact in c.unchecked]
    elif only or (key, change) not in HONEST:
        assert found(folder.path, model), key


# Emptied everywhere: a run of the same ids, or of the model opened as a repo.
HONEST = [("model_folder", "emptied"), ("prompt", "emptied")]

MANIFEST_KEYS = [
    *("format_version", "arithmetic_version", "llamaprobe_version", "format", "digits"),
    *("model_numbers", "points", "weight_files", "ignore", "unused_tensors"),
]
NUMBERS = list(run_folder.NUMBERS)


def manifest_changes() -> dict[str, Callable[[dict], None]]:
    def put(*path: str, value: Callable[[Any], Any]) -> Callable[[dict], None]:
        def change(manifest: dict) -> None:
            *parents, last = path
            for parent in parents:
                manifest = manifest[parent]
            manifest[last] = value(manifest[last])

        return change

    def without(*path: str) -> Callable[[dict], None]:
        def change(manifest: dict) -> None:
            *parents, last = path
            for parent in parents:
                manifest = manifest[parent]
            del manifest[last]

        return change

    weights = ("weight_files", "model.safetensors")
    changes = {f"{key}: other": put(key, value=other) for key in MANIFEST_KEYS[2:]}
    changes |= {f"{key}: emptied": put(key, value=emptied) for key in (*MANIFEST_KEYS[5:8], "files")}
    changes |= {f"{key}: dropped": without(key) for key in (*MANIFEST_KEYS[2:], "files")}
    changes |= {f"{key}: dropped": without("model_numbers", key) for key in NUMBERS}
    changes |= {f"{key}: other": put("model_numbers", key, value=other) for key in NUMBERS}
    for key in ("bytes", "fingerprint"):
        changes[f"weights {key}: other"] = put(*weights, key, value=other)
    changes |= {
        f"weights {k}: dropped": without(*weights, k) for k in ("bytes", "sha256", "fingerprint")
    }
    changes |= {
        "weights: sha256 of zeros": put(*weights, "sha256", value=lambda _: "0" * 64),
        "weights: bytes null": put(*weights, "bytes", value=lambda _: None),
        "weights: one more": put("weight_files", value=lambda v: v | {"b": v[weights[1]]}),
        "weights: null": put("weight_files", value=lambda _: None),
        "kind": put("kind", value=lambda _: "weights"),
        "one more key": lambda manifest: manifest.update(note="x"),
        "format: npy": put("format", value=lambda _: "npy"),
        "digits: 9": put("digits", value=lambda _: 9),
        "digits: a word": put("digits", value=lambda _: "shortest"),
        "tied_head: 0": put("model_numbers", "tied_head", value=lambda _: 0),
        "points: a layer less": put("points", "x", value=lambda v: v[:1]),
        "points: layers swapped": put("points", "x", value=lambda v: [*v, 7]),
        "points: one less": without("points", "q"),
        "points: one more": put("points", value=lambda v: v | {"k": [0, 1]}),
        "points: unknown": put("points", value=lambda v: v | {"k_norm": [0, 1]}),
        "entry dropped": without("files", "x_layer1.csv"),
        "entry of a mask dropped": without("files", "position_ids.csv"),
        "entry of a meta file dropped": without("files", "meta_layer1.json"),
        "entry is a word": put("files", "x_layer1.csv", value=lambda _: "x"),
    }
    return changes


@pytest.mark.parametrize("name", manifest_changes())
def test_a_changed_key_of_the_manifest_is_found(model, saved, tmp_path, name):
    folder = Folder(shutil.copytree(saved("csv"), tmp_path / "run"))
    manifest_changes()[name](folder.manifest)
    folder.close()
    assert found(folder.path, model), name


ENTRIES = {
    "csv": ["x_layer1.csv", "position_ids.csv", "meta_layer0.json", "logits.csv"],
    "npy": ["x_layer1.npy", "attention_mask.npy"],
    "hex": ["xnorm_layer0.hex"],
    "q4.12": ["x_layer1.hex", "position_ids.hex"],
}


@pytest.mark.parametrize("format", ENTRIES)
def test_a_changed_entry_of_a_file_is_found(model, saved, tmp_path, format):
    honest_folder = saved(format)
    for name in ENTRIES[format]:
        entry = json.loads((honest_folder / "manifest.json").read_text())["files"][name]
        for key in [*entry, "more"]:
            folder = Folder(shutil.copytree(honest_folder, tmp_path / "run"))
            folder.fixed[name] = {key: other(entry.get(key))}
            folder.close()
            assert found(folder.path, model), (name, key)
            if key not in ("bytes", "sha256", "more"):
                del folder.manifest["files"][name][key]
                del folder.fixed[name]
                folder.close()
                assert found(folder.path, model), (name, key)
            shutil.rmtree(folder.path)


# ---- files ----


def kind(function: Callable[[Folder], None]) -> Callable[[Folder], None]:
    _KINDS[function.__name__.replace("_", " ")] = function
    return function


@kind
def a_mask_says_hello(folder: Folder) -> None:
    folder.of("position_ids").write_text("hello")


@kind
def position_ids_of_another_prompt(folder: Folder) -> None:
    write_integers(folder.of("position_ids"), lambda values: values[..., ::-1])


@kind
def a_mask_of_zeros(folder: Folder) -> None:
    write_integers(folder.of("attention_mask"), lambda values: values * 0)


@kind
def a_mask_that_is_shorter(folder: Folder) -> None:
    write_integers(folder.of("attention_mask"), lambda values: values[:, :-1])


@kind
def a_mask_of_the_other(folder: Folder) -> None:
    folder.of("attention_mask").write_bytes(folder.of("position_ids").read_bytes())


@kind
def one_mask_gone(folder: Folder) -> None:
    folder.drop(folder.of("attention_mask").name, listed=False)


@kind
def a_file_beside(folder: Folder) -> None:
    (folder.path / "k_layer0.csv").write_bytes(folder.of("q_layer0").read_bytes())


@kind
def a_value_in_another_format_beside(folder: Folder) -> None:
    name = "q_layer0.npy" if folder.of("q_layer0").suffix != ".npy" else "q_layer0.csv"
    (folder.path / name).write_bytes(folder.of("q_layer0").read_bytes())


@kind
def a_meta_file_beside(folder: Folder) -> None:
    (folder.path / "meta_layer7.json").write_bytes((folder.path / "meta_layer0.json").read_bytes())


@kind
def a_file_that_no_run_writes(folder: Folder) -> None:
    (folder.path / "notes.txt").write_text("x")
    folder.manifest["files"]["notes.txt"] = {}


@kind
def a_listed_file_of_another_point(folder: Folder) -> None:
    path = folder.of("q_layer0")
    shutil.copy(path, folder.path / f"k_layer0{path.suffix}")
    entry = dict(folder.manifest["files"][path.name])
    folder.manifest["files"][f"k_layer0{path.suffix}"] = entry


@kind
def a_file_gone(folder: Folder) -> None:
    folder.drop(folder.of("q_layer1").name)


@kind
def a_file_gone_from_both(folder: Folder) -> None:
    folder.drop(folder.of("q_layer1").name, listed=False)


@kind
def a_point_gone_from_everything_but_the_meta_files(folder: Folder) -> None:
    for layer in range(2):
        folder.drop(folder.of(f"q_layer{layer}").name, listed=False)
    del folder.manifest["points"]["q"]


@kind
def a_layer_gone_but_its_meta_file(folder: Folder) -> None:
    for stem in ("x", "xnorm", "q", "scores", "pattern"):
        folder.drop(folder.of(f"{stem}_layer1").name, listed=False)
    for layers in folder.manifest["points"].values():
        if layers:
            layers.remove(1)


@kind
def a_meta_file_gone(folder: Folder) -> None:
    folder.drop("meta_layer1.json", listed=False)


@kind
def all_meta_files_gone(folder: Folder) -> None:
    for path in folder.metas():
        folder.drop(path.name, listed=False)


@kind
def layers_swapped(folder: Folder) -> None:
    a, b = folder.of("x_layer0"), folder.of("x_layer1")
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)


@kind
def zero_with_a_sign(folder: Folder) -> None:
    """Above the diagonal of the pattern."""
    write_floats(folder.of("pattern_layer0"), lambda values: np.where(values == 0, -0.0, values))


@kind
def the_lowest_bit(folder: Folder) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        values.view(np.uint32).reshape(-1)[-1] ^= 1 << 12
        return values

    write_floats(folder.of("logits"), change)


@kind
def a_value_that_is_no_number(folder: Folder) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        values.reshape(-1)[0] = np.nan
        return values

    write_floats(folder.of("x_layer0"), change)


@kind
def a_file_of_half_the_rows(folder: Folder) -> None:
    write_floats(folder.of("x_layer0"), lambda values: values[:, ::2])


@kind
def a_file_that_is_empty(folder: Folder) -> None:
    folder.of("x_layer0").write_bytes(b"")


@kind
def a_meta_file_of_another_layer(folder: Folder) -> None:
    shutil.copy(folder.path / "meta_layer0.json", folder.path / "meta_layer1.json")


@kind
def a_meta_file_that_is_a_list(folder: Folder) -> None:
    (folder.path / "meta_layer1.json").write_text("[]")


@kind
def one_more_key_in_a_meta_file(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta.update(temperature=0.5))


@kind
def a_shape_in_a_meta_file(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta["shapes"].update(x=[1, 5, 17]))


@kind
def ones_that_are_true(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta["position_ids"].__setitem__(1, True))


@kind
def a_date_that_is_none(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta.update(template_date="yesterday"))


@kind
def a_revision(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta.update(revision="a" * 40))


@kind
def tokens_of_another_text(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta.update(tokens=[t.upper() for t in meta["tokens"]]))


@kind
def a_prompt_of_the_same_length(folder: Folder) -> None:
    folder.change_meta(lambda meta: meta.update(prompt="the ac"))


@pytest.mark.parametrize("format", ["csv", "npy", "hex"])
@pytest.mark.parametrize("name", _KINDS)
def test_finds_what_was_altered(model, saved, tmp_path, name, format):
    folder = Folder(shutil.copytree(saved(format), tmp_path / "run"))
    _KINDS[name](folder)
    folder.close()
    assert found(folder.path, model), name


@pytest.mark.parametrize("name", ["a mask of zeros", "layers swapped", "the lowest bit"])
@pytest.mark.parametrize(
    "how", [{"format": "txt"}, {"format": "q4.12"}, {"format": "csv", "digits": 4}]
)
def test_finds_what_was_altered_in_other_formats(model, saved, tmp_path, name, how):
    folder = Folder(shutil.copytree(saved(**how), tmp_path / "run"))
    _KINDS[name](folder)
    folder.close()
    assert found(folder.path, model), name


def test_finds_a_text_in_another_spelling(model, saved, tmp_path):
    folder = Folder(shutil.copytree(saved("csv"), tmp_path / "run"))
    path = folder.path / "x_layer1.csv"
    path.write_text(path.read_text().replace("shape=[1, ", "shape=[1,"))
    meta = folder.path / "meta_layer0.json"
    meta.write_text(json.dumps(json.loads(meta.read_text())))
    folder.close()
    faults = dict(line.split(": ", 1) for line in found(folder.path, model))
    assert set(faults) == {"x_layer1.csv", "meta_layer0.json"}
    assert all("not written as llamaprobe writes" in fault for fault in faults.values())


@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_run_raises_only_errors(model, saved, tmp_path, seed):
    """Whatever the JSON files hold, only an Error is raised."""
    rng = random.Random(seed)
    folder = Folder(shutil.copytree(saved("csv"), tmp_path / "run"))
    if rng.random() < 0.4:
        mutate(rng, folder.manifest)
    else:
        folder.change_meta(lambda meta: mutate(rng, meta), rng.choice(["", "0", "1"]))
    folder.close()
    found(folder.path, model)
    found(folder.path, None)
