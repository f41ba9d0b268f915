"""Which capture points a model has, why it lacks the others, and what a name of another tool means in
its family: `post_attention_layernorm` gives attn_norm in Gemma 2, x_mid_norm in a Llama.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .table import FAMILIES

if TYPE_CHECKING:
    from ..config import Config

# Formula, then names elsewhere: TransformerLens (blocks.L, ln_final, unembed and its shorthand),
# fields of the outputs of Hugging Face models, and methods of Meta's LLM Transparency Tool (its
# neuron_activations is what comes before the SiLU). Modules of Hugging Face follow below.
LLAMA_FORMULAS: dict[str, tuple[str, str]] = {
    "x": (
        "embedding of the token in layer 0, then x_out of the layer before",
        "blocks.L.hook_resid_pre blocks.L.hook_in residual_in",
    ),
    "x_rms": ("sqrt(mean(x^2) + rms_norm_eps)", "blocks.L.ln1.hook_scale"),
    "x_unit": ("x / x_rms", "blocks.L.ln1.hook_normalized"),
    "x_norm": (
        "input_layernorm.weight * x_unit",
        "blocks.L.ln1.hook_out blocks.L.attn.hook_in",
    ),
    "q": (
        "q_proj(x_norm)",
        "blocks.L.attn.hook_q blocks.L.attn.q.hook_out query",
    ),
    "k": (
        "k_proj(x_norm)",
        "blocks.L.attn.hook_k blocks.L.attn.k.hook_out key",
    ),
    "v": (
        "v_proj(x_norm)",
        "blocks.L.attn.hook_v blocks.L.attn.v.hook_out value",
    ),
    "q_rope": ("q rotated by position * inv_freq", "blocks.L.attn.hook_rot_q"),
    "k_rope": ("k rotated by position * inv_freq", "blocks.L.attn.hook_rot_k"),
    "scores": (
        "q_rope . k_rope / sqrt(head_dim); -inf where the key comes after the query",
        "blocks.L.attn.hook_attn_scores attn_logits",
    ),
    "pattern": (
        "softmax of scores over the keys; 0 where the key comes after the query",
        "blocks.L.attn.hook_pattern attentions[L] attention_matrix attn",
    ),
    "z": (
        "sum over keys of pattern * v",
        "blocks.L.attn.hook_z blocks.L.attn.o.hook_in",
    ),
    "attn_out": (
        "o_proj(z)",
        "blocks.L.hook_attn_out blocks.L.attn.hook_out attention_output",
    ),
    "x_mid": (
        "x + attn_out",
        "blocks.L.hook_resid_mid blocks.L.ln2.hook_in residual_after_attn",
    ),
    "x_mid_rms": ("sqrt(mean(x_mid^2) + rms_norm_eps)", "blocks.L.ln2.hook_scale"),
    "x_mid_unit": ("x_mid / x_mid_rms", "blocks.L.ln2.hook_normalized"),
    "x_mid_norm": (
        "post_attention_layernorm.weight * x_mid_unit",
        "blocks.L.ln2.hook_out blocks.L.mlp.hook_in",
    ),
    "gate": (
        "gate_proj(x_mid_norm)",
        "blocks.L.mlp.hook_pre blocks.L.mlp.gate.hook_out mlp_pre neuron_activations",
    ),
    "up": (
        "up_proj(x_mid_norm)",
        "blocks.L.mlp.hook_pre_linear blocks.L.mlp.in.hook_out",
    ),
    "act": ("silu(gate) = gate / (1 + exp(-gate))", ""),
    "hidden": (
        "act * up",
        "blocks.L.mlp.hook_post blocks.L.mlp.out.hook_in mlp_post",
    ),
    "mlp_out": (
        "down_proj(hidden)",
        "blocks.L.hook_mlp_out blocks.L.mlp.hook_out ffn_out",
    ),
    "x_out": (
        "x_mid + mlp_out",
        "blocks.L.hook_resid_post blocks.L.hook_out residual_out",
    ),
    "final_rms": (
        "sqrt(mean(x_out^2) + rms_norm_eps), x_out of the last layer",
        "ln_final.hook_scale scale",
    ),
    "final_unit": ("x_out of the last layer / final_rms", "ln_final.hook_normalized normalized"),
    "final_norm": ("norm.weight * final_unit", "ln_final.hook_out last_hidden_state"),
    "logits": (
        "lm_head.weight @ final_norm; embed_tokens.weight where the head is tied",
        "unembed.hook_out unembed",
    ),
}
# Points beyond a Llama's: formula, and names in TransformerLens.
FORMULAS: dict[str, tuple[str, str]] = {
    "q_rms": ("sqrt(mean(q^2) + rms_norm_eps)", "blocks.L.attn.q_norm.hook_scale"),
    "q_unit": ("q / q_rms", "blocks.L.attn.q_norm.hook_normalized"),
    "q_norm": (
        "q_norm.weight * q_unit",
        "blocks.L.attn.hook_q_normed blocks.L.attn.q_norm.hook_out",
    ),
    "k_rms": ("sqrt(mean(k^2) + rms_norm_eps)", "blocks.L.attn.k_norm.hook_scale"),
    "k_unit": ("k / k_rms", "blocks.L.attn.k_norm.hook_normalized"),
    "k_norm": (
        "k_norm.weight * k_unit",
        "blocks.L.attn.hook_k_normed blocks.L.attn.k_norm.hook_out",
    ),
    "scores_raw": (
        "q_rope . k_rope * scale, before the cap; -inf where scores are",
        "",
    ),
    "attn_rms": ("sqrt(mean(attn_out^2) + rms_norm_eps)", ""),
    "attn_unit": ("attn_out / attn_rms", ""),
    "attn_norm": ("gain * attn_unit", ""),
    "mlp_rms": ("sqrt(mean(mlp_out^2) + rms_norm_eps)", ""),
    "mlp_unit": ("mlp_out / mlp_rms", ""),
    "mlp_norm": ("gain * mlp_unit", ""),
    "logits_raw": (
        "head @ final_norm, before scale and cap",
        "unembed.hook_out unembed",
    ),
}

# Of a model with norms of its inputs and outputs, and of one with norms of its outputs alone: names
# in TransformerLens that differ from a Llama's.
_SANDWICH = {
    "attn_out": "blocks.L.attn.hook_out",
    "attn_rms": "blocks.L.ln1_post.hook_scale",
    "attn_unit": "blocks.L.ln1_post.hook_normalized",
    "attn_norm": "blocks.L.ln1_post.hook_out blocks.L.hook_attn_out",
    "mlp_out": "blocks.L.mlp.hook_out",
    "mlp_rms": "blocks.L.ln2_post.hook_scale",
    "mlp_unit": "blocks.L.ln2_post.hook_normalized",
    "mlp_norm": "blocks.L.ln2_post.hook_out blocks.L.hook_mlp_out",
}
_POST = {
    "x": "blocks.L.hook_resid_pre blocks.L.hook_in blocks.L.attn.hook_in",
    "attn_rms": "blocks.L.ln1.hook_scale",
    "attn_unit": "blocks.L.ln1.hook_normalized",
    "attn_norm": "blocks.L.ln1.hook_out",
    "x_mid": "blocks.L.hook_resid_mid blocks.L.mlp.hook_in",
    "mlp_rms": "blocks.L.ln2.hook_scale",
    "mlp_unit": "blocks.L.ln2.hook_normalized",
    "mlp_norm": "blocks.L.ln2.hook_out",
}

# What a norm takes, by what it gives.
_NORM_INPUT = {
    "x_norm": "x",
    "q_norm": "q",
    "k_norm": "k",
    "attn_norm": "attn_out",
    "x_mid_norm": "x_mid",
    "mlp_norm": "mlp_out",
}


def absent(config: "Config") -> dict[str, str]:
    """Point -> why the model does not have it."""
    reasons = {
        "x_norm": "attention reads x itself",
        "x_mid_norm": "the MLP reads x_mid itself",
        "q_norm": "q has no norm",
        "k_norm": "k has no norm",
        "attn_norm": "attn_out has no norm",
        "mlp_norm": "mlp_out has no norm",
    }
    found: dict[str, str] = {}
    for point, why in reasons.items():
        if point not in config.norms:
            stem = point.removesuffix("norm")
            found |= {f"{stem}rms": why, f"{stem}unit": why, point: why}
    if not config.score_cap:
        found["scores_raw"] = "scores have no cap"
    if not has_raw_logits(config):
        found["logits_raw"] = "logits have neither scale nor cap"
    return found


def has_raw_logits(config: "Config") -> bool:
    return config.logits_divisor != 1 or config.logits_cap is not None


def modules(config: "Config") -> dict[str, tuple[str, str | None]]:
    """Path of a Hugging Face module in a layer -> the points that it takes and gives; None where
    what it gives is several points side by side."""
    x_norm = "x_norm" if "x_norm" in config.norms else "x"
    x_mid_norm = "x_mid_norm" if "x_mid_norm" in config.norms else "x_mid"
    takes = dict.fromkeys("qkv", x_norm) | dict.fromkeys(("gate", "up"), x_mid_norm)
    takes |= {"attn_out": "z", "mlp_out": "hidden"}
    shared = Counter(config.linears.values())
    mlp = config.linears["gate"].partition(".")[0]
    found: dict[str, tuple[str, str | None]] = {
        "": ("x", "x_out"),
        "self_attn": (x_norm, "attn_out"),
        mlp: (x_mid_norm, "mlp_out"),
        f"{mlp}.act_fn": ("gate", "act"),
    }
    for point, module in config.norms.items():
        found[module] = _NORM_INPUT[point], point
    for point, module in config.linears.items():
        found[module] = takes[point], point if shared[module] == 1 else None
    return found


def formulas(config: "Config") -> dict[str, str]:
    """Point -> its formula, where it is not a Llama's."""
    found = dict(_norm_formulas(config))
    norms, residual = config.norms, "" if config.residual_scale == 1 else "residual_scale * "
    if config.embedding_scale != 1:
        found["x"] = f"embedding_scale * {LLAMA_FORMULAS['x'][0]}"
    attention_in = "x_norm" if "x_norm" in norms else "x"
    mlp_in = "x_mid_norm" if "x_mid_norm" in norms else "x_mid"
    for point, module in config.linears.items():
        name = module.rpartition(".")[2]
        takes = {"attn_out": "z", "mlp_out": "hidden", "gate": mlp_in, "up": mlp_in}
        found[point] = f"{name}({takes.get(point, attention_in)})"
        if Counter(config.linears.values())[module] > 1:
            found[point] = f"{point}'s rows of {found[point]}"
    turned = "turned by position * inv_freq, if its layer turns"
    for point in ("q", "k"):
        found[f"{point}_rope"] = (
            f"{point}_norm, {turned}" if f"{point}_norm" in norms else f"{point}, {turned}"
        )
    found["x_mid"] = f"x + {residual}{'attn_norm' if 'attn_norm' in norms else 'attn_out'}"
    found["x_out"] = f"x_mid + {residual}{'mlp_norm' if 'mlp_norm' in norms else 'mlp_out'}"
    scores = "q_rope . k_rope * attention_scale"
    if config.score_cap:
        scores = "score_cap * tanh(scores_raw / score_cap)"
    found["scores"] = f"{scores}; -inf where the query does not see the key"
    found["pattern"] = "softmax of scores over the keys; 0 where the query does not see the key"
    if config.activation == "gelu_tanh":
        found["act"] = "gate / 2 * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate^3)))"
    if has_raw_logits(config):
        divided = "logits_raw" if config.logits_divisor == 1 else "logits_raw / logits_divisor"
        capped = f"logits_cap * tanh({divided} / logits_cap)"
        found["logits"] = capped if config.logits_cap else divided
    return found


def _norm_formulas(config: "Config") -> Iterator[tuple[str, str]]:
    for point, module in {**config.norms, "final_norm": "norm"}.items():
        gain = f"{module.rpartition('.')[2]}.weight"
        gain = f"(1 + {gain})" if config.gain_offset else gain
        yield point, f"{gain} * {point.removesuffix('norm')}unit"


def lens_names(config: "Config") -> dict[str, str]:
    """Point -> its names in TransformerLens, separated by spaces, where they are not a Llama's."""
    names = {point: lens for point, (_, lens) in FORMULAS.items() if lens}
    if "attn_norm" in config.norms:
        names |= _SANDWICH if "x_norm" in config.norms else _POST
    if has_raw_logits(config):
        names["logits"] = ""
    missing = absent(config)
    return {point: lens for point, lens in names.items() if point not in missing}


def embedding_is_x(config: "Config") -> bool:
    """Whether embed_tokens gives x of layer 0; Granite scales what it gives."""
    return config.embedding_scale == 1 or FAMILIES[config.family].embeds_scaled
