"""The families: one entry for each model_type, from the classes of transformers 5.24.

An entry says what differs from a Llama; family.py has the meaning of its fields. docs/families.md
lists what runs, and what is refused and why.
"""

from dataclasses import replace

from .family import (
    ALL_NORMS,
    GELU_TANH,
    LINEARS,
    POST_NORMS,
    PRE_NORMS,
    QK_NORMS,
    SILU,
    Family,
)
from .layers import (
    by_type,
    every_key,
    every_nth_is_full,
    full_layers_unturned,
    late_windows,
    no_rope_layers,
    one_window,
    rope_by_name,
    sliding_window_pattern,
)

_CAUSAL = {"use_bidirectional_attention": (None, False)}
_QWEN_KEYS = ("use_sliding_window", "max_window_layers", "sliding_window")
_FUSED = LINEARS | dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj")

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    "Llama",
    every_key,
    mlp_bias="mlp_bias",
    activations=SILU,
    rope_types=("default", "linear", "llama3"),
    default_theta=None,
)

QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    "Qwen 2",
    late_windows,
    defaults={
        "vocab_size": 151936,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    qkv_bias=True,
    o_bias=False,
    own=_QWEN_KEYS,
)
QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    title="Qwen 3",
    defaults={**QWEN2.defaults, "head_dim": 128},
    norms=PRE_NORMS | QK_NORMS,
    qkv_bias="attention_bias",
    o_bias="attention_bias",
)

MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    "Mistral",
    one_window,
    defaults={
        "vocab_size": 32000,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
    qkv_bias=False,
    o_bias=False,
    own=("sliding_window",),
)
MINISTRAL = replace(
    MISTRAL,
    model_type="ministral",
    architecture="MinistralForCausalLM",
    title="Ministral",
    layers=by_type(lambda keys, _: keys.values.get("sliding_window") is not None),
)

_GEMMA = {
    "vocab_size": 256000,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    "Gemma",
    every_key,
    defaults={
        **_GEMMA,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "gelu_pytorch_tanh",
    },
    gain_offset=1.0,
    activations=SILU | GELU_TANH | {"gelu": "gelu_tanh"},
    embedding_scale="sqrt(hidden_size)",
    embeds_scaled=True,
    fixed=_CAUSAL,
)
GEMMA2 = replace(
    GEMMA,
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    title="Gemma 2",
    layers=by_type(every_nth_is_full(2)),
    defaults={
        **_GEMMA,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    norms=ALL_NORMS,
    activation="hidden_activation",
    activations=SILU | GELU_TANH,
    scale=("query_pre_attn_scalar", -0.5),
    score_cap="attn_logit_softcapping",
    logits_cap="final_logit_softcapping",
    own=("sliding_window",),
)
GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    title="Gemma 3",
    layers=by_type(sliding_window_pattern(6)),
    defaults={
        **GEMMA2.defaults,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    norms=ALL_NORMS | QK_NORMS,
    score_cap="",  # attn_logit_softcapping is never applied
    rope_tables={
        "full_attention": ("rope_theta", 1e6),
        "sliding_attention": ("rope_local_base_freq", 1e4),
    },
)

PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    "Phi 3",
    one_window,
    defaults={
        "vocab_size": 32064,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    linears=_FUSED | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
    qkv_bias=False,
    o_bias=False,
    rope_types=("default", "longrope"),
    rope_renames={"su": "longrope", "yarn": "longrope"},
    partial_rotary=True,
    own=("sliding_window",),
)

SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    "SmolLM3",
    no_rope_layers,
    defaults={
        "vocab_size": 128256,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "no_rope_layer_interval": 4,
        "sliding_window": None,
        "tie_word_embeddings": True,
    },
    mlp_bias="mlp_bias",
    default_theta=2e6,
    own=(
        "use_sliding_window",
        "sliding_window",
        "no_rope_layers",
        "no_rope_layer_interval",
    ),
)

OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    "OLMo 2",
    every_key,
    defaults={
        "vocab_size": 50304,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    norms=POST_NORMS | QK_NORMS,
    qk_norm="whole",
)
OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    title="OLMo 3",
    layers=by_type(every_nth_is_full(4)),
    defaults={**OLMO2.defaults, "sliding_window": 4096},
    rope_tables={"full_attention": ("rope_theta", 5e5), "sliding_attention": ("", 5e5)},
    own=("sliding_window",),
)

GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    "Granite",
    every_key,
    defaults={
        "vocab_size": 32000,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    mlp_bias="mlp_bias",
    scale=("attention_multiplier", 1.0),
    embedding_scale="embedding_multiplier",
    residual_scale="residual_multiplier",
    logits_divisor="logits_scaling",
)
GRANITE_HYBRID = replace(
    GRANITE,
    model_type="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    title="Granite 4",
    layers=rope_by_name,
    defaults={
        **GRANITE.defaults,
        "num_local_experts": 8,
        "shared_intermediate_size": 1024,
    },
    linears=LINEARS
    | dict.fromkeys(("gate", "up"), "shared_mlp.input_linear")
    | {"mlp_out": "shared_mlp.output_linear"},
    mlp_bias=False,
    d_ff="shared_intermediate_size",
    fixed={"num_local_experts": (0,)},
)

EXAONE4 = Family(
    "exaone4",
    "Exaone4ForCausalLM",
    "EXAONE 4",
    full_layers_unturned,
    defaults={
        "vocab_size": 102400,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
    },
    norms=POST_NORMS | QK_NORMS,
    qkv_bias=False,
    o_bias=False,
    own=("sliding_window",),
)

HELIUM = Family(
    "helium",
    "HeliumForCausalLM",
    "Helium",
    every_key,
    defaults={
        "vocab_size": 48000,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "head_dim": 128,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-8,
    },
    o_bias=False,
    mlp_bias="mlp_bias",
    default_theta=1e5,
    interleaved=True,
)

FAMILIES = {
    family.model_type: family
    for family in (
        *(
            LLAMA,
            QWEN2,
            QWEN3,
            MISTRAL,
            MINISTRAL,
            GEMMA,
            GEMMA2,
            GEMMA3,
            PHI3,
            SMOLLM3,
        ),
        *(OLMO2, OLMO3, GRANITE, GRANITE_HYBRID, EXAONE4, HELIUM),
    )
}
BY_CLASS = {family.architecture: family for family in FAMILIES.values()}

# Models of text and images: class, model_type of a text_config that does not say it, and what stands
# before the names of its tensors. Text alone runs as the family inside.
SHELLS = {
    "gemma3": ("Gemma3ForConditionalGeneration", "gemma3_text", "language_model."),
    "mistral3": ("Mistral3ForConditionalGeneration", "mistral", "language_model."),
}

# What other decoders need, by the model_type of those that are met most.
_REASONS = {
    "a mixture of experts cannot be run": (
        "mixtral qwen2_moe qwen3_moe olmoe phimoe granitemoe granitemoeshared deepseek_v2 deepseek_v3"
        " dbrx llama4 llama4_text ernie4_5_moe glm4_moe exaone_moe hunyuan_v1_moe"
    ),
    "a mixture of experts and sinks of attention cannot be run": "gpt_oss",
    "Mamba layers cannot be run": "mamba mamba2 falcon_mamba",
    "layers without softmax attention cannot be run": (
        "qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text lfm2 lfm2_moe jamba bamba zamba2"
        " falcon_h1 nemotron_h minimax rwkv recurrent_gemma"
    ),
    "LayerNorm cannot be run": (
        "gpt2 gpt_neo gpt_neox gptj gpt_bigcode codegen opt bloom falcon mpt persimmon stablelm"
        " starcoder2 cohere cohere2 phi olmo nemotron"
    ),
    "an MLP without a gate cannot be run": "arcee apertus",
    "queries scaled by their position cannot be run": "ministral3",
    "its interleaved RoPE of a part of a head cannot be run": "glm4",
    "cross-attention cannot be run": "mllama mllama_text_model",
    "embeddings of each layer cannot be run": "gemma3n gemma3n_text gemma4 gemma4_text",
    "only decoders can be run": "bert modernbert t5 t5gemma",
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}
