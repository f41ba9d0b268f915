"""Figures of one run: patterns, a lens, norms, channels, attributions."""

from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ..arguments import is_whole, refusal, shown, whole
from ..errors import ArgumentError
from ..views.attribution import title as title_of
from ..views.lens import share, text_of
from ..views.methods import check_run
from ..views.run import texts_of
from .figures import axes_of, figure_of, name_axis, picture, show_map, title, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..lens.attribution import Attribution
    from ..lens.logits import Lens
    from ..run import Run

_TEXTS = 600  # the most cells of a lens with their token written inside
_CELL = 10  # characters in a cell of a lens
_GRID_SIDE = 256


def pattern(
    run: "Run", layer: SupportsIndex, head: int | None = None, *, ax: "Axes | None" = None
) -> "Figure":
    """The attention pattern of one head of a layer, or of all its heads in a grid."""
    check_run(run)
    layer = whole("layer", layer)
    maps = run["pattern", layer]
    layer %= run.config.n_layers
    texts, n_heads = texts_of(run), len(maps)
    if head is None:
        if ax is not None:
            raise ArgumentError("a grid of heads has its own axes; give head= with ax=")
        return _grid(maps, texts, layer)
    if not is_whole(head) or not 0 <= head < n_heads:
        raise ArgumentError(f"there is no head {shown(head)}: layer {layer} has {n_heads}")
    size = min(12.0, 2.6 + 0.18 * len(texts))
    ax = axes_of(ax, size + 1, size)
    show_map(ax, maps[head], vmin=0, vmax=1, bar="pattern")
    _tokens(ax, texts, f"layer {layer}, head {head}")
    return figure_of(ax)


