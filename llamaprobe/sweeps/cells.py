"""Cells of a sweep: where each departs from the base run, and what it edits from there on.

A cell begins at the first row and the first layer where an edit changes a bit of the base. It
shares everything before, since no value depends on later rows or layers. Rows after the one that
the metric reads are not computed.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..edits.edits import Edits
from ..edits.resolve import Bound
from ..errors import EditError
from ..points import Point, all_points, resolve

Place = tuple[str, int]
"""A point and a layer."""
Values = Mapping[Place, NDArray[np.float32]]
"""Values of the base: [rows, ...]."""
_ADD, _MULTIPLY, _CALL = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Cell:
    number: int
    layer: int
    """The first layer that is computed."""
    row: int
    """The first row that is computed, in every layer."""
    edits: Edits
    items: Mapping[int, list[tuple[int, Any]]]
    """Layer -> (number of the edit, tuple for the core, as sequence 0) of each edit."""

    @property
    def last_layer(self) -> int:
        """The last layer with an edit."""
        return max(self.items)


@dataclass(frozen=True)
class Shapes:
    """The sizes that cells need."""

    config: Config
    n_tokens: int
    n_rows: int
    """The rows up to the one that the metric reads, inclusive."""

    def layer_of(self, point: Point, layer: int) -> int:
        """The layer that applies the edit: x_out of a layer is x of the next."""
        last = self.config.n_layers - 1
        if not point.per_layer:
            return last
        return layer + 1 if point.name == "x_out" and layer < last else layer

    def place(self, point: Point, layer: int) -> Place:
        found = self.layer_of(point, layer)
        return ("x", found) if point.per_layer and found != layer else (point.name, layer)


def cell_of(number: int, bound: Bound | None, shapes: Shapes, base: Values) -> Cell | None:
    """The cell of these edits; None if it equals the base."""
    if bound is None:
        return None
    starts = list(_starts(bound, shapes, base))
    if not starts:
        return None
    layer, row = min(layer for layer, _ in starts), min(row for _, row in starts)
    if any(edit.whole for edit in bound.edits):
        row = 0
    items: dict[int, list[tuple[int, Any]]] = {}
    for edit, item in _items(bound, row, shapes.n_rows - row):
        found = shapes.layer_of(all_points()[item[1]], item[2])
        if found >= layer:
            items.setdefault(found, []).append((edit, item))
    return Cell(number, layer, row, bound.edits, items)


def _items(bound: Bound, first: int, n_rows: int) -> list[tuple[int, Any]]:
    """(number of the edit, tuple for the core)."""
    return bound.items(range(first, first + n_rows), 0, (0, 0), last_rows=True)


def _starts(bound: Bound, shapes: Shapes, base: Values) -> Iterator[tuple[int, int]]:
    """(layer, row) of each edit that may change a bit of the base."""
    for _, item in _items(bound, 0, shapes.n_rows):
        point, layer = all_points()[item[1]], item[2]
        rows = item[5] if point.width == "map" else item[4]
        matters = np.full(len(rows), True)
        if layer == shapes.config.n_layers - 1 and point.number >= _after_attention():
            matters = rows == shapes.n_rows - 1
        value = base.get(shapes.place(point, layer))
        if value is not None and item[0] != _CALL:
            matters &= _changes(item, value)
        if matters.any():
            yield shapes.layer_of(point, layer), int(rows[matters].min())


@functools.cache
def _after_attention() -> int:
    """The first point of the last layer from which on the metric depends only on the row it
    reads."""
    return next(point.number for point in all_points() if point.name == "attn_out")


def _changes(item: Any, value: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[rows]: whether the edit changes a bit of each row."""
    op, _, _, _, rows, heads, columns, values = item
    three = value.reshape(len(value), *(1,) * (3 - value.ndim), *value.shape[1:])
    old = three[np.ix_(rows, heads, columns)]
    with np.errstate(over="ignore", invalid="ignore"):
        new = old + values if op == _ADD else old * values if op == _MULTIPLY else values
    new = np.broadcast_to(new.astype(np.float32, copy=False), old.shape)
    return (np.ascontiguousarray(new).view(np.uint32) != old.view(np.uint32)).any((1, 2))


def kept_places(bounds: list[Bound | None], shapes: Shapes) -> dict[Point, list[int]]:
    """What to keep of the base: x of every layer, and the edited points (except maps), whose values
    show what an edit changes."""
    config = shapes.config
    found: dict[Point, set[int]] = {resolve("x", config)[0]: set(range(config.n_layers))}
    for bound in bounds:
        for _, item in _items(bound, 0, shapes.n_rows) if bound else ():
            point, layer = all_points()[item[1]], item[2]
            if item[0] == _CALL or not point.per_layer or point.width == "map":
                continue
            if shapes.place(point, layer)[0] != "x":
                found.setdefault(point, set()).add(layer)
    return {point: sorted(layers) for point, layers in found.items()}


def check_whole(edits: Edits, shapes: Shapes) -> None:
    """EditError if a function of whole values needs rows that are not computed."""
    for edit in edits:
        if edit.whole and (edit.layer is None or shapes.n_rows < shapes.n_tokens):
            raise EditError(
                f"{edit!r}: a function of whole values needs all rows, but a sweep computes only"
                " those up to the position that the metric reads, and of the logits only that row"
            )
