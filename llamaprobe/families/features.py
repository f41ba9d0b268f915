"""What a model needs beyond a Llama: then the files of its runs have further numbers (meta.py)."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .family import LINEARS, PRE_NORMS

if TYPE_CHECKING:
    from ..config import Config


def beyond_llama(config: "Config") -> Iterator[str]:
    """The features of a model that a Llama lacks, by name."""
    if config.attention_bias != config.o_bias:
        yield "a bias of q, k and v without one of o_proj"
    yield from _norms(config)
    yield from _attention(config)
    for scale, name in (
        (config.embedding_scale, "embeddings"),
        (config.residual_scale, "what is added to the residual stream"),
        (config.logits_divisor, "logits"),
    ):
        if scale != 1:
            yield f"a scale of {name}"
    if config.logits_cap is not None:
        yield "a cap of logits"
    if config.activation != "silu":
        yield f"{config.activation} as activation"
    if config.prefix:
        yield f"tensors below {config.prefix}"
    if any(n > 1 for n in Counter(config.linears.values()).values()):
        yield "fused matrices"
    elif config.linears != LINEARS:
        yield "other names of matrices"


def _norms(config: "Config") -> Iterator[str]:
    if config.qk_norm:
        over = "all heads" if config.qk_norm_whole else "each head"
        yield f"norms of q and k over {over}"
    if not PRE_NORMS.keys() <= config.norms.keys():
        yield "layers without norms of their input"
    if "attn_norm" in config.norms:
        yield "norms of attn_out and mlp_out"
    if config.gain_offset:
        yield "gains of 1 + w"


def _attention(config: "Config") -> Iterator[str]:
    ropes = {id(layer.rope): layer.rope for layer in config.layers}
    if any(layer.window for layer in config.layers):
        yield "sliding windows"
    if None in ropes.values():
        yield "layers without RoPE"
    turning = [rope for rope in ropes.values() if rope is not None]
    if len(turning) > 1:
        yield "a table of RoPE for each type of layer"
    if any(2 * rope.inv_freq.size != config.head_dim for rope in turning):
        yield "RoPE of a part of a head"
    if any(rope.long_inv_freq is not None for rope in turning):
        yield "a table of RoPE for long prompts"
    if any(rope.attention_factor != 1 for rope in turning):
        yield "a factor of cos and sin"
    if config.interleaved:
        yield "interleaved RoPE"
    if np.float32(config.attention_scale) != np.float32(1 / math.sqrt(config.head_dim)):
        yield "a scale of scores other than 1 / sqrt(head_dim)"
    if config.score_cap is not None:
        yield "a cap of scores"
