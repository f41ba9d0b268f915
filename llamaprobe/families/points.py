"""Which capture points a model has, why it lacks the others, and what a name of another tool means in
its family: `post_attention_layernorm` gives attn_norm in Gemma 2, x_mid_norm in a Llama.
"""

from collections import Counter
from typing import TYPE_CHECKING

from .table import FAMILIES

if TYPE_CHECKING:
    from ..config import Config

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
