"""A bound on the rounding of an attribution: how far the shares may be from their logit.

Standard deviations are modelled as in formulas.py, in units of the logit. Every float32 rounding
between the captured values and the logit contributes: the residual additions, the norms, the head,
and the products that a finer table splits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.hex import fixed_point
from ..formulas import BAR, MAX, TINY, Formulas, U, Value, given
from .weights import Array, product

_PIECE = 1 << 20  # weights at a time, so that they fit into a cache


class Noise(Formulas):
    """Accumulates the deviations of one attribution, [P] each."""

    def __init__(
        self, worst: bool, arithmetic_version: int, rounded: tuple[tuple[str, int | None], ...]
    ) -> None:
        super().__init__(worst, arithmetic_version)
        self._rounded = rounded
        self._parts: list[Any] = []

    @property
    def bound(self) -> Array:
        """[P]: BAR deviations of all parts; inf if values were saved in fixed point."""
        loose = any(fixed_point(format) for format, _ in self._rounded)
        total: Array = np.asarray(BAR * self._join(*self._parts))
        return np.full_like(total, np.inf) if loose else total

    def digits(self, values: Any) -> Any:
        """The deviation of captured values that were saved with fewer digits."""
        size = np.minimum(np.abs(np.nan_to_num(np.asarray(values, np.float64))), MAX)
        found = [digits for _, digits in self._rounded if digits is not None]
        return sum((size * (0.5 * 10.0**-n + U) / np.sqrt(3) + TINY for n in found), 0 * size)

    def add(self, deviation: Any) -> None:
        self._parts.append(deviation)

    def add_spread(self, d: Array, s: Any) -> None:
        """Add the deviation of sum_i d_i x_i over the last axis, for deviations s of x."""
        self.add(self._root(np.sum(self._power(d * s), axis=-1)))

    def add_captured(self, d: Array, values: Array) -> None:
        """Add the deviation of sum_i d_i x_i for captured x."""
        if self._rounded:
            self.add_spread(d, self.digits(values))

    def add_sum(self, d: Array, total: Array, added: Array, scale: float) -> None:
        """Add the deviation of a residual addition: total = x + scale * added."""
        self.add_spread(d, self._roundings(total))
        if scale != 1:
            self.add_spread(d, self._roundings(added * scale))

    def add_relative(self, value: Array, n: float, of: Any = None) -> None:
        """Add n roundings of `value` as a whole, and the deviation of a captured factor in it."""
        self.add(self._roundings(value, n))
        if self._rounded and of is not None:
            self.add(value * self.digits(of) / of)

    def add_norm(self, d: Array, added: Array) -> None:
        """Add the roundings of unit and gain in a norm, for each element of its output."""
        self.add_spread(d, self._roundings(added, 3))

    def add_product(
        self, d: Array, x: Array, weight: NDArray[np.float32], bias: Array | None
    ) -> None:
        """Add the deviation of sum_i d_i (W x + b)_i. x [P, n]."""
        given_x, step = given(x, self.digits(x)), max(1, _PIECE // weight.shape[1])
        for first in range(0, len(weight), step):
            rows = slice(first, first + step)
            y = self._linear(given_x, weight[rows])
            y = y if bias is None else self.total(y, given(bias[rows]))
            self.add_spread(d[:, rows], y.s)

    def add_mix(self, e: Array, p: Array, v: Array) -> None:
        """Add that of sum_jh e_jh z_jh with z = sum_k p v: e [P, H, h], p [P, H, T], v [T, H,
        h]."""
        n = len(v)
        noise = self._power(self._sum_noise(n) * p) + self._power(self.digits(p))
        terms = np.einsum("pjk,kjh->pjh", noise, self._power(v), optimize=True)
        if self._rounded:
            errors = self._power(self.digits(v))
            terms += np.einsum("pjk,kjh->pjh", self._power(p), errors, optimize=True)
        z = np.einsum("pjk,kjh->pjh", p, v, optimize=True)
        s = self._sum(z, n, terms, z * z, np.zeros(z.shape, bool)).s
        self.add_spread(e.reshape(len(e), -1), s.reshape(len(e), -1))

    def add_head(self, x: Array, gain: np.ndarray, eps: float, rows: np.ndarray) -> None:
        """Add the deviation of the logits for these rows of the head."""
        norm = self.product(self.unit(given(x, self.digits(x)), eps), given(gain))
        y = self.linear(norm, lambda a, b: rows[a:b], len(rows), None)
        self.add(y.s.sum(axis=-1))

    def _linear(self, x: Value, w: np.ndarray) -> Value:
        """As in Formulas, but with block sums in float32, since only the error is used."""
        n, size = w.shape[1], self._block
        end = n // size * size
        x32 = x.v.astype(np.float32)
        w_blocks, x_blocks = (
            w[:, :end].reshape(len(w), -1, size),
            x32[:, :end].reshape(len(x32), -1, size),
        )
        sums = np.einsum("rbk,pbk->prb", w_blocks, x_blocks)  # for BLAS, many tiny products
        blocks = [sums, self._times(x32[:, end:], w[:, end:])[:, :, None]]
        v = sum(block.sum(axis=-1, dtype=np.float64) for block in blocks)
        blocks2 = sum(np.square(block, dtype=np.float64).sum(axis=-1) for block in blocks)
        terms = self._matrix(self._power(self._sum_noise(n) * x.v) + self._power(x.s), w)
        return self._sum(v, n, terms, blocks2, x.loose.any(axis=1)[:, None])

    def _times(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return product(x, w.T)
