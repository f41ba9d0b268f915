"""Random small checkpoints as Hugging Face folders, made and read with NumPy alone.

The weights depend on the seed and on nothing else: raw 64-bit words of Philox, whose algorithm is
fixed, are added up to numbers that look normal, in operations that are exact. So recorded vectors
stay true for any NumPy. `read_checkpoint` is a second reader, written for tests only, so that a
fault in the package's own reader cannot hide.
"""

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# A chat with SmolLM2: its system prompt, "What is the capital of France?", and the answer.
CAPITAL_OF_FRANCE = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407),
    *(19712, 8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531),
    *(198, 504, 3575, 282, 4649, 314, 7042, 30, 2),
]

LINEAR_ROPE = {"rope_type": "linear", "factor": 4.0}

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Case:
    """One model of the config space, and how long a prompt it is tried with."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    dtype: str = "BF16"
    n_shards: int = 1
    n_tokens: int = 19
    odd_start: bool = False

    def make(self, folder: Path) -> tuple[Path, list[int]]:
        """The checkpoint in `folder`, and token ids."""
        config = make_config(**self.config)
        weights = make_weights(config, dtype=self.dtype)
        write_checkpoint(folder, config, weights, self.dtype, self.n_shards, self.odd_start)
        return folder, make_token_ids(config, self.n_tokens)


def cases() -> list[Case]:
    """The config space: heads, head_dim, rope, biases, head, dtype, shards, and sizes on both sides
    of the 64 terms after which the core begins a new partial sum."""
    new_style = {"rope_theta": ..., "rope_scaling": ...}
    llama3 = {**LLAMA3_ROPE, "rope_theta": 500000.0, "factor": 32.0}
    return [
        Case("gqa"),
        Case("mha", {"num_key_value_heads": 4}),
        Case("mqa", {"num_key_value_heads": 1}),
        Case("kv-heads-by-default", {"num_key_value_heads": ...}),
        Case("head-dim-by-default", {"head_dim": ..., "hidden_size": 64}),
        Case("wide-heads", {"head_dim": 32}),
        Case("narrow-heads", {"head_dim": 8}),
        Case("width-no-multiple-of-heads", {"hidden_size": 50}),
        Case(
            "odd-sizes",
            {"hidden_size": 37, "intermediate_size": 53, "num_attention_heads": 1}
            | {"num_key_value_heads": 1, "vocab_size": 101},
        ),
        Case("tied", {"tie_word_embeddings": True}),
        Case("attention-bias", {"attention_bias": True}),
        Case("mlp-bias", {"mlp_bias": True}),
        Case("linear-rope", {"rope_scaling": LINEAR_ROPE}),
        Case("llama3-rope", {"rope_scaling": LLAMA3_ROPE, "head_dim": 32}),
        Case("new-style", new_style | {"rope_parameters": llama3, "head_dim": 32}),
        Case("large-eps", {"rms_norm_eps": 0.01}),
        Case("f16", dtype="F16"),
        Case("f32", dtype="F32"),
        Case("sharded", n_shards=3),
        Case("odd-start", odd_start=True),
        Case("long-sums", {"hidden_size": 320, "intermediate_size": 530, "num_hidden_layers": 2}),
        Case("long-prompt", {"num_hidden_layers": 2, "max_position_embeddings": 512}, n_tokens=270),
    ]


def recorded_cases() -> list[Case]:
    """The models whose values tools/record_vectors.py keeps in tests/data."""
    small = {"num_hidden_layers": 2}
    bias = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    block = {**LLAMA3_ROPE, "rope_theta": 500000.0}
    new_style = {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": block}
    return [
        Case("gqa-bf16", small, n_tokens=9),
        Case("mqa-f16-bias-tied", small | bias | {"num_key_value_heads": 1}, "F16", n_tokens=9),
        Case("llama3-f32", small | new_style | {"head_dim": 8}, "F32", n_tokens=11),
    ]


def make_config(**overrides: Any) -> dict[str, Any]:
    """A config.json for a small Llama: GQA, untied, no rope scaling; `key=...` leaves a key out."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 97,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config.update(overrides)
    return {key: value for key, value in config.items() if value is not ...}


def k_quant_config() -> dict[str, Any]:
    """The Llama of tests/data/llama_cpp_*.gguf: K types are blocks of 256 columns."""
    return make_config(
        hidden_size=256,
        intermediate_size=256,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_hidden_layers=1,
        vocab_size=64,
        tie_word_embeddings=True,
    )