def _grid(maps: Any, texts: list[str], layer: int) -> "Figure":
    n_columns = int(np.ceil(np.sqrt(len(maps))))
    n_rows = -(-len(maps) // n_columns)
    side = 2.4 if len(maps) > 4 else 3.6
    figure = picture(side * n_columns + 1, side * n_rows)
    all_axes = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
    image = None
    for head, ax in enumerate(all_axes):
        if head >= len(maps):
            ax.set_axis_off()
            continue
        image = show_map(ax, maps[head], vmin=0, vmax=1, side=_GRID_SIDE)
        title(ax, f"layer {layer}, head {head}")
        if head % n_columns == 0 and len(texts) <= 48:
            name_axis(ax.yaxis, texts)
        elif head % n_columns:
            ax.set_yticks([])
        if head + n_columns >= len(maps) and len(texts) <= 48:
            name_axis(ax.xaxis, texts, rotated=True)
        elif head + n_columns < len(maps):
            ax.set_xticks([])
    figure.supxlabel("key", fontsize=9)
    figure.supylabel("query", fontsize=9)
    figure.colorbar(image, ax=list(all_axes), label="pattern")  # type: ignore[arg-type]
    return figure


def _tokens(ax: "Axes", texts: list[str], name: str) -> None:
    title(ax, name)
    ax.set_xlabel("key")
    ax.set_ylabel("query")
    name_axis(ax.xaxis, texts, rotated=True)
    name_axis(ax.yaxis, texts)


def lens(lens: "Lens", *, ax: "Axes | None" = None) -> "Figure":
    """The likeliest token at each layer and position, coloured by probability. The Lens must cover
    the whole vocabulary."""
    if not hasattr(lens, "token_ids") or not hasattr(lens, "labels"):
        raise refusal("lens", lens, "what model.lens(run) returned")
    n_rows, n_columns = len(lens.rows), len(lens.positions)
    if lens.token_ids is not None:
        raise ArgumentError("a picture of a lens needs probabilities; make it without tokens=")
    best = [[lens.top(i, j, 1)[0] for j in range(n_columns)] for i in range(n_rows)]
    shares = np.array([[share(guess) for guess in row] for row in best])
    ax = axes_of(ax, min(16.0, 3 + 0.7 * n_columns), min(14.0, 1.6 + 0.28 * n_rows))
    show_map(ax, shares, vmin=0, vmax=1, bar="probability")
    if n_rows * n_columns <= _TEXTS:
        for i, row in enumerate(best):
            for j, guess in enumerate(row):
                colour = "white" if shares[i, j] > 0.6 else "black"
                write(
                    ax,
                    j,
                    i,
                    text_of(guess),
                    _CELL,
                    ha="center",
                    va="center",
                    fontsize=6,
                    color=colour,
                )
    title(ax, f"likeliest next token, lens on {lens.point}")
    ax.set_xlabel("token")
    ax.set_ylabel("layer")
    name_axis(ax.xaxis, lens.tokens, rotated=True)
    name_axis(ax.yaxis, lens.labels)
    return figure_of(ax)


def norms(run: "Run", point: str = "x", *, ax: "Axes | None" = None) -> "Figure":
    """The norm of a point at each layer and token, on a log scale."""
    value = _per_layer(run, point, "norms")
    layers = run.layers_of(point)
    sizes = np.linalg.norm(value.reshape(*value.shape[:2], -1).astype(np.float64), axis=-1)
    texts = texts_of(run)
    ax = axes_of(ax, min(14.0, 3 + 0.25 * len(texts)), min(10.0, 1.8 + 0.25 * len(layers)))
    with np.errstate(divide="ignore"):
        show_map(ax, np.log10(sizes), bar=f"log10 of the norm of {point}")
    title(ax, f"norm of {point}")
    ax.set_xlabel("token")
    ax.set_ylabel("layer")
    name_axis(ax.xaxis, texts, rotated=True)
    name_axis(ax.yaxis, list(map(str, layers)))
    return figure_of(ax)


def channels(run: "Run", point: str = "x", *, n: int = 5, ax: "Axes | None" = None) -> "Figure":
    """The largest magnitude of each channel in each layer, over all tokens. The n most prominent
    channels are labelled."""
    n = whole("n", n, 0)
    value = np.abs(_per_layer(run, point, "channels").astype(np.float64))
    layers = run.layers_of(point)
    sizes = value.reshape(*value.shape[:2], -1).max(axis=1)  # [layers, channels]
    ax = axes_of(ax, 10, min(10.0, 2.2 + 0.25 * len(layers)))
    with np.errstate(divide="ignore"):
        show_map(ax, np.log10(sizes), bar=f"log10 of the largest |{point}|")
    title(ax, f"largest magnitude of each channel of {point}")
    ax.set_xlabel("channel")
    ax.set_ylabel("layer")
    name_axis(ax.yaxis, list(map(str, layers)))
    for channel in np.argsort(-sizes.max(axis=0), kind="stable")[:n].tolist():
        ax.annotate(
            str(channel), (channel, -0.5), xytext=(0, 2), textcoords="offset points",
            ha="center", fontsize=7, annotation_clip=False,
        )  # fmt: skip
    ax.set_title(ax.get_title(), fontsize=9, pad=14)
    return figure_of(ax)


def _per_layer(run: "Run", point: str, what: str) -> Any:
    check_run(run)
    if not run.layers_of(point):
        raise ArgumentError(f"{what} need a point that every layer has, and {point} occurs once")
    dims = run.dims(point)
    if dims[1] != "token" or len(dims) < 3:
        raise ArgumentError(f"{what} need rows of tokens, and {point} has {', '.join(dims)}")
    return run[point]


def attribution(attribution: "Attribution", *, n: int = 20, ax: "Axes | None" = None) -> "Figure":
    """The n largest rows as bars, with the rounding below them."""
    if not hasattr(attribution, "rounding"):
        raise refusal("attribution", attribution, "what model.attribute(...) returned")
    shares = attribution.top(n)
    names = [share.name for share in shares] + ["rounding"]
    values = [share.value for share in shares] + [attribution.rounding]
    ax = axes_of(ax, 6, 1.2 + 0.22 * len(names))
    colours = ["#3b73b9" if value >= 0 else "#c4483c" for value in values]
    ax.barh(range(len(names)), values, color=colours)
    ax.axvline(0, color="grey", linewidth=0.8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    name_axis(ax.yaxis, names)
    ax.set_xlabel("share of the logit")
    ax.set_ylabel(f"by {attribution.by}")
    title(ax, f"{title_of(attribution)}: {attribution.total:.4g}")
    return figure_of(ax)
