"""An index as written, and the numbers that it selects along each axis.

Rows and keys are token positions, absolute and from 0; negative ones count from the end of the
prompt, and an open end extends to new tokens. Other axes have a fixed length. Nothing is clipped:
anything out of range is an error, even in a slice.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import is_whole, shown
from ..errors import EditError, EditTypeError
from ..messages import counted

Numbers = NDArray[np.int64]


class Span(Enum):
    """Positions relative to the end of the prompt."""

    PROMPT = "PROMPT"
    """The tokens of the prompt."""
    NEW = "NEW"
    """The tokens after the prompt."""
    DECIDING = "DECIDING"
    """The tokens whose logits choose a new token: from the last one of the prompt on."""

    def __repr__(self) -> str:
        return self.value

    def within(self, n_prompt: int) -> slice:
        """The positions in a run whose prompt has n_prompt tokens."""
        first = {"PROMPT": 0, "NEW": n_prompt, "DECIDING": n_prompt - 1}[self.value]
        return slice(first, n_prompt if self is Span.PROMPT else None)


PROMPT, NEW, DECIDING = Span.PROMPT, Span.NEW, Span.DECIDING

Item = int | slice | Span | tuple[int, ...]
"""The index of one axis; a tuple stands for a list of numbers."""
Index = tuple[Item | EllipsisType, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of a value."""

    name: str
    """The name of one element: "row", "key", "head", "kv head", "channel"..."""
    length: int
    """For positions, the length of the prompt."""
    limit: int
    """For positions, how many the run reaches; else the length."""
    is_position: bool
    n_query_heads: int = 0
    """For kv heads, how many query heads each serves."""


@dataclass(frozen=True)
class Chosen:
    """The selection of an item along an axis."""

    numbers: Numbers
    item: Item
    """The item with absolute positions."""
    grows: bool = False
    """Whether the selection grows as tokens are generated."""

    @property
    def is_dropped(self) -> bool:
        """Whether the axis is dropped, because the item is an integer."""
        return isinstance(self.item, int)


def read_index(written: object) -> Index:
    """An index, checked except for its bounds. EditError."""
    items = written if isinstance(written, tuple) else (written,)
    return tuple(_item(item) for item in items)


def _item(item: object) -> Item | EllipsisType:
    if isinstance(item, (EllipsisType, Span)):
        return item
    if isinstance(item, slice):
        return slice(*(_whole(end) for end in (item.start, item.stop, item.step)))
    if isinstance(item, (list, tuple, range)) or getattr(item, "ndim", 0) == 1:
        numbers: tuple[object, ...] = tuple(item)  # type: ignore[arg-type]
        if numbers and all(isinstance(number, (bool, np.bool_)) for number in numbers):
            raise EditTypeError(
                "an index of an edit is a mask; give the numbers: np.flatnonzero(mask)"
            )
        return tuple(map(_integer, numbers))
    return _integer(item)


def _whole(end: object) -> int | None:
    return None if end is None else _integer(end)


def _integer(item: object) -> int:
    if not is_whole(item):
        raise EditTypeError(
            f"an index of an edit is made of integers, slices, spans, lists of integers and ...,"
            f" not {shown(item)}"
        )
    number = operator.index(item)  # type: ignore[arg-type]
    if abs(number) >= 1 << 63:
        raise EditError(f"{shown(item)} is out of range for every axis")
    return number


def show_index(index: Index) -> str:
    """The index as written between brackets."""
    items = list(index)
    while len(items) > 1 and items[-1] == slice(None):
        items.pop()
    return ", ".join(map(_show_item, items))


def _show_item(item: Item | EllipsisType) -> str:
    if isinstance(item, slice):
        ends = ["" if end is None else str(end) for end in (item.start, item.stop)]
        return ":".join(ends if item.step is None else [*ends, str(item.step)])
    if isinstance(item, tuple):
        return f"[{', '.join(map(str, item))}]"
    return "..." if item is Ellipsis else repr(item)


