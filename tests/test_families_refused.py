"""What a config.json of each family may not say, and what the core cannot compute yet."""

from pathlib import Path
from typing import Any

import pytest
from family_keys import LONGROPE, SIZES, YARN, read

import llamaprobe as lp
from llamaprobe.families.table import REFUSED

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "two families": (
        "qwen3",
        {"architectures": ["Qwen2ForCausalLM"]},
        r'model_type is "qwen3": its class is Qwen3ForCausalLM, not \["Qwen2ForCausalLM"\]',
    ),
    "a classifier": (
        "qwen3",
        {"architectures": ["Qwen3ForSequenceClassification"]},
        "only Qwen3ForCausalLM can be run",
    ),
    "an activation": ("qwen2", {"hidden_act": "gelu"}, 'hidden_act is "gelu": only'),
    "a null activation": ("qwen2", {"hidden_act": None}, "hidden_act is null: only"),
    "both ways": (
        "gemma2",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention is",
    ),
    "experts": (
        "granitemoehybrid",
        {"num_local_experts": 4},
        "num_local_experts is 4: only 0 can be run",
    ),
    "experts by default": (
        "granitemoehybrid",
        {"num_local_experts": ...},
        "num_local_experts is 8",
    ),
    "mamba": (
        "granitemoehybrid",
        {"layer_types": ["mamba"] * 6},
        'layer_types is .*: only "full',
    ),
    "mamba by default": ("granitemoehybrid", {"layer_types": ...}, "Mamba layers"),
    "types that are lists": (
        "olmo3",
        {"layer_types": [["full_attention"]] * 6},
        "layer_types is .*: only",
    ),
    "a factor of cos and sin beyond float32": (
        "qwen2",
        {"rope_parameters": YARN | {"mscale": 3e38, "mscale_all_dim": 1e-9, "factor": 1e9}},
        r"multiplies cos and sin by 6\.\d+e\+38, which a float32 cannot hold",
    ),
    "chunks": ("qwen2", {"layer_types": ["chunked_attention"] * 6}, "layer_types"),
    "too few types": ("olmo3", {"layer_types": ["full_attention"]}, "a list of 6"),
    "types without a window": (
        "qwen2",
        {"layer_types": ["sliding_attention"] * 6},
        "use_sliding_window is missing; it must be true where",
    ),
    "a null window": (
        "gemma2",
        {"sliding_window": None},
        'sliding_window is null; it must be a number where a layer is "sliding_attention"',
    ),
    "exaone without types": (
        "exaone4",
        {"sliding_window": None},
        "layer_types is missing",
    ),
    "exaone by letters": (
        "exaone4",
        {"sliding_window_pattern": "LLLG"},
        'sliding_window_pattern is "LLLG"; it must be an integer',
    ),
    "no_rope_layers too short": (
        "smollm3",
        {"no_rope_layers": [1]},
        "a list of 6 numbers 0 or 1",
    ),
    "no_rope_layers of flags": (
        "smollm3",
        {"no_rope_layers": [True] * 6},
        "numbers 0 or 1",
    ),
    "flat block of two tables": (
        "gemma3_text",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        "rope_parameters is .*; it must be an object with a block for each of",
    ),
    "two thetas of a table": (
        "olmo3",
        {"rope_theta": 1e4, "rope_parameters": {"full_attention": {"rope_theta": 5e5}}},
        "rope_theta is 10000.0; it must be what rope_parameters.full_attention.rope_theta says",
    ),
    "part of a head": (
        "qwen2",
        {"partial_rotary_factor": 0.5},
        "only whole heads can be rotated",
    ),
    "an odd part": ("phi3", {"partial_rotary_factor": 0.26}, "an even part of 12"),
    "two parts": (
        "phi3",
        {
            "partial_rotary_factor": 0.5,
            "rope_parameters": {"partial_rotary_factor": 1.0},
        },
        "partial_rotary_factor is 0.5; it must be one number",
    ),
    "another rotation": (
        "phi3",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "longrope",
    ),
    "factors of another width": (
        "phi3",
        {"rope_scaling": LONGROPE | {"short_factor": [1.0] * 5}},
        "rope_scaling.short_factor is .*; it must be a list of 6 numbers above 0",
    ),
    "a factor of 0": (
        "phi3",
        {"rope_scaling": LONGROPE | {"long_factor": [0.0] * 6}},
        "rope_scaling.long_factor is .*; it must be a list of 6 numbers above 0",
    ),
    "no old length": (
        "qwen3",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "rope_scaling.original_max_position_embeddings is missing",
    ),
    "theta of 1": (
        "qwen3",
        {"rope_theta": 1.0, "rope_scaling": YARN},
        "must be above 1",
    ),
    "a cap of 0": ("gemma2", {"final_logit_softcapping": 0}, "a number above 0"),
    "a scale below 0": ("granite", {"residual_multiplier": -1.0}, "a number above 0"),
    "a shell of another class": (
        "gemma3",
        {"architectures": ["Gemma3ForSequenceClassification"]},
        "only Gemma3ForConditionalGeneration can be run",
    ),
    "a shell of a refused family": (
        "mistral3",
        {"text_config": SIZES | {"model_type": "ministral3"}},
        'text_config.model_type is "ministral3": queries scaled by their position cannot be run',
    ),
    "queries scaled by position": (
        "ministral3",
        {"rope_parameters": YARN | {"llama_4_scaling_beta": 0.1, "rope_theta": 1e4}},
        "queries scaled by their position cannot be run",
    ),
    "cross-attention in a shell": (
        "mllama",
        {"text_config": SIZES | {"model_type": "mllama_text_model"}},
        "cross-attention cannot be run",
    ),
    "both ways in gemma3": (
        "gemma3_text",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention is true: only null or false can be run",
    ),
    "both ways by another key": (
        "qwen3",
        {"is_causal": False},
        "is_causal is false: only attention over earlier tokens can be run",
    ),
    **{
        name: (name, {}, f'model_type is "{name}": {why}')
        for name, why in REFUSED.items()
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    model_type, keys, fact = WRONG[name]
    with pytest.raises(lp.ConfigError, match=rf"config\.json: .*{fact}") as caught:
        read(tmp_path, model_type, **keys)
    assert "\n" not in str(caught.value)


def test_what_the_title_families_lack_is_refused() -> None:
    """One model_type of each kind."""
    kinds = {
        "experts": "qwen3_moe",
        "Mamba": "mamba2",
        "softmax attention": "qwen3_next",
        "cross-attention": "mllama",
        "LayerNorm": "cohere2 stablelm starcoder2 gpt2 gpt_neox",
        "sinks": "gpt_oss",
        "scaled by their position": "ministral3",
    }
    for kind, names in kinds.items():
        assert all(kind in REFUSED[name] for name in names.split()), kind
