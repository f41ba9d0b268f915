"""What is observed: capture points with one channel per value of a row, and attention maps with one
channel per head and key, for the first keys."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..arguments import listed
from ..config import Config
from ..data.targets import find_targets
from ..errors import ArgumentError, PointError
from ..messages import printable
from ..points import Layers, Name, Point, axes, check_layers, resolve_all
from .chosen import Chosen


@dataclass(frozen=True)
class Observed:
    point: Point
    layer: int | None
    shape: tuple[int, ...]
    """The shape of the channels."""
    keys: int = 0
    """For a map, the number of keys that have channels."""

    @property
    def name(self) -> str:
        return self.point.name if self.layer is None else f"{self.point.name}.{self.layer}"

    @property
    def n_channels(self) -> int:
        return math.prod(self.shape)

    def for_core(self) -> tuple[int, int, int, int]:
        return self.point.number, self.layer or 0, self.n_channels, self.keys

    def entry(self) -> dict[str, Any]:
        """Its entry in the header of a file."""
        found = {"point": self.point.name, "layer": self.layer, "shape": list(self.shape)}
        return {**found, "keys": self.keys} if self.keys else found


def find_observed(
    names: str | Iterable[Name], layers: Layers, config: Config, keys: int
) -> list[Observed]:
    """The targets, sorted by name. PointError."""
    chosen = check_layers(layers, config.n_layers)
    found: dict[str, Observed] = {}
    for name in (names,) if isinstance(names, str) else _listed(names):
        for each in _of_name(name, config, keys):
            if each.layer is None or layers is None or each.layer in chosen:
                found[each.name] = each
    if not found:
        raise PointError(f"{printable(repr(names), 60)}: no point in the requested layers")
    return sorted(found.values(), key=lambda each: (each.point.number, each.layer or 0))


def _listed(names: Any) -> list[Any]:
    """The names in a list; a (name, layer) pair is one name."""
    is_pair = isinstance(names, tuple) and len(names) > 1 and hasattr(names[1], "__index__")
    return [names] if is_pair else listed("points", names, "names, such as ('x', 'hidden:4-6')")


def _of_name(name: Name, config: Config, keys: int) -> list[Observed]:
    base = name.partition(":")[0] if isinstance(name, str) else name
    point = next((point for _, point, _ in resolve_all((base,), config)), None)
    if point is None or axes(point.width)[0] == "T":
        return [
            Observed(each.point, each.layer, each.shape) for each in find_targets((name,), config)
        ]
    layers: list[int | None] = []
    for _, each, layer in resolve_all((name,) if base == name else (base,), config):
        layers += range(config.n_layers) if layer is None else [layer]
        point = each
    if base != name:
        numbers = find_targets((str(name).replace(str(base), "x", 1),), config)
        layers = [each.layer for each in numbers]
    return [Observed(point, layer, (config.n_heads, keys), keys) for layer in layers]


def check_statistics(targets: Iterable[Observed], chosen: Chosen) -> None:
    """ArgumentError."""
    maps = [each.name for each in targets if each.keys]
    if maps and (chosen.top or chosen.gram):
        raise ArgumentError(f"{maps[0]} has no rows of tokens: neither top nor gram; leave it out")
