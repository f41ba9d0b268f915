"""What the files of quantised checkpoints may say besides, and what is only noted."""

import json
import re
import warnings
from pathlib import Path

import models
import numpy as np
import pytest
import quantised_checkpoints as made
from quantise import words_of
from quantised_checkpoints import stored
from quantised_faults import BLOCK, GROUP, WEIGHTS, Change, Q, error_of, zeros

import llamaprobe as lp
from llamaprobe.checkpoint.folder import open_checkpoint


def load_silently(folder: Path) -> lp.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lp.load(folder)


ACCEPTED: dict[str, tuple[str, Change]] = {
    "zeros of symmetric INT8": ("ct-int8-channel", {f"{Q}.weight_zero_point": zeros("I8", 64, 1)}),
    "zeros of FP8": ("ct-fp8-channel", {f"{Q}.weight_zero_point": zeros("F8_E4M3", 64, 1)}),
    "zeros of symmetric words": (
        "ct-pack4",
        {f"{Q}.weight_zero_point": stored("I32", words_of(np.full((3, 64), 8), 4).T)},
    ),
    "an order that was never set": (
        "ct-pack4",
        {f"{Q}.weight_g_idx": stored("I32", np.full(48, -1))},
    ),
    "an order that changes nothing": (
        "ct-pack4",
        {f"{Q}.weight_g_idx": stored("I32", np.arange(48) // 16)},
    ),
    "an order by its other name": ("ct-pack4-order", {f"{WEIGHTS}.actorder": "Dynamic"}),
    "an order by its old name": ("ct-pack4-order", {f"{WEIGHTS}.actorder": True}),
    "no order where none was set": ("ct-pack4", {f"{WEIGHTS}.actorder": "group"}),
    "scales of the cache": (
        "ct-fp8-channel",
        {"model.layers.0.self_attn.k_scale": zeros("F32", 1)}
        | {"model.layers.0.self_attn.v_scale": zeros("F32", 1)}
        | {f"{Q}.output_scale": zeros("F32", 1), f"{Q}.input_scale": zeros("F32", 1)},
    ),
    "a text_config that means nothing": ("ct-pack4", {"text_config": "none"}),
    "a bias of zeros": ("gptq4-v1", {f"{Q}.bias": zeros("F16", 64)}),
    "a scale on one axis": ("ct-fp8-channel", {f"{GROUP}.targets": [Q, "re:model.layers"]}),
    "ue8m0 in F32": (
        "fp8-block",
        {f"{BLOCK}.scale_fmt": "ue8m0", f"{BLOCK}.activation_scheme": ...},
    ),
    "one group for each class": (
        "ct-fp8-channel",
        {f"{BLOCK}.config_groups.group_1": {"targets": ["LlamaAttention"], "weights": None}},
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_says_nothing_new_is_no_fault(tmp_path: Path, case: str):
    name, changes = ACCEPTED[case]
    made.FORMATS[name].make(tmp_path, made.config_of())
    ids = models.make_token_ids(made.config_of(), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = lp.load(tmp_path).run(ids, points="all")
    keys = {name: new for name, new in changes.items() if name.split(".")[0] != "model"}
    made.change(tmp_path, {name: new for name, new in changes.items() if name not in keys})
    model = load_silently(made.change_config(tmp_path, keys))
    assert model.unused == () and model.run(ids, points="all").equals(wanted)


def test_a_bias_that_is_not_zero_is_refused(tmp_path: Path):
    made.FORMATS["gptq4-v1"].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.UnsupportedError, {f"{Q}.bias": stored("F16", np.ones(64))})
    assert "holds 1 tensor that a run does not use" in message and f"{Q}.bias" in message


@pytest.mark.parametrize("first", ["Linear", "re:.*self_attn"])
def test_the_most_specific_target_counts(tmp_path: Path, first: str):
    """A name before a pattern, that before a class, whatever the order of the groups: of the three
    only the right one has the width of a module's codes."""
    config, widths = made.config_of(), {"Linear": 4, "re:.*self_attn": 8, Q: 4}
    made.FORMATS["ct-pack4"].make(tmp_path, config)
    made.FORMATS["ct-pack8-group"].make(tmp_path / "eight", config)
    eight = open_checkpoint(tmp_path / "eight").tensors
    changes: Change = {}
    for name, info in eight.items():
        module, _, part = name.rpartition(".")
        if "self_attn" in name and module != Q:
            data = np.asarray(info.file.raw(name)).tobytes()
            changes[name] = info.dtype, list(info.shape), data
    made.change(tmp_path, changes)
    one = json.loads((tmp_path / "config.json").read_text())[BLOCK]["config_groups"]["group_0"]
    groups = {}
    for target in sorted(widths, key=lambda each: each != first):
        weights = {**one["weights"], "num_bits": widths[target]}
        groups[f"group_{len(groups)}"] = one | {"targets": [target], "weights": weights}
    made.change_config(tmp_path, {f"{BLOCK}.config_groups": groups})
    packed = load_silently(tmp_path)._checkpoint.packed
    wide = {name for name, info in packed.items() if info.options["bits"] == 8}
    assert wide == {name for name in packed if "self_attn" in name} - {f"{Q}.weight"}


def test_symmetric_zeros_of_rows_that_do_not_fill_their_words(tmp_path: Path):
    """84 rows are ten words and a half: what the rest holds is no zero."""
    made.FORMATS["ct-pack4"].make(tmp_path, made.config_of(intermediate_size=84))
    zero_words = words_of(np.full((3, 84), 8), 4).T
    name = "model.layers.0.mlp.up_proj.weight_zero_point"
    assert zero_words.shape == (11, 3)
    made.change(tmp_path, {name: stored("I32", zero_words)})
    assert load_silently(tmp_path).unused == ()


@pytest.mark.parametrize(("sym", "less_one"), [(False, True), (True, False), (..., False)])
def test_zeros_that_are_all_alike_tell_the_version_unless_asymmetric(
    tmp_path: Path, sym: object, less_one: bool
):
    made.FORMATS["gptq4-v1"].make(tmp_path, made.config_of())
    made.change(tmp_path, {f"{Q}.qzeros": stored("I32", words_of(np.full((3, 64), 8), 4))})
    made.change_config(tmp_path, {f"{BLOCK}.sym": sym})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = lp.load(tmp_path)._checkpoint.packed[f"{Q}.weight"]
    assert info.options.get("zero_is_less_one", False) is less_one


@pytest.mark.parametrize("stored_zero", [0, 5])
def test_zeros_of_version_1_that_may_be_damaged(tmp_path: Path, stored_zero: int):
    made.FORMATS["gptq4-v1-zeros"].make(tmp_path, made.config_of())
    fields = np.full((3, 64), 3)
    fields[1, 8:16] = [3, 4, stored_zero, 15, 15, 15, 15, 15] if not stored_zero else stored_zero
    for name in list(made.FORMATS["gptq4-v1-zeros"].names(made.config_of())):
        module = name.removesuffix(".weight")
        n_words = made.shapes_of(made.config_of())[name][0] // 8
        shape = (made.shapes_of(made.config_of())[name][1] // 16, n_words)
        made.change(tmp_path, {f"{module}.qzeros": stored("I32", np.full(shape, 0x33333333))})
    made.change(tmp_path, {f"{Q}.qzeros": stored("I32", words_of(fields, 4))})
    if stored_zero:
        load_silently(tmp_path)
    else:
        with pytest.warns(
            UserWarning, match=f"{Q}.qzeros has words that end with several 15"
        ) as warned:
            lp.load(tmp_path)
        assert len(warned) == 1


def test_inputs_of_several_groups_are_noted_in_one_warning(tmp_path: Path):
    made.FORMATS["ct-int8-channel"].make(tmp_path, made.config_of())
    inputs = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
    keys = {f"{GROUP}.input_activations": inputs, f"{BLOCK}.kv_cache_scheme": {"num_bits": 8}}
    made.change_config(tmp_path, keys)
    with pytest.warns(UserWarning) as warned:
        model = lp.load(tmp_path)
    assert len(warned) == 1 and re.search(
        r"config.json: quantization_config declares quantised activations, input_activations"
        r" \(8 bits\), kv_cache_scheme, which are not applied",
        str(warned[0].message),
    )
    assert model._checkpoint.quantization.notes == (str(warned[0].message),)
