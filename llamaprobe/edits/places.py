"""The place of an edit: its point, the axes of the value, and its index with absolute positions."""

import dataclasses
from collections.abc import Iterable, Iterator

from ..config import Config
from ..errors import EditError
from ..points import Point, layer_number, resolve, shape
from .edit import Edit
from .index import Axis, Index, Item, choose, spread

_KINDS = {
    "heads": ("head", "channel"),
    "kv": ("kv head", "channel"),
    "q_norms": ("head",),
    "k_norms": ("kv head",),
    "d_ff": ("neuron",),
    "vocab": ("token id",),
    "d_model": ("channel",),
    "one": (),
}


def point_of(edit: Edit, config: Config) -> tuple[Point, int]:
    name = edit.name if edit.layer is None else (edit.name, edit.layer)
    point, layer = resolve(name, config)
    if not point.per_layer:
        return point, 0
    if layer is None:
        raise EditError(f"{point.name} is a value of each layer; name one: {edit.name}[0][...]")
    return point, layer_number(layer, config.n_layers)


def is_map(point: Point) -> bool:
    return point.width == "map"


def axes_of(point: Point, config: Config, n_prompt: int, limit: int) -> list[Axis]:
    if is_map(point):
        lengths = [Axis(name, n_prompt, limit, True) for name in ("row", "key")]
        return [Axis("head", config.n_heads, config.n_heads, False), *lengths]
    found = [Axis("row", n_prompt, limit, True)]
    each = config.n_heads // config.n_kv_heads
    lengths_of = shape(point, config, n_prompt)[1:]
    for name, n in zip(_KINDS.get(point.width, ("column",) * 2), lengths_of, strict=False):
        found.append(Axis(name, n, n, False, each if name == "kv head" and each > 1 else 0))
    return found


def absolute(edit: Edit, config: Config, n_prompt: int, limit: int) -> Index:
    """The index of an edit with absolute positions, for a prompt of n_prompt tokens. EditError,
    PointError."""
    axes_of_value = axes_of(point_of(edit, config)[0], config, n_prompt, limit)
    items = spread(edit.index, len(axes_of_value))
    return tuple(choose(item, axis).item for item, axis in zip(items, axes_of_value, strict=True))


def within(edits: Iterable[Edit], config: Config, n_tokens: int) -> Iterator[Edit]:
    """Edits with absolute positions, cut to the first n_tokens: for a text that was rewound or is
    not yet long enough. Edits beyond are left out; a number is assigned only to existing
    positions."""
    for edit in edits:
        axes_of_value = axes_of(point_of(edit, config)[0], config, n_tokens, n_tokens)
        axes = list(zip(spread(edit.index, len(axes_of_value)), axes_of_value, strict=True))
        cut = [_cut(item, n_tokens) if axis.is_position else item for item, axis in axes]
        if any(item is None for item in cut):
            continue
        index = tuple(item for item in cut if item is not None)
        if index != edit.index and edit.value is not None and edit.value.ndim == 0:
            edit = dataclasses.replace(edit, index=index, requested=index)
        yield edit


def _cut(item: Item, n_tokens: int) -> Item | None:
    """The item cut to the first n_tokens; None if nothing is left."""
    if isinstance(item, slice):
        if not range(n_tokens)[item]:
            return None
        beyond = item.stop is not None and item.stop > n_tokens and (item.step or 1) > 0
        return slice(item.start, n_tokens, item.step) if beyond else item
    if isinstance(item, tuple):
        return tuple(number for number in item if number < n_tokens) or None
    return item if not isinstance(item, int) or item < n_tokens else None


def n_positions(edit: Edit, config: Config) -> int:
    """The number of tokens that its index with absolute positions needs. EditError, PointError."""
    axes_of_value = axes_of(point_of(edit, config)[0], config, 1, 1)
    items = zip(spread(edit.index, len(axes_of_value)), axes_of_value, strict=True)
    return max(_reach(item) for item, axis in items if axis.is_position)


def _reach(item: Item) -> int:
    if isinstance(item, slice):
        return max(item.start or 0, item.stop or 0)
    numbers = item if isinstance(item, tuple) else (item,)
    return max((number + 1 for number in numbers if isinstance(number, int)), default=0)
