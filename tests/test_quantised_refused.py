"""Quantised formats that cannot be run: each is refused by name, with what to do instead."""

import json
import re
from pathlib import Path

import models
import pytest
import quantised_checkpoints as made
from quantised_faults import BLOCK, WEIGHTS, Change, Q, error_of, zeros

import llamaprobe as lp
from llamaprobe.checkpoint.quantised.refused import _METHODS

UNSUPPORTED: dict[str, tuple[str, Change, str]] = {
    "NVFP4": (
        "ct-fp8-channel",
        {f"{BLOCK}.format": "nvfp4-pack-quantized"},
        r'format is "nvfp4-pack-quantized": NVFP4 cannot be run; load it with transformers',
    ),
    "NVFP4 by its tensors": (
        "ct-pack4",
        {
            f"{Q}.weight_packed": zeros("U8", 64, 24),
            f"{Q}.weight_scale": zeros("F8_E4M3", 64, 3),
            f"{Q}.weight_global_scale": zeros("F32", 1),
        },
        r"q_proj\.weight_packed is U8: NVFP4 cannot be run",
    ),
    "MXFP4 by its tensors": (
        "ct-pack4",
        {f"{Q}.weight_packed": zeros("U8", 64, 24), f"{Q}.weight_scale": zeros("U8", 64, 2)},
        r"q_proj\.weight_packed is U8: MXFP4 cannot be run",
    ),
    "MXFP8 by its scales": (
        "ct-fp8-channel",
        {f"{Q}.weight_scale": zeros("U8", 64, 2)},
        r"q_proj\.weight_scale is U8: MXFP8 cannot be run",
    ),
    "2:4 sparsity": (
        "ct-fp8-channel",
        {f"{BLOCK}.sparsity_config": {"format": "sparse-24-bitmask"}},
        r"sparsity_config\.format is .*: sparse weights cannot be run",
    ),
    "a marlin format": (
        "ct-pack4",
        {f"{BLOCK}.format": "marlin-24"},
        r'format is "marlin-24": 2:4 sparsity in the order of a GPU kernel cannot be run',
    ),
    "an unknown format": (
        "ct-pack4",
        {f"{BLOCK}.format": "zip"},
        r'format is "zip": only float-quantized, .* can be run',
    ),
    "transforms": (
        "ct-pack4",
        {f"{BLOCK}.transform_config": {"config_groups": {"R4": {"type": "hadamard"}}}},
        r"transform_config is .*: transforms while a model runs cannot be run",
    ),
    "scales of tokens": (
        "ct-fp8-channel",
        {f"{WEIGHTS}.strategy": "token"},
        r'strategy is "token": only tensor, channel, group and block',
    ),
    "a pattern": (
        "ct-fp8-channel",
        {f"{BLOCK}.ignore": [r"re:(a)\1"]},
        r'ignore is .*: "\(a\)\\\\1" is not a pattern that can be read, from character 5 on',
    ),
    "E8M0": (
        "fp8-block",
        {f"{Q}.weight_scale_inv": ("F8_E8M0", [2, 2], bytes(4))},
        r"weight_scale_inv is F8_E8M0: scales that are powers of two in 8 bits cannot be run;"
        r" convert them to F32, which holds each exactly",
    ),
    "E5M2": ("fp8-block", {f"{BLOCK}.fmt": "e5m2"}, r'fmt is "e5m2": only e4m3 can be run'),
    "marlin of GPTQ": (
        "gptq4-v1",
        {f"{BLOCK}.checkpoint_format": "marlin"},
        r'checkpoint_format is "marlin": only gptq and gptq_v2 can be run; convert it',
    ),
    "old marlin": ("gptq4-v1", {f"{BLOCK}.is_marlin_format": True}, r"order of a GPU kernel"),
    "words of 8 bits": ("gptq4-v1", {f"{BLOCK}.pack_dtype": "int8"}, r"only int32 can be run"),
    "AWQ of 8 bits": ("awq", {f"{BLOCK}.bits": 8}, r"bits is 8: only 4 bits can be run; quantise"),
    "AWQ without zeros": (
        "awq",
        {f"{BLOCK}.zero_point": False},
        r"zero_point is false: only true can be run",
    ),
    "gemv by its shape": (
        "awq",
        {f"{Q}.qweight": zeros("I32", 64, 6)},
        r"qweight is in the order of gemv, which cannot be run; quantise the model again",
    ),
    "gemv_fast by its dtype": (
        "awq",
        {f"{Q}.qweight": ("I16", [16, 48], bytes(2 * 16 * 48))},
        r"qweight is in the order of gemv_fast or llm-awq, which cannot be run",
    ),
    "marlin by its shape": (
        "awq",
        {f"{Q}.qweight": zeros("I32", 3, 128)},
        r"qweight is in the order of marlin, which cannot be run",
    ),
    "GPTQ beside ModelOpt": (
        "gptq4-v1",
        {BLOCK: {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
        r'quant_algo is "NVFP4": of ModelOpt only FP8 can be run',
    ),
}
UNSUPPORTED |= {
    f"AWQ {version}": ("awq", {f"{BLOCK}.version": version}, f'version is "{version}": only gemm')
    for version in ("gemv", "GEMV_fast", "marlin", "llm-awq", "exllama")
}
UNSUPPORTED |= {
    name: ("gptq4-v1", {BLOCK: {"quant_method": name}}, f"{name} weights cannot be run: .+; .+; of")
    for name in (*_METHODS, "BitsAndBytes", "new-method")
}
UNSUPPORTED |= {
    "bitsandbytes by its keys": (
        "gptq4-v1",
        {BLOCK: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
        r"bitsandbytes weights cannot be run: its codes are numbers of a table.*dequantize\(\)",
    ),
    "MLX by its keys": (
        "gptq4-v1",
        {BLOCK: ..., "quantization": {"group_size": 64, "bits": 4}},
        r"quantization: mlx weights cannot be run: .*mlx_lm.convert --dequantize",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_a_format_that_cannot_be_run(tmp_path: Path, case: str):
    name, changes, printed = UNSUPPORTED[case]
    made.FORMATS[name].make(tmp_path, made.config_of())
    message = error_of(tmp_path, lp.UnsupportedError, changes)
    assert re.search(printed, message, re.IGNORECASE), message


@pytest.mark.parametrize("bits", [2, 3])
def test_gptq_of_few_bits(tmp_path: Path, bits: int):
    """Three bits straddle words; the shapes show them too."""
    config = made.config_of(hidden_size=64, intermediate_size=96)
    made.FORMATS["gptq4-v1"].make(tmp_path, config)
    words = 64 * bits // 32
    changes = {f"{Q}.qweight": zeros("I32", words, 64), f"{BLOCK}.bits": bits}
    message = error_of(tmp_path, lp.UnsupportedError, changes)
    assert f"qweight holds codes of {bits} bits, which cannot be run; requantise" in message


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("order", ["in a word", "across words"])
def test_compressed_tensors_of_odd_widths(tmp_path: Path, bits: int, order: str):
    """Two releases pack them differently; the width of the words shows which."""
    made.FORMATS["ct-pack4"].make(tmp_path, made.config_of())
    loose, dense = -(-48 // (32 // bits)), -(-48 * bits // 32)
    words = loose if order == "in a word" else dense
    changes = {f"{Q}.weight_packed": zeros("I32", 64, words), f"{WEIGHTS}.num_bits": bits}
    message = error_of(tmp_path, lp.UnsupportedError, changes)
    shown = order if loose != dense else "in a word"
    assert re.search(f"weight_packed holds codes of {bits} bits, .*{shown}: only 4 and 8", message)


def test_a_method_is_refused_before_the_weights_are_sought(tmp_path: Path):
    config = models.make_config(quantization_config={"quant_method": "bitsandbytes"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(lp.UnsupportedError, match="bitsandbytes weights cannot be run"):
        lp.load(tmp_path)
