"""Pictures of numbers that come from several runs: patch maps, statistics, differences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ArgumentError
from .figures import axes_of, figure_of, name_axis, show_map, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 100


def patch_map(
    sweep: Any, *, tokens: Sequence[str] | None = None, ax: "Axes | None" = None
) -> "Figure":
    """What patching each layer and position does to a metric.

    sweep: an array [n_layers, T], or an object with one as `normalized` or `values`. tokens: labels
    of the positions.
    """
    found = getattr(sweep, "normalized", None)
    values = np.asarray(getattr(sweep, "values", sweep) if found is None else found, np.float64)
    if values.ndim != 2:
        raise ArgumentError(f"a patch map is [n_layers, T], and this has shape {values.shape}")
    n_layers, n_tokens = values.shape
    ax = axes_of(ax, min(14.0, 3 + 0.25 * n_tokens), min(10.0, 2 + 0.25 * n_layers))
    show_map(ax, values, signed=True, bar="effect" if found is None else "effect, normalized")
    title(ax, "effect of patching")
    ax.set_xlabel("position")
    ax.set_ylabel("layer")
    name_axis(ax.xaxis, list(tokens or map(str, range(n_tokens))), rotated=True)
    name_axis(ax.yaxis, list(map(str, range(n_layers))))
    return figure_of(ax)


def stats(
    values: "Mapping[str, ArrayLike] | ArrayLike", *, name: str = "value", ax: "Axes | None" = None
) -> "Figure":
    """A histogram of an array, or of several by name, on a log scale. An object with `counts` and
    `edges` is drawn as it is."""
    several = values if isinstance(values, Mapping) else {name: values}
    ax = axes_of(ax, 6, 4)
    for label, each in several.items():
        if hasattr(each, "counts") and hasattr(each, "edges"):
            ax.stairs(each.counts, each.edges, label=label)
            continue
        numbers = np.ravel(np.asarray(each, np.float64))
        finite = numbers[np.isfinite(numbers)]
        if not finite.size:
            raise ArgumentError(f"{label} has no finite numbers")
        counts, edges = np.histogram(finite, _BINS)
        ax.stairs(counts, edges, label=label)
    ax.set_yscale("symlog")
    ax.set_xlabel(name)
    ax.set_ylabel("numbers")
    for text in ax.legend(fontsize=7).get_texts():
        text.set_parse_math(False)
    title(ax, f"distribution of {name}")
    return figure_of(ax)


def diff(difference: "Mapping[str, ArrayLike] | Any", *, ax: "Axes | None" = None) -> "Figure":
    """Where two runs differ: the largest difference of each point in each layer, on a log scale.

    difference: point -> a number for each layer, or an object with that as `largest`.
    """
    largest = difference if isinstance(difference, Mapping) else difference.largest
    points = list(largest)
    rows = [np.ravel(np.asarray(largest[point], np.float64)) for point in points]
    width = max((len(row) for row in rows), default=0)
    if not width:
        raise ArgumentError("there is nothing to compare: no point has a layer")
    values = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        values[i, : len(row)] = row
    with np.errstate(divide="ignore"):
        logs = np.log10(values)
    ax = axes_of(ax, min(12.0, 3 + 0.3 * width), min(10.0, 1.8 + 0.25 * len(rows)))
    finite = logs[np.isfinite(logs)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    show_map(ax, logs, vmin=low - 1, vmax=high, bar="log10 of the largest difference")
    title(ax, "difference of two runs; blank is none")
    ax.set_xlabel("layer")
    ax.set_ylabel("point")
    name_axis(ax.xaxis, list(map(str, range(width))))
    name_axis(ax.yaxis, points)
    return figure_of(ax)
