"""Weights against what the libraries of their formats dequantise: tests/data/quantised.npz."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import quantised_checkpoints as made

import llamaprobe as lp

RECORDED = np.load(Path(__file__).parent / "data" / "quantised.npz")
MODULE = "model.layers.1.self_attn.k_proj"  # [32, 48]
_INT = {"type": "int", "symmetric": False}

# A model of the same format, in which the recorded tensors replace those of one matrix.
FORMATS = {
    "ct-fp8-tensor": made.FORMATS["ct-fp8-tensor"],
    "ct-fp8-channel": made.FORMATS["ct-fp8-channel"],
    "ct-fp8-block": made.FORMATS["ct-fp8-block"],
    "ct-int8-channel": made.FORMATS["ct-int8-channel"],
    "ct-int8-zeros": made.FORMATS["ct-int8-zeros"],
    "ct-pack4": made.FORMATS["ct-pack4"],
    "ct-pack4-zeros": made.Format(
        made.packed_int(4, 16, sym=False),
        made.compressed("pack-quantized", **_INT, num_bits=4, strategy="group", group_size=16),
    ),
    "ct-pack8-zeros": made.Format(
        made.packed_int(8, sym=False), made.compressed("pack-quantized", **_INT, strategy="channel")
    ),
    "fp8-block": made.Format(
        made.fp8("F32", 16, 16, "weight_scale_inv"),
        {"quant_method": "fp8", "weight_block_size": [16, 16]},
    ),
    "gptq4": made.Format(made.gptq(4, 16, sym=False), made.gptq_config(4, 16, sym=False)),
    "gptq4-order": made.Format(
        made.gptq(4, 16, sym=False), made.gptq_config(4, 16, sym=False, desc_act=True)
    ),
    "gptq8": made.FORMATS["gptq8-order-zeros"],
    "awq": made.FORMATS["awq"],
}


def test_every_recorded_case_is_tested():
    assert {name.split("/")[0] for name in RECORDED.files} == FORMATS.keys()


@pytest.mark.parametrize("case", FORMATS)
def test_a_weight_is_what_its_library_makes_of_it(tmp_path: Path, case: str):
    FORMATS[case].make(tmp_path, made.config_of())
    parts = {}
    for name in RECORDED.files:
        at, suffix, *dtype = name.split("/")
        if at == case and dtype:
            words = RECORDED[name]
            parts[f"{MODULE}.{suffix}"] = dtype[0], list(words.shape), words.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lp.load(made.change(tmp_path, parts))
    found = model._checkpoint.packed[f"{MODULE}.weight"].core.read()
    assert found.shape == (32, 48)
    assert found.tobytes() == RECORDED[f"{case}/values"].tobytes()
