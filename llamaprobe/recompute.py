"""A Llama again in float64, value by value, each with the error that float32 arithmetic may have
left in it.

`Recomputed` answers for any capture point: from the values that a run saved where it saved them,
else from its own. A value is a pair of float64 arrays of one shape: what it should be, and the
standard deviation `s` of what rounding adds to it, which is propagated from step to step as
independent errors are. So a value that was saved two steps after the last saved one gets a wider
margin than its neighbour, and no bar is chosen by hand.

Rounding a number v to float32 adds an error of at most u |v|, u = 2^-24, and of about u |v| /
sqrt(3) in the mean. A sum of products adds the roundings of its partial sums (`_sum_error`), which
is a random walk in each block of 256 terms, as the canonical arithmetic (docs/arithmetic.md) cuts
it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

U = 2.0**-24
_BLOCK = 256
_CHUNK = 1 << 24  # weights that are widened to float64 at a time


@dataclass(frozen=True)
class Value:
    """What a value should be and the standard deviation of its error, float64 of the same shape."""

    v: np.ndarray
    s: np.ndarray


def exact(array: np.ndarray) -> Value:
    v = np.asarray(array, np.float64)
    return Value(v, np.zeros_like(v))


def rounded(v: np.ndarray, s2: np.ndarray, n_roundings: float = 1) -> Value:
    """A value whose inputs leave the variance s2 and whose last steps are n roundings of about its
    size."""
    return Value(v, np.sqrt(s2 + n_roundings * (U * v) ** 2 / 3))


def _sum_noise(n: int) -> float:
    """Variance of a float32 sum of n products, in parts of (the sum of the squared terms + a third
    of the sum of the squared block sums). Each partial sum is rounded once; its square is at most
    about the first when the terms have no trend, and (j / n)^2 of its block's when they have
    one."""
    return U * U / 3 * min(n, _BLOCK)


def linear(
    x: Value, weight: Callable[[int, int], np.ndarray], n_rows: int, bias: np.ndarray | None
) -> Value:
    """y = W x + b. x [T, n]; `weight(a, b)` gives rows a..b of W; y [T, n_rows]."""
    step = max(1, _CHUNK // x.v.shape[1])
    parts = [_linear(x, weight(a, min(a + step, n_rows))) for a in range(0, n_rows, step)]
    v = np.concatenate([part.v for part in parts], axis=1)
    s = np.concatenate([part.s for part in parts], axis=1)
    return Value(v, s) if bias is None else rounded(v + bias, s * s)


def _linear(x: Value, w: np.ndarray) -> Value:
    """The value in float64, block by block; the variance, which needs no such precision, in float32
    and in units of U^2, so that it stays within float32's range."""
    n, noise = w.shape[1], _sum_noise(w.shape[1])
    v, blocks2 = np.zeros((len(x.v), len(w))), np.zeros((len(x.v), len(w)))
    for k in range(0, n, _BLOCK):
        block = x.v[:, k : k + _BLOCK] @ w[:, k : k + _BLOCK].astype(np.float64).T
        v += block
        blocks2 += block * block
    inputs2 = np.minimum((noise * x.v * x.v + x.s * x.s) / U**2, 1e30).astype(np.float32)
    terms2 = inputs2 @ np.square(w, dtype=np.float32).T
    return rounded(v, U**2 * terms2.astype(np.float64) + noise / 3 * blocks2, n / _BLOCK)


def rms(x: Value, eps: float) -> Value:
    """[T, D] -> [T]: sqrt(mean(x^2) + eps). Float64 inside, rounded once."""
    v = np.sqrt(np.mean(x.v * x.v, axis=-1) + eps)
    return rounded(v, np.sum((x.v * x.s) ** 2, axis=-1) / (x.v.shape[-1] * v) ** 2)


def unit(x: Value, eps: float) -> Value:
    """[T, D] -> [T, D]: x / rms. The reciprocal is rounded for the whole row, then each product."""
    r = rms(x, eps)
    v = x.v / r.v[:, None]
    return rounded(v, (x.s / r.v[:, None]) ** 2 + (v * (r.s / r.v)[:, None]) ** 2)


def product(a: Value, b: Value) -> Value:
    return rounded(a.v * b.v, (a.v * b.s) ** 2 + (b.v * a.s) ** 2)


