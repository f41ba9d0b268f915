"""The inputs of attribution and direct effects: the head's rows for the tokens, the last norm, and
the values of a run at the requested positions.
"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ArgumentError
from ..points import resolve
from .selection import Token, check_model, token_id
from .weights import Array, LensWeights

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run


def check_behind(run: "Run") -> None:
    """ArgumentError if something after the last rms was edited, so that the sum does not give the
    logits."""
    for edit in run.edits:
        point = resolve(edit.name, run.config)[0].name
        if point in ("final_unit", "final_norm", "logits_raw", "logits"):  # final_rms may be edited
            raise ArgumentError(
                f"{point} of this run was edited, after the sum that attribution splits;"
                " attribute a run without that edit"
            )


def token_ids(model: "Model", token: Token, against: Token | None) -> list[int]:
    """The ids of token and, if given, against."""
    ids = [token_id(model, token)]
    if against is not None:
        ids.append(token_id(model, against))
    if len(ids) == 2 and ids[0] == ids[1]:
        raise ArgumentError(f"token and against are both {ids[0]}; their difference is 0")
    return ids


class Stream:
    """The end of the residual stream of one run."""

    def __init__(
        self, model: "Model", run: "Run", ids: list[int], positions: tuple[int, ...]
    ) -> None:
        check_model(model, run)
        self.model, self.run, self.ids = model, run, ids
        self.positions = list(positions)
        self.config, self.weights = model.config, LensWeights(model)
        self.head = self.weights.head_rows(ids)
        self.gain = self.weights.gain("final_norm")
        self.scale = float(np.float32(self.config.residual_scale))
        self.divisor = float(np.float32(self.config.logits_divisor))

    def added(self, stem: str) -> str:
        """The point that is added to the residual stream."""
        return f"{stem}_norm" if f"{stem}_norm" in self.config.norms else f"{stem}_out"

    def at(self, point: str, layer: int | None = None) -> Array:
        """The rows of a point at the positions, float64 [P, ...]."""
        value = self.run[point] if layer is None else self.run[point, layer]
        return value[self.positions].astype(np.float64)
