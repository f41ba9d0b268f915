"""Tiny checkpoints in the formats of quantised safetensors, and the same models in float32.

A format quantises one matrix: it returns its stored tensors and the float32 values that these mean,
by the formula on the codes before they are packed. So a fault in the layout cannot hide.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import numpy as np
from quantise import awq_words, words_of
from weight_files import write_safetensors

from llamaprobe.config import parse_config
from llamaprobe.families.tensors import checkpoint_shapes

Parts = dict[str, tuple[str, list[int], bytes]]  # dtype, shape, bytes

_WORDS = {"I8": "i1", "I32": "<i4", "I64": "<i8", "F8_E4M3": "u1", "U8": "u1"}

QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "attention_bias": ...}
PHI3 = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 48, "intermediate_size": 80},
    "qwen2": {**QWEN2, "hidden_size": 64, "head_dim": ..., "intermediate_size": 96},
    "phi3": {**PHI3, "hidden_size": 64, "head_dim": ..., "intermediate_size": 72},
}


def config_of(family: str = "llama", **keys: Any) -> dict[str, Any]:
    return models.make_config(num_hidden_layers=2, vocab_size=104, **(FAMILIES[family] | keys))


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return dict(checkpoint_shapes(parse_config(config, "config.json")))


def stored(dtype: str, values: np.ndarray) -> tuple[str, list[int], bytes]:
    """An entry of `write_safetensors`."""
    if dtype in _WORDS:
        data = np.ascontiguousarray(values).astype(_WORDS[dtype])
    else:
        data = models.to_bits(np.asarray(values, np.float32), dtype)
    return dtype, list(np.shape(values)), data.tobytes()


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """To the nearest number of a dtype."""
    return models.from_bits(models.to_bits(values, dtype), dtype).reshape(np.shape(values))


def e4m3() -> np.ndarray:
    """The value of each code of F8_E4M3."""
    codes = np.arange(256)
    sign, exponent, mantissa = 1 - 2.0 * (codes >> 7), codes >> 3 & 15, codes & 7
    values = np.where(exponent == 0, mantissa / 512, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    values[codes & 127 == 127] = np.nan
    return (sign * values).astype(np.float32)


def spread(table: np.ndarray, rows: int, cols: int, shape: tuple[int, ...]) -> np.ndarray:
    """A table of blocks as a matrix."""
    return table.repeat(rows, 0).repeat(cols, 1)[: shape[0], : shape[1]]


@dataclass
class Format:
    """One way to quantise, with what config.json says of it."""

    quantise: Callable[[np.ndarray, np.random.Generator], tuple[Parts, np.ndarray]]
    block: dict[str, Any]
    head: bool = False
    """Whether the head is quantised too."""
    embedding: bool = False
    key: str = "quantization_config"
    side: dict[str, Any] = field(default_factory=dict)
    """Files beside config.json."""
    leaves: str = ""
    """Modules of this name stay float."""
    extra: Callable[[str], Parts] = lambda name: {}
    """Further tensors of a module, by their last words."""

    def names(self, config: dict[str, Any]) -> list[str]:
        """The matrices that it quantises."""
        return [
            name
            for name, shape in shapes_of(config).items()
            if len(shape) == 2
            and (self.embedding or "embed_tokens" not in name)
            and (self.head or "lm_head" not in name)
            and not (self.leaves and f".{self.leaves}." in name)
        ]

    def make(
        self, folder: Path, config: dict[str, Any], n_shards: int = 1, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Write the checkpoint and return the values of all its weights."""
        random = np.random.default_rng(seed)
        weights = models.make_weights(config, seed=seed, shapes=shapes_of(config))
        tensors: Parts = {}
        quantised = set(self.names(config))
        for name, values in list(weights.items()):
            if name not in quantised:
                tensors[name] = stored("BF16", values)
                continue
            module = name.removesuffix("weight")
            parts, weights[name] = self.quantise(values, random)
            parts |= self.extra(name)
            tensors |= {module + suffix: part for suffix, part in parts.items()}
        write(folder, config | ({self.key: self.block} if self.block else {}), tensors, n_shards)
        for file, content in self.side.items():
            (folder / file).write_text(json.dumps(content))
        return weights