def total(a: Value, b: Value) -> Value:
    return rounded(a.v + b.v, a.s**2 + b.s**2)


def rotate(x: Value, inv_freq: np.ndarray) -> Value:
    """RoPE on [T, n, h]: number i turns with number i + h / 2. The angle is one float32 product,
    its sine and cosine are rounded once, as the canonical arithmetic has them."""
    angle = (inv_freq.astype(np.float32) * np.arange(len(x.v), dtype=np.float32)[:, None]).astype(
        np.float64
    )
    cos, sin = (f(angle).astype(np.float32).astype(np.float64)[:, None] for f in (np.cos, np.sin))
    (a, b), (sa, sb) = np.split(x.v, 2, axis=-1), np.split(x.s, 2, axis=-1)
    v = np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    products2 = (a * cos) ** 2 + (b * sin) ** 2, (b * cos) ** 2 + (a * sin) ** 2
    inputs2 = (sa * cos) ** 2 + (sb * sin) ** 2, (sb * cos) ** 2 + (sa * sin) ** 2
    return rounded(
        v, np.concatenate(inputs2, axis=-1) + U * U / 3 * np.concatenate(products2, axis=-1)
    )


def scores(q: Value, k: Value, scale: float) -> Value:
    """[T, H, h], [T, K, h] -> [H, T, T]: q . k * scale; -inf where the key comes after the
    query."""
    noise, k = _sum_noise(q.v.shape[-1]), _for_heads(k, q.v.shape[1])
    q2, k2 = q.v * q.v, k.v * k.v
    v = np.einsum("qhi,khi->hqk", q.v, k.v, optimize=True) * scale
    s2 = np.einsum("qhi,khi->hqk", noise * q2 + q.s**2, k2, optimize=True)
    s2 += np.einsum("qhi,khi->hqk", q2, k.s**2, optimize=True)
    seen = np.tri(len(q.v), dtype=bool)
    value = rounded(v, s2 * scale * scale + noise / 3 * v * v)
    return Value(np.where(seen, value.v, -np.inf), np.where(seen, value.s, 0))


def pattern(score: Value) -> Value:
    """[H, T, T] -> [H, T, T]: softmax over the keys. Each exponent is off by its own error, and by
    the rounding of the difference to the largest; the sum shares all of that."""
    below = score.v - score.v.max(axis=-1, keepdims=True)
    e = np.exp(below)
    p = e / e.sum(axis=-1, keepdims=True)
    seen = np.isfinite(below)
    relative2 = score.s**2 + U * U / 3 * (np.where(seen, below, 0) ** 2 + 6)
    relative2 += np.sum(p * p * relative2, axis=-1, keepdims=True)
    return Value(p, p * np.expm1(np.minimum(np.sqrt(relative2), 50)))


def mix(p: Value, v: Value) -> Value:
    """[H, T, T], [T, K, h] -> [T, H, h]: the values of the keys, weighed."""
    noise, v = _sum_noise(len(v.v)), _for_heads(v, len(p.v))
    p2, v2 = p.v * p.v, v.v * v.v
    z = np.einsum("hqk,khi->qhi", p.v, v.v, optimize=True)
    s2 = np.einsum("hqk,khi->qhi", noise * p2 + p.s**2, v2, optimize=True)
    s2 += np.einsum("hqk,khi->qhi", p2, v.s**2, optimize=True)
    return rounded(z, s2 + noise / 3 * z * z, 1 + len(v.v) / _BLOCK)


def silu(gate: Value) -> Value:
    """gate / (1 + exp(-gate)); -0 where exp(-gate) is beyond float32."""
    g = gate.v
    with np.errstate(over="ignore"):
        e = np.exp(-g)
        sigmoid = 1 / (1 + e)
    v = np.where(e > np.finfo(np.float32).max, -0.0, g * sigmoid)
    slope = sigmoid * (1 + g * (1 - sigmoid))
    return rounded(v, (slope * gate.s) ** 2, 6)


def _for_heads(x: Value, n_heads: int) -> Value:
    """[T, K, h] -> [T, H, h]: query head j uses kv head j // (H / K)."""
    group = n_heads // x.v.shape[1]
    return Value(np.repeat(x.v, group, axis=1), np.repeat(x.s, group, axis=1))
