"""What a harvest stores: points in layers, with one row per token.

Names are those of `Model.run`; a suffix selects layers, as in "x:10" and "hidden:4-6".
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..errors import PointError
from ..messages import printable
from ..points import Name, Point, axes, resolve_all, shape

_LAYERS = re.compile(r"(.+):([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True)
class Target:
    """One point in one layer."""

    point: Point
    layer: int | None
    shape: tuple[int, ...]
    """The shape of one row."""

    @property
    def name(self) -> str:
        """The name of its folder and tensor: "x.10", "logits"."""
        return self.point.name if self.layer is None else f"{self.point.name}.{self.layer}"

    @property
    def width(self) -> int:
        """The number of values in one row."""
        return math.prod(self.shape)


def find_targets(names: str | Iterable[Name], config: Config) -> list[Target]:
    """The targets, in the order requested, each once. PointError."""
    names = (names,) if isinstance(names, str) else names
    found: dict[Target, None] = {}
    for name, point, layer in resolve_all(_with_layers(names), config):
        if axes(point.width)[0] != "T":
            raise PointError(
                f"{printable(repr(name))}: {point.name} has a value for each pair of tokens; a"
                " harvest stores points with one row per token"
            )
        layers = [layer] if layer is not None or not point.per_layer else range(config.n_layers)
        for each in layers:
            found[Target(point, each, shape(point, config, 1)[1:])] = None
    return list(found)


def captures_of(targets: Iterable[Target]) -> list[tuple[int, tuple[int, ...]]]:
    """The targets for the core: (point number, layers), in the order of `in_core_order`."""
    captures: dict[int, list[int]] = {}
    for target in targets:
        captures.setdefault(target.point.number, []).append(target.layer or 0)
    return [(number, tuple(layers)) for number, layers in captures.items()]


def in_core_order(targets: Iterable[Target]) -> list[list[Target]]:
    """The targets of each capture, in the order of its layers."""
    captures: dict[int, list[Target]] = {}
    for target in targets:
        captures.setdefault(target.point.number, []).append(target)
    return list(captures.values())


def _with_layers(names: Any) -> Any:
    """ "x:4-6" as ("x", 4), ("x", 5), ("x", 6)."""
    if not isinstance(names, (list, tuple)) or (
        len(names) > 1 and hasattr(names[1], "__index__")  # one name with its layer
    ):
        return names
    found: list[Any] = []
    for name in names:
        match = _LAYERS.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            found.append(name)
            continue
        first, last = int(match[2]), int(match[3] or match[2])
        if last < first:
            raise PointError(f"{printable(repr(name))} runs backwards: write {last}-{first}")
        found += [(match[1], layer) for layer in range(first, last + 1)]
    return found
