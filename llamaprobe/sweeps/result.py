"""The result of a sweep."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Sweep:
    """The metric of every cell of `Model.sweep` or `Model.patch_map`."""

    values: NDArray[np.float64]
    """[cells]; in a patch map, [layers, positions] or [layers, positions, heads]."""
    base: float
    """The metric of the prompt without edits; in a patch map, of the corrupted prompt."""
    n_skipped: int
    """Cells that equal the base, because they change no bit that the metric depends on."""
    flops: float
    """Floating-point operations of all products, base runs included; a multiply-add is two."""
    clean: float | None = None
    """In a patch map, the metric of the clean prompt."""
    layers: tuple[int, ...] = ()
    """In a patch map, the layers of axis 0."""
    positions: tuple[int, ...] = ()
    """In a patch map, the positions of axis 1."""
    tokens: list[str] | None = field(default=None, repr=False)
    """In a patch map, the corrupted prompt's token text at each position; None without a
    tokenizer."""

    @property
    def normalized(self) -> NDArray[np.float64]:
        """(values - base) / (clean - base): 0 if the patch does nothing, 1 if it restores the
        metric of the clean prompt. ArgumentError if this is not a patch map, or both prompts have
        the same metric."""
        if self.clean is None:
            raise ArgumentError("only a patch map has a clean prompt to compare with")
        if self.clean == self.base:
            raise ArgumentError(
                f"the metric is {self.base} for both the clean and the corrupted prompt"
            )
        with np.errstate(invalid="ignore"):
            return self._changes / (self.clean - self.base) + 0.0

    @property
    def _changes(self) -> NDArray[np.float64]:
        """values - base; 0 where both are the same infinity."""
        with np.errstate(invalid="ignore"):
            return np.where(self.values == self.base, 0.0, self.values - self.base)

    def __repr__(self) -> str:
        from ..views.sweep import sweep_text

        clean = "" if self.clean is None else f", clean {self.clean:.6g}"
        first_line = (
            f"<Sweep {list(self.values.shape)}: base {self.base:.6g}{clean}, {self.n_skipped}"
            f" skipped, {self.flops:.3g} FLOP>"
        )
        return sweep_text(self, first_line)

    def _repr_html_(self) -> str:
        from ..views.sweep import sweep_html

        return sweep_html(self)

    def to_pandas(self) -> Any:
        """A DataFrame with one row per cell. Needs pandas."""
        from ..views.result_tables import sweep_frame

        return sweep_frame(self)

    def to_xarray(self) -> Any:
        """The values as a DataArray; in a patch map, over layer, token and head. Needs xarray."""
        from ..views.result_tables import sweep_array

        return sweep_array(self)