def weight_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama checkpoint by its Hugging Face name."""
    d_model, d_ff = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or d_model // config["num_attention_heads"]
    q_width = config["num_attention_heads"] * head_dim
    kv_width = (config.get("num_key_value_heads") or config["num_attention_heads"]) * head_dim
    embed = (config["vocab_size"], d_model)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": embed}
    for i in range(config["num_hidden_layers"]):
        attention = {"q": (q_width, d_model), "k": (kv_width, d_model), "v": (kv_width, d_model)}
        attention["o"] = (d_model, q_width)
        mlp = {"gate": (d_ff, d_model), "up": (d_ff, d_model), "down": (d_model, d_ff)}
        parts = (("self_attn", attention, "attention_bias"), ("mlp", mlp, "mlp_bias"))
        for module, matrices, bias in parts:
            for name, shape in matrices.items():
                shapes[f"model.layers.{i}.{module}.{name}_proj.weight"] = shape
                if config.get(bias):
                    shapes[f"model.layers.{i}.{module}.{name}_proj.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{norm}.weight"] = (d_model,)
    shapes["model.norm.weight"] = (d_model,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = embed
    return shapes


def make_weights(
    config: dict[str, Any],
    seed: int = 0,
    dtype: str = "BF16",
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """float32 arrays that `dtype` holds exactly; matrices keep the size of values. `shapes`: by name,
    those of a Llama by default."""
    weights = {}
    for i, (name, shape) in enumerate((shapes or weight_shapes(config)).items()):
        values = _almost_normal(math.prod(shape), seed, i).reshape(shape)
        if name.endswith("norm.weight"):
            values = 1 + values / 8
        elif name.endswith(".bias"):
            values = values / 4
        elif name != "model.embed_tokens.weight":  # a power of two, so that the product is exact
            gain = 4 if name.endswith("q_proj.weight") else 1  # so that attention looks somewhere
            values = values * np.float32(gain * 2.0 ** -round(math.log2(math.sqrt(shape[1]))))
        weights[name] = from_bits(to_bits(values, dtype), dtype).reshape(shape)
    return weights


def make_token_ids(config: dict[str, Any], n_tokens: int, seed: int = 0) -> list[int]:
    """Ids over the whole vocabulary; the first two are the same, as are the last and the first."""
    words = np.random.Philox(key=[seed, 2**32]).random_raw(n_tokens)
    ids = [int(word % config["vocab_size"]) for word in words]
    return [ids[0], *ids[: n_tokens - 2], ids[0]] if n_tokens > 1 else ids


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, np.ndarray],
    dtype: str = "BF16",
    n_shards: int = 1,
    odd_start: bool = False,
) -> Path:
    """config.json and one safetensors file, or shards and their index; `odd_start` puts the data at
    an odd offset, which the format allows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(weights, dtype, odd_start))
        return folder
    names = list(weights)
    files: dict[str, str] = {}
    for shard in range(n_shards):
        file = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::n_shards]}
        files |= dict.fromkeys(part, file)
        (folder / file).write_bytes(safetensors_bytes(part, dtype, odd_start))
    total = sum(weights[name].size * _BYTES[dtype] for name in names)
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def safetensors_bytes(weights: dict[str, np.ndarray], dtype: str, odd_start: bool = False) -> bytes:
    """A whole safetensors file; every tensor of the same dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data, at = [], 0
    for name, values in weights.items():
        data.append(to_bits(values, dtype).tobytes())
        span = [at, at + len(data[-1])]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": span}
        at = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + odd_start)
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder's safetensors files as float32."""
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        data = np.memmap(file, np.uint8, "r")
        (n_header,) = struct.unpack("<Q", data[:8].tobytes())
        header = json.loads(data[8 : 8 + n_header].tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, end = (8 + n_header + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(data[first:end].tobytes(), f"<u{_BYTES[entry['dtype']]}")
            weights[name] = from_bits(bits, entry["dtype"]).reshape(entry["shape"])
    return weights


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Finite float32 to the words of a dtype, little endian, rounded to nearest even."""
    values = np.ascontiguousarray(values, np.float32).ravel()
    if dtype == "F32":
        return values.view("<u4")
    if dtype == "F16":
        return values.astype("<f2").view("<u2")
    word = values.view(np.uint32).astype(np.uint64)
    return ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype("<u2")


def from_bits(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Words of a dtype to float32, exactly."""
    if dtype == "F32":
        return bits.view("<f4").astype(np.float32)
    if dtype == "F16":
        return bits.view("<f2").astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _almost_normal(n: int, seed: int, stream: int) -> np.ndarray:
    """float32 [n] with mean 0 and deviation 0.999: the sum of four 16-bit words of one raw word.

    The sum is an integer below 2^18, exact in float32, of deviation 65536 / sqrt(3) = 37837.
    """
    words = np.random.Philox(key=[seed, stream]).random_raw(n)
    total = words.view("<u2").reshape(n, 4).sum(axis=1, dtype=np.int64)
    return (total - 131070).astype(np.float32) / np.float32(37888)
