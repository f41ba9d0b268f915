"""Tiny checkpoints of every family, made by transformers with weights that hide nothing.

A fresh model hides errors: gains are 1, biases 0, and scores so small that a cap does nothing. Here
every parameter is drawn at random, gains around their neutral value.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

_BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 100.0,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
}
_WINDOW = {"head_dim": 16, "sliding_window": 7}
_FULL = ["full_attention"] * 4
_ONE_FULL = ["full_attention", *["sliding_attention"] * 3]
_GEMMA2 = {**_WINDOW, "query_pre_attn_scalar": 24}
_GEMMA3 = {
    **_GEMMA2,
    "sliding_window_pattern": 3,
    "rope_theta": 1000.0,
    "rope_local_base_freq": 50.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
_LONGROPE = {
    "hidden_size": 96,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 16,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1 + i / 10 for i in range(6)],
        "long_factor": [2 + i / 2 for i in range(6)],
    },
}
_MULTIPLIERS = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.05,
    "logits_scaling": 8.0,
}
_BIASES = {"attention_bias": True, "mlp_bias": True}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@dataclass(frozen=True)
class FamilyCase:
    """One tiny model, by the keys that its hub files have."""

    name: str
    model_type: str
    keys: dict[str, Any] = field(default_factory=dict)
    n_tokens: int = 24

    def make(self, folder: Path) -> Path:
        """The checkpoint as transformers 5 saves it."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(self.model_type, **json.loads(json.dumps(self.hub_keys())))
        torch.manual_seed(len(self.name))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        _randomise(model)
        model.save_pretrained(folder)
        return folder

    def hub_config(self, folder: Path) -> dict[str, Any]:
        """What a file on the hub would have in place of the config.json of `make`."""
        made = json.loads((folder / "config.json").read_text())
        head = {
            "architectures": made["architectures"],
            "model_type": made["model_type"],
        }
        about = {"torch_dtype": "float32", "transformers_version": "4.50.0"}
        return head | self.hub_keys() | about

    def hub_keys(self) -> dict[str, Any]:
        return {k: v for k, v in (_BASE | self.keys).items() if v is not ...}


def _randomise(model: Any) -> None:
    import torch

    gemma = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = name.endswith("norm.weight")
            parameter.normal_(0 if gemma or not is_gain else 1, 0.2 if is_gain else 0.3)


