"""The captured values of a growing text: arrays with spare capacity for further rows."""

import math
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..captures import Capture
from ..config import Config
from ..points import shape as shape_of

Values = dict[str, tuple[tuple[int, ...], NDArray[np.float32]]]
_LEAST = 64


class Captured:
    """The values of one sequence: [layers, capacity, ...] per capture; for maps, which hold one
    number per query and key, [layers, n_heads, capacity, capacity]."""

    def __init__(self, captures: Sequence[Capture], config: Config, capacity: int = 0) -> None:
        self._captures, self._config, self._capacity = captures, config, capacity
        self._arrays = [
            np.empty((len(c.layers) or 1, *shape_of(c.point, config, capacity)), np.float32)
            for c in captures
        ]

    @property
    def capacity(self) -> int:
        """The number of tokens that it has room for."""
        return self._capacity if self._captures else sys.maxsize

    def write(self, number: int, first: int, end: int, rows: NDArray[np.float32]) -> None:
        """Store rows [first, end) of a capture as the core returns them: one row of floats per
        layer."""
        self._reserve(end)
        array, capture = self._arrays[number], self._captures[number]
        if not is_map(capture):
            array[:, first:end] = rows.reshape(len(array), end - first, *array.shape[2:])
            return
        array[:, :, first:end, :end] = rows.reshape(len(array), -1, end - first, end)
        array[:, :, :first, first:end] = 0.0 if capture.point.name == "pattern" else -np.inf

    def values(self, n_tokens: int, *, keep: bool) -> Values:
        """The values of the first n_tokens; without `keep`, the arrays themselves if they fit
        exactly."""
        found: Values = {}
        for capture, array in zip(self._captures, self._arrays, strict=True):
            part = _first(array, capture, n_tokens)
            whole = part.copy() if keep else np.ascontiguousarray(part)
            found[capture.name] = capture.layers, whole if capture.layers else whole[0]
        return found

    def copy(self, n_tokens: int) -> "Captured":
        """An independent copy with the first n_tokens."""
        other = Captured(self._captures, self._config, n_tokens)
        other._take(self, n_tokens)
        return other

    def _take(self, other: "Captured", n_tokens: int) -> None:
        for capture, to, array in zip(self._captures, self._arrays, other._arrays, strict=True):
            _first(to, capture, n_tokens)[:] = _first(array, capture, n_tokens)

    def _reserve(self, n_tokens: int) -> None:
        if n_tokens <= self._capacity:
            return
        capacity = max(n_tokens, self._capacity + self._capacity // 2, _LEAST)
        larger = Captured(self._captures, self._config, capacity)
        larger._take(self, self._capacity)
        self._arrays, self._capacity = larger._arrays, capacity


def is_map(capture: Capture) -> bool:
    """Whether it has an axis of keys: [n_heads, T, T]."""
    return capture.point.width == "map"


def n_floats(capture: Capture, config: Config, n_past: int, n_rows: int) -> int:
    """Floats in n_rows rows of one layer that follow n_past others."""
    if is_map(capture):
        return config.n_heads * n_rows * (n_past + n_rows)
    return math.prod(shape_of(capture.point, config, n_rows))


def n_bytes(captures: Sequence[Capture], config: Config, n_tokens: int) -> int:
    """Bytes of all values of a sequence of n_tokens."""
    return 4 * sum((len(c.layers) or 1) * n_floats(c, config, 0, n_tokens) for c in captures)


def _first(array: NDArray[np.float32], capture: Capture, n_tokens: int) -> NDArray[np.float32]:
    return array[:, :, :n_tokens, :n_tokens] if is_map(capture) else array[:, :n_tokens]