def plain_index(index: Index, n_tokens: int) -> tuple[Any, ...]:
    """The index for NumPy, with spans as slices for a prompt of n_tokens."""
    items = (item.within(n_tokens) if isinstance(item, Span) else item for item in index)
    return tuple(list(item) if isinstance(item, tuple) else item for item in items)


def spread(index: Index, n_axes: int) -> list[Item]:
    """One item per axis. EditError."""
    n_dots = sum(item is Ellipsis for item in index)
    if n_dots > 1:
        raise EditError("an index has at most one ...")
    if len(index) - n_dots > n_axes:
        axes = "1 axis" if n_axes == 1 else f"{n_axes} axes"
        raise EditError(f"{len(index) - n_dots} indices for {axes}")
    at = index.index(...) if n_dots else len(index)
    rest = [slice(None)] * (n_axes - len(index) + n_dots)
    items = [*index[:at], *rest, *index[at + 1 :]]
    if sum(isinstance(item, tuple) for item in items) > 1:
        raise EditError("two lists of numbers, which NumPy would pair; write an edit for each pair")
    return items  # type: ignore[return-value]


def choose(item: Item, axis: Axis) -> Chosen:
    """The selection of an item. EditError if it is empty or out of range."""
    if isinstance(item, Span):
        item = item.within(axis.length) if axis.is_position else _refuse_span(item, axis)
    if isinstance(item, slice):
        return _slice(item, axis)
    if isinstance(item, int):
        number = _number(item, axis)
        return Chosen(np.array([number]), number)
    numbers = [_number(number, axis) for number in item]
    if not numbers:
        raise EditError(f"an empty list selects no {axis.name}")
    for number in numbers:
        if numbers.count(number) > 1:
            raise EditError(f"{axis.name} {number} is listed twice")
    return Chosen(np.array(numbers), tuple(numbers))


def _refuse_span(item: Span, axis: Axis) -> slice:
    raise EditError(f"{item!r} selects positions, but this axis has {axis.name}s")


def _number(number: int, axis: Axis) -> int:
    found = number + axis.length if number < 0 else number
    if 0 <= found < axis.limit:
        return found
    raise EditError(f"there is no {axis.name} {number}: {_range(number, axis)}")


def _range(number: int, axis: Axis) -> str:
    each = axis.n_query_heads
    if each and axis.length <= number < axis.length * each:
        head = number // each
        return (
            f"{counted(axis.length, 'kv head')}, 0 to {axis.length - 1}; query head {number} reads"
            f" kv head {head}, which serves query heads {head * each} to {head * each + each - 1}"
        )
    if axis.is_position:
        of_prompt = f"the prompt has {counted(axis.length, 'token')}"
        if axis.limit > axis.length:
            return f"{of_prompt}, the text at most {axis.limit}"
        return f"{of_prompt}, 0 to {axis.length - 1}"
    return f"there are {axis.length}, 0 to {axis.length - 1}"


def _slice(item: slice, axis: Axis) -> Chosen:
    step = 1 if item.step is None else item.step
    if step < 1:
        raise EditError(f"a slice of an edit must go forward, but its step is {step}")
    first = 0 if item.start is None else _end(item.start, axis)
    is_open = item.stop is None
    end = axis.limit if is_open else _end(item.stop, axis)
    if first >= end:
        what = f" with {counted(axis.length, 'token')} of prompt" if axis.is_position else ""
        raise EditError(f"{_show_item(item)} selects no {axis.name}{what}")
    is_whole = item.start is None and is_open
    absolute = item if is_whole else slice(first, None if is_open else end, item.step)
    grows = axis.is_position and is_open and axis.limit > axis.length
    return Chosen(np.arange(first, end, step), absolute, grows)


def _end(number: int, axis: Axis) -> int:
    found = number + axis.length if number < 0 else number
    if 0 <= found <= axis.limit:
        return found
    raise EditError(f"{number} is out of range: {_range(number, axis)}")


def first_of_lists(items: Sequence[Chosen]) -> int | None:
    """The axis of a list that NumPy moves to the front, because a slice separates it from an
    integer."""
    if [type(chosen.item) for chosen in items] == [int, slice, tuple]:
        return 2
    return None
