"""Figures, colours and token labels, without pyplot: no global state, and a figure is freed with
its last reference. Token texts never pass through mathtext; characters that the font lacks are
escaped.
"""

import functools
import io
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import instance
from ..errors import ArgumentError
from ..messages import escape, printable
from ..views.png import smaller

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 48  # on an axis
LONGEST = 16  # characters in a label
SIDE = 1024  # the most cells along a side of a map; larger maps show the maximum of several
AMOUNT, SIGNED = "Blues", "RdBu"  # colour maps: from 0 up; red below 0, blue above
_LEAST = 2.8  # inches, so that axis names fit
_SPACE = "\u2423"


def matplotlib(part: str) -> Any:
    try:
        return import_module(f"matplotlib.{part}")
    except ImportError:
        raise ArgumentError("pictures need matplotlib: pip install 'llamaprobe[plot]'") from None


def picture(width: float, height: float) -> "Figure":
    """A new figure of this size in inches, which notebooks can show."""
    return _figure_class()(figsize=(width, height), layout="constrained")  # type: ignore[no-any-return]


@functools.cache
def _figure_class() -> Any:
    base = matplotlib("figure").Figure

    class Picture(base):  # type: ignore[misc, valid-type]
        def _repr_png_(self) -> bytes:
            data = io.BytesIO()
            self.savefig(data, format="png", dpi=100)
            return data.getvalue()

    return Picture


def axes_of(ax: "Axes | None", width: float, height: float) -> "Axes":
    """The given axes, or those of a new figure. ArgumentError."""
    if ax is None:
        return picture(width, max(height, _LEAST)).add_subplot()
    return instance("ax", ax, matplotlib("axes").Axes, "axes of matplotlib")


def figure_of(ax: "Axes") -> "Figure":
    figure: Figure = ax.figure  # type: ignore[assignment]
    return figure


def label(text: str, limit: int = LONGEST) -> str:
    """A text as a label: spaces at its ends are made visible, undrawable characters escaped."""
    inner = text.strip(" ")
    lead = len(text) - len(text.lstrip(" "))
    shown = _SPACE * lead + inner + _SPACE * (len(text) - lead - len(inner))
    glyphs = _glyphs()
    return "".join(c if ord(c) in glyphs else escape(c) for c in printable(shown, limit))


@functools.cache
def _glyphs() -> frozenset[int]:
    """The characters in the default font."""
    manager = matplotlib("font_manager")
    found = manager.get_font(manager.findfont(manager.FontProperties()))
    return frozenset(found.get_charmap())


def write(ax: "Axes", x: float, y: float, text: str, limit: int, **how: Any) -> None:
    """Draw a token's text inside axes."""
    ax.text(x, y, label(text, limit), parse_math=False, **how)


def title(ax: "Axes", text: str) -> None:
    ax.set_title(label(text, 120).replace(_SPACE, " "), fontsize=9, parse_math=False)


def name_axis(axis: Any, texts: Sequence[str], *, rotated: bool = False) -> None:
    """Label tick i of an axis with texts[i]; only some ticks if there are many."""
    step = -(-len(texts) // MOST_LABELS)
    places = range(0, len(texts), step)
    shown = [label(texts[i]) for i in places]
    if step > 1:
        shown = [f"{i} {text}" for i, text in zip(places, shown, strict=True)]
    axis.set_ticks(list(places), shown, fontsize=7, parse_math=False)
    if rotated:
        for tick in axis.get_ticklabels():
            tick.set_rotation(90)


def show_map(
    ax: "Axes",
    values: NDArray[Any],
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    signed: bool = False,
    side: int = SIDE,
    bar: str = "",
) -> Any:
    """Draw a matrix as an image whose axes count rows and columns. bar: label of a colour bar."""
    rows, columns = values.shape
    if not signed:
        values = smaller(values, side)
    if signed:
        finite = np.abs(values[np.isfinite(values)])
        vmax = float(finite.max(initial=0.0)) or 1.0
        vmin = -vmax
    image = ax.imshow(
        values,
        cmap=SIGNED if signed else AMOUNT,
        vmin=vmin,
        vmax=vmax,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )
    if bar:
        figure_of(ax).colorbar(image, ax=ax, label=bar)
    return image