def write(folder: Path, config: dict[str, Any], tensors: Parts, n_shards: int = 1) -> Path:
    """A folder of one file or of shards, which split modules."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    files: dict[str, str] = {}
    for i in range(n_shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = dict(list(tensors.items())[i::n_shards])
        write_safetensors(folder / file, part)
        files |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def change(folder: Path, changes: dict[str, Any]) -> Path:
    """Replace tensors of the one file of a folder by name, or remove them (None)."""
    data = (folder / "model.safetensors").read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n_header])
    tensors: Parts = {}
    for name, entry in header.items():
        first, end = (8 + n_header + offset for offset in entry["data_offsets"])
        tensors[name] = entry["dtype"], entry["shape"], data[first:end]
    tensors |= changes
    write_safetensors(
        folder / "model.safetensors", {name: t for name, t in tensors.items() if t is not None}
    )
    return folder


def change_config(folder: Path, changes: dict[str, Any], file: str = "config.json") -> Path:
    """Replace keys by their path, such as "quantization_config.bits", or remove them (...)."""
    content = json.loads((folder / file).read_text())
    for path, value in changes.items():
        *outer, key = path.split(".")
        at = content
        for name in outer:
            at = at[name]
        at[key] = value
        if value is ...:
            del at[key]
    (folder / file).write_text(json.dumps(content))
    return folder


# ---- the formats ----


def fp8(
    scales: str, rows: int = 0, cols: int = 0, name: str = "weight_scale", one: tuple[int, ...] = ()
) -> Callable:
    """F8_E4M3 with scales of a dtype for blocks; 0: all rows or columns. `one`: the shape of a scale
    for all."""

    def quantise(values: np.ndarray, random: np.random.Generator) -> tuple[Parts, np.ndarray]:
        n_rows, n_cols = values.shape
        r, c = rows or n_rows, cols or n_cols
        table = random.uniform(0.5, 1.5, (-(-n_rows // r), -(-n_cols // c))) / 1024
        table = rounded(table.astype(np.float32), scales)
        codes = random.integers(0, 256, values.shape, np.uint8)
        codes[codes & 127 == 127] = 0x80
        with np.errstate(all="ignore"):
            meant = e4m3()[codes] * spread(table, r, c, values.shape)
        shaped = table.reshape(one) if not rows else table
        return {"weight": stored("F8_E4M3", codes), name: stored(scales, shaped)}, meant

    return quantise


def int8(scales: str = "BF16", per_row: bool = True, zeros: bool = False) -> Callable:
    def quantise(values: np.ndarray, random: np.random.Generator) -> tuple[Parts, np.ndarray]:
        shape = (len(values), 1) if per_row else (1,)
        table = rounded(random.uniform(0.001, 0.004, shape).astype(np.float32), scales)
        codes = random.integers(-128, 128, values.shape, np.int8)
        offsets = random.integers(-20, 20, shape, np.int8) if zeros else np.zeros(shape, np.int8)
        parts = {"weight": stored("I8", codes), "weight_scale": stored(scales, table)}
        if zeros:
            parts["weight_zero_point"] = stored("I8", offsets)
        meant = (codes.astype(np.float32) - offsets.astype(np.float32)) * table
        return parts, meant

    return quantise


def _codes(
    values: np.ndarray, random: np.random.Generator, bits: int, group: int, scales: str, sym: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random codes [out, in], scales and zeros [out, groups]."""
    n_groups = -(-values.shape[1] // group)
    codes = random.integers(0, 1 << bits, values.shape, np.uint8)
    table = random.uniform(0.1, 0.3, (len(values), n_groups)).astype(np.float32) / (1 << bits)
    zeros = random.integers(0, 1 << bits, table.shape).astype(np.uint8)
    zeros[:] = 1 << (bits - 1) if sym else zeros
    return codes, rounded(table, scales), zeros


def _meant(
    codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group_of: np.ndarray
) -> np.ndarray:
    steps = codes.astype(np.float32) - zeros.astype(np.float32)[:, group_of]
    return steps * scales[:, group_of]


def packed_int(
    bits: int, group: int = 0, sym: bool = True, scales: str = "BF16", order: bool = False
) -> Callable:
    """compressed-tensors pack-quantized. group 0: one for each row."""

    def quantise(values: np.ndarray, random: np.random.Generator) -> tuple[Parts, np.ndarray]:
        size = group or values.shape[1]
        codes, table, zeros = _codes(values, random, bits, size, scales, sym)
        group_of = np.arange(values.shape[1]) // size
        if order:
            group_of = random.permutation(group_of)
        parts = {
            "weight_packed": stored("I32", words_of(codes, bits)),
            "weight_scale": stored(scales, table),
            "weight_shape": stored("I64", np.array(values.shape)),
        }
        if not sym:
            parts["weight_zero_point"] = stored("I32", words_of(zeros.T, bits).T)
        if order:
            parts["weight_g_idx"] = stored("I32", group_of)
        return parts, _meant(codes, zeros, table, group_of)

    return quantise


def gptq(
    bits: int,
    group: int,
    sym: bool = True,
    v1: bool = True,
    order: bool = False,
    scales: str = "F16",
    g_idx: bool = True,
) -> Callable:
    def quantise(values: np.ndarray, random: np.random.Generator) -> tuple[Parts, np.ndarray]:
        size = values.shape[1] if group == -1 else group
        codes, table, zeros = _codes(values, random, bits, size, scales, sym)
        group_of = np.arange(values.shape[1]) // size
        if order:
            group_of = random.permutation(group_of)
        parts = {
            "qweight": stored("I32", words_of(codes, bits).T),
            "qzeros": stored("I32", words_of((zeros - v1 & (1 << bits) - 1).T, bits)),
            "scales": stored(scales, table.T),
        }
        if g_idx:
            parts["g_idx"] = stored("I32", group_of)
        return parts, _meant(codes, zeros, table, group_of)

    return quantise


def awq(group: int, scales: str = "F16") -> Callable:
    def quantise(values: np.ndarray, random: np.random.Generator) -> tuple[Parts, np.ndarray]:
        size = values.shape[1] if group == -1 else group
        codes, table, zeros = _codes(values, random, 4, size, scales, False)
        group_of = np.arange(values.shape[1]) // size
        parts = {
            "qweight": stored("I32", awq_words(codes.T)),
            "qzeros": stored("I32", awq_words(zeros.T)),
            "scales": stored(scales, table.T),
        }
        return parts, _meant(codes, zeros, table, group_of)

    return quantise


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    """A quantization_config of compressed-tensors with one group."""
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "symmetric": True, **weights},
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def gptq_config(bits: int, group: int, **keys: Any) -> dict[str, Any]:
    block = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False}
    return block | {"sym": True, "checkpoint_format": "gptq"} | keys


