"""Edits resolved for one prompt: checked once, before anything is computed, then cut to the rows of
each call of the core.

    bound = bind(edits, config, n_prompt, wanted, limit=n_prompt + n_tokens)  # once
    call = Call([bound], n_past=[0], n_rows=[n_prompt])                       # for each core.run
    core.run(ids, starts, ..., edits=call.items, changed=call.changed)
    call.count()
    run.edits = bound.applied()

A plain run is one call, with all rows. With a cache, a call has the rows of its new tokens: row r
of a sequence is position n_past + r. Keys stay absolute.
"""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import shown
from ..config import Config
from ..errors import ArgumentError, EditError
from ..messages import counted
from ..points import Point
from .calls import Calls, Replay
from .edit import At, Edit, Mapped, Values, as_run, as_values
from .edits import Edits
from .index import Chosen, Numbers, choose, first_of_lists, spread
from .places import axes_of, is_map, point_of
from .used import Kept, check_used, kept_of

FAILED = -1
"""In `changed` of the core, marks the edit that caused an error."""
_OPS = {"=": 0, "+=": 1, "-=": 1, "*=": 2, "map": 3}
_MAY_HIDE = ("scores", "logits")  # -inf hides a key or a token

Wanted = tuple[Point, tuple[int, ...], bool]
"""(point, layers, whether before edits) of a kept value, as in a Capture; layers are () for a point
that is not per layer."""


@dataclass
class _Bound:
    """One edit of one prompt. Axes are in the order of the core: rows, heads (or a single 0),
    columns; for a map: heads, rows, keys."""

    edit: Edit
    point: Point
    layer: int
    """0 for a point that is not per layer."""
    chosen: list[Chosen]
    """One entry per axis of the value."""
    numbers: list[Numbers]
    values: Values | None
    row_axis: int
    window: int
    limit: int

    @property
    def rows(self) -> Numbers:
        return self.numbers[self.row_axis]

    @property
    def is_map(self) -> bool:
        return self.row_axis == 1

    def item(
        self,
        rows: range,
        sequence: int,
        at: tuple[int, int],
        last_rows: bool,
        calls: Calls | None = None,
    ) -> Any:
        """The tuple for the core, for rows at these positions; None if the edit has none of them.
        calls: records the calls of a function."""
        numbers, values = list(self.numbers), self.values
        first = rows[-1] if last_rows and not self.point.per_layer else rows.start
        for axis in (self.row_axis, 2) if self.is_map else (self.row_axis,):
            here = numbers[axis] < rows.stop
            if axis == self.row_axis:
                here &= numbers[axis] >= first
            if not here.any():
                return None
            if not here.all():
                numbers[axis] = numbers[axis][here]
                if values is not None and values.shape[axis] > 1:
                    values = values.compress(here, axis)
        positions = numbers[self.row_axis]
        numbers[self.row_axis] = positions - rows.start
        lists = [each.astype(np.uint32) for each in numbers]
        last = self._caller(positions, numbers[2], at, calls) if values is None else values
        return _OPS[self.edit.op], self.point.number, self.layer, sequence, *lists, last

    def _caller(
        self, positions: Numbers, columns: Numbers, at: tuple[int, int], calls: Calls | None
    ) -> Any:
        """Wrap the user's function for the core, which passes and expects three axes."""
        layer = self.layer if self.point.per_layer else None
        where = At(self.point.name, layer, positions, *at)
        function: Mapped = self.edit.function  # type: ignore[assignment]
        if isinstance(function, Replay):
            return function.caller(positions, columns, self.row_axis)
        axes_of_core = _core_axes(len(self.chosen), self.is_map)
        kept = [
            axis
            for axis, chosen in zip(axes_of_core, self.chosen, strict=True)
            if axis == self.row_axis or not chosen.is_dropped
        ]

        def call(value: Values) -> Values:
            before = value.copy()
            after = changed(value)
            if calls is not None:
                calls.add(positions, columns, before, after.copy())
            return after

        def changed(value: Values) -> Values:
            part = value.reshape([value.shape[axis] for axis in kept])
            result = function(part, where)
            if result is None:
                return value
            array = as_values(result, "what the function returned")
            if array.shape != part.shape:
                raise EditError(
                    f"the function returned {list(array.shape)} for {list(part.shape)}; return an"
                    " array of that shape, or None"
                )
            return array.reshape(value.shape)

        return call


