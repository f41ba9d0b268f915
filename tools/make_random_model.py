"""Makes a checkpoint with the shapes of a real model and random bf16 values, for speed, memory and counts.

    python tools/make_random_model.py qwen3-0.6b OUT

OUT becomes a model folder of config.json and model.safetensors (1.2 to 7.7 GB). The values are one random
block over and over, each tensor from a place of its own, so that writing takes as long as the disk does:
matrices ~ N(0, 0.02), gains around their neutral value. A second run writes the same bytes.
"""

import argparse
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llamaprobe.config import Config, read_config
from llamaprobe.families.tensors import checkpoint_shapes

_BLOCK = (1 << 23) - 15  # a prime: no two rows of a matrix are alike


class Shape(NamedTuple):
    """config.json as on the hub, and the number of parameters that the model is known to have."""

    n_params: int
    keys: dict[str, Any]


SHAPES = {
    "qwen3-0.6b": Shape(
        596_049_920,
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "model_type": "qwen3",
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
    ),
    "gemma3-1b": Shape(
        999_885_952,
        {
            "architectures": ["Gemma3ForCausalLM"],
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-6,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
    ),
    "phi4-mini": Shape(
        3_836_021_760,
        {
            "architectures": ["Phi3ForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "model_type": "phi3",
            "num_attention_heads": 24,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0] * 48,
                "long_factor": [1 + i**2 / 50 for i in range(48)],
            },
            "rope_theta": 10000.0,
            "sliding_window": 262144,
            "tie_word_embeddings": True,
            "vocab_size": 200064,
        },
    ),
    "olmo2-1b": Shape(
        1_484_916_736,
        {
            "architectures": ["Olmo2ForCausalLM"],
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "model_type": "olmo2",
            "num_attention_heads": 16,
            "num_hidden_layers": 16,
            "num_key_value_heads": 16,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "vocab_size": 100352,
        },
    ),
}


def make(name: str, out: Path, filled: bool = True) -> Path:
    """The folder of a model of SHAPES. Not filled, its weights are a hole of the file system that
    reads as zeros: enough for what reads no values."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(SHAPES[name].keys, indent=2) + "\n")
    config = read_config(out)
    header, n_bytes = _header(config)
    with (out / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + n_bytes)
        for piece in _values(config) if filled else ():
            file.write(piece)
    return out


def _header(config: Config) -> tuple[bytes, int]:
    """The beginning of the file, and the number of bytes that follow it."""
    entries, end = {}, 0
    for tensor, shape in checkpoint_shapes(config):
        begin, end = end, end + 2 * math.prod(shape)
        entries[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


def _values(config: Config) -> Iterator[memoryview]:
    """The bytes of all tensors in order."""
    normal = np.random.default_rng(0).standard_normal(_BLOCK, np.float32)
    matrices, gains = _bf16(0.02 * normal), _bf16(1 - config.gain_offset + 0.05 * normal)
    for number, (_, shape) in enumerate(checkpoint_shapes(config)):
        block, left = matrices if len(shape) == 2 else gains, math.prod(shape)
        first = number * 1_000_003 % _BLOCK
        while left:
            n = min(left, _BLOCK - first)
            yield memoryview(block[first : first + n])
            first, left = 0, left - n


def _bf16(x: np.ndarray) -> np.ndarray:
    """To the nearest, ties to even; there are no NaN."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    folder = make(args.shape, args.out)
    print(f"{folder}: {SHAPES[args.shape].n_params:,} parameters")


if __name__ == "__main__":
    main()
