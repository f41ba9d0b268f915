"""What the meta files of a run hold of a model that has more than a Llama."""

from typing import TYPE_CHECKING, Any

from .core import layers_of
from .features import beyond_llama

if TYPE_CHECKING:
    from ..config import Config


def has_more(config: "Config") -> bool:
    """Whether a model needs more than the meta files of a Llama say."""
    return any(True for _ in beyond_llama(config))


def family_meta(config: "Config") -> dict[str, Any]:
    """Numbers by name, {} for a Llama. Layers refer to the tables of RoPE by number, null for
    none; window is null for all keys up to the query."""
    if not has_more(config):
        return {}
    windows, ropes, rope_of = layers_of(config)
    return {
        "family": config.family,
        "prefix": config.prefix,
        "linears": dict(config.linears),
        "o_bias": config.o_bias,
        "norms": dict(config.norms),
        "gain_offset": config.gain_offset,
        "qk_norm_whole": config.qk_norm_whole,
        "activation": config.activation,
        "embedding_scale": config.embedding_scale,
        "residual_scale": config.residual_scale,
        "logits_divisor": config.logits_divisor,
        "score_cap": config.score_cap,
        "logits_cap": config.logits_cap,
        "rope_interleaved": config.interleaved,
        "rope_tables": [
            {
                "inv_freq": rope.inv_freq.tolist(),
                "attention_factor": rope.attention_factor,
                "long_inv_freq": None
                if rope.long_inv_freq is None
                else rope.long_inv_freq.tolist(),
                "original_positions": rope.original_positions,
            }
            for rope in ropes
        ],
        "rope_table_of_layer": rope_of,
        "window_of_layer": windows,
    }
