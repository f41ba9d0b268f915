"""The methods of a model that look at a finished run."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, SupportsIndex, cast, overload

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.folder import named
from ..points import Layers
from ..views.methods import ModelViews

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run
    from .attribution import Attribution, Component
    from .logits import Lens
    from .selection import Positions, Token


class LensMethods(ModelViews):
    """Base class of `Model`."""

    def lens(
        self,
        run: "Run",
        *,
        point: str = "x",
        layers: Layers = None,
        position: "Positions" = -1,
        top: int = 5,
        tokens: "Iterable[Token] | None" = None,
        threads: int | None = None,
    ) -> "Lens":
        """What the model would say after each layer: the last norm and the head on the residual
        stream of a run, by the code that computes `logits`.

        run: of this model, also one read back from files. It must hold `point`, and x_out of the
            last layer unless `layers` is given.
        point: x, x_mid or x_out. layers: as in `run`. None: those that the run holds, and as the
            last row x_out of the last layer, which gives the bits of the run's logits. Where the
            last norm or the logits of the run were edited, that row is run["logits"], which the
            run must then hold.
        position: a number, numbers, a slice, or None for all; negative ones count from the end.
        top: how many tokens of a row are shown. tokens: compute only these rows of the head; ids,
            or texts that are one token.

        Raises PointError (the run lacks the values, with the call that keeps them; a point that is
        not the residual stream), ArgumentError, OutOfMemory.
        """
        from .logits import lens

        return lens(
            cast("Model", self),
            run,
            point=point,
            layers=layers,
            position=position,
            top=top,
            tokens=tokens,
            threads=threads,
        )

    @overload
    def attribute(
        self,
        run: "Run",
        token: "Token",
        *,
        against: "Token | None" = None,
        position: SupportsIndex = -1,
        by: str = "layer",
    ) -> "Attribution": ...
    @overload
    def attribute(
        self,
        run: "Run",
        token: "Token",
        *,
        against: "Token | None" = None,
        position: "Sequence[SupportsIndex] | slice | None",
        by: str = "layer",
    ) -> "list[Attribution]": ...
    def attribute(
        self,
        run: "Run",
        token: "Token",
        *,
        against: "Token | None" = None,
        position: "Positions" = -1,
        by: str = "layer",
    ) -> "Attribution | list[Attribution]":
        """What each part of the model added to the logit of a token, or to its difference from that
        of another, with all scales of norms as they were in the run (direct logit attribution).

        token, against: an id, or text that is one token. position: as in `lens`; for several the
            result is a list. by: "layer" (attention and MLP of each), "head", "neuron" or "source"
            (which position a head read).

        The rows and their `rounding` sum to the logit; before a cap of logits, whose effect is
        `cap_effect`. Of an edited run each edit of the residual stream is a row.

        Raises PointError (the run lacks values, with the call that keeps them), ArgumentError (also
        when the rounding is more than float32 can leave: the weights are not those of the run).
        """
        from .shares import attribute

        return attribute(cast("Model", self), run, token, against=against, position=position, by=by)

    def head_out(self, run: "Run", layer: SupportsIndex) -> NDArray[np.float32]:
        """What each head of a layer adds to attn_out, float32 [T, n_heads, d_model]: z of the head
        times its columns of o_proj, in float64, rounded once. Raises PointError, ArgumentError."""
        from .shares import head_out

        return head_out(cast("Model", self), run, layer)

    def direct_effect(
        self,
        run: "Run",
        token: "Token",
        *,
        component: "str | Component",
        against: "Token | None" = None,
        position: SupportsIndex = -1,
    ) -> float:
        """By how much the logit, or the difference of two, would be less without what one component
        added to the residual stream; the last norm has the scale of what is left. Later layers keep
        what they added. No pass: float64 on the values of the run.

        component: "embed", ("attn", layer), ("mlp", layer), ("head", layer, head), ("neuron",
            layer, neuron) or ("source", layer, head, position). The others as in `attribute`.
        """
        from .effect import direct_effect

        return direct_effect(
            cast("Model", self),
            run,
            token,
            component=component,
            against=against,
            position=position,
        )

    def _head(
        self,
        x: NDArray[np.float32],
        token_ids: NDArray[np.int32] | None,
        *,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """Logits [n, tokens] of rows of the residual stream [n, d_model], of all tokens if None."""
        model = cast("Model", self)
        core, n_threads = model._open(), model._n_threads(threads)
        with named(model.path):
            return core.head(x, token_ids, n_threads=n_threads)
