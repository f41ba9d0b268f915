"""The formulas of a layer in float64, each with the error that float32 arithmetic may leave.

A value is a pair of float64 arrays of one shape: what it should be, and the standard deviation `s`
of its rounding error. BAR deviations are allowed. No margin is chosen by hand: a value two steps
after the last saved one gets a wider margin than its neighbour. recomputed.py applies the formulas
to a saved run.

Errors are combined in one of two ways. By default they are independent: squares are added, and a
sum of products is a random walk within each block of the canonical arithmetic of the run's version
(docs/arithmetic.md). Honest runs look like that, unless their weights have a pattern (all equal,
say) that makes all roundings go one way. With `worst`, sizes are added: BAR * s is a bound that no
honest run exceeds. Both hold for large errors, since a curve is evaluated BAR deviations up and
down instead of by its slope; and for denormals, where a rounding leaves up to half of TINY.

A value that float32 cannot hold, or may not have held on the way, and all that is computed from it,
is loose: s is inf, v is 0, and any number is accepted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .maths import for_heads, silu

BAR = 8.0  # deviations that are allowed; honest runs stay below 5, whatever their digits
U = 2.0**-24
TINY = 2.0**-149  # the smallest float32
MAX = float(np.finfo(np.float32).max)
_MEAN = U / np.sqrt(3)  # deviation of one rounding, in parts of the number
_LIMIT = MAX * (1 - 1e-6)
_BLOCKS = {0: 256}  # terms of a block, by arithmetic version; of all later ones:
_BLOCK = 64
_CHUNK = 1 << 24  # weights that are widened to float64 at a time
_FAR = 1e-30  # squares below this share of a row's largest count as this share
_MAX_ANGLE = 2.0**26  # beyond, the canonical sine is NaN
_LOWEST_SILU = -1.2784645427610738  # where silu is smallest
_LOWEST_GELU = -0.7524614044087228  # where gelu_tanh is smallest
_GELU = float.fromhex("0x1.988454p-1"), float.fromhex("0x1.6e4e26p-5")


@dataclass(frozen=True)
class Value:
    """A value and the standard deviation of its error, float64 of the same shape."""

    v: np.ndarray
    s: np.ndarray

    @property
    def loose(self) -> Any:
        """Where any number is accepted."""
        return np.isinf(self.s)

    @property
    def known(self) -> "Value":
        """Without error where it is loose, so that it can be multiplied."""
        return Value(self.v, np.where(self.loose, 0, self.s)) if self.loose.any() else self


def given(array: np.ndarray | float, s: np.ndarray | float = 0) -> Value:
    """A value as it is, such as a weight or a saved one; loose where it is not finite."""
    v = np.asarray(array, np.float64)
    fine = np.isfinite(v)
    return Value(np.where(fine, v, 0), np.where(fine, s, np.inf))


class Formulas:
    """The steps of a layer. Infinities are only in `s`, and in `masked` scores."""

    def __init__(self, worst: bool = False, arithmetic_version: int = 1) -> None:
        self._worst = worst
        self._block = _BLOCKS.get(arithmetic_version, _BLOCK)

    # ---- errors ----

    def _join(self, *parts: Any) -> Any:
        """The deviation of a sum of errors."""
        if self._worst:
            return sum(np.abs(part) for part in parts)
        return np.sqrt(sum(part * part for part in parts))

    def _power(self, s: np.ndarray) -> np.ndarray:
        """The power in which deviations are added; `_root` undoes it."""
        return np.abs(s) if self._worst else s * s

    def _root(self, total: np.ndarray) -> np.ndarray:
        return total if self._worst else np.sqrt(total)

    def _roundings(self, v: np.ndarray, n: float = 1) -> np.ndarray:
        """The error of n roundings of numbers of about the size of v."""
        size = np.abs(v)
        return n * (U * size + TINY) / BAR if self._worst else np.sqrt(n) * (_MEAN * size + TINY)

    def _sum_noise(self, n: int) -> float:
        """The error of the partial sums of n products as a share of each product, to be joined over
        the products. Each partial sum is rounded once. Its square is at most about the sum of the
        squared products if they have no trend, and (j / n)^2 of its block's square if they have
        one, which `_trend` adds; a bound is the sum of the products' sizes."""
        n_rounded = min(n, self._block)
        if self._worst:
            return U * (n_rounded + n / self._block) / BAR
        return _MEAN * np.sqrt(n_rounded)

    def _trend(self, n: int, blocks2: np.ndarray) -> np.ndarray:
        """See `_sum_noise`; blocks2: the sum of the squared sums of the blocks."""
        return 0 * blocks2 if self._worst else self._sum_noise(n) * np.sqrt(blocks2 / 3)

    def _sum(
        self, v: np.ndarray, n: int, terms: np.ndarray, blocks2: np.ndarray, loose: np.ndarray
    ) -> Value:
        """A sum of n products; `terms`: noise and input errors joined over them, in the power of
        `_power`. Loose where a partial sum may have left float32."""
        inputs = self._root(terms)
        size = inputs / self._sum_noise(n) * (1 if self._worst else np.sqrt(n))
        s = self._join(inputs, self._trend(n, blocks2), self._roundings(v, max(1, n / self._block)))
        return _value(v, s + n * TINY, loose | (size >= _LIMIT))

    # ---- steps ----

    def linear(
        self, x: Value, weight: Callable[[int, int], np.ndarray], n_rows: int, bias: Value | None
    ) -> Value:
        """y = W x + b. x [T, n]; `weight(a, b)` gives rows a..b of W; y [T, n_rows]."""
        step = max(1, _CHUNK // x.v.shape[1])
        parts = [self._linear(x, weight(a, min(a + step, n_rows))) for a in range(0, n_rows, step)]
        v = np.concatenate([part.v for part in parts], axis=1)
        y = Value(v, np.concatenate([part.s for part in parts], axis=1))
        return y if bias is None else self.total(y, bias)

    def _linear(self, x: Value, w: np.ndarray) -> Value:
        n, loose, x = w.shape[1], x.loose.any(axis=1), x.known
        v, blocks2 = np.zeros((len(x.v), len(w))), np.zeros((len(x.v), len(w)))
        with np.errstate(invalid="ignore"):  # weights that are not finite
            for k in range(0, n, self._block):
                end = k + self._block
                block = x.v[:, k:end] @ w[:, k:end].astype(np.float64).T
                v += block
                blocks2 += block * block
            terms = self._matrix(self._power(self._sum_noise(n) * x.v) + self._power(x.s), w)
        return self._sum(v, n, terms, blocks2, loose[:, None])

    def _matrix(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """x [T, n] times the powers of W, in float32, which is precise enough for an error and
        twice as fast, except for rows of W whose squares leave its range."""
        if self._worst:
            return self._times(x, np.abs(w.astype(np.float64)))
        top = x.max(axis=1, keepdims=True)
        x = np.maximum(np.divide(x, top, out=np.zeros_like(x), where=top > 0), _FAR)
        with np.errstate(over="ignore", under="ignore"):
            w2 = np.square(w, dtype=np.float32)
            y = self._times(x.astype(np.float32), w2).astype(np.float64)
        largest = w2.max(axis=1).astype(np.float64)
        y += x.sum(axis=1, keepdims=True) * largest * _FAR  # squares too small beside the largest
        odd = np.flatnonzero(~((1e-20 < largest) & (largest < 1e20)))
        if odd.size:
            y[:, odd] = self._times(x, np.square(w[odd].astype(np.float64)))
        return y * top

    def _times(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """x [T, n], w [rows, n] -> [T, rows]."""
        product: np.ndarray = x @ w.T
        return product

    def rms(self, x: Value, eps: float) -> Value:
        """[..., D] -> [...]: sqrt(mean(x^2) + eps). Float64 inside, rounded once."""
        v, low, high = self._rms_range(x, eps)
        s = self._join(np.maximum(high - v, v - low) / BAR, self._roundings(v))
        return _value(v, s, x.loose.any(axis=-1))

    def _rms_range(self, x: Value, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The value, and its range for BAR deviations of x."""
        x, n = x.known, x.v.shape[-1]
        square = np.mean(x.v * x.v, axis=-1) + eps
        error = self._root(np.sum(self._power(2 * x.v * x.s), axis=-1)) / n
        error = BAR * error + BAR * BAR * np.mean(x.s * x.s, axis=-1)
        return np.sqrt(square), np.sqrt(np.maximum(square - error, eps)), np.sqrt(square + error)

    def unit(self, x: Value, eps: float) -> Value:
        """[..., D] -> [..., D]: x / rms. The reciprocal is rounded once per row, then each product. No
        number exceeds sqrt(D), whatever x is."""
        loose, x = x.loose.any(axis=-1), x.known
        r, low, high = (each[..., None] for each in self._rms_range(x, eps))
        with np.errstate(divide="ignore", invalid="ignore"):
            v = x.v / r
            turned = np.abs(x.v) * (1 / low - 1 / high) / BAR
            s = self._join(x.s / low, turned, self._roundings(v, 2), TINY * r * np.abs(v))
        s = np.fmin(s, 2.1 / BAR * np.sqrt(v.shape[-1]))
        return _value(v, s, loose[..., None] | (low * _LIMIT <= 1))

    def reciprocal(self, x: Value) -> Value:
        """1 / x, of numbers above 0."""
        loose, x = x.loose | (x.v - BAR * x.known.s <= 0), x.known
        with np.errstate(divide="ignore", invalid="ignore"):
            v = 1 / x.v
            s = self._join(x.s * v / (x.v - BAR * x.s), self._roundings(v))
        return _value(v, s, loose)

    def product(self, a: Value, b: Value) -> Value:
        loose, a, b = a.loose | b.loose, a.known, b.known
        v = a.v * b.v
        s = self._join(a.v * b.s, b.v * a.s, BAR * a.s * b.s, self._roundings(v))
        return _value(v, s, loose)

    def total(self, a: Value, b: Value) -> Value:
        loose, a, b = a.loose | b.loose, a.known, b.known
        return _value(a.v + b.v, self._join(a.s, b.s, self._roundings(a.v + b.v)), loose)

    def times(self, x: Value, scale: float) -> Value:
        """x * float32(scale)."""
        loose, x, scale = x.loose, x.known, float(np.float32(scale))
        v = x.v * scale
        return _value(v, self._join(x.s * scale, self._roundings(v)), loose)

    def divided(self, x: Value, divisor: float) -> Value:
        """x / float32(divisor)."""
        loose, x, divisor = x.loose, x.known, float(np.float32(divisor))
        v = x.v / divisor
        return _value(v, self._join(x.s / divisor, self._roundings(v)), loose)

    def cap(self, x: Value, cap: float) -> Value:
        """cap * tanh(x / cap)."""
        loose, cap = x.loose, float(np.float32(cap))
        x = self.divided(x.known, cap)
        loose, x = loose | x.loose, x.known
        low, v, high = (cap * np.tanh(x.v + sign * BAR * x.s) for sign in (-1, 0, 1))
        s = self._join(np.maximum(high - v, v - low) / BAR, self._roundings(v, 4), TINY * cap)
        return _value(v, s, loose)

    def rotate(self, x: Value, inv_freq: np.ndarray, factor: float, interleaved: bool) -> Value:
        """RoPE on [T, n, h]: of the first r = 2 * inv_freq.size numbers, i goes with i + r / 2, or,
        interleaved, 2i with 2i + 1."""
        r = 2 * inv_freq.size
        order = np.arange(r).reshape(-1, 2).T.ravel() if interleaved else np.arange(r)
        rotated = self._rotate_halves(Value(x.v[..., order], x.s[..., order]), inv_freq, factor)
        y = Value(x.v.copy(), x.s.copy())
        y.v[..., order], y.s[..., order] = rotated.v, rotated.s
        return y

    def _rotate_halves(self, x: Value, inv_freq: np.ndarray, factor: float) -> Value:
        """The angle is one float32 product; its sine and cosine are rounded once, as in the
        canonical arithmetic, and once more after the product with a factor."""
        position = np.arange(len(x.v), dtype=np.float32)[:, None]
        with np.errstate(over="ignore"):
            angle = (inv_freq.astype(np.float32) * position).astype(np.float64)
        beyond = ~(np.abs(angle) <= _MAX_ANGLE)
        angle[beyond] = 0
        cos, sin = (_rounded(f(angle))[:, None] for f in (np.cos, np.sin))
        if factor != 1:
            cos, sin = (_rounded(each * float(np.float32(factor))) for each in (cos, sin))
        first, second = np.split(x.loose, 2, axis=-1)
        loose = np.concatenate(2 * [first | second | beyond[:, None]], axis=-1)
        (a, b), (sa, sb) = np.split(x.v, 2, axis=-1), np.split(x.known.s, 2, axis=-1)
        p, q = np.concatenate([a * cos, b * cos], -1), np.concatenate([-b * sin, a * sin], -1)
        sp, sq = np.concatenate([sa * cos, sb * cos], -1), np.concatenate([sb * sin, sa * sin], -1)
        n = 1  # the cosine may be another float32 than the right one, by a bit, or two after factor
        if self._worst:
            n = 3 if factor == 1 else 5
        steps = self._roundings(p, n), self._roundings(q, n), self._roundings(p + q)
        s = self._join(sp, sq, *steps)
        return _value(p + q, s, loose | (np.abs(p) + np.abs(q) >= _LIMIT))

    def scores(self, q: Value, k: Value, scale: float) -> Value:
        """[T, H, h], [T, K, h] -> [H, T, T]: q . k * scale, of hidden keys too."""
        n, k = q.v.shape[-1], _of_heads(k, q.v.shape[1])
        loose = _any(q)[:, :, None] | _any(k)[:, None, :]
        q, k = q.known, k.known
        dot = np.einsum("qhi,khi->hqk", q.v, k.v, optimize=True)
        terms = self._pairs("qhi,khi->hqk", n, q, k)
        value = self._sum(dot, n, terms, dot * dot, loose)
        s = self._join(value.known.s * scale, self._roundings(dot * scale))
        return _value(dot * scale, s, value.loose)

    def _pairs(self, axes: str, n: int, a: Value, b: Value) -> np.ndarray:
        """The terms of `_sum` for products of two values, as einsum joins them."""
        power, noise = self._power, self._sum_noise(n)
        terms = np.einsum(axes, power(noise * a.v) + power(a.s), power(b.v), optimize=True)
        if b.s.any():
            both = power(a.v) + power(BAR * a.s)
            terms += np.einsum(axes, both, power(b.s), optimize=True)
        return terms

    def pattern(self, score: Value, seen: np.ndarray) -> Value:
        """[H, T, T] -> [H, T, T]: softmax over the seen keys. Each exponent has its own error and
        that of the difference to the largest; the sum has all of them."""
        loose = (seen & score.loose).any(axis=-1, keepdims=True)
        fine = seen & ~loose
        v = np.where(fine, score.v, np.where(seen, 0, -np.inf))
        below = v - v.max(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", under="ignore"):
            log_p = below - np.log(np.exp(below).sum(axis=-1, keepdims=True))
            p = np.exp(log_p)
            steps = self._roundings(np.where(seen, below, 0)), self._roundings(np.ones(1), 6)
            s = self._join(np.where(fine, score.s, 0), *steps)
            s = self._join(s, self._of_sum(log_p, s, p))
            up = np.exp(np.minimum(log_p + BAR * s, 0)) - p
            s = np.maximum(up, -p * np.expm1(-BAR * s)) / BAR + TINY
        return _value(p, np.where(seen, s, 0), loose)

    def _of_sum(self, log_p: np.ndarray, s: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The error of the logarithm of the sum of a softmax: of independent errors where they are
        small, else at most as if all keys were BAR deviations too high."""
        high = log_p + BAR * s
        top = high.max(axis=-1, keepdims=True)
        bound = (top + np.log(np.exp(high - top).sum(axis=-1, keepdims=True))) / BAR
        if self._worst:
            return bound
        free = np.sqrt(np.sum((p * s) ** 2, axis=-1, keepdims=True))
        return np.where(BAR * s.max(axis=-1, keepdims=True) < 0.5, free, np.maximum(bound, free))

    def mix(self, p: Value, v: Value) -> Value:
        """[H, T, T], [T, K, h] -> [T, H, h]: the weighted sum of the values."""
        n, v = len(v.v), _of_heads(v, len(p.v))
        keys = np.logical_or.accumulate(v.loose, axis=0)  # a query sees all keys up to its own
        loose, p, v = keys | p.loose.any(axis=-1).T[:, :, None], p.known, v.known
        z = np.einsum("hqk,khi->qhi", p.v, v.v, optimize=True)
        return self._sum(z, n, self._pairs("hqk,khi->qhi", n, p, v), z * z, loose)

    def silu(self, gate: Value) -> Value:
        """gate / (1 + exp(-gate)). Where exp(-gate) leaves float32 the value jumps to -0."""
        loose, gate = gate.loose, gate.known
        v, s = _curve(silu, _LOWEST_SILU, gate)
        jump = np.where(gate.v - BAR * gate.s < -85, 4e-37, 0)
        return _value(v, self._join(s, self._roundings(v, 6)) + jump, loose)

    def gelu_tanh(self, gate: Value) -> Value:
        """0.5 * gate * (1 + tanh(u)). 1 + tanh is off by at most 4.5 U: 2.7 from the roundings of
        u, as u times the slope of tanh is at most 0.45, and 1.8 from those of tanh."""
        loose, gate = gate.loose, gate.known
        v, s = _curve(_gelu_tanh, _LOWEST_GELU, gate)
        half = (np.abs(gate.v) + BAR * gate.s) / 2
        return _value(v, self._join(s, self._roundings(half, 5), self._roundings(v, 4)), loose)


def _value(v: np.ndarray, s: np.ndarray, loose: np.ndarray) -> Value:
    """A result; loose where float32 may have overflowed, too."""
    with np.errstate(invalid="ignore"):
        loose = loose | ~(np.abs(v) + BAR * s < _LIMIT)
    if not loose.any():
        return Value(v, s)
    return Value(np.where(loose, 0, v), np.where(loose, np.inf, s))


def masked(score: Value, seen: np.ndarray) -> Value:
    """Scores with -inf for keys that a query does not see."""
    return Value(np.where(seen, score.v, -np.inf), np.where(seen, score.s, 0))


def _rounded(v: np.ndarray) -> np.ndarray:
    return v.astype(np.float32).astype(np.float64)


def _curve(f: Callable[[Any], Any], lowest: float, x: Value) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and its error, for a curve that falls up to `lowest` and rises after it."""
    low, high = x.v - BAR * x.s, x.v + BAR * x.s
    v, at_low, at_high = f(x.v), f(low), f(high)
    at_bottom = f(np.clip(lowest, low, high))
    return v, np.maximum(np.maximum(at_low, at_high) - v, v - at_bottom) / BAR


def _gelu_tanh(g: Any) -> Any:
    scale, cubed = _GELU
    return 0.5 * g * (1 + np.tanh(scale * (g + cubed * g * g * g)))


def _any(x: Value) -> np.ndarray:
    """[T, H, h] -> [H, T]: whether a number of a head is loose."""
    return x.loose.any(axis=-1).T


def _of_heads(x: Value, n_heads: int) -> Value:
    return Value(for_heads(x.v, n_heads), for_heads(x.s, n_heads))
