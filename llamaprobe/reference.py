"""A Llama in plain NumPy, to be read as the specification of every capture point.

Everything is float64 except one number that defines the model: the angle of RoPE, a float32 product
of a float32 frequency and the position, as in every program that Llamas are trained and run with.
`forward` says what a value *is*; the C core says to the bit how float32 gets there, and tests hold
both against transformers. Shapes: T tokens, D d_model, H n_heads, K n_kv_heads, h head_dim, F d_ff,
V vocab_size. A weight matrix is [out, in] as in the files, so a linear layer is x @ W.T.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import Config

Array = NDArray[np.float64]


def forward(
    config: Config, weights: Mapping[str, ArrayLike], token_ids: Sequence[int] | NDArray[np.integer]
) -> dict[str, Array]:
    """Every capture point of one prompt, by name.

    `weights` maps Hugging Face tensor names to arrays of any float dtype; a matrix is made float64
    when it is used and dropped after. Points of a layer have a leading [n_layers] axis, so that
    forward(...)["x"] is [n_layers, T, D]; `final_*` and `logits` have none. Keys after the query
    are -inf in `scores` and 0 in `pattern`. KeyError when a tensor is missing.
    """
    w = _Weights(weights)
    ids = np.asarray(token_ids)
    cos, sin = _rotation(config, len(ids))
    x = np.asarray(weights["model.embed_tokens.weight"])[ids].astype(np.float64)  # [T, D]
    layers = []
    for i in range(config.n_layers):
        layers.append(_layer(config, w.under(f"model.layers.{i}."), x, cos, sin))
        x = layers[-1]["x_out"]
    values = {point: np.stack([layer[point] for layer in layers]) for point in layers[0]}
    final = _norm(config, w, "model.norm", x)
    values["final_rms"], values["final_unit"], values["final_norm"] = final
    tied = config.tied_head and "lm_head.weight" not in weights
    values["logits"] = w.linear("model.embed_tokens" if tied else "lm_head", values["final_norm"])
    return values


def _layer(config: Config, w: "_Weights", x: Array, cos: Array, sin: Array) -> dict[str, Array]:
    """One layer, top to bottom: x [T, D] to x_out [T, D]."""
    at: dict[str, Array] = {"x": x}
    at["x_rms"], at["x_unit"], at["x_norm"] = _norm(config, w, "input_layernorm", x)

    bias = config.attention_bias
    q = w.linear("self_attn.q_proj", at["x_norm"], bias)
    k = w.linear("self_attn.k_proj", at["x_norm"], bias)
    v = w.linear("self_attn.v_proj", at["x_norm"], bias)
    at["q"] = q.reshape(len(x), config.n_heads, config.head_dim)  # [T, H, h]
    at["k"] = k.reshape(len(x), config.n_kv_heads, config.head_dim)  # [T, K, h]
    at["v"] = v.reshape(len(x), config.n_kv_heads, config.head_dim)  # [T, K, h]
    at["q_rope"] = _rotate(at["q"], cos, sin)
    at["k_rope"] = _rotate(at["k"], cos, sin)
    at["scores"], at["pattern"], at["z"] = _attend(config, at["q_rope"], at["k_rope"], at["v"])
    at["attn_out"] = w.linear("self_attn.o_proj", at["z"].reshape(len(x), -1), bias)
    at["x_mid"] = x + at["attn_out"]

    norm = _norm(config, w, "post_attention_layernorm", at["x_mid"])
    at["x_mid_rms"], at["x_mid_unit"], at["x_mid_norm"] = norm
    at["gate"] = w.linear("mlp.gate_proj", at["x_mid_norm"], config.mlp_bias)  # [T, F]
    at["up"] = w.linear("mlp.up_proj", at["x_mid_norm"], config.mlp_bias)  # [T, F]
    at["act"] = _silu(at["gate"])
    at["hidden"] = at["act"] * at["up"]
    at["mlp_out"] = w.linear("mlp.down_proj", at["hidden"], config.mlp_bias)
    at["x_out"] = at["x_mid"] + at["mlp_out"]
    return at


def _norm(config: Config, w: "_Weights", name: str, x: Array) -> tuple[Array, Array, Array]:
    """RMSNorm (Zhang and Sennrich 2019): its rms [T], x / rms [T, D], and that times the gain."""
    rms = np.sqrt(np.mean(x * x, axis=-1) + config.rms_norm_eps)
    unit = x / rms[:, None]
    return rms, unit, w.array(f"{name}.weight") * unit


def _rotation(config: Config, n_tokens: int) -> tuple[Array, Array]:
    """cos and sin of the angle of every position and frequency: [T, 1, h / 2], for all heads."""
    positions = np.arange(n_tokens, dtype=np.float32)
    angle = (positions[:, None, None] * config.inv_freq).astype(np.float64)  # a float32 product
    return np.cos(angle), np.sin(angle)


def _rotate(q: Array, cos: Array, sin: Array) -> Array:
    """RoPE (Su et al. 2021) on [T, heads, h]: component i turns with component i + h / 2."""
    first, second = np.split(q, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def _attend(config: Config, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Causal attention: scores [H, T, T], pattern [H, T, T], z [T, H, h].

    Query head j uses kv head j // (H / K) (grouped-query attention, Ainslie et al. 2023).
    """
    group = config.n_heads // config.n_kv_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)  # [T, H, h]
    scores = np.einsum("qjh,kjh->jqk", q, k) / np.sqrt(config.head_dim)
    later = np.triu(np.ones(scores.shape[1:], dtype=bool), k=1)
    scores = np.where(later, -np.inf, scores)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    pattern = e / e.sum(axis=-1, keepdims=True)
    return scores, pattern, np.einsum("jqk,kjh->qjh", pattern, v)


def _silu(gate: Array) -> Array:
    """gate / (1 + exp(-gate)); for gate below about -709 the quotient is -0, as it should."""
    with np.errstate(over="ignore"):
        act: Array = gate / (1 + np.exp(-gate))
    return act


class _Weights:
    """Tensors by name below a prefix, as float64."""

    def __init__(self, weights: Mapping[str, ArrayLike], prefix: str = "") -> None:
        self._weights, self._prefix = weights, prefix

    def under(self, prefix: str) -> "_Weights":
        return _Weights(self._weights, prefix)

    def array(self, name: str) -> Array:
        return np.asarray(self._weights[self._prefix + name]).astype(np.float64)

    def linear(self, name: str, x: Array, bias: bool = False) -> Array:
        y = x @ self.array(f"{name}.weight").T
        return y + self.array(f"{name}.bias") if bias else y
