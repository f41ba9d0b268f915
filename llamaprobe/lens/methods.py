"""The methods of a model that analyse a finished run."""

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
        """The logit lens: what the model would predict after each layer. The last norm and the head
        are applied to the residual stream of a run, by the code that computes `logits`.

        run: a run of this model, or one read from files. It must hold `point`, and x_out of the
            last layer unless `layers` is given.
        point: x, x_mid or x_out.
        layers: as in `run`. None: all that the run holds, plus a last row for x_out of the last
            layer, which gives the bits of the run's logits. If the last norm or the logits of the
            run were edited, that row is run["logits"], which the run must then hold.
        position: a number, numbers, a slice, or None for all; negative ones count from the end.
        top: how many tokens to show per row.
        tokens: ids, or texts that are one token each: compute only these rows of the head.

        Raises PointError (the run lacks a value, and the message has the call that keeps it; a
        point that is not the residual stream), ArgumentError, OutOfMemory.
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
        """Direct logit attribution: what each part of the model added to the logit of a token, or
        to the difference of two logits, with all norm scales frozen at their values in the run.

        token, against: ids, or texts that are one token each. position: as in `lens`; for several,
            the result is a list. by: "layer" (attention and MLP of each), "head", "neuron" or
            "source" (the position that a head read).

        The rows and `rounding` sum to the logit before a cap; the effect of a cap is `cap_effect`.
        In an edited run, each edit of the residual stream is a row.

        Raises PointError (the run lacks a value, and the message has the call that keeps it),
        ArgumentError (also if `rounding` exceeds what float32 explains: the weights are not those
        of the run).
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
        """By how much the logit, or the difference of two, falls if what one component added to the
        residual stream is removed and the rest is normed anew. Later layers keep what they added.
        Computed in float64 from the values of the run, without a forward pass.

        component: "embed", ("attn", layer), ("mlp", layer), ("head", layer, head), ("neuron",
            layer, neuron) or ("source", layer, head, position). Other arguments as in `attribute`.
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
        """Logits [n, tokens] of residual stream rows [n, d_model]; of all tokens if None."""
        model = cast("Model", self)
        core, n_threads = model._open(), model._n_threads(threads)
        with named(model.path):
            return core.head(x, token_ids, n_threads=n_threads)
