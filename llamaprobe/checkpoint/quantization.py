"""What is quantised in a checkpoint, and how: `Model.quantization`."""

import copy
import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .folder import Checkpoint

AS_STORED = "float32"  # the exact value of each code


@dataclass(frozen=True)
class Quantization:
    """How the weights of a model are stored. Its repr is one line; `kinds` counts the tensors."""

    format: str
    """"gguf", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "gptq" or "awq"."""
    tensors: Mapping[str, str] = field(repr=False)
    """Name -> kind of each weight: "q4_k", "int8", "gptq"; for a weight that is not quantised, its
    dtype, such as "bf16"."""
    bits_per_weight: float
    """Bits of all these tensors, scales included, divided by the number of weights."""
    notes: tuple[str, ...] = ()
    """What the files declare but a run does not apply, such as quantised activations."""
    files: tuple[str, ...] = ()
    """Names of the weight files."""
    weights_as: str = AS_STORED
    """As given to `load`: "float32", or "bf16" if values are rounded to that."""

    @property
    def kinds(self) -> dict[str, int]:
        """Kind -> number of tensors, the most frequent first."""
        return dict(Counter(self.tensors.values()).most_common())

    def __repr__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
        bits = f"{self.bits_per_weight:.2f} bits per weight"
        return f"<{self.format}: {kinds}; {bits}{_rounding(self)}>"

    def entry(self) -> dict[str, Any]:
        """The entry `quantization` in the files of a run."""
        return {
            "format": self.format,
            "kinds": self.kinds,
            "bits_per_weight": self.bits_per_weight,
            "files": list(self.files),
            "weights_as": self.weights_as,
        }


def _rounding(q: Quantization) -> str:
    return "" if q.weights_as == AS_STORED else f", as {q.weights_as}"


def brief(q: Quantization | None) -> str:
    """For the `repr` of a model."""
    return "" if q is None else f", {q.format} of {q.bits_per_weight:.2f} bits{_rounding(q)}"


def quantization_entry(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """For the files of a run, a harvest or statistics; empty for a model that is not quantised."""
    return {} if entry is None else {"quantization": copy.deepcopy(dict(entry))}


def with_quantization(
    checkpoint: "Checkpoint",
    used: Iterable[str],
    format: str,
    notes: Iterable[str],
    weights_as: str,
) -> "Checkpoint":
    """The checkpoint with its `quantization`. `used`: the names of the tensors that the model may
    use."""
    used, names = dict.fromkeys(used), checkpoint.names
    packed = {name: info for name, info in checkpoint.packed.items() if name in used}
    plain = {name: names[name] for name in used if name in names and name not in packed}
    kinds = {name: info.kind for name, info in packed.items()}
    kinds |= {name: tensor.dtype.lower() for name, tensor in plain.items()}
    sizes = [(info.n_bytes, math.prod(info.shape)) for info in packed.values()]
    sizes += [(tensor.n_bytes, math.prod(tensor.shape)) for tensor in plain.values()]
    bits = 8 * sum(n for n, _ in sizes) / max(1, sum(n for _, n in sizes))
    files = tuple(os.path.basename(file.path) for file in checkpoint.files)
    found = Quantization(format, kinds, bits, tuple(notes), files, weights_as)
    return dataclasses.replace(checkpoint, quantization=found)
