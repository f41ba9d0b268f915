"""The direct effect of a component: how the logit changes without its part of the residual
stream."""

from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ..arguments import is_whole, shown
from ..errors import ArgumentError
from .attribution import Component, component_of
from .selection import Token, check_held, check_model, one_position
from .stream import Stream, check_behind, token_ids
from .weights import Array

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run


def direct_effect(
    model: "Model",
    run: "Run",
    token: Token,
    *,
    component: str | Component,
    against: Token | None = None,
    position: SupportsIndex = -1,
) -> float:
    """`Model.direct_effect`."""
    check_model(model, run)
    check_behind(run)
    kind, *numbers = component_of(component)
    at = (one_position(position, len(run)),)
    return _Effect(model, run, token_ids(model, token, against), at).effect(kind, numbers)


_INNER = ("head", "neuron", "source")


class _Effect(Stream):
    """The direct effects at one position."""

    def effect(self, kind: str, numbers: list[Any]) -> float:
        """The logit minus the logit of x_out without the component, normed with its own rms."""
        at = self._checked(kind, numbers)
        stem = {"neuron": "mlp", "head": "attn", "source": "attn"}.get(kind, kind)
        read: dict[str, tuple[str, ...]] = {
            "embed": ("x",),
            "head": ("z",),
            "neuron": ("hidden",),
            "source": ("pattern", "v"),
        }
        points = read.get(kind) or (self.added(stem),)
        if kind in _INNER and f"{stem}_norm" in self.config.norms:
            points += (f"{stem}_rms",)
        last = "x_out", self.config.n_layers - 1
        layer = at[0] if at else 0
        check_held(self.run, [*((point, layer) for point in points), last], "a direct effect")
        x = self.at(*last)[0]
        vector = self._inner(kind, stem, at) if kind in _INNER else self._outer(kind, layer)
        return self._logit(x) - self._logit(x - vector)

    def _logit(self, x: Array) -> float:
        c = self.config
        unit = x / np.sqrt(np.mean(x * x) + c.rms_norm_eps)
        logits = self.head.astype(np.float64) @ (self.gain * unit) / self.divisor
        if c.logits_cap:
            cap = float(np.float32(c.logits_cap))
            logits = cap * np.tanh(logits / cap)
        return float(logits[0] - logits[1] if len(self.ids) == 2 else logits[0])

    def _checked(self, kind: str, numbers: list[Any]) -> list[int]:
        """The numbers of a component. ArgumentError if the model has no such component."""
        c = self.config
        axes = {
            "embed": (),
            "attn": (c.n_layers,),
            "mlp": (c.n_layers,),
            "head": (c.n_layers, c.n_heads),
            "neuron": (c.n_layers, c.d_ff),
            "source": (c.n_layers, c.n_heads, len(self.run)),
        }
        if kind not in axes or len(numbers) != len(axes[kind]):
            known = ", ".join(f"{k} of {list(n)}" if n else k for k, n in axes.items())
            named = shown((kind, *numbers))
            raise ArgumentError(f"there is no component {named}; it is one of {known}")
        return [_index(n, size, kind) for n, size in zip(numbers, axes[kind], strict=True)]

    def _outer(self, kind: str, layer: int) -> Array:
        """What the embedding, attention or the MLP adds to the residual stream, [D]."""
        if kind == "embed":
            return self.at("x", 0)[0]
        return self.scale * self.at(self.added(kind), layer)[0]

    def _inner(self, kind: str, stem: str, at: list[int]) -> Array:
        """What a part of attention or the MLP adds, [D]; a norm after it has the run's scale."""
        c, layer, number = self.config, at[0], at[1]
        weight = self.weights.matrix(f"{stem}_out", layer)
        if kind == "neuron":
            vector = weight[:, number] * self.at("hidden", layer)[0, number]
        else:
            columns = weight[:, number * c.head_dim : (number + 1) * c.head_dim]
            if kind == "head":
                z = self.at("z", layer)[0, number]
            else:
                p = np.float64(self.run["pattern", layer][number, self.positions[0], at[2]])
                z = p * self.run["v", layer][at[2], number // (c.n_heads // c.n_kv_heads)]
            vector = columns.astype(np.float64) @ z
        vector = self.scale * vector
        if f"{stem}_norm" not in c.norms:
            return vector
        gain = self.weights.gain(f"{stem}_norm", layer)
        return vector * gain / self.at(f"{stem}_rms", layer)[0]


def _index(number: Any, size: int, kind: str) -> int:
    """An index of a component, from 0. ArgumentError."""
    if not is_whole(number) or not -size <= number < size:
        raise ArgumentError(f"{kind} has no number {shown(number)}: there are {size}")
    return int(number) % size
