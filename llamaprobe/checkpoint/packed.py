"""A packed weight: a matrix whose file holds codes and scales, or rows in another order, in place of
its values row by row.

It goes by the name that it has in transformers (`model.layers.0.mlp.down_proj.weight`), whatever
its stored tensors are called. The core reads it in place; its values are the formula of its kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .. import _core
    from .folder import TensorInfo


@dataclass(frozen=True, eq=False)
class PackedInfo:
    """Where a packed weight lies, and how it is read."""

    name: str
    """Hugging Face's: "model.layers.0.mlp.down_proj.weight"."""
    kind: str
    """The layout, as `_core.Packed` spells it: "fp8", "gptq", "q4_k"."""
    format: str
    """Of the checkpoint: "gguf", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "gptq" or
    "awq"."""
    shape: tuple[int, int]
    """[out, in]."""
    parts: "Mapping[str, TensorInfo]" = field(repr=False)
    """Role ("codes", "scales", "zeros", "group_of") -> stored tensor."""
    part_names: Mapping[str, str] = field(repr=False)
    """Role -> name of the stored tensor."""
    core: "_core.Packed" = field(repr=False)
    group: int
    """Columns that share a scale; 0: all of them."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The keyword arguments of `_core.Packed`, without those that have their default."""

    @property
    def n_bytes(self) -> int:
        """Of all parts."""
        return sum(part.n_bytes for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all parts for each element of the matrix."""
        return 8 * self.n_bytes / (self.shape[0] * self.shape[1])
