"""The inputs and outputs of an edit's function, call by call, so that a saved run can be checked.

With a cache, a function is called for the rows of each step, and sees the keys up to them. After a
session is rewound, it is called again for the same rows: the last call counts.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .edit import Mapped, Recorded, Values
from .index import Numbers

_Call = tuple[Numbers, Numbers, Values, Values]


class Calls:
    """The calls of one edit of one prompt."""

    def __init__(self, row_axis: int, calls: tuple[_Call, ...] = ()) -> None:
        self._row_axis, self._calls = row_axis, list(calls)

    def copy(self) -> "Calls":
        return Calls(self._row_axis, tuple(self._calls))

    def add(self, positions: Numbers, columns: Numbers, before: Values, after: Values) -> None:
        """Add a call: values are [rows, heads or 1, columns]; for a map, [heads, rows, keys]."""
        first = positions.min()
        if self._calls and self._calls[-1][0].max() >= first:
            self._calls = [
                self._up_to(first, call) for call in self._calls if call[0].min() < first
            ]
        self._calls.append((positions, columns, before, after))

    def recorded(self, numbers: list[Numbers], n_tokens: int | None) -> Recorded:
        """All rows of the first n_tokens, in the order of the edit's numbers; for a map, with the
        keys up to the last of them. Elements that no call covered (keys that a row does not see)
        are 0."""
        calls = self._calls
        if n_tokens is not None:
            calls = [self._up_to(n_tokens, call) for call in calls if call[0].min() < n_tokens]
        of_rows, columns = numbers[self._row_axis], numbers[2]
        seen = np.concatenate([np.zeros(0, np.int64), *(call[0] for call in calls)])
        rows = of_rows[np.isin(of_rows, seen)]
        if self._row_axis == 1 and rows.size:
            columns = columns[columns <= rows.max()]
        lengths = [len(numbers[0]), len(numbers[1]), len(columns)]
        lengths[self._row_axis] = len(rows)
        before, after = np.zeros((2, *lengths), np.float32)
        for positions, its_columns, *values in calls:
            at = [np.ones(n, bool) for n in lengths]
            at[self._row_axis] = np.isin(rows, positions)
            at[2] = np.isin(columns, its_columns)
            index = np.ix_(*at)
            here = np.isin(its_columns, columns)
            before[index], after[index] = (value.compress(here, 2) for value in values)
        return Recorded(rows, before, after)

    def _up_to(self, position: int, call: _Call) -> _Call:
        positions, columns, *values = call
        here = positions < position
        before, after = (value.compress(here, self._row_axis) for value in values)
        return positions[here], columns, before, after


class Replay(Mapped):
    """Stands in for a function: returns its recorded outputs, and notes where its inputs differ
    from the recorded ones."""

    def __init__(self, name: str, recorded: Recorded) -> None:
        super().__init__(lambda value, at: None)
        self.name, self.recorded = name, recorded
        self.missing: list[int] = []
        """Positions of rows without a record."""
        self.fault = ""

    def cut(self, positions: Numbers, columns: Numbers, is_map: bool) -> list[NDArray[np.bool_]]:
        """Masks of the rows and columns of a call that are recorded."""
        rows = np.isin(positions, self.recorded.positions)
        last = self.recorded.positions.max(initial=-1) if is_map else np.inf
        return [rows, columns <= last]

    def caller(
        self, positions: Numbers, columns: Numbers, row_axis: int
    ) -> Callable[[Values], Values]:
        """The function for the core."""
        is_map = row_axis == 1
        rows, its_columns = self.cut(positions, columns, is_map)
        self.missing = positions[~rows].tolist()

        def call(value: Values) -> Values:
            at = [np.ones(n, bool) for n in value.shape]
            at[row_axis], at[2] = rows, its_columns
            index = np.ix_(*at)
            given, (here, before, after) = value[index], self.recorded
            if given.shape != before.shape or not np.array_equal(positions[rows], here):
                self.fault = f"positions {here.tolist()[:3]}... are not those of its rows"
                return value
            seen = np.ones(given.shape, bool)
            if is_map:
                seen &= columns[its_columns] <= here[:, None]
            wrong = seen & (given.view(np.uint32) != before.view(np.uint32))
            if wrong.any():
                first = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
                shown = f"{before[first]:.9g} and should be {given[first]:.9g}"
                self.fault = f"before at position {here[first[row_axis]]} is {shown}"
            value = value.copy()
            value[index] = np.where(seen, after, given)
            return value

        return call
