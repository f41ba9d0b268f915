"""What a sweep returns."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Sweep:
    """The metric of every cell of `Model.sweep` or `Model.patch_map`."""

    values: NDArray[np.float64]
    """[cells]; of a patch map [layers, positions] or [layers, positions, heads]."""
    base: float
    """The metric of the prompt without edits; of a patch map that of the corrupted prompt."""
    n_skipped: int
    """Cells that are the base, because they edit no bit that the metric depends on."""
    flops: float
    """Floating-point operations of all products, base runs included; a multiply-add is two."""
    clean: float | None = None
    """Of a patch map: the metric of the clean prompt."""
    layers: tuple[int, ...] = ()
    """Of a patch map: those of its axis 0."""
    positions: tuple[int, ...] = ()
    """Of a patch map: those of its axis 1."""
    tokens: list[str] | None = field(default=None, repr=False)
    """Of a patch map: the corrupted prompt's text of each position; None without a tokenizer."""

    @property
    def normalized(self) -> NDArray[np.float64]:
        """(values - base) / (clean - base): 0 where the patch does nothing, 1 where it restores the
        metric of the clean prompt. ArgumentError: not a patch map; both prompts measure the same."""
        if self.clean is None:
            raise ArgumentError("only a patch map has a clean prompt to compare with")
        if self.clean == self.base:
            raise ArgumentError(
                f"the metric is {self.base} for the clean and for the corrupted prompt"
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
        """A DataFrame with a line for each cell. Needs pandas."""
        from ..views.result_tables import sweep_frame

        return sweep_frame(self)

    def to_xarray(self) -> Any:
        """The values as a DataArray, of a patch map with layer, token and head. Needs xarray."""
        from ..views.result_tables import sweep_array

        return sweep_array(self)
