"""A sweep: the cells that move the metric most, and a small patch map as a coloured table."""

from typing import TYPE_CHECKING

import numpy as np

from ..messages import printable
from . import html, text

if TYPE_CHECKING:
    from ..sweeps.result import Sweep

_SHOWN = 10  # cells
_CELLS = 200  # the most cells of a map that is shown whole
_LABEL = 8  # characters of a token above a column


def sweep_text(sweep: "Sweep", first_line: str) -> str:
    """`repr(sweep)`."""
    rows = [(printable(name, 60), f"{value:.6g}") for name, value in _strongest(sweep)]
    return "\n".join([first_line, *([text.columns(rows, numbers=[1])] if rows else [])])


def sweep_html(sweep: "Sweep") -> str:
    clean = "" if sweep.clean is None else f", clean {sweep.clean:.6g}"
    shape = " &times; ".join(map(str, sweep.values.shape))
    facts = f"{shape} cells, base {sweep.base:.6g}{clean}, {sweep.n_skipped} skipped"
    cells = [(html.escape(name, 60), f"{value:.6g}") for name, value in _strongest(sweep)]
    return html.block(
        f"<div><b>Sweep</b>: {facts}</div>",
        _map(sweep) if sweep.values.ndim == 2 else "",
        html.table(("cells that move it most", "metric"), cells, numbers=[1]) if cells else "",
    )


def _strongest(sweep: "Sweep") -> list[tuple[str, float]]:
    moved = np.nan_to_num(np.abs(sweep._changes), nan=np.inf).ravel()
    best = [i for i in np.argsort(-moved, kind="stable")[:_SHOWN].tolist() if moved[i]]
    return [(_name(sweep, i), float(sweep.values.flat[i])) for i in best]


def _name(sweep: "Sweep", cell: int) -> str:
    """ "layer 3, position 7 ' bell', head 1"; "cell 7" for a sweep that is not a patch map."""
    if sweep.values.ndim == 1:
        return f"cell {cell}"
    layer, position, *head = map(int, np.unravel_index(cell, sweep.values.shape))
    token = "" if sweep.tokens is None else f" {sweep.tokens[position]!r}"
    more = f", head {head[0]}" if head else ""
    return f"layer {sweep.layers[layer]}, position {sweep.positions[position]}{token}{more}"


def _map(sweep: "Sweep") -> str:
    """The map at the positions where a patch moves the metric, if they are few enough."""
    moved = sweep._changes
    places = np.flatnonzero(moved.any(axis=0)).tolist()
    if not places or len(places) * len(moved) > _CELLS:
        return ""
    largest = float(np.abs(moved[np.isfinite(moved)]).max(initial=0.0)) or 1.0
    texts = sweep.tokens or [""] * len(sweep.positions)
    heads = [f"{sweep.positions[i]} {html.token(texts[i], limit=_LABEL)}" for i in places]
    rows = [
        (str(layer), *(_cell(float(values[i]), float(changes[i]) / largest) for i in places))
        for layer, values, changes in zip(sweep.layers, sweep.values, moved, strict=True)
    ]
    n_others = len(sweep.positions) - len(places)
    others = f'<div class="d">no patch at {n_others} other positions moves it</div>'
    table = html.table(("layer", *heads), rows, numbers=range(len(heads) + 1))
    return table + (others if n_others else "")


def _cell(value: float, change: float) -> str:
    if not change:
        return '<span class="d">&middot;</span>'
    return f'<span class="t" style="{html.signed(change)}">{value:.2f}</span>'
