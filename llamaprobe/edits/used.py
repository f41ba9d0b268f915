"""Refuses an edit if no kept value depends on it."""

import functools
from dataclasses import dataclass

from ..config import Config
from ..errors import EditError
from ..points import Point, all_points, reads


@dataclass(frozen=True)
class Kept:
    """A kept value, by the core's name."""

    name: str
    layer: int
    shown: str
    before: bool


def canonical(name: str, layer: int, is_per_layer: bool, config: Config) -> tuple[str, int]:
    """x is x_out of the layer before; points that are not per layer belong to the last layer."""
    if not is_per_layer:
        return name, config.n_layers - 1
    return ("x_out", layer - 1) if name == "x" and layer else (name, layer)


def kept_of(config: Config, point: Point, layers: tuple[int, ...], before: bool) -> Kept:
    """The kept value in the last of the layers, whose dependencies include those of the others."""
    layer = max(layers, default=0)
    of = f" of layer {layer}" if point.per_layer else ""
    name, number = canonical(point.name, layer, point.per_layer, config)
    return Kept(name, number, f"{point.name}{'.before' * before}{of}", before)


@functools.cache
def _order() -> dict[str, int]:
    return {point.name: point.number for point in all_points()}


@functools.cache
def _sources(name: str) -> frozenset[str]:
    """The values of the same layer that a value is computed from."""
    order = _order()
    found = {source for source in reads(name) if order[source] < order[name]}
    return frozenset(found.union(*map(_sources, found)))


def check_used(point: Point, layer: int, config: Config, kept: list[Kept]) -> None:
    """EditError unless a kept value is this one or depends on it."""
    of = f" of layer {layer}" if point.per_layer else ""
    name, layer = canonical(point.name, layer, point.per_layer, config)
    for value in kept:
        is_same = name == value.name and not value.before
        if value.layer > layer or (
            value.layer == layer and (is_same or name in _sources(value.name))
        ):
            return
    if not kept:
        return
    last = max(kept, key=lambda value: (value.layer, _order()[value.name]))
    raise EditError(
        f"{point.name}{of} changes nothing that you keep: the last is {last.shown}; keep a"
        f" value that depends on it, such as logits"
    )