def awq_config(group: int, **keys: Any) -> dict[str, Any]:
    block = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True}
    return block | {"version": "gemm", "modules_to_not_convert": None} | keys


_FLOAT = {"type": "float", "num_bits": 8}
_BLOCK = {"weight_block_size": [32, 32], "activation_scheme": "dynamic"}

FORMATS: dict[str, Format] = {
    "ct-fp8-tensor": Format(
        fp8("F32", one=(1,)), compressed("float-quantized", **_FLOAT, strategy="tensor")
    ),
    "ct-fp8-channel": Format(
        fp8("BF16", 1), compressed("float-quantized", **_FLOAT, strategy="channel")
    ),
    "ct-fp8-block": Format(
        fp8("F32", 32, 32),
        compressed("float-quantized", **_FLOAT, strategy="block", block_structure=[32, 32]),
    ),
    "ct-fp8-naive-head": Format(
        fp8("F16", 1),
        compressed("naive-quantized", **_FLOAT, strategy="channel") | {"ignore": []},
        head=True,
    ),
    "ct-int8-channel": Format(int8(), compressed("int-quantized", type="int", strategy="channel")),
    "ct-int8-tensor": Format(
        int8("F32", per_row=False), compressed("int-quantized", type="int", strategy="tensor")
    ),
    "ct-int8-zeros": Format(
        int8("F32", zeros=True),
        compressed("int-quantized", type="int", strategy="channel", symmetric=False),
    ),
    "ct-pack4": Format(
        packed_int(4, 16),
        compressed("pack-quantized", type="int", num_bits=4, strategy="group", group_size=16),
    ),
    "ct-pack4-zeros": Format(
        packed_int(4, 32, sym=False, scales="F16"),
        compressed(
            "pack-quantized",
            type="int",
            num_bits=4,
            group_size=32,
            symmetric=False,
            strategy="group",
        ),
    ),
    "ct-pack4-order": Format(
        packed_int(4, 16, order=True),
        compressed(
            "pack-quantized",
            type="int",
            num_bits=4,
            strategy="group",
            group_size=16,
            actorder="group",
        ),
    ),
    "ct-pack8-group": Format(
        packed_int(8, 16),
        compressed("pack-quantized", type="int", strategy="group", group_size=16),
    ),
    "ct-pack8-channel": Format(
        packed_int(8), compressed("pack-quantized", type="int", strategy="channel")
    ),
    "ct-int8-embedding": Format(
        int8(),
        compressed("int-quantized", type="int", strategy="channel") | {"ignore": []},
        head=True,
        embedding=True,
    ),
    "ct-old-key": Format(
        fp8("BF16", 1),
        compressed("float-quantized", **_FLOAT, strategy="channel"),
        key="compression_config",
    ),
    "fp8-block": Format(
        fp8("F32", 32, 32, "weight_scale_inv"), {"quant_method": "fp8", "fmt": "e4m3", **_BLOCK}
    ),
    "fp8-tensor": Format(
        fp8("F32"),
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["re:.*lm_head"]},
        extra=lambda name: {"input_scale": stored("F32", np.float32(0.5))},
    ),
    "fp8-tensor-inverse": Format(
        fp8("F32", name="weight_scale_inv"),
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": None},
    ),
    "fbgemm": Format(
        fp8("F32", 1),
        {
            "quant_method": "fbgemm_fp8",
            "activation_scale_ub": 1200.0,
            "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn"],
        },
        leaves="layers.0.self_attn",
        extra=lambda name: {"input_scale_ub": stored("F32", np.ones(1))},
    ),
    "modelopt": Format(
        fp8("F32"),
        {},
        side={
            "hf_quant_config.json": {
                "producer": {"name": "modelopt"},
                "quantization": {
                    "quant_algo": "FP8",
                    "kv_cache_quant_algo": "FP8",
                    "exclude_modules": ["lm_head"],
                },
            }
        },
        extra=lambda name: {"input_scale": stored("F32", np.float32(0.5))},
    ),
    "gptq4-v1": Format(gptq(4, 16), gptq_config(4, 16)),
    "gptq4-v1-zeros": Format(gptq(4, 16, sym=False), gptq_config(4, 16, sym=False)),
    "gptq4-v2-zeros": Format(
        gptq(4, 16, sym=False, v1=False),
        gptq_config(4, 16, sym=False, checkpoint_format="gptq_v2"),
    ),
    "gptq4-v2-says-v1": Format(gptq(4, 16, v1=False), gptq_config(4, 16)),
    "gptq4-order": Format(gptq(4, 16, order=True), gptq_config(4, 16, desc_act=True)),
    "gptq8-order-zeros": Format(
        gptq(8, 16, sym=False, order=True), gptq_config(8, 16, desc_act=True, sym=False)
    ),
    "gptq8-whole": Format(gptq(8, -1, scales="BF16"), gptq_config(8, -1)),
    "gptq4-head": Format(
        gptq(4, 32, g_idx=False, scales="F32"), gptq_config(4, 32, lm_head=True), head=True
    ),
    "gptq4-beside": Format(
        gptq(4, 16),
        {},
        side={
            "quantize_config.json": {"bits": 4, "group_size": 16, "desc_act": False, "sym": True}
        },
    ),
    "gptq4-dynamic": Format(
        gptq(4, 16),
        gptq_config(
            8,
            16,
            dynamic={
                r"-:.*\.self_attn\..*": {},
                r".*down.*": {"bits": 4, "group_size": 16},
                r".*mlp.*": {"bits": 4},
            },
        ),
        leaves="self_attn",
    ),
    "awq": Format(awq(16), awq_config(16)),
    "awq-whole": Format(awq(-1, "BF16"), awq_config(-1, version="GEMM")),
    "awq-beside": Format(
        awq(16),
        {},
        side={
            "quant_config.json": {
                "zero_point": True,
                "q_group_size": 16,
                "w_bit": 4,
                "version": "GEMM",
            }
        },
    ),
    "awq-leaves": Format(
        awq(16), awq_config(16, modules_to_not_convert=["self_attn"]), leaves="self_attn"
    ),
}


def formats(*families: str) -> Iterator[tuple[str, str]]:
    for family in families:
        for name in FORMATS:
            yield name, family


_whole = FORMATS["ct-int8-embedding"].block["config_groups"]["group_0"]
_whole["targets"] = ["re:.*_proj$", "Embedding", "lm_head"]
