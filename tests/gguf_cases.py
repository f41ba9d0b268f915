"""Models of every architecture of GGUF that runs, by the config.json that they were made from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf_maker
import models
import numpy as np

from llamaprobe.config import Config, parse_config
from llamaprobe.families.tensors import checkpoint_shapes

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "rope_theta": 100.0,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_YARN |= {"beta_fast": 4.0}
_YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
    "rope.scaling.yarn_beta_fast": 4.0,
}
_LINEAR = {"rope_type": "linear", "factor": 8.0}
_LINEAR_KEYS: dict[str, Any] = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_SHORT, _LONG = [1 + i / 10 for i in range(6)], [2 + i / 2 for i in range(6)]
_LONG_FACTOR = 1.2247449159622192  # sqrt(1 + log(4) / log(16)) in float32


@dataclass(frozen=True)
class GgufCase:
    """One model: `keys` of config.json, and what its metadata have beside the common keys."""

    name: str
    architecture: str
    model_type: str
    keys: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)
    """Tensors that are no weights."""

    def hub_keys(self, **more: Any) -> dict[str, Any]:
        keys = _SIZES | {"model_type": self.model_type} | self.keys | more
        return {key: value for key, value in keys.items() if value is not ...}

    def config(self, **more: Any) -> Config:
        """That of config.json."""
        return parse_config(self.hub_keys(**more), "config.json")

    def weights(self, **more: Any) -> dict[str, np.ndarray]:
        """By Hugging Face's names, exact in bf16."""
        shapes = dict(checkpoint_shapes(self.config(**more)))
        return models.make_weights(self.hub_keys(**more), seed=len(self.name), shapes=shapes)

    def write(
        self, path: Path, weights: dict[str, np.ndarray], matrix: Any = None, **more: Any
    ) -> Path:
        """The GGUF; `matrix` as for `gguf_maker.model_tensors`, F32 by default."""
        keys = self.hub_keys(**more)
        store = matrix or (lambda _, values: gguf_maker.stored(values, "F32"))
        tensors = gguf_maker.model_tensors(self.architecture, weights, keys["head_dim"], store)
        for name, values in self.vectors.items():
            tensors[name] = gguf_maker.stored(np.array(values), "F32")
        metadata = gguf_maker.model_metadata(self.architecture, keys, **self.metadata)
        return gguf_maker.write_gguf(path, metadata, tensors)


def gguf_cases() -> list[GgufCase]:
    windows = {"sliding_window": 7}
    gemma = {"tie_word_embeddings": True, "query_pre_attn_scalar": 16}
    multipliers = {
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.05,
        "logits_scaling": 8.0,
    }
    return [
        GgufCase("llama", "llama", "llama"),
        GgufCase("llama-tied", "llama", "llama", {"tie_word_embeddings": True}),
        GgufCase("llama-mlp-bias", "llama", "llama", {"mlp_bias": True}),
        GgufCase(
            "llama-linear",
            "llama",
            "llama",
            {"rope_scaling": _LINEAR},
            _LINEAR_KEYS | {"rope.dimension_count": 16},
        ),
        GgufCase("mistral", "llama", "mistral", {"sliding_window": None}),
        GgufCase("mistral-window", "llama", "mistral", windows, {"attention.sliding_window": 7}),
        GgufCase(
            "mistral3",
            "mistral3",
            "mistral",
            {"sliding_window": None, "rope_scaling": _YARN},
            _YARN_KEYS,
        ),
        GgufCase("qwen2", "qwen2", "qwen2", {"attention_bias": True}),
        GgufCase("qwen3", "qwen3", "qwen3", {"tie_word_embeddings": True}),
        GgufCase(
            "qwen3-yarn",
            "qwen3",
            "qwen3",
            {"attention_bias": True, "rope_scaling": _YARN},
            _YARN_KEYS,
        ),
        GgufCase(
            "gemma",
            "gemma",
            "gemma",
            {"tie_word_embeddings": True, "rope_theta": 10000.0},
            {"rope.freq_base": None},
        ),
        GgufCase(
            "gemma2",
            "gemma2",
            "gemma2",
            gemma | windows | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
            {
                "attention.sliding_window": 7,
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0,
            },
        ),
        GgufCase(
            "gemma3",
            "gemma3",
            "gemma3_text",
            gemma
            | windows
            | {"sliding_window_pattern": 2, "rope_local_base_freq": 50.0, "rope_scaling": _LINEAR},
            {
                "attention.sliding_window": 7,
                "attention.sliding_window_pattern": 2,
                "rope.freq_base_swa": 50.0,
            }
            | _LINEAR_KEYS,
        ),
        GgufCase(
            "gemma3-full",
            "gemma3",
            "gemma3_text",
            gemma | {"sliding_window_pattern": 1, "final_logit_softcapping": 3.0},
            {"final_logit_softcapping": 3.0},
        ),
        GgufCase(
            "phi3",
            "phi3",
            "phi3",
            {"sliding_window": 7},
            {"attention.sliding_window": 7, "rope.dimension_count": 16},
        ),
        GgufCase(
            "phi3-longrope",
            "phi3",
            "phi3",
            {
                "partial_rotary_factor": 0.75,
                "sliding_window": None,
                "original_max_position_embeddings": 16,
                "rope_scaling": {
                    "rope_type": "longrope",
                    "short_factor": _SHORT,
                    "long_factor": _LONG,
                    "original_max_position_embeddings": 16,
                },
            },
            {
                "attention.sliding_window": 0,
                "rope.dimension_count": 12,
                "rope.scaling.original_context_length": 16,
                "rope.scaling.attn_factor": _LONG_FACTOR,
            },
            {"rope_factors_short.weight": _SHORT, "rope_factors_long.weight": _LONG},
        ),
        GgufCase("smollm3", "smollm3", "smollm3", {"tie_word_embeddings": True}),
        GgufCase("olmo2", "olmo2", "olmo2"),
        GgufCase(
            "olmo3",
            "olmo2",
            "olmo3",
            windows
            | {
                "rope_theta": ...,
                "rope_parameters": {
                    _FULL: {**_YARN, "rope_theta": 100.0},
                    _SLIDING: {"rope_type": "default", "rope_theta": 100.0},
                },
            },
            {
                "attention.sliding_window": 7,
                "attention.sliding_window_pattern": [True, True, True, False],
                "rope.freq_base": 100.0,
            }
            | _YARN_KEYS,
        ),
        GgufCase(
            "granite",
            "granite",
            "granite",
            multipliers | {"tie_word_embeddings": True},
            {
                "embedding_scale": 12.0,
                "residual_scale": 0.22,
                "attention.scale": 0.05,
                "logit_scale": 8.0,
            },
        ),
        GgufCase(
            "exaone4",
            "exaone4",
            "exaone4",
            windows | {"sliding_window_pattern": 2},
            {
                "attention.sliding_window": 7,
                "attention.sliding_window_pattern": [True, False, True, False],
            },
        ),
        GgufCase(
            "exaone4-full",
            "exaone4",
            "exaone4",
            {"sliding_window": None, "layer_types": [_FULL] * 4},
        ),
    ]


def llama3_case() -> GgufCase:
    """A Llama 3, whose file has the divisors of its frequencies in place of their rule."""
    factors = gguf_maker.rope_factors(100.0, 16, _LLAMA3)
    keys = {"rope_scaling": _LLAMA3}
    return GgufCase("llama3", "llama", "llama", keys, vectors={"rope_freqs.weight": factors})
