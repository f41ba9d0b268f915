"""Figures of results from several runs: patch maps, statistics, differences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import instance, is_whole, listed, refusal, shown
from ..errors import ArgumentError
from .figures import axes_of, figure_of, name_axis, show_map, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..comparison import Diff
    from ..stats.channels import Channels
    from ..stats.stats import Stats
    from ..sweeps.result import Sweep

_BINS = 100
_NEAR_0 = 0.01  # times the median magnitude: the axis is linear up to there


def patch_map(
    sweep: "Sweep | ArrayLike",
    *,
    head: int | None = None,
    position: int | None = None,
    tokens: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    """The effect on a metric of patching each layer and position.

    sweep: the result of `Model.patch_map`, or an array [n_layers, T]. A map with heads needs
    `head`, or `position`, which draws [layers, heads]. tokens: labels for the positions of an
    array.
    """
    values, bar, layers, columns = _cells(sweep, tokens)
    name = "position"
    if values.ndim == 3 and (head is None) != (position is None):
        if head is not None:
            values = values[..., _place(range(values.shape[2]), head, "head")]
        else:
            values = values[:, _place(_positions(sweep, values), position, "position")]
            columns, name = list(map(str, range(values.shape[1]))), "head"
    if values.ndim != 2:
        raise ArgumentError(
            f"a patch map is [layers, positions], and this has shape {list(values.shape)}; for one"
            " with heads, give either head= or position="
        )
    ax = axes_of(ax, min(14.0, 3 + 0.25 * len(columns)), min(10.0, 2 + 0.25 * len(layers)))
    show_map(ax, values, signed=True, bar=bar)
    title(ax, "effect of patching")
    ax.set_xlabel(name)
    ax.set_ylabel("layer")
    name_axis(ax.xaxis, columns, rotated=name == "position")
    name_axis(ax.yaxis, layers)
    return figure_of(ax)


def _cells(sweep: Any, tokens: Sequence[str] | None) -> tuple[Any, str, list[str], list[str]]:
    """The values, what they measure, and the labels of layers and positions."""
    if tokens is not None:
        tokens = listed("tokens", tokens, "a text for each position")
    values = _floats("sweep", getattr(sweep, "values", sweep))
    layers, bar = getattr(sweep, "layers", ()), "effect"
    if layers and sweep.clean != sweep.base:
        values, bar = sweep.normalized, "effect, normalized"
    elif layers:
        values, bar = sweep._changes, "change of the metric"
    axes = [range(n) for n in (*values.shape, 0, 0)[:2]]
    found = tokens or getattr(sweep, "tokens", None) or _positions(sweep, values)
    return values, bar, list(map(str, layers or axes[0])), list(map(str, found))


def _positions(sweep: Any, values: Any) -> Sequence[int]:
    return getattr(sweep, "positions", ()) or range((*values.shape, 0, 0)[1])


def _place(numbers: Sequence[int], number: int | None, name: str) -> int:
    if not is_whole(number) or number not in numbers:
        fact = f"is not in this patch map; it has {list(numbers)}"
        raise ArgumentError(f"{name} {shown(number)} {fact}")
    return numbers.index(number)  # type: ignore[arg-type]


def _floats(name: str, values: Any) -> Any:
    """The values as float64. ArgumentError."""
    try:
        array = np.asarray(values)
    except Exception:  # a ragged list
        array = np.zeros((), object)
    if array.dtype.kind not in "biuf":
        raise refusal(name, values, "an array of real numbers, or a result of llamaprobe")
    return array.astype(np.float64)


def stats(
    values: "Stats | Channels | Mapping[str, ArrayLike] | ArrayLike",
    *,
    name: str = "value",
    ax: "Axes | None" = None,
) -> "Figure":
    """Histograms on a log scale: of statistics collected with "histogram" (all channels of a target
    together), of an array, or of several arrays by name."""
    several: dict[str, Any]
    name = instance("name", name, str, "a text")
    if isinstance(values, Mapping):
        several = dict(values)
    elif targets := getattr(values, "targets", None):
        several = {target: values[target] for target in targets}  # type: ignore[index]
    else:
        several = {getattr(values, "name", name): values}
    if not several:
        raise ArgumentError("values is empty; give statistics or arrays")
    ax = axes_of(ax, 6, 4)
    for label, each in several.items():
        counts, edges = _buckets(each) if hasattr(each, "histogram") else _bins(label, each)
        ax.stairs(counts, edges, label=label)
    medians = [each.median_abs()[0] for each in several.values() if hasattr(each, "median_abs")]
    if medians:
        near_0 = min(filter(None, medians), default=1.0) * _NEAR_0
        ax.set_xscale("symlog", linthresh=near_0, linscale=2)
        ax.xaxis.get_major_locator().set_params(numticks=7)  # type: ignore[call-arg]
    ax.set_yscale("symlog")
    ax.set_xlabel(name)
    ax.set_ylabel("numbers")
    for text in ax.legend(fontsize=7, ncols=1 + len(several) // 16).get_texts():
        text.set_parse_math(False)
    title(ax, f"distribution of {name}")
    return figure_of(ax)


def _buckets(channels: "Channels") -> tuple[Any, Any]:
    """(counts, edges) of the buckets that occur and of the gaps between them."""
    buckets, by_channel = channels.histogram()
    if not len(buckets):
        raise ArgumentError(f"{channels.name} has no finite numbers")
    counts, edges = np.zeros(2 * len(buckets) - 1), buckets.ravel()
    counts[::2] = by_channel.sum(0)
    meet = np.flatnonzero(np.nextafter(buckets[:-1, 1], np.float32(np.inf)) == buckets[1:, 0])
    edges = np.delete(edges, 2 * meet + 2).astype(np.float64)
    return np.delete(counts, 2 * meet + 1), edges


def _bins(label: str, values: ArrayLike) -> tuple[Any, Any]:
    numbers = np.ravel(_floats(label, values))
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        raise ArgumentError(f"{label} has no finite numbers")
    try:
        return np.histogram(finite, _BINS)
    except ValueError:  # 1e300 and its neighbours
        raise ArgumentError(f"the numbers of {label} are too close together for bins") from None


def diff(difference: "Diff | Mapping[str, ArrayLike]", *, ax: "Axes | None" = None) -> "Figure":
    """Where two runs differ: the largest difference of each point in each layer, on a log scale.

    difference: the result of `lp.diff`, or point -> one number per layer.
    """
    largest = getattr(difference, "largest", difference)
    if not isinstance(largest, Mapping):
        raise refusal("difference", difference, "what lp.diff(a, b) returned")
    points = [instance("a point", point, str, "its name") for point in largest]
    rows = [np.ravel(_floats(point, largest[point])) for point in points]
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
    logs[np.isposinf(logs)] = high
    show_map(ax, logs, vmin=low - 1, vmax=high, bar="log10 of the largest difference")
    title(ax, "difference of two runs (blank: equal)")
    ax.set_xlabel("layer")
    ax.set_ylabel("point")
    name_axis(ax.xaxis, list(map(str, range(width))))
    name_axis(ax.yaxis, points)
    return figure_of(ax)
