"""The result of `Model.attribute`: what each part of a model added to a logit."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..arguments import choice, is_whole, refusal, shown, whole
from ..errors import ArgumentError
from .weights import Array

if TYPE_CHECKING:
    from ..run import Run

Component = tuple[Any, ...]
ROUNDING = ("rounding",)


def component_of(component: Any) -> tuple[Any, ...]:
    """The kind and numbers of a component. ArgumentError."""
    if isinstance(component, str):
        return (component,)
    if isinstance(component, (tuple, list)) and component and isinstance(component[0], str):
        return tuple(component)
    raise refusal("component", component, "its kind and numbers, such as ('head', 3, 1)")


class Share(NamedTuple):
    """One row of an attribution."""

    component: Component
    """Kind and numbers: ("embed",), ("attn", layer), ("head", layer, head), ("neuron", layer,
    neuron), ("source", layer, head, position), ("rounding",)."""
    value: float

    @property
    def name(self) -> str:
        """ "head 3.1", or "source 3.1 <- 5"."""
        kind, *numbers = self.component
        if kind == "source":
            layer, head, position = numbers
            return f"source {layer}.{head} <- {position}"
        return " ".join([kind, ".".join(map(str, numbers))]).strip()


class Attribution:
    """Shares of one logit, or of the difference of two, at one position of a run.

    `parts` has one array per kind of row. All rows and `rounding` sum to `total`.
    """

    def __init__(
        self,
        parts: Mapping[str, Array],
        *,
        by: str,
        token: tuple[int, str | None],
        against: tuple[int, str | None] | None,
        position: int,
        total: float,
        logit: float,
        bound: float,
        run: "Run",
    ) -> None:
        self.parts = dict(parts)
        """Kind -> float64: "embed" [], "attn", "mlp" [L], "head" [L, H], "neuron" [L, F], "source"
        [L, H, T], "attn_bias", "mlp_bias" [L]; for an edited run, "edit" [L] and "edit_embed"
        []."""
        self.by = by
        """"layer", "head", "neuron" or "source": how far the logit is split."""
        self.token_id, self.token = token
        self.against_id: int | None = against[0] if against else None
        """The id of the token whose logit is subtracted; None if none is."""
        self.against: str | None = against[1] if against else None
        """Its text, if there is a tokenizer."""
        self.position = position
        self.total = total
        """The logit, or the difference, before a cap of logits."""
        self.logit = logit
        """The same after the cap."""
        self.bound = bound
        """The largest `rounding` that float32 explains: 8 standard deviations."""
        self.run = run
        others = (value for part in self.parts.values() for value in np.ravel(part).tolist())
        self.rounding: float = math.fsum([total, *(-value for value in others)])
        """`total` minus all other rows: the rounding of float32 on the way to the logit."""

    @property
    def cap_effect(self) -> float:
        """The effect of a cap of logits: `logit` - `total`. 0 in a model without one."""
        return self.logit - self.total

    def __iter__(self) -> Iterator[Share]:
        """Every row, the rounding last."""
        for kind, part in self.parts.items():
            for index in np.ndindex(part.shape):
                yield Share((kind, *index), float(part[index]))
        yield Share(ROUNDING, self.rounding)

    def __len__(self) -> int:
        return 1 + sum(part.size for part in self.parts.values())

    def __getitem__(self, component: str | Component) -> float:
        """The share of a component, ("head", 3, 1) or "embed". ArgumentError."""
        kind, *index = component_of(component)
        if kind == "rounding" and not index:
            return self.rounding
        part = self.parts.get(kind)
        fits = part is not None and len(index) == part.ndim
        if not fits or not all(
            is_whole(i) and -n <= i < n
            for i, n in zip(index, part.shape, strict=True)  # type: ignore[union-attr]
        ):
            rows = "; ".join(f"{k} {list(p.shape)}" for k, p in self.parts.items())
            raise ArgumentError(f"there is no row {shown(component)} by {self.by}: {rows}")
        return float(part[tuple(index)])  # type: ignore[index]

    @functools.cached_property
    def _sorted(self) -> list[tuple[str, Any]]:
        """The kinds with the flat order of their rows, largest first."""
        return [(k, np.argsort(-np.abs(np.ravel(p)))) for k, p in self.parts.items()]

    def top(self, n: int = 10, kind: str | None = None) -> list[Share]:
        """The n rows with the largest magnitude, optionally of one kind. ArgumentError."""
        n = whole("n", n, 1)
        if kind is not None:
            choice("kind", kind, tuple(self.parts))
        found = [
            Share((k, *map(int, np.unravel_index(at, self.parts[k].shape))), float(value))
            for k, order in self._sorted
            if kind in (None, k)
            for at, value in zip(order[:n], np.ravel(self.parts[k])[order[:n]], strict=True)
        ]
        return sorted(found, key=lambda share: -abs(share.value))[:n]

    def to_pandas(self) -> Any:
        """A DataFrame with one line per row of the attribution. Needs pandas."""
        from ..views.tables import attribution_frame

        return attribution_frame(self)

    def to_xarray(self) -> Any:
        """A Dataset with one variable per kind. Needs xarray."""
        from ..views.tables import attribution_dataset

        return attribution_dataset(self)

    def __repr__(self) -> str:
        from ..views.attribution import attribution_text

        return attribution_text(self)

    def _repr_html_(self) -> str:
        from ..views.attribution import attribution_html

        return attribution_html(self)
