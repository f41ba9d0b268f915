"""Where two runs differ: the first value in computing order, and how much each value does.

Values are compared by their bits, but any NaN equals any NaN, as `Run.equals` has it. Both runs must
have values of the same shapes; token ids may differ, and are compared too.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .captures import BEFORE
from .errors import ArgumentError
from .messages import counted, printable
from .points import Point, all_points
from .run import Run
from .saved_run import read_run

_HEAD = ("point", "layer", "numbers", "of", "rows", "largest", "relative")


@dataclass(frozen=True)
class First:
    """The first number in computing order that differs."""

    point: str
    """Its name, as `Run.points` has it."""
    layer: int | None
    """None for a point that is not per layer."""
    index: tuple[int, ...]
    """Of the value of that layer."""
    a: float
    """The number in the first run."""
    b: float
    """The number in the second."""

    def __repr__(self) -> str:
        layer = "" if self.layer is None else f"[{self.layer}]"
        index = ", ".join(map(str, self.index))
        return f"{self.point}{layer}[{index}]: {self.a:.9g} and {self.b:.9g}"


@dataclass(frozen=True, eq=False)
class Difference:
    """How one value differs."""

    point: str
    """Its name, as `Run.points` has it."""
    layer: int | None
    """None for a point that is not per layer."""
    n_different: int
    """Numbers of other bits."""
    n_values: int
    """Numbers in all."""
    rows: NDArray[np.int64]
    """Positions of the tokens in whose rows they are."""
    largest: float
    """The largest |a - b|; infinite where a NaN or an infinity stands in one of them alone."""
    relative: float
    """The length of a - b as a part of the length of a."""


class Diff:
    """The result of `lp.diff`. True if anything differs."""

    def __init__(
        self,
        tokens: NDArray[np.int64],
        first: First | None,
        values: list[Difference],
        only_a: list[str],
        only_b: list[str],
    ) -> None:
        self.tokens = tokens
        """Positions of the tokens whose ids differ."""
        self.first = first
        """None if no value differs."""
        self.values = values
        """A `Difference` for each point and layer that both have, in computing order."""
        self.only_a = only_a
        """Values that only the first run has: "z of layer 3"."""
        self.only_b = only_b
        """Values that only the second run has."""

    @property
    def largest(self) -> dict[str, NDArray[np.float64]]:
        """Point -> the largest difference in each layer, NaN where a layer was not compared; only of
        points that are per layer."""
        n_layers = 1 + max((one.layer for one in self.values if one.layer is not None), default=-1)
        found: dict[str, NDArray[np.float64]] = {}
        for one in self.values:
            if one.layer is not None:
                found.setdefault(one.point, np.full(n_layers, np.nan))[one.layer] = one.largest
        return found

    def __bool__(self) -> bool:
        differs = any(one.n_different for one in self.values)
        return bool(len(self.tokens) or differs or self.only_a or self.only_b)

    def __repr__(self) -> str:
        different = [one for one in self.values if one.n_different]
        lines = []
        if len(self.tokens):
            differ = "token differs" if len(self.tokens) == 1 else "tokens differ"
            lines.append(f"{len(self.tokens)} {differ}, the first at position {self.tokens[0]}")
        if self.first is not None:
            lines.append(f"first: {self.first!r}")
            lines += _table([_HEAD, *map(_cells, different)])
        same = len(self.values) - len(different)
        lines.append(f"{len(different)} of {len(self.values)} values differ, {same} same")
        for name, only in (("first", self.only_a), ("second", self.only_b)):
            if only:
                more = f" and {len(only) - 3} more" if len(only) > 3 else ""
                lines.append(f"only in the {name}: {', '.join(only[:3])}{more}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from .views.diff import diff_html

        return diff_html(self)

    def to_pandas(self) -> Any:
        """A DataFrame with a line for each `Difference`. Needs pandas."""
        from .views.result_tables import diff_frame

        return diff_frame(self)

    def to_xarray(self) -> Any:
        """A Dataset of the points that every layer has: n_different, largest and relative, each
        [point, layer], NaN where a layer was not compared. Needs xarray."""
        from .views.result_tables import diff_dataset

        return diff_dataset(self)


AnyRun = Run | str | bytes | os.PathLike[Any]


def diff(a: AnyRun, b: AnyRun) -> Diff:
    """Compare two runs, or folders of saved ones: the first value in computing order that differs,
    and for each point and layer how many numbers, in which rows, and by how much.

    Raises ArgumentError for runs of different numbers of tokens or shapes, and for those that have no
    value in common; for folders the errors of `read_run`.
    """
    one, other = _run_of(a), _run_of(b)
    if len(one) != len(other):
        raise ArgumentError(
            f"the runs have {counted(len(one), 'token')} and {counted(len(other), 'token')}; compare"
            " runs of prompts of the same length"
        )
    here, there = _places(one), _places(other)
    both = [place for place in here if place in there]
    if not both and (here or there):
        names = [", ".join(run.points) or "none" for run in (one, other)]
        raise ArgumentError(
            f"the runs have no value in common: points {names[0]}, and points {names[1]}"
        )
    first, found = None, []
    for point, layer in both:
        pair = tuple(run[point] if layer is None else run[point, layer] for run in (one, other))
        if pair[0].shape != pair[1].shape:
            shapes = [list(value.shape) for value in pair]
            raise ArgumentError(
                f"{_shown(point, layer)} is {shapes[0]} in one run and {shapes[1]} in the other; they"
                " are of different models"
            )
        difference, at = _compare(point, layer, *pair)
        found.append(difference)
        if first is None and at is not None:
            first = First(point, layer, at, float(pair[0][at]), float(pair[1][at]))
    tokens = np.flatnonzero(one.token_ids != other.token_ids)
    only_a = [_shown(*place) for place in here if place not in there]
    only_b = [_shown(*place) for place in there if place not in here]
    return Diff(tokens, first, found, only_a, only_b)


def _run_of(run: AnyRun) -> Run:
    if isinstance(run, Run):
        return run
    if isinstance(run, (str, bytes, os.PathLike)):
        return read_run(run)  # type: ignore[arg-type]
    raise ArgumentError(
        f"a run or the folder of one can be compared, not {printable(type(run).__name__)}"
    )


def _places(run: Run) -> list[tuple[str, int | None]]:
    """(point, layer) of its values in computing order."""
    held = [name for point in all_points() for name in _names(point) if name in run.points]
    deep = {name: run.layers_of(name) for name in held}
    per_layer = [(name, i) for i in sorted(run.layers) for name in held if i in deep[name]]
    return [*per_layer, *((name, None) for name in held if not deep[name])]


def _names(point: Point) -> tuple[str, str]:
    return point.name + BEFORE, point.name


def _compare(
    point: str, layer: int | None, a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[Difference, tuple[int, ...] | None]:
    """How they differ, and where first."""
    different = (a.view(np.uint32) != b.view(np.uint32)) & ~(np.isnan(a) & np.isnan(b))
    n = int(np.count_nonzero(different))
    if not n:
        none = np.zeros(0, np.int64)
        return Difference(point, layer, 0, a.size, none, 0.0, 0.0), None
    is_map = a.ndim == 3 and point.removesuffix(BEFORE) in _MAPS
    rows = np.flatnonzero(different.any(axis=(0, 2) if is_map else tuple(range(1, a.ndim))))
    with np.errstate(invalid="ignore"):
        sizes = np.abs(a.astype(np.float64)[different] - b.astype(np.float64)[different])
    sizes[np.isnan(sizes)] = np.inf
    whole = float(np.linalg.norm(a[np.isfinite(a)].astype(np.float64)))
    length = float(np.linalg.norm(sizes))
    relative = length / whole if whole else np.inf if length else 0.0
    at = np.unravel_index(int(np.argmax(different)), a.shape)
    difference = Difference(point, layer, n, a.size, rows, float(sizes.max()), relative)
    return difference, tuple(map(int, at))


_MAPS = tuple(point.name for point in all_points() if point.width == "map")


def _cells(one: Difference) -> tuple[str, ...]:
    layer = "" if one.layer is None else str(one.layer)
    counts = str(one.n_different), str(one.n_values), _show_rows(one.rows)
    return (one.point, layer, *counts, f"{one.largest:.3g}", f"{one.relative:.3g}")


def _show_rows(rows: NDArray[np.int64]) -> str:
    """ "7", "7-12", or "3 of 7-12"."""
    first, last = int(rows[0]), int(rows[-1])
    if len(rows) == 1:
        return str(first)
    return f"{first}-{last}" if last - first + 1 == len(rows) else f"{len(rows)} of {first}-{last}"


def _shown(point: str, layer: int | None) -> str:
    return point if layer is None else f"{point} of layer {layer}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
