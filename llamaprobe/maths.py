"""Formulas of a layer in NumPy, in the dtype of their arrays: float64 in reference.py and in `verify`,
float32 in offline.py. Shapes: T tokens, H heads, K kv heads, h head_dim.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rms(x: Array, eps: float) -> Array:
    """[..., D] -> [...]: the divisor of RMSNorm (Zhang and Sennrich 2019)."""
    root: Array = np.sqrt(np.mean(x * x, axis=-1) + x.dtype.type(eps))
    return root


def rotate(x: Array, inv_freq: Array, factor: float, interleaved: bool) -> Array:
    """RoPE (Su et al. 2021) on [T, heads, h] at positions 0 .. T: of the first r = 2 * inv_freq.size
    components i turns with i + r / 2, or, interleaved, 2i with 2i + 1. The angle is a float32 product
    in every dtype, as in the programs that such models are trained and run with."""
    position = np.arange(len(x), dtype=np.float32)[:, None, None]
    angle = (position * inv_freq.astype(np.float32)).astype(x.dtype)
    cos, sin = x.dtype.type(factor) * np.cos(angle), x.dtype.type(factor) * np.sin(angle)
    turned, rest = np.split(x, [2 * inv_freq.size], axis=-1)
    pairs, axis = ((-1, 2), -1) if interleaved else ((2, -1), -2)
    first, second = np.moveaxis(turned.reshape(*x.shape[:2], *pairs), axis, 0)
    turned = np.stack((first * cos - second * sin, second * cos + first * sin), axis)
    return np.concatenate((turned.reshape(*x.shape[:2], -1), rest), axis=-1)


def seen(n_tokens: int, window: int | None) -> NDArray[np.bool_]:
    """[T, T]: whether a query sees a key: up to its own, and with a window of W the last W of them."""
    age = np.arange(n_tokens)[:, None] - np.arange(n_tokens)
    mask: NDArray[np.bool_] = (age >= 0) & (age < (window or n_tokens))
    return mask


def for_heads(x: Array, n_heads: int) -> Array:
    """[T, K, h] -> [T, H, h]: query head j uses kv head j // (H / K) (Ainslie et al. 2023)."""
    return np.repeat(x, n_heads // x.shape[1], axis=1)


def scores(q: Array, k: Array, scale: float) -> Array:
    """[T, H, h], [T, K, h] -> [H, T, T]: q . k * scale, of keys that are not seen too."""
    dot: Array = np.einsum("qjh,kjh->jqk", q, for_heads(k, q.shape[1]))
    return dot * q.dtype.type(scale)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def mix(pattern: Array, v: Array) -> Array:
    """[H, T, T], [T, K, h] -> [T, H, h]: each head's sum of the values, weighted by its pattern."""
    z: Array = np.einsum("jqk,kjh->qjh", pattern, for_heads(v, len(pattern)))
    return z


def cap(x: Array, most: float | None) -> Array:
    """Soft capping: like x near 0, never beyond `most`; None: x."""
    if not most:
        return x
    limit = x.dtype.type(most)
    capped: Array = limit * np.tanh(x / limit)
    return capped


def silu(gate: Array) -> Array:
    """gate / (1 + exp(-gate)); for gate below about -709 the quotient is -0, as it should."""
    with np.errstate(over="ignore"):
        act: Array = gate / (1 + np.exp(-gate))
    return act


def gelu_tanh(gate: Array) -> Array:
    """GELU (Hendrycks and Gimpel 2016) in the form with tanh."""
    u = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    act: Array = 0.5 * gate * (1 + np.tanh(u))
    return act


ACTIVATIONS = {"silu": silu, "gelu_tanh": gelu_tanh}
