"""The edits of a saved run, for formulas and for the run again: bound to its tokens, with what each
function left in its place.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Config
from ..edits.calls import Replay
from ..edits.edit import Edit
from ..edits.edits import Edits
from ..edits.index import show_index
from ..edits.places import absolute, n_positions
from ..edits.resolve import Bound, bind
from ..edits.used import canonical
from ..errors import EditError, PointError
from ..messages import counted
from ..points import resolve
from ..saved.read import Saved

_MOST = 1 << 20  # positions that an index may name: those of the longest models


def replayed(saved: Saved, config: Config) -> Bound | None:
    """The edits of the run, to be made again; functions are Replays. None without edits. EditError,
    PointError."""
    edits = Edits(map(_replayed, saved.edits))
    n_tokens = len(saved.token_ids)
    ends = [n_positions(edit, config) for edit in edits]
    limit = max(
        [n_tokens, *ends]
    )  # an interrupted run has edits of positions that it did not reach
    if limit > max(n_tokens, min(config.max_positions, _MOST)):
        raise EditError(f"position {limit} is beyond those of the model")
    return bind(edits, config, n_tokens, (), limit=limit)


def _replayed(edit: Edit) -> Edit:
    if edit.recorded is None:
        return edit
    assert edit.function is not None
    return dataclasses.replace(
        edit, function=Replay(edit.function.name, edit.recorded), whole=False
    )


def index_faults(saved: Saved, config: Config) -> Iterator[str]:
    """Indices that do not mean what they were resolved to, as far as that is known."""
    n_tokens, facts = len(saved.token_ids), saved.generated
    n_prompt = n_tokens if facts is None else facts.n_prompt
    limit = n_tokens if facts is None else facts.n_prompt + facts.n_tokens
    if saved.edits.session_prompt is not None:
        n_prompt, limit = saved.edits.session_prompt, config.max_positions
    for i, edit in enumerate(saved.edits):
        assert edit.requested is not None
        try:
            requested = dataclasses.replace(edit, index=edit.requested)
            meant = show_index(absolute(requested, config, n_prompt, limit))
        except (EditError, PointError) as error:
            yield f"edit {i}: index: {error}"
            continue
        if meant != show_index(edit.index):
            yield (
                f"edit {i}: index {show_index(edit.requested)} means {meant} of a prompt of"
                f" {counted(n_prompt, 'token')}, and resolved is {show_index(edit.index)}"
            )


def count_faults(saved: Saved, config: Config, bound: Bound) -> Iterator[str]:
    """What the edits changed, and what functions were given, in the run again."""
    facts, is_session = saved.generated, saved.edits.session_prompt is not None
    for i, (edit, n) in enumerate(zip(bound.edits, bound.n_changed.tolist(), strict=True)):
        stated = edit.n_changed or 0
        is_each = resolve(edit.name)[0].per_layer or not (facts or is_session)
        least, most = n, n
        if is_session or (facts and facts.stopped_by == "interrupted"):
            most = 1 << 62  # rows that were dropped count as well
        if not is_each:
            least = 0  # the head may have been computed for the last rows alone
        if not least <= stated <= most:
            yield f"edit {i}, {edit.place}: n_changed is {stated} and should be {n}"
        replay = edit.function
        if isinstance(replay, Replay):
            if replay.fault:
                yield f"edit {i}, {edit.place}: {replay.fault}"
            first = 0 if is_each else len(saved.token_ids) if is_session else facts.n_prompt - 1  # type: ignore[union-attr]
            missing = [position for position in replay.missing if position >= first]
            if missing:
                yield f"edit {i}, {edit.place}: position {missing[0]} is missing in positions"


@dataclass(frozen=True)
class Assigned:
    """One edit of a value as [rows, heads or 1, columns], of a map [heads, rows, keys]."""

    number: int
    op: str
    index: Any
    values: np.ndarray
    before: np.ndarray | None
    """What a function was given."""


def assignments(bound: Bound | None, config: Config, n_tokens: int) -> dict[Any, list[Assigned]]:
    """(point, layer) -> its edits, in order; x of a layer is x_out of the one before, and what is
    computed once belongs to the last layer. EditError."""
    found: dict[Any, list[Assigned]] = {}
    for i, one in [] if bound is None else enumerate(bound.places):
        item = one.item(range(n_tokens), 0, (0, 0), False)
        if item is None:
            continue
        lists: list[np.ndarray] = [np.asarray(each, np.int64) for each in item[4:7]]
        values, before, op = item[7], None, one.edit.op
        replay = one.edit.function
        if isinstance(replay, Replay):
            axis, replay.missing = one.row_axis, []  # those of the run again count
            rows, columns = replay.cut(lists[axis], lists[2], axis == 1)
            lists[axis], lists[2] = lists[axis][rows], lists[2][columns]
            op, before, values = "=", replay.recorded.before, replay.recorded.after
            if before.shape != tuple(map(len, lists)):
                raise EditError(f"edit {i}, {one.edit.place}: before is not of its rows")
        place = canonical(one.point.name, one.layer, one.point.per_layer, config)
        index = np.ix_(*lists)
        found.setdefault(place, []).append(Assigned(i, op, index, values, before))
    return found
