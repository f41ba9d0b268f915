"""A run: its tokens, points with their shapes, memory, and calls to try next."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import Error
from ..messages import counted, printable, show_bytes
from . import html, text

if TYPE_CHECKING:
    from ..run import Run

_SHOWN = 160  # characters of tokens


class Tokens(list[str]):
    """`run.tokens`: a list of texts that notebooks show in colours."""

    def _repr_html_(self) -> str:
        return html.block(html.tokens(self))


def texts_of(run: "Run") -> list[str]:
    """The text of each token, or its id without a usable tokenizer. Never raises."""
    with contextlib.suppress(Error):
        if run.tokens is not None:
            return list(run.tokens)
    return list(map(str, run.token_ids.tolist()))


def run_text(run: "Run", first_line: str) -> str:
    """`repr(run)`."""
    rows = [(p, _shape(run, p), _layers(run, p), size) for p, size in _sizes(run)]
    tries = "; ".join(_tries(run))
    return "\n".join(
        [
            first_line,
            f"  {text.joined(texts_of(run), _SHOWN)}",
            *([text.columns(rows, numbers=[3])] if rows else []),
            f"  {_total(run)} in all; try {tries}",
        ]
    )


def run_html(run: "Run") -> str:
    rows = [
        (f"<code>{html.escape(p)}</code>", _shape(run, p), html.escape(_layers(run, p)), size)
        for p, size in _sizes(run)
    ]
    tries = " or ".join(f"<code>{html.escape(each)}</code>" for each in _tries(run))
    title = f"Run of {html.escape(run.origin.shown)}: {counted(len(run), 'token')}"
    return html.block(
        f"<div><b>{title}</b></div>",
        html.tokens(texts_of(run)),
        html.table(("point", "float32", "layers", "memory"), rows, numbers=[3]),
        f'<div class="d">{_total(run)} in all; try {tries}</div>',
    )


def keys(run: "Run") -> list[str | tuple[str, int]]:
    """The keys of `run[...]`, for completion: names, and names with a layer."""
    pairs = [(point, layer) for point in run.points for layer in run.layers_of(point)]
    return [*run.points, *pairs]


def _shape(run: "Run", point: str) -> str:
    return str(list(run[point].shape))


def _layers(run: "Run", point: str) -> str:
    layers = run.layers_of(point)
    return f"layers {numbers(layers)}" if layers else "once"


def numbers(layers: Sequence[int]) -> str:
    """ "0-15", or the numbers one by one."""
    if len(layers) > 2 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _sizes(run: "Run") -> list[tuple[str, str]]:
    return [(point, show_bytes(run[point].nbytes)) for point in run.points]


def _total(run: "Run") -> str:
    return show_bytes(sum(run[point].nbytes for point in run.points))


def _tries(run: "Run") -> list[str]:
    """Two calls that work on what the run holds."""
    found = []
    for point in sorted(run.points, key=lambda p: not run.layers_of(p))[:1]:
        layers = run.layers_of(point)
        found.append(f'run["{printable(point)}"{f", {layers[-1]}" if layers else ""}]')
    if "pattern" in run.points:
        found.append(f"lp.plot.pattern(run, {run.layers_of('pattern')[-1]})")
    elif {"x", "x_out"} <= set(run.points):
        found.append("model.lens(run)")
    found.append('run.save("folder")')
    return found[:2]