def family_cases() -> list[FamilyCase]:
    h16 = {"head_dim": 16}
    return [
        FamilyCase("qwen2", "qwen2"),
        FamilyCase(
            "qwen2-window",
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        ),
        FamilyCase(
            "qwen3-yarn",
            "qwen3",
            h16
            | {
                "attention_bias": True,
                "tie_word_embeddings": True,
                "rope_scaling": _YARN,
            },
        ),
        FamilyCase(
            "qwen3-mscale",
            "qwen3",
            h16
            | {
                "rope_scaling": _YARN
                | {"mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}
            },
        ),
        FamilyCase(
            "qwen3-dynamic",
            "qwen3",
            h16 | {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
        ),
        FamilyCase("mistral-window", "mistral", _WINDOW),
        FamilyCase("mistral", "mistral", {"sliding_window": None}),
        FamilyCase("ministral", "ministral", _WINDOW | {"layer_types": _ONE_FULL}),
        FamilyCase("gemma", "gemma", h16 | {"hidden_act": "gelu"}),
        FamilyCase(
            "gemma2",
            "gemma2",
            _GEMMA2 | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        ),
        FamilyCase(
            "gemma2-no-caps",
            "gemma2",
            _GEMMA2
            | {
                "attn_logit_softcapping": None,
                "final_logit_softcapping": None,
                "attention_bias": True,
            },
        ),
        FamilyCase("gemma3", "gemma3_text", _GEMMA3),
        FamilyCase(
            "gemma3-cap", "gemma3_text", _GEMMA3 | {"final_logit_softcapping": 3.0}
        ),
        FamilyCase("phi3", "phi3"),
        FamilyCase(
            "phi3-window",
            "phi3",
            {"sliding_window": 7, "partial_rotary_factor": 0.75, "hidden_size": 96},
        ),
        FamilyCase("phi3-short", "phi3", _LONGROPE, n_tokens=16),
        FamilyCase("phi3-long", "phi3", _LONGROPE, n_tokens=17),
        FamilyCase(
            "smollm3",
            "smollm3",
            _BIASES
            | {
                "no_rope_layers": [1, 0, 1, 0],
                "use_sliding_window": True,
                "sliding_window": 7,
            },
        ),
        FamilyCase("smollm3-interval", "smollm3"),
        FamilyCase("olmo2", "olmo2", {"attention_bias": True}),
        FamilyCase(
            "olmo3",
            "olmo3",
            {
                "sliding_window": 7,
                "rope_theta": 100.0,
                "rope_scaling": _YARN
                | {
                    "original_max_position_embeddings": 32,
                    "attention_factor": 1.2,
                    "truncate": False,
                },
            },
        ),
        FamilyCase(
            "granite", "granite", _BIASES | _MULTIPLIERS | {"tie_word_embeddings": True}
        ),
        FamilyCase(
            "granite4",
            "granitemoehybrid",
            _MULTIPLIERS
            | {
                "num_local_experts": 0,
                "num_experts_per_tok": 0,
                "shared_intermediate_size": 40,
                "layer_types": ["attention"] * 4,
                "position_embedding_type": "rope",
                "mamba_n_heads": 8,
                "tie_word_embeddings": True,
            },
        ),
        FamilyCase(
            "granite4-nope",
            "granitemoehybrid",
            {
                "num_local_experts": 0,
                "num_experts_per_tok": 0,
                "shared_intermediate_size": 40,
                "layer_types": _FULL,
                "position_embedding_type": "nope",
                "mamba_n_heads": 8,
            },
        ),
        FamilyCase(
            "exaone4",
            "exaone4",
            _WINDOW | {"sliding_window_pattern": 2, "rope_scaling": _LLAMA3},
        ),
        FamilyCase(
            "exaone4-full",
            "exaone4",
            h16 | {"sliding_window": None, "layer_types": _FULL},
        ),
        FamilyCase("helium", "helium", _BIASES | {"head_dim": 8}),
    ]


def drawn_cases(n: int) -> list[FamilyCase]:
    """n models of each family, drawn from what its config.json may say."""
    cases = []
    for number, (model_type, choices) in enumerate(_SPACE.items()):
        for i in range(n):
            random = Random(1000 * number + i)
            keys = {
                key: random.choice(values) for key, values in (_SIZES | choices).items()
            }
            keys["hidden_size"] = keys["num_attention_heads"] * random.choice([4, 8])
            if model_type in _FROM_WIDTH:
                keys.pop("head_dim")
            if model_type == "helium":  # its o_proj is [hidden_size, hidden_size]
                keys["head_dim"] = keys["hidden_size"] // keys["num_attention_heads"]
            cases.append(
                FamilyCase(
                    f"{model_type}-{i}", model_type, keys, random.choice([9, 20])
                )
            )
    return cases


_SIZES: dict[str, list[Any]] = {
    "num_attention_heads": [4, 6],
    "num_key_value_heads": [1, 2],
    "head_dim": [8, 10, 16],
    "intermediate_size": [20, 33],
    "num_hidden_layers": [2, 5],
    "rope_theta": [50.0, 1e4],
    "rms_norm_eps": [1e-6, 1e-2],
    "tie_word_embeddings": [True, False],
}
_FROM_WIDTH = (
    "qwen2",
    "phi3",
    "smollm3",
    "olmo2",
    "olmo3",
    "granite",
    "granitemoehybrid",
)
_LINEAR = {"rope_type": "linear", "factor": 3.0}
_ANY_ROPE = [None, _LINEAR, _YARN, _LLAMA3, {"rope_type": "dynamic", "factor": 2.0}]
_FLAG = [True, False]
_SLIDE = {"sliding_window": [3, 7]}
_SPACE: dict[str, dict[str, list[Any]]] = {
    "qwen2": _SLIDE
    | {
        "use_sliding_window": _FLAG,
        "max_window_layers": [0, 1],
        "rope_scaling": _ANY_ROPE,
    },
    "qwen3": _SLIDE | {"attention_bias": _FLAG, "rope_scaling": _ANY_ROPE},
    "mistral": {"sliding_window": [None, 5], "rope_scaling": _ANY_ROPE},
    "ministral": _SLIDE | {"rope_scaling": _ANY_ROPE},
    "gemma": {
        "attention_bias": _FLAG,
        "hidden_act": ["gelu", "silu", "gelu_pytorch_tanh"],
    },
    "gemma2": _SLIDE
    | {
        "query_pre_attn_scalar": [8, 24],
        "attn_logit_softcapping": [None, 1.5],
        "final_logit_softcapping": [None, 2.5],
        "hidden_activation": ["gelu_pytorch_tanh", "silu"],
    },
    "gemma3_text": _SLIDE
    | {
        "query_pre_attn_scalar": [8, 24],
        "sliding_window_pattern": [1, 2, 3],
        "rope_local_base_freq": [20.0, 1e4],
        "rope_scaling": [None, _LINEAR, _LLAMA3 | {"factor": 2.0}],
    },
    "phi3": {"sliding_window": [None, 5], "partial_rotary_factor": [0.5, 1.0]},
    "smollm3": _SLIDE
    | {
        "use_sliding_window": _FLAG,
        "no_rope_layer_interval": [2, 3],
        "attention_bias": _FLAG,
        "mlp_bias": _FLAG,
        "rope_scaling": _ANY_ROPE,
    },
    "olmo2": {"attention_bias": _FLAG, "rope_scaling": _ANY_ROPE},
    "olmo3": _SLIDE | {"attention_bias": _FLAG, "rope_scaling": [None, _LINEAR]},
    "granite": {
        "embedding_multiplier": [1.0, 12.0],
        "residual_multiplier": [1.0, 0.22],
        "attention_multiplier": [0.05, 0.25],
        "logits_scaling": [1.0, 8.0],
        "attention_bias": _FLAG,
        "mlp_bias": _FLAG,
        "rope_scaling": _ANY_ROPE,
    },
    "exaone4": _SLIDE | {"sliding_window_pattern": [2, 3], "rope_scaling": _ANY_ROPE},
    "helium": {"attention_bias": _FLAG, "mlp_bias": _FLAG},
}
