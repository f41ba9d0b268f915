"""A decoder in plain NumPy, to be read as the specification of every capture point.

Everything is float64 except one number that defines the model: the angle of RoPE, a float32 product
of a float32 frequency and the position, as in every program that such models are trained and run
with. `forward` says what a value *is*; the C core says to the bit how float32 gets there, and tests
hold both against transformers. A line that a family does not have is passed over: `config` says which.
Shapes: T tokens, D d_model, H n_heads, K n_kv_heads, h head_dim, F d_ff, V vocab_size. A weight matrix
is [out, in] as in the files, so a linear layer is x @ W.T.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import maths
from .config import Config
from .families.points import has_raw_logits
from .families.tensors import EMBEDDING, FINAL_NORM, HEAD, matrix

__all__ = ["forward"]

Array = NDArray[np.float64]
Edit = Callable[[str, int | None, Array], Array]


def forward(
    config: Config,
    weights: Mapping[str, ArrayLike],
    token_ids: Sequence[int] | NDArray[np.integer],
    rope_length: int | None = None,
    edit: Edit | None = None,
) -> dict[str, Array]:
    """Every capture point of one prompt, by name; none that the model lacks.

    `weights` maps Hugging Face tensor names to arrays of any float dtype; a matrix is made float64
    when it is used and dropped after. Points of a layer have a leading [n_layers] axis, so that
    forward(...)["x"] is [n_layers, T, D]; `final_*` and `logits` have none. Keys that a query does
    not see are -inf in `scores` and 0 in `pattern`. `rope_length` (default: T) chooses the table of
    LongRoPE. `edit(point, layer, value)` returns what takes the place of a value, in the result and
    in all that reads it. KeyError when a tensor is missing.
    """
    w = _Weights(config, weights, config.prefix)
    ids = np.asarray(token_ids)
    edit = edit or (lambda point, layer, value: value)
    x = w.array(EMBEDDING, rows=ids) * config.embedding_scale  # [T, D]
    layers = []
    for i in range(config.n_layers):
        under = w.under(f"model.layers.{i}.")
        layers.append(_layer(config, i, under, x, rope_length or len(ids), edit))
        x = layers[-1]["x_out"]
    values = {point: np.stack([layer[point] for layer in layers]) for point in layers[0]}
    values["x_out"][:-1] = values["x"][1:]
    final = _Values(edit)
    final_norm = _norm(config, w, final, "final", x)
    tied = config.tied_head and f"{config.prefix}{HEAD}.weight" not in weights
    logits = final_norm @ w.array(EMBEDDING if tied else HEAD).T
    if has_raw_logits(config):
        final["logits_raw"] = logits
    logits = final.get("logits_raw", logits)
    final["logits"] = maths.cap(logits / config.logits_divisor, config.logits_cap)
    return values | final


class _Values(dict[str, Array]):
    def __init__(self, edit: Edit, layer: int | None = None) -> None:
        self._edit, self._layer = edit, layer

    def __setitem__(self, point: str, value: Array) -> None:
        super().__setitem__(point, self._edit(point, self._layer, value))


def _layer(
    config: Config, number: int, w: "_Weights", x: Array, rope_length: int, edit: Edit
) -> _Values:
    """One layer, top to bottom: x [T, D] to x_out [T, D]."""
    at, layer = _Values(edit, number), config.layer(number)
    at["x"] = x
    x = at["x"]
    x_norm = _norm(config, w, at, "x", x)

    heads = (len(x), -1, config.head_dim)
    at["q"] = w.linear("q", x_norm).reshape(heads)  # [T, H, h]
    at["k"] = w.linear("k", x_norm).reshape(heads)  # [T, K, h]
    at["v"] = w.linear("v", x_norm).reshape(heads)  # [T, K, h]
    q, k = _norm(config, w, at, "q", at["q"]), _norm(config, w, at, "k", at["k"])
    for point, y in (("q_rope", q), ("k_rope", k)):
        if layer.rope:
            inv_freq, factor = layer.rope.frequencies(rope_length), layer.rope.attention_factor
            y = maths.rotate(y, inv_freq, factor, config.interleaved)
        at[point] = y
    _attend(config, layer.window, at)
    at["attn_out"] = w.linear("attn_out", at["z"].reshape(len(x), -1))
    attn_norm = _norm(config, w, at, "attn", at["attn_out"])
    at["x_mid"] = x + attn_norm * config.residual_scale

    x_mid_norm = _norm(config, w, at, "x_mid", at["x_mid"])
    at["gate"] = w.linear("gate", x_mid_norm)  # [T, F]
    at["up"] = w.linear("up", x_mid_norm)  # [T, F]
    at["act"] = maths.ACTIVATIONS[config.activation](at["gate"])
    at["hidden"] = at["act"] * at["up"]
    at["mlp_out"] = w.linear("mlp_out", at["hidden"])
    mlp_norm = _norm(config, w, at, "mlp", at["mlp_out"])
    at["x_out"] = at["x_mid"] + mlp_norm * config.residual_scale
    return at


def _norm(config: Config, w: "_Weights", at: _Values, name: str, x: Array) -> Array:
    """RMSNorm (Zhang and Sennrich 2019): {name}_rms [T], {name}_unit = x / rms, and {name}_norm, that
    times the gain, which is returned; x itself in a model that has no such norm. That of q and k goes
    over each head, or over all of them at once."""
    module = FINAL_NORM if name == "final" else config.norms.get(f"{name}_norm")
    if module is None:
        return x
    rows = (len(x), -1) if config.qk_norm_whole and name in ("q", "k") else x.shape
    y, gain = x.reshape(rows), w.array(module) + config.gain_offset
    at[f"{name}_rms"] = maths.rms(y, config.rms_norm_eps)
    at[f"{name}_unit"] = (y / at[f"{name}_rms"][..., None]).reshape(x.shape)
    at[f"{name}_norm"] = (gain * at[f"{name}_unit"].reshape(rows)).reshape(x.shape)
    return at[f"{name}_norm"]


def _attend(config: Config, window: int | None, at: _Values) -> None:
    """Causal attention: scores [H, T, T], pattern [H, T, T], z [T, H, h]."""
    seen = maths.seen(len(at["q_rope"]), window)
    scale = config.score_scale or 1 / np.sqrt(config.head_dim)
    scores = maths.scores(at["q_rope"], at["k_rope"], scale)
    if config.score_cap:
        at["scores_raw"] = np.where(seen, scores, -np.inf)
        scores = at["scores_raw"]
    at["scores"] = np.where(seen, maths.cap(scores, config.score_cap), -np.inf)
    at["pattern"] = maths.softmax(at["scores"])
    at["z"] = maths.mix(at["pattern"], at["v"])


class _Weights:
    """Tensors by module below a prefix, as float64."""

    def __init__(self, config: Config, weights: Mapping[str, ArrayLike], prefix: str = "") -> None:
        self._config, self._weights, self._prefix = config, weights, prefix

    def under(self, prefix: str) -> "_Weights":
        return _Weights(self._config, self._weights, self._prefix + prefix)

    def array(self, module: str, kind: str = "weight", rows: Any = slice(None)) -> Array:
        tensor = np.asarray(self._weights[f"{self._prefix}{module}.{kind}"])
        return tensor[rows].astype(np.float64)

    def linear(self, point: str, x: Array) -> Array:
        m = matrix(self._config, point)
        rows = slice(m.first_row, m.first_row + m.n_rows)
        y = x @ self.array(m.module, "weight", rows).T
        return y + self.array(m.module, "bias", rows) if m.has_bias else y
