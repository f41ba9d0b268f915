"""The weights that attribution reads: one matrix at a time, as float32, widened to float64 in
pieces."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..families.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix, matrix

if TYPE_CHECKING:
    from ..model import Model

Array = NDArray[np.float64]
_PIECE = 1 << 18  # elements widened at a time: 2 MB, which fits into a cache
_FEW = 4  # rows


class LensWeights:
    """The weights of one model."""

    def __init__(self, model: "Model") -> None:
        self._weights, self._config = model.weights, model.config

    def head_rows(self, ids: list[int]) -> NDArray[np.float32]:
        """[n, d_model]: rows of the head, or of the embedding if they are tied."""
        c, weights = self._config, self._weights
        head = f"{c.prefix}{HEAD}.weight"
        weight = weights[f"{c.prefix}{EMBEDDING}.weight" if c.tied_head else head]
        if weight.is_packed:
            return np.concatenate([weight._read_rows(row, row + 1) for row in ids])
        raw = weight.raw[ids]
        if weight.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.view(np.float16 if weight.dtype == "F16" else np.float32).astype(np.float32)

    def gain(self, point: str, layer: int | None = None) -> NDArray[np.float32]:
        """[d_model]: the factor of a norm, which is 1 + w in some families."""
        c = self._config
        if layer is None:
            name = f"{c.prefix}{FINAL_NORM}"
        else:
            name = f"{layer_prefix(c, layer)}{c.norms[point]}"
        gain = np.asarray(self._weights[f"{name}.weight"])
        return gain + np.float32(c.gain_offset)

    def matrix(self, point: str, layer: int) -> NDArray[np.float32]:
        """[n_rows, n_cols]: the matrix that computes a point."""
        part = matrix(self._config, point)
        name = f"{layer_prefix(self._config, layer)}{part.module}.weight"
        return np.asarray(self._weights[name])[part.first_row : part.first_row + part.n_rows]

    def bias(self, point: str, layer: int) -> Array | None:
        """[n_rows]: the bias of that matrix; None if it has none."""
        part = matrix(self._config, point)
        if not part.has_bias:
            return None
        name = f"{layer_prefix(self._config, layer)}{part.module}.bias"
        whole = np.asarray(self._weights[name])[part.first_row : part.first_row + part.n_rows]
        return whole.astype(np.float64)


def pieces(weight: NDArray[np.float32]) -> Iterator[tuple[slice, Array]]:
    """A matrix in blocks of rows, widened to float64."""
    step = max(1, _PIECE // weight.shape[1])
    for first in range(0, len(weight), step):
        rows = slice(first, first + step)
        yield rows, weight[rows].astype(np.float64)


def product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """a @ b. For few rows without BLAS: the product is memory-bound, and BLAS's threads, which spin
    between calls, would cost up to six times the CPU time."""
    if len(a) <= _FEW:
        return np.einsum("pn,nm->pm", a, b)  # type: ignore[no-any-return]
    found: NDArray[Any] = a @ b
    return found


def from_left(d: Array, weight: NDArray[np.float32]) -> Array:
    """d [P, n_rows] @ weight [n_rows, n_cols] in float64, without a float64 copy of the weight."""
    total = np.zeros((len(d), weight.shape[1]))
    for rows, part in pieces(weight):
        total += product(d[:, rows], part)
    return total
