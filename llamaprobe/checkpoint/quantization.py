"""What is quantised in a checkpoint, and how: `Model.quantization`."""

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import TensorInfo
    from .packed import PackedInfo

AS_STORED = "float32"  # the exact value of each code


@dataclass(frozen=True)
class Quantization:
    """How the weights of a model are stored. Shows as one line; `kinds` counts the tensors."""

    format: str
    """"gguf", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "gptq" or "awq"."""
    tensors: Mapping[str, str] = field(repr=False)
    """Name -> kind of each weight: "q4_k", "int8", "gptq"; of one that is not quantised the dtype,
    "bf16"."""
    bits_per_weight: float
    """Of all these tensors together, with their scales: 8 times the bytes, by the numbers."""
    notes: tuple[str, ...] = ()
    """What the files declare and a run does not do."""
    files: tuple[str, ...] = ()
    """Names of the weight files."""
    weights_as: str = AS_STORED
    """As given to `load`: "float32", or "bf16" where values are rounded to that."""

    @property
    def kinds(self) -> dict[str, int]:
        """Kind -> number of tensors, the most frequent first."""
        return dict(Counter(self.tensors.values()).most_common())

    def __repr__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
        rounded = "" if self.weights_as == AS_STORED else f", as {self.weights_as}"
        return f"<{self.format}: {kinds}; {self.bits_per_weight:.2f} bits per weight{rounded}>"

    def entry(self) -> dict[str, Any]:
        """What the files of a run say of it."""
        return {
            "format": self.format,
            "kinds": self.kinds,
            "bits_per_weight": self.bits_per_weight,
            "files": list(self.files),
            "weights_as": self.weights_as,
        }


def quantization_entry(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """For the meta files and the manifest of a run; nothing of a model that is not quantised."""
    return {} if entry is None else {"quantization": copy.deepcopy(dict(entry))}


def describe(
    format: str,
    packed: Mapping[str, "PackedInfo"],
    plain: Mapping[str, "TensorInfo"],
    files: Iterable[str],
    notes: Iterable[str] = (),
    weights_as: str = AS_STORED,
) -> Quantization:
    """Of packed weights and plain tensors by the names that a model may use."""
    kinds = {name: info.kind for name, info in packed.items()}
    kinds |= {name: info.dtype.lower() for name, info in plain.items()}
    n_bytes = n_numbers = 0
    for info in packed.values():
        n_bytes += sum(part.n_bytes for part in info.parts.values())
        n_numbers += math.prod(info.shape)
    for tensor in plain.values():
        n_bytes, n_numbers = n_bytes + tensor.n_bytes, n_numbers + math.prod(tensor.shape)
    bits = 8 * n_bytes / max(1, n_numbers)
    return Quantization(format, kinds, bits, tuple(notes), tuple(files), weights_as)
