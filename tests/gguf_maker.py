"""GGUF files, and models in GGUF from Hugging Face's names: what llama.cpp's converter writes.

Written from the format's description with NumPy alone, apart from the package's own reader, so that
a fault in one does not hide in the other.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# ---- the container ----

_TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7}
_TYPES |= {"str": 8, "array": 9, "u64": 10, "i64": 11, "f64": 12}
_STRUCT = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f"}
_STRUCT |= {"bool": "?", "u64": "Q", "i64": "q", "f64": "d"}
GGML = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10}
GGML |= {"Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16, "IQ4_NL": 20, "IQ4_XS": 23}
GGML |= {"BF16": 30}


class Stored(NamedTuple):
    """A tensor as a file has it."""

    kind: str
    shape: tuple[int, ...]
    """As Hugging Face has it: [out, in]."""
    data: bytes


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Stored], align: int = 32
) -> Path:
    """A whole file. A number is u32 or f32, a list an array of these or of what its items are;
    (type, value) is that type."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _string(key) + _value(value)
    data = b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        head += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", GGML[tensor.kind], len(data))
        data += tensor.data + b"\0" * (-len(tensor.data) % align)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"\0" * (-len(head) % align) + data)
    return path


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    kind, value = value if isinstance(value, tuple) else (_kind(value), value)
    if kind == "array":
        item = _kind(value[0]) if value else "u32"
        body = b"".join(_plain(item, each) for each in value)
        return struct.pack("<IIQ", _TYPES[kind], _TYPES[item], len(value)) + body
    return struct.pack("<I", _TYPES[kind]) + _plain(kind, value)


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {bool: "bool", str: "str", float: "f32", int: "u32", list: "array"}
    return kinds[type(value)]


def _plain(kind: str, value: Any) -> bytes:
    return _string(value) if kind == "str" else struct.pack(f"<{_STRUCT[kind]}", value)


# ---- types ----

_BLOCKS = {"Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24)}
_BLOCKS |= {"Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176)}
_BLOCKS |= {"Q6_K": (256, 210), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "IQ2_XXS": (256, 66)}
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
_SCALES |= {"Q4_1": (0, 2), "Q5_1": (0, 2)}
_LARGEST = {"Q8_0": 128, "Q4_0": 8, "Q4_1": 8, "Q5_0": 16, "Q5_1": 16, "IQ4_NL": 128}
_LARGEST |= {
    "IQ2_XXS": 43,
    "Q2_K": 45,
    "Q3_K": 128,
    "Q4_K": 945,
    "Q5_K": 1953,
    "Q6_K": 4096,
    "IQ4_XS": 4096,
}


def stored(values: np.ndarray, kind: str) -> Stored:
    """Float values as F32, F16 or BF16, rounded to nearest even."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == "F32":
        data = values.astype("<f4")
    elif kind == "F16":
        data = values.astype("<f2")
    else:
        word = values.view(np.uint32).astype(np.uint64)
        data = ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype("<u2")
    return Stored(kind, values.shape, data.tobytes())


def random_blocks(shape: tuple[int, int], kind: str, seed: int) -> Stored:
    """Random codes, with scales that keep the values near 1 / sqrt(columns)."""
    n_values, n_bytes = _BLOCKS[kind]
    rng = np.random.default_rng([seed, GGML[kind]])
    n_blocks = shape[0] * shape[1] // n_values
    blocks = rng.integers(0, 256, (n_blocks, n_bytes), np.uint8)
    for at in _SCALES.get(kind, (0,)):
        size = 2 / _LARGEST[kind] / math.sqrt(shape[1])
        scales = (rng.uniform(0.5, 1, n_blocks) * size).astype("<f2")
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
    return Stored(kind, shape, blocks.tobytes())


# ---- models ----

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_AFTER = {  # of families with norms of what a part gives
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TURNED = ("llama", "mistral3", "smollm3", "granite")
_POST = ("gemma2", "gemma3", "olmo2", "exaone4")


def stored_name(name: str, architecture: str) -> str:
    """Hugging Face's name of a tensor -> that in a GGUF."""
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module, _, kind = name.rpartition(".")
    if module in top:
        return f"{top[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    names = _NAMES | (_AFTER if architecture in _POST else {})
    return f"blk.{layer}.{names[part]}.{kind}"


def turn(values: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows as an architecture of TURNED stores them: of each head 0, h / 2, 1, h / 2 + 1, ..."""
    halves = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def turn_back(values: np.ndarray, head_dim: int) -> np.ndarray:
    pairs = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def model_tensors(
    architecture: str,
    weights: Mapping[str, np.ndarray],
    head_dim: int,
    matrix: Callable[[str, np.ndarray], Stored],
) -> dict[str, Stored]:
    """The tensors of a model whose weights have Hugging Face's names. `matrix` stores a matrix, of
    its name and its values in the order of the file; vectors are F32."""
    tensors = {}
    for name, values in weights.items():
        if architecture in TURNED and name.endswith(
            ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")
        ):
            values = turn(values, head_dim)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + np.float32(1)
        kept = matrix(name, values) if values.ndim == 2 else stored(values, "F32")
        tensors[stored_name(name, architecture)] = kept
    return tensors


def model_metadata(
    architecture: str, keys: Mapping[str, Any], tokens: Sequence[str] = (), **own: Any
) -> dict[str, Any]:
    """What the converter writes of the keys of config.json that all families have, and `own`
    without the architecture before them."""
    heads = keys["num_attention_heads"]
    found: dict[str, Any] = {
        "context_length": keys["max_position_embeddings"],
        "embedding_length": keys["hidden_size"],
        "block_count": keys["num_hidden_layers"],
        "feed_forward_length": keys["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": keys.get("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": float(keys["rms_norm_eps"]),
    }
    if "rope_theta" in keys:
        found["rope.freq_base"] = float(keys["rope_theta"])
    if "head_dim" in keys:
        found |= dict.fromkeys(("attention.key_length", "attention.value_length"), keys["head_dim"])
    found = {key: value for key, value in (found | own).items() if value is not None}
    metadata: dict[str, Any] = {"general.architecture": architecture, "general.file_type": 0}
    metadata |= {f"{architecture}.{key}": value for key, value in found.items()}
    for key in ("bos_token_id", "eos_token_id"):
        if type(keys.get(key)) is int:
            metadata[f"tokenizer.ggml.{key}"] = keys[key]
    if tokens:
        metadata["tokenizer.ggml.tokens"] = list(tokens)
    return metadata


def rope_factors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """The divisors that the converter makes of a llama3 block."""
    inv = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    old, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wave = 2 * np.pi / inv
    smooth = (old / wave - low) / (high - low)
    found = np.where(wave > old / low, factor, 1 / ((1 - smooth) / factor + smooth))
    return np.where(wave < old / high, 1.0, found).astype(np.float32)
