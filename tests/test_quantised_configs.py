"""Configs of quantised checkpoints that contradict the files, or hold something else than they may:
each is an error that names the file, the tensor or the key, and both facts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import quantised_checkpoints as made
from quantise import words_of
from quantised_checkpoints import stored
from quantised_faults import BLOCK, DOWN, GROUP, WEIGHTS, Change, Q, error_of, zeros

import llamaprobe as lp

# (format, changes, what the message says)
DIFFER: dict[str, tuple[str, Change, str]] = {
    "a format": (
        "ct-fp8-channel",
        {f"{BLOCK}.format": "pack-quantized"},
        r"tensor model\.layers\.0\.self_attn\.q_proj\.weight is F8_E4M3 \[64, 48\], not I32, but in"
        r' .*config\.json quantization_config\.format is "pack-quantized"',
    ),
    "a format of a group": (
        "ct-int8-channel",
        {f"{GROUP}.format": "float-quantized"},
        r'q_proj\.weight is I8 .*, not F8_E4M3, but in .*group_0\.format is "float-quantized"',
    ),
    "a type": (
        "ct-fp8-naive-head",
        {f"{WEIGHTS}.type": "int"},
        r'lm_head\.weight is F8_E4M3 .*weights\.type is "int"',
    ),
    "bits of FP8": (
        "ct-fp8-channel",
        {f"{WEIGHTS}.num_bits": 4},
        r"q_proj\.weight is F8_E4M3 \[64, 48\], of 8 bits, but in .*weights\.num_bits is 4",
    ),
    "bits of INT8": (
        "ct-int8-channel",
        {f"{WEIGHTS}.num_bits": 16},
        r"q_proj\.weight is I8 .*weights\.num_bits is 16",
    ),
    "bits of words": (
        "ct-pack4",
        {f"{WEIGHTS}.num_bits": 8},
        r"weight_packed is I32 \[64, 6\], not \[64, 12\] for 64 x 48 weights.*num_bits is 8",
    ),
    "a strategy": (
        "ct-fp8-channel",
        {f"{WEIGHTS}.strategy": "tensor"},
        r'weight_scale is BF16 \[64, 1\], not \[1\] for .*weights\.strategy is "tensor"',
    ),
    "another strategy": (
        "ct-fp8-tensor",
        {f"{WEIGHTS}.strategy": "channel"},
        r'weight_scale is F32 \[1\], not \[64, 1\] for .*weights\.strategy is "channel"',
    ),
    "a group": (
        "ct-pack4",
        {f"{WEIGHTS}.group_size": 32},
        r"weight_scale is BF16 \[64, 3\], not \[64, 2\] for .*weights\.group_size is 32",
    ),
    "blocks": (
        "ct-fp8-block",
        {f"{WEIGHTS}.block_structure": [64, 64]},
        r"weight_scale is F32 \[2, 2\], not \[1, 1\] for .*block_structure is \[64, 64\]",
    ),
    "ignored but quantised": (
        "ct-fp8-channel",
        {f"{BLOCK}.ignore": ["lm_head", "re:.*down_proj"]},
        r"layers\.0\.mlp\.down_proj\.weight is F8_E4M3 .*, not a weight of any of its"
        r' config_groups, but in .*ignore is \["lm_head", "re:\.\*down_proj"\]',
    ),
    "no target but quantised": (
        "ct-fp8-channel",
        {f"{GROUP}.targets": ["re:.*self_attn"]},
        r"mlp\.gate_proj\.weight is F8_E4M3 .*not a weight of any of its config_groups",
    ),
    "a target that is plain": (
        "ct-fp8-channel",
        {f"{BLOCK}.ignore": []},
        r'lm_head\.weight is BF16 .*, not quantised, but in .*group_0\.targets is \["Linear"\]',
    ),
    "symmetric with zeros": (
        "ct-int8-zeros",
        {f"{WEIGHTS}.symmetric": True},
        r"weight_zero_point is I8 .*, not all 0, but in .*weights\.symmetric is true",
    ),
    "symmetric with packed zeros": (
        "ct-pack4-zeros",
        {f"{WEIGHTS}.symmetric": True},
        r"weight_zero_point is I32 .*, not all 0, but in .*weights\.symmetric is true",
    ),
    "zeros of FP8": (
        "ct-fp8-channel",
        {f"{Q}.weight_zero_point": stored("F8_E4M3", np.ones((64, 1)))},
        r"weight_zero_point is F8_E4M3 .*, which FP8 weights cannot have, but in .*symmetric is true",
    ),
    "fp8: blocks": (
        "fp8-block",
        {f"{BLOCK}.weight_block_size": [128, 128]},
        r"weight_scale_inv is F32 \[2, 2\], not \[1, 1\] for .*weight_block_size is \[128, 128\]",
    ),
    "fp8: no blocks": (
        "fp8-block",
        {f"{BLOCK}.weight_block_size": ...},
        r"weight_scale_inv is F32 \[2, 2\], not \[\] for .*weight_block_size is missing",
    ),
    "fp8: left out but quantised": (
        "fp8-block",
        {f"{BLOCK}.modules_to_not_convert": ["mlp"]},
        r'mlp\.gate_proj\.weight is F8_E4M3 .*modules_to_not_convert is \["mlp"\]',
    ),
    "fp8: plain": (
        "fp8-block",
        {f"{Q}.weight": zeros("BF16", 64, 48), f"{Q}.weight_scale_inv": None},
        r"q_proj\.weight is BF16 .*, not quantised, but in .*modules_to_not_convert is missing",
    ),
    "fbgemm: one scale": (
        "fbgemm",
        {f"{DOWN}.weight_scale": zeros("F32", 1)},
        r"down_proj\.weight_scale is F32 \[1\], not \[48, 1\] for .*quant_method is \"fbgemm_fp8\"",
    ),
    "fbgemm: not left out": (
        "fbgemm",
        {f"{BLOCK}.modules_to_not_convert": ["lm_head"]},
        r"q_proj\.weight is BF16 .*, not quantised, but in .*modules_to_not_convert is",
    ),
    "gptq: bits": (
        "gptq4-v1",
        {f"{BLOCK}.bits": 8},
        r"qweight is I32 \[6, 64\], not \[12, 64\] for 64 x 48 weights, but in .*bits is 8",
    ),
    "gptq: group": (
        "gptq4-v1",
        {f"{BLOCK}.group_size": 32},
        r"scales is F16 \[3, 64\], not \[2, 64\] for .*group_size is 32",
    ),
    "gptq: whole rows": (
        "gptq4-v1",
        {f"{BLOCK}.group_size": -1},
        r"scales is F16 \[3, 64\], not \[1, 64\] for .*group_size is -1",
    ),
    "order": (
        "ct-pack4-order",
        {f"{WEIGHTS}.actorder": "static"},
        r"weight_g_idx is I32 \[48\], in another order than column / group, but in .*weights\."
        r'actorder is "static"',
    ),
    "no actorder": (
        "ct-pack4-order",
        {f"{WEIGHTS}.actorder": ...},
        r"weight_g_idx is I32 \[48\], in another order .*weights\.actorder is missing",
    ),
    "gptq: order": (
        "gptq4-order",
        {f"{BLOCK}.desc_act": False},
        r"g_idx is I32 \[48\], in another order than column / group, but in .*desc_act is false",
    ),
    "gptq: symmetric": (
        "gptq4-v1-zeros",
        {f"{BLOCK}.sym": True},
        r"qzeros is I32 \[3, 8\], with other zeros than 8 or 7 throughout, but in .*sym is true",
    ),
    "gptq: symmetric zeros of both versions": (
        "gptq4-v1",
        {f"{Q}.qzeros": stored("I32", words_of(np.full((3, 64), 7) + (np.arange(64) % 2), 4))},
        r"qzeros is I32 .*, with other zeros than 8 or 7 throughout",
    ),
    "gptq: head": (
        "gptq4-head",
        {f"{BLOCK}.lm_head": False},
        r"lm_head\.qweight .*lm_head is false",
    ),
    "gptq: plain head": (
        "gptq4-v1",
        {f"{BLOCK}.lm_head": True},
        r"lm_head\.weight is BF16 .*, not quantised, but in .*lm_head is true",
    ),
    "gptq: dynamic": (
        "gptq4-v1",
        {f"{BLOCK}.dynamic": {"-:.*down_proj": {}}},
        r"down_proj\.qweight is I32 .*quantization_config\.dynamic is",
    ),
    "gptq: a list of modules": (
        "gptq4-v1",
        {f"{BLOCK}.modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]},
        r"self_attn\.k_proj\.qweight is I32 .*modules_in_block_to_quantize is",
    ),
    "gptq: AWQ's layout": (
        "awq",
        {f"{BLOCK}.quant_method": "gptq", f"{BLOCK}.sym": False},
        r"qweight is I32 \[48, 8\], not \[6, 64\] for 64 x 48 weights, but in .*bits is 4",
    ),
    "awq: GPTQ's layout": (
        "gptq4-v1",
        {f"{BLOCK}.quant_method": "awq"},
        r"qweight is I32 \[6, 64\], not \[48, 8\] for 64 x 48 weights, but in .*version is missing",
    ),
    "awq: group": ("awq", {f"{BLOCK}.group_size": 32}, r"scales is F16 .*group_size is 32"),
    "awq: left out": (
        "awq",
        {f"{BLOCK}.modules_to_not_convert": ["mlp.down_proj"]},
        r'down_proj\.qweight is I32 .*modules_to_not_convert is \["mlp.down_proj"\]',
    ),
}


@pytest.mark.parametrize("case", DIFFER)
def test_a_config_that_disagrees(tmp_path: Path, case: str):
    name, changes, printed = DIFFER[case]
    made.FORMATS[name].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.FormatError, changes)
    assert re.search(printed, message), message
    assert message.startswith(f"{tmp_path}: model.safetensors: tensor ")


# ---- wrong types ----

WRONG_KEYS: dict[str, tuple[str, Change, str]] = {
    "no object": ("gptq4-v1", {BLOCK: 4}, r"quantization_config is 4; it must be an object"),
    "a method of no name": (
        "gptq4-v1",
        {f"{BLOCK}.quant_method": 4},
        r"quantization_config\.quant_method is 4; it must be a string",
    ),
    "nothing known": (
        "gptq4-v1",
        {BLOCK: {"number": 4}},
        r'quantization_config\.quant_method is missing; it must be the name of a method, such as "gptq"',
    ),
    "bits": ("gptq4-v1", {f"{BLOCK}.bits": "4"}, r'quantization_config\.bits is "4"; .*integer'),
    "no bits": ("gptq4-v1", {f"{BLOCK}.bits": ...}, r"quantization_config\.bits is missing"),
    "group 0": (
        "gptq4-v1",
        {f"{BLOCK}.group_size": 0},
        r"group_size is 0; it must be -1 or above 0",
    ),
    "group -5": ("awq", {f"{BLOCK}.group_size": -5}, r"group_size is -5; .*integer from -1"),
    "awq group 0": (
        "awq",
        {f"{BLOCK}.group_size": 0},
        r"group_size is 0; it must be -1 or above 0",
    ),
    "desc_act": ("gptq4-v1", {f"{BLOCK}.desc_act": 1}, r"desc_act is 1; it must be true or false"),
    "sym": ("gptq4-v1", {f"{BLOCK}.sym": "yes"}, r'sym is "yes"; it must be true or false'),
    "dynamic": ("gptq4-v1", {f"{BLOCK}.dynamic": []}, r"dynamic is \[\]; it must be an object"),
    "dynamic of numbers": (
        "gptq4-v1",
        {f"{BLOCK}.dynamic": {".*": 4}},
        r"dynamic is .*; it must be an object of objects",
    ),
    "groups": (
        "ct-pack4",
        {f"{BLOCK}.config_groups": [1]},
        r"quantization_config\.config_groups is \[1\]; it must be an object",
    ),
    "a group": ("ct-pack4", {GROUP: 1}, r"config_groups\.group_0 is 1; it must be an object"),
    "bits of inputs": (
        "ct-pack4",
        {f"{GROUP}.input_activations": {"num_bits": [8]}},
        r"input_activations\.num_bits is \[8\]; it must be an integer",
    ),
    "weights": ("ct-pack4", {WEIGHTS: [4]}, r"group_0\.weights is \[4\]; it must be an object"),
    "targets": ("ct-pack4", {f"{GROUP}.targets": "Linear"}, r'targets is "Linear"; .*list'),
    "no targets": ("ct-pack4", {f"{GROUP}.targets": ...}, r"group_0\.targets is missing; .*list"),
    "group_size": ("ct-pack4", {f"{WEIGHTS}.group_size": None}, r"group_size is null; .*integer"),
    "blocks": (
        "ct-fp8-block",
        {f"{WEIGHTS}.block_structure": [0, 128]},
        r"block_structure is \[0, 128\]; it must be two numbers of rows and columns",
    ),
    "fp8 blocks": (
        "fp8-block",
        {f"{BLOCK}.weight_block_size": [128, -128]},
        r"weight_block_size is \[128, -128\]; it must be two numbers",
    ),
    "left out": (
        "fp8-block",
        {f"{BLOCK}.modules_to_not_convert": "lm_head"},
        r'modules_to_not_convert is "lm_head"; it must be a list',
    ),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_a_config_of_wrong_types(tmp_path: Path, case: str):
    name, changes, printed = WRONG_KEYS[case]
    made.FORMATS[name].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.ConfigError, changes)
    assert re.search(printed, message), message
    assert message.startswith(f"{tmp_path}/config.json: ")


def test_two_configs_that_disagree(tmp_path: Path):
    made.FORMATS["gptq4-v1"].make(tmp_path, made.config_of())
    beside = {"bits": 4, "group_size": 128, "desc_act": False}
    (tmp_path / "quantize_config.json").write_text(json.dumps(beside))
    message = error_of(tmp_path, lp.ConfigError, {})
    assert message == (
        f"{tmp_path}/config.json: quantization_config.group_size is 16, but in"
        f" {tmp_path}/quantize_config.json group_size is 128; one of them is of another model"
    )
    (tmp_path / "quantize_config.json").write_text("[")
    assert "quantize_config.json: not valid JSON" in error_of(tmp_path, lp.ConfigError, {})


def test_codes_that_no_config_explains(tmp_path: Path):
    made.FORMATS["gptq4-v1"].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.FormatError, {BLOCK: ...})
    assert "q_proj.weight is missing; the file has" in message
    assert "a quantised weight, but config.json has no quantization_config" in message


def test_scales_that_no_config_explains(tmp_path: Path):
    made.FORMATS["ct-fp8-channel"].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.UnsupportedError, {BLOCK: ...})
    assert "weight_scale" in message and "but config.json has no quantization_config" in message
