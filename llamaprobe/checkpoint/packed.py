"""A packed weight: a matrix stored as codes and scales, or with its rows in another order, instead
of its values row by row.

It has its transformers name (`model.layers.0.mlp.down_proj.weight`), whatever its stored tensors
are called. The core reads it in place and computes its values by the formula of its kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .. import _core
    from .folder import TensorInfo


@dataclass(frozen=True, eq=False)
class PackedInfo:
    """Where a packed weight is stored, and how it is read."""

    name: str
    """Hugging Face's: "model.layers.0.mlp.down_proj.weight"."""
    kind: str
    """The layout, as `_core.Packed` names it: "fp8", "gptq", "q4_k"."""
    format: str
    """The checkpoint's: "gguf", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "gptq" or
    "awq"."""
    shape: tuple[int, int]
    """[out, in]."""
    parts: "Mapping[str, TensorInfo]" = field(repr=False)
    """Role ("codes", "scales", "zeros", "group_of") -> stored tensor."""
    part_names: Mapping[str, str] = field(repr=False)
    """Role -> name of the stored tensor."""
    core: "_core.Packed" = field(repr=False)
    group: int
    """Columns that share a scale; 0: the whole row."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The keyword arguments of `_core.Packed` that differ from their defaults."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.n_bytes for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all parts per element of the matrix."""
        return 8 * self.n_bytes / (self.shape[0] * self.shape[1])