class Bound:
    """The edits of one prompt; made by `bind`."""

    def __init__(self, edits: Edits, bound: list[_Bound]) -> None:
        self.edits = edits
        self._bound = bound
        self.n_changed: NDArray[np.int64] = np.zeros(len(bound), np.int64)
        """The number of changed elements of each edit, in the calls counted so far."""
        self._calls = [Calls(one.row_axis) if one.values is None else None for one in bound]

    @property
    def places(self) -> "list[_Bound]":
        """The edits with their numbers along the axes."""
        return self._bound

    def copy(self) -> "Bound":
        """A copy for an independent sequence."""
        other = copy.copy(self)
        other.n_changed = self.n_changed.copy()
        other._calls = [None if calls is None else calls.copy() for calls in self._calls]
        return other

    def items(
        self, rows: range, sequence: int, at: tuple[int, int], last_rows: bool
    ) -> list[tuple[int, Any]]:
        """(number of the edit, tuple for the core) of the edits that have rows in a call. at: the
        numbers of the prompt and the step."""
        found = (
            (i, one.item(rows, sequence, at, last_rows, calls))
            for i, (one, calls) in enumerate(zip(self._bound, self._calls, strict=True))
        )
        return [(i, item) for i, item in found if item is not None]

    def applied(self, n_tokens: int | None = None) -> Edits:
        """The edits for `Run.edits`, cut to the first n_tokens. Positions are absolute, so that
        they have the same effect in a run of all tokens; each has its n_changed."""
        return Edits(
            as_run(
                one.edit,
                tuple(chosen.item for chosen in one.chosen),
                int(n),
                None if calls is None else calls.recorded(one.numbers, n_tokens),
            )
            for one, n, calls in zip(self._bound, self.n_changed, self._calls, strict=True)
        )

    def check_computed(self, n_computed: int) -> None:
        """EditError if an edit acts only on a token that is not computed (the last new one)."""
        for one in self._bound:
            if one.rows.min() >= n_computed:
                raise EditError(
                    f"{one.edit!r}: cannot act, because position {one.rows.min()} is computed only"
                    " where values are kept; keep some with points=, or generate more tokens"
                )

    def check_reached(
        self, n_tokens: int, run: Any = None, *, n_computed: int | None = None
    ) -> None:
        """EditError, with `run`, if the text ended before any position of an edit, or at the first
        one, which is then not computed."""
        n_computed = n_tokens if n_computed is None else n_computed
        for one in self._bound:
            if one.rows[0] >= n_computed and one.rows.min() >= n_computed:
                last = "" if n_computed == n_tokens else ", of which the last was not computed"
                error = EditError(
                    f"{one.edit!r}: position {one.rows.min()} was not reached: the text ended after"
                    f" {counted(n_tokens, 'token')}{last}; `run` of this error has it"
                )
                error.run = run
                raise error


