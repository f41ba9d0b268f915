"""Damaged quantised checkpoints: each is an error that names the file and the tensor."""

import re
from pathlib import Path

import numpy as np
import pytest
import quantised_checkpoints as made
from quantised_checkpoints import stored
from quantised_faults import Change, Q, error_of, zeros

import llamaprobe as lp

DAMAGED: dict[str, tuple[str, Change, str]] = {
    "no scale": (
        "ct-fp8-channel",
        {f"{Q}.weight_scale": None},
        r"tensor model\.layers\.0\.self_attn\.q_proj\.weight_scale is missing; of this module the"
        r" files have weight$",
    ),
    "a scale of integers": (
        "ct-fp8-channel",
        {f"{Q}.weight_scale": zeros("I32", 64, 1)},
        r"weight_scale is I32; it must be F32 or BF16 or F16",
    ),
    "codes of another shape": (
        "ct-fp8-channel",
        {f"{Q}.weight": zeros("F8_E4M3", 48, 64)},
        r"model\.safetensors: tensor \"model.layers.0.self_attn.q_proj.weight\" has shape \[48, 64\];"
        r" the codes of a fp8 weight \[64, 48\]",
    ),
    "codes of one axis": (
        "fp8-tensor",
        {f"{Q}.weight": zeros("F8_E4M3", 64 * 48)},
        r"q_proj.weight\" has shape \[3072\]",
    ),
    "another dtype of 8 bits": (
        "fp8-tensor",
        {f"{Q}.weight": ("F8_E5M2", [64, 48], bytes(64 * 48))},
        r"q_proj\.weight is F8_E5M2; it must be F8_E4M3",
    ),
    "zeros of another shape": (
        "ct-int8-zeros",
        {f"{Q}.weight_zero_point": zeros("I8", 32, 1)},
        r"weight_zero_point\" has shape \[32, 1\]; the zeros of a int8 weight \[64, 48\] are \[64, 1\]",
    ),
    "zeros of another dtype": (
        "ct-int8-zeros",
        {f"{Q}.weight_zero_point": zeros("F32", 64, 1)},
        r"weight_zero_point\" has dtype F32; the zeros of int8 are I8",
    ),
    "no zeros": (
        "ct-int8-zeros",
        {f"{Q}.weight_zero_point": None},
        r"q_proj\.weight_zero_point is missing; of this module the files have weight, weight_scale",
    ),
    "packed zeros of another shape": (
        "ct-pack4-zeros",
        {f"{Q}.weight_zero_point": zeros("I32", 64, 2)},
        r"weight_zero_point\" has shape \[64, 2\]; the zeros of a int weight \[64, 48\] are \[8, 2\]",
    ),
    "packed zeros of no axis": (
        "ct-pack4",
        {f"{Q}.weight_zero_point": stored("I32", np.int32(8))},
        r"weight_zero_point is I32 \[\], not \[8, 3\] for 64 x 48 weights",
    ),
    "no order": (
        "ct-pack4-order",
        {f"{Q}.weight_g_idx": ("I32", [0, 1 << 40], b"")},
        r"weight_g_idx has 0 numbers for 48 columns",
    ),
    "no shape": (
        "ct-pack4",
        {f"{Q}.weight_shape": None},
        r"q_proj\.weight_shape is missing; of this module",
    ),
    "another shape": (
        "ct-pack4",
        {f"{Q}.weight_shape": stored("I64", np.array([64, 47]))},
        r"weight_shape is \[64, 47\]; the model has 64 x 48",
    ),
    "a shape of three numbers": (
        "ct-pack4",
        {f"{Q}.weight_shape": stored("I64", np.array([64, 48, 1]))},
        r"weight_shape has the shape \[3\]; it must be \[2\]",
    ),
    "a group that is not there": (
        "ct-pack4-order",
        {f"{Q}.weight_g_idx": stored("I32", np.arange(48) // 15)},
        r"q_proj\.weight_g_idx puts column 45 into group 3; there are 3 groups",
    ),
    "a weight that is there twice": (
        "ct-pack4",
        {f"{Q}.weight": zeros("BF16", 64, 48)},
        r"q_proj\.weight is there beside .*q_proj\.weight_packed, which is the same weight",
    ),
    "gptq: a weight that is there twice": (
        "gptq4-v1",
        {f"{Q}.weight": zeros("BF16", 64, 48)},
        r"q_proj\.weight is there beside .*q_proj\.qweight, which is the same weight",
    ),
    "gptq: no scales": ("gptq4-v1", {f"{Q}.scales": None}, r"q_proj\.scales is missing; of this"),
    "gptq: no zeros": ("gptq4-v1", {f"{Q}.qzeros": None}, r"q_proj\.qzeros is missing; of this"),
    "gptq: no order": ("gptq4-order", {f"{Q}.g_idx": None}, r"q_proj\.g_idx is missing; of this"),
    "gptq: no codes": (
        "gptq4-v1",
        {f"{Q}.qweight": None},
        r"q_proj\.weight is missing; the file has model\.layers\.0\.self_attn\.q_proj\.",
    ),
    "gptq: a negative group": (
        "gptq4-order",
        {f"{Q}.g_idx": stored("I32", np.full(48, -1))},
        r"q_proj\.g_idx puts column 0 into group -1; there are 3 groups",
    ),
    "gptq: a group too far": (
        "gptq4-order",
        {f"{Q}.g_idx": stored("I32", np.array([0] * 47 + [3]))},
        r"q_proj\.g_idx puts column 47 into group 3; there are 3 groups",
    ),
    "gptq: too few groups": (
        "gptq4-order",
        {f"{Q}.g_idx": zeros("I32", 47)},
        r"q_proj\.g_idx has 47 numbers for 48 columns",
    ),
    "gptq: groups of 64 bits": (
        "gptq4-order",
        {f"{Q}.g_idx": zeros("I64", 48)},
        r"q_proj\.g_idx is I64; it must be I32",
    ),
    "gptq: codes of 64 bits": (
        "gptq4-v1",
        {f"{Q}.qweight": zeros("I64", 6, 64)},
        r"q_proj\.qweight is I64; it must be I32",
    ),
    "awq: no zeros": ("awq", {f"{Q}.qzeros": None}, r"q_proj\.qzeros is missing; of this module"),
    "fp8: no scale": (
        "fp8-block",
        {f"{Q}.weight_scale_inv": None},
        r"q_proj\.weight_scale_inv is missing; of this module the files have weight$",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file(tmp_path: Path, case: str):
    name, changes, printed = DAMAGED[case]
    made.FORMATS[name].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.FormatError, changes)
    assert re.search(printed, message), message


def test_words_that_the_columns_do_not_fill(tmp_path: Path):
    made.FORMATS["gptq4-v1"].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.FormatError, {"intermediate_size": 84})
    assert "cannot hold 84 x 48 codes of 4 bits in whole words" in message
