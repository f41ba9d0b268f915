"""What a run keeps: points, in which layers, and whether before the edits of them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .arguments import is_iterable, shown
from .config import Config
from .errors import PointError
from .points import Layers, Name, Point, check_layers, is_pair, resolve_all

BEFORE = ".before"
"""After the name of a point: its value before the edits of it."""


class Capture(NamedTuple):
    """One point at some layers: an array of the core."""

    point: Point
    layers: tuple[int, ...]
    """() for a point that is not per layer."""
    before: bool = False

    @property
    def name(self) -> str:
        return self.point.name + BEFORE * self.before

    @property
    def numbers(self) -> tuple[int, tuple[int, ...], bool]:
        """For the core, where points that are not per layer have one layer, 0."""
        return self.point.number, self.layers or (0,), self.before


def captures_of(names: str | Iterable[Name], layers: Layers, config: Config) -> list[Capture]:
    """The captures that a request means, in its order. PointError."""
    chosen = check_layers(layers, config.n_layers)
    found: dict[tuple[Point, bool], tuple[int, ...]] = {}
    for name, point, layer, before in resolved(names, config):
        if layer is not None and layer not in chosen:
            raise PointError(
                f"{shown(name, 200)} names layer {layer}, which is not among the requested"
                f" layers; add it to layers={shown(layers)}, or leave layers out"
            )
        numbers = () if not point.per_layer else chosen if layer is None else (layer,)
        key = point, before
        found[key] = tuple(dict.fromkeys(found.get(key, ()) + numbers))
    return [Capture(point, numbers, before) for (point, before), numbers in found.items()]


def without_before(name: Name) -> tuple[Name, bool]:
    """A name, and whether it ended in ".before"."""
    text = name[0] if isinstance(name, tuple) and name else name
    if not isinstance(text, str) or not text.endswith(BEFORE):
        return name, False
    plain = text.removesuffix(BEFORE)
    return plain if isinstance(name, str) else (plain, *name[1:]), True  # type: ignore[return-value]


def resolved(
    names: str | Iterable[Name], config: Config
) -> Iterator[tuple[Name, Point, int | None, bool]]:
    """(name, point, layer, whether before its edits) of all that a request means. PointError."""
    is_one = isinstance(names, str) or is_pair(names)
    listed: list[Any] = [names] if is_one else list(names) if is_iterable(names) else []
    if not any(without_before(name)[1] for name in listed):
        for each in resolve_all(listed, config):
            yield *each, False
        return
    for name in listed:
        plain, before = without_before(name)
        for _, point, layer in resolve_all([plain], config):
            yield name, point, layer, before  # type: ignore[misc]