class Call:
    """The edits of one call of the core, for its sequences."""

    def __init__(
        self,
        bounds: Sequence[Bound | None],
        n_past: Sequence[int],
        n_rows: Sequence[int],
        *,
        step: int = 0,
        prompts: Sequence[int] | None = None,
        last_rows: bool = False,
        n_prompts: int | None = None,
    ) -> None:
        """prompts: the numbers of the sequences in the batch, which finished ones have left.
        last_rows: for points that are not per layer, the core computes only the last row of each
        sequence. n_prompts: of the batch, for errors; None: no batch."""
        self._bounds = bounds
        self._of: list[tuple[Bound, int]] = []
        self._prompts: list[int] = []
        self._n_prompts = n_prompts
        self.items: list[Any] = []
        """The core's argument `edits`."""
        for sequence, bound in enumerate(bounds):
            if bound is not None:
                at = sequence if prompts is None else prompts[sequence], step
                rows = range(n_past[sequence], n_past[sequence] + n_rows[sequence])
                for number, item in bound.items(rows, sequence, at, last_rows):
                    self._of.append((bound, number))
                    self._prompts.append(at[0])
                    self.items.append(item)
        self.changed: NDArray[np.int64] = np.zeros(len(self.items), np.int64)
        """The core's argument `changed`."""

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Around the call of the core: prefix an edit's error with the prompt (in a batch) and the
        edit."""
        try:
            yield
        except EditError as error:
            for number in np.flatnonzero(self.changed == FAILED):
                bound, of = self._of[number]
                n, prompt = self._n_prompts, self._prompts[number]
                which = "" if n is None else f"prompt {prompt} of {n}: "
                error.reword(f"{which}{bound.edits[of]!r}: {error}")
            raise

    def count(self) -> None:
        """Add the numbers of changed elements to the edits."""
        for (bound, number), n in zip(self._of, self.changed, strict=True):
            bound.n_changed[number] += n


def bind(
    edits: Edits | None,
    config: Config,
    n_prompt: int,
    wanted: Iterable[Wanted],
    *,
    limit: int | None = None,
    cached: bool = False,
) -> Bound | None:
    """Resolve the edits of a prompt of n_prompt tokens; None without edits.

    wanted: the kept values; an edit that affects none of them is refused. limit: the most tokens
    that the text may reach (default: n_prompt). cached: rows are computed call by call, so that
    functions of whole values are refused.

    Raises EditError (an edit that cannot be made or has no effect; the message shows it),
    PointError.
    """
    if edits is None:
        return None
    if not isinstance(edits, Edits):
        raise EditError(f"edits is an lp.Edits, not {shown(edits)}")
    if not edits:
        return None
    kept = [kept_of(config, *want) for want in wanted]
    bound = []
    for edit in edits:
        try:
            bound.append(_bind(edit, config, n_prompt, limit or n_prompt, cached, kept))
        except ArgumentError as error:
            error.reword(f"{edit!r}: {error}")
            raise
    return Bound(edits, bound)


def _bind(
    edit: Edit, config: Config, n_prompt: int, limit: int, cached: bool, kept: list[Kept]
) -> _Bound:
    point, layer = point_of(edit, config)
    if edit.source is not None and edit.source.is_whole and edit.source.n_tokens != n_prompt:
        raise EditError(
            f"the run of lp.like has {counted(edit.source.n_tokens, 'token')} and this prompt has"
            f" {n_prompt}; select which: lp.like(run, {point.name!r}, ..., np.s_[...])"
        )
    if cached and edit.whole:
        raise EditError("a function of whole values cannot be called for one new token at a time")
    value_axes = axes_of(point, config, n_prompt, limit)
    items = spread(edit.index, len(value_axes))
    chosen = [choose(item, axis) for item, axis in zip(items, value_axes, strict=True)]
    numbers = _by_core([each.numbers for each in chosen], point)
    window = config.layer(layer).window or 0
    one = _Bound(edit, point, layer, chosen, numbers, None, int(is_map(point)), window, limit)
    if one.is_map:
        _check_seen(one)
    if edit.op != "map":
        one.values = _values(one)
        _check_finite(one)
    check_used(point, layer, config, kept)
    return one


def _core_axes(n_axes: int, is_map: bool) -> list[int]:
    """The axis of the core for each axis of a value."""
    return [0, 1, 2] if is_map or n_axes == 3 else [0, 2][:n_axes]


def _by_core(numbers: list[Numbers], point: Point) -> list[Numbers]:
    one = np.zeros(1, np.int64)
    found = [one, one, one]
    for axis, each in zip(_core_axes(len(numbers), is_map(point)), numbers, strict=True):
        found[axis] = each
    return found


def _values(one: _Bound) -> Values:
    """The value with three axes, each as long as its selection, or 1."""
    edit, chosen = one.edit, one.chosen
    value: Values = edit.value if edit.op != "-=" else -edit.value  # type: ignore[assignment,operator]
    order = list(range(len(chosen)))
    moved = first_of_lists(chosen)
    if moved is not None:
        order.insert(0, order.pop(moved))
    kept = [axis for axis in order if not chosen[axis].is_dropped]
    selected = [len(chosen[axis].numbers) for axis in kept]
    while value.ndim > len(kept) and value.shape[0] == 1:
        value = value[0]
    lengths = [1] * (len(kept) - value.ndim) + list(value.shape)
    if value.ndim > len(kept) or any(
        n not in (1, length) for n, length in zip(lengths, selected, strict=True)
    ):
        raise EditError(
            f"a value of shape {list(edit.value.shape)} for {selected} selected elements"  # type: ignore[union-attr]
        )
    for axis, n in zip(kept, lengths, strict=True):
        if chosen[axis].grows and n > 1:
            raise EditError(
                "the rows grow with new tokens, so a value must be the same for all of them; write"
                " lp.PROMPT for those of the prompt"
            )
    by_axis = dict(zip(kept, lengths, strict=True))
    value = value.reshape(lengths).transpose(np.argsort(kept))
    shape_of_core = [1, 1, 1]
    for axis, at in enumerate(_core_axes(len(chosen), one.is_map)):
        shape_of_core[at] = by_axis.get(axis, 1)
    return np.ascontiguousarray(value.reshape(shape_of_core))


def _seen(one: _Bound) -> NDArray[np.bool_]:
    """For a map, [rows, keys]: whether the query sees the key."""
    age = one.rows[:, None] - one.numbers[2]
    return (age >= 0) & (age < (one.window or one.limit))


def _check_seen(one: _Bound) -> None:
    rows, keys = one.rows, np.sort(one.numbers[2])
    first = rows - one.window + 1 if one.window else np.zeros_like(rows)
    n_seen = np.searchsorted(keys, rows, "right") - np.searchsorted(keys, first, "left")
    if n_seen.max() <= 0:
        window = f" (a window of {one.window} keys)" if one.window else ""
        raise EditError(
            f"none of these keys is seen by these queries{window}: a query sees keys up to its own"
        )


def _check_finite(one: _Bound) -> None:
    values: Values = one.values  # type: ignore[assignment]
    finite = np.isfinite(values)
    if one.point.name in _MAY_HIDE and one.edit.op == "=":
        finite |= np.isneginf(values)
    if finite.all():
        return
    if one.is_map:
        finite = finite | ~_seen(one)
    if not finite.all():
        hidden = " (but -inf in scores and logits)" if one.edit.op == "=" else ""
        found = np.broadcast_to(values, finite.shape)[~finite][0]
        raise EditError(f"a value is {found}; it must be finite{hidden}")


def bind_all(
    edits: object,
    config: Config,
    lengths: Sequence[int],
    is_batch: bool,
    wanted: Iterable[Wanted],
    *,
    n_new: int = 0,
    cached: bool = False,
    last_fed: bool = True,
) -> list[Bound | None]:
    """`bind` for each prompt of a call, given by length. edits: one Edits for all, or for a batch a
    list with an Edits or None for each. n_new: the most tokens after each prompt; last_fed: whether
    the last one is computed. An error names the prompt."""
    n, wanted = len(lengths), list(wanted)
    if edits is None or isinstance(edits, Edits):
        each: list[Any] = [edits] * n
    elif is_batch and isinstance(edits, Sequence) and not isinstance(edits, str):
        each = list(edits)
        if len(each) != n:
            raise EditError(
                f"edits is a list of {len(each)} for {counted(n, 'prompt')}; give one for each,"
                f" None for no edits"
            )
    else:
        raise EditError(
            f"edits is an lp.Edits{', or a list of them for a batch' if is_batch else ''}, not"
            f" {shown(edits)}"
        )
    found = []
    for number, (one, n_prompt) in enumerate(zip(each, lengths, strict=True)):
        try:
            limit = n_prompt + n_new
            bound = bind(one, config, n_prompt, wanted, limit=limit, cached=cached)
            if bound is not None and not last_fed:
                bound.check_computed(limit - 1)
            found.append(bound)
        except ArgumentError as error:
            if is_batch:
                error.reword(f"prompt {number} of {n}: {error}")
            raise
    return found
