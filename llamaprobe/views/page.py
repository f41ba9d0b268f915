"""`run.html`: a page about a run in one file, to be read without a notebook.

Maps are PNG images with a palette. The only script handles a slider; the content security policy
allows that script by its hash, and no network access.
"""

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import refusal, whole
from ..errors import ArgumentError, PointError
from ..files.atomic import atomic_open
from ..files.paths import checked_path
from ..messages import counted, printable
from . import html, png
from .lens import share, text_of
from .run import texts_of

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

_MAP_BYTES = 1 << 20  # of all maps before compression, so that the page stays below 2 MB
_MOST_SIDE = 512
_LENS_COLUMNS = 64
_LENS_ROWS = 128
_SCRIPT = (
    "for(const s of document.querySelectorAll('input[type=range]')){"
    "const show=()=>{for(const f of document.querySelectorAll('#'+s.dataset.of+' figure'))"
    "f.hidden=f.dataset.i!==s.value};s.oninput=show;show()}"
)
_STYLE = (
    "<style>:root{color-scheme:light dark}body{margin:2em auto;max-width:72em;padding:0 1em;"
    "font:15px/1.5 system-ui,sans-serif;background:#fff;color:#1c1c1c}"
    "@media(prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}}"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}figure{margin:.5em 0}"
    "figure img{width:min(100%,36em);image-rendering:pixelated;border:1px solid "
    "rgba(128,128,128,.4)}figcaption{font-size:13px}input[type=range]{width:min(100%,36em)}</style>"
)


def write_page(
    run: "Run",
    path: str | os.PathLike[str],
    *,
    model: "Model | None",
    heads: Sequence[tuple[int, int]],
) -> Path:
    """Write the page and return its path."""
    path = checked_path(path)
    parts = [*_intro(run), *_norms(run), *_patterns(run, heads)]
    parts += _lens(run, model) if model is not None else []
    text = document(f"Run of {run.origin.shown}", parts)
    with atomic_open(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
    return Path(path)


def document(title: str, parts: Sequence[str]) -> str:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title>{_STYLE}{html.STYLE}</head><body>"
        f'<h1>{html.escape(title)}</h1><div class="lp">{"".join(parts)}</div>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _intro(run: "Run") -> Iterator[str]:
    points = ", ".join(run.points)
    yield f"<p>{counted(len(run), 'token')}; points {html.escape(points, 2000)}</p>"
    yield "<h2>Tokens</h2>" + html.tokens(texts_of(run))


def _norms(run: "Run") -> Iterator[str]:
    """The norms of the residual stream: one row per layer, one column per token."""
    if "x" not in run.points:
        return
    layers = run.layers_of("x")
    norms = np.linalg.norm(run["x"].astype(np.float64), axis=-1)
    texts = texts_of(run)
    rows = []
    for layer, row in zip(layers, norms, strict=True):
        at = int(np.argmax(row))
        where = f"{at} {html.token(texts[at])}"
        rows.append((str(layer), f"{np.median(row):.4g}", f"{row.max():.4g}", where))
    yield "<h2>Norms of x</h2>"
    with np.errstate(invalid="ignore"):
        logs = np.log10(1 + norms)
    caption = "one row per layer, one column per token; log scale, dark is large"
    yield _figure(png.levels(png.smaller(logs, _MOST_SIDE)), caption)
    heads = ("layer", "median", "largest", "at token")
    yield html.table(heads, rows, numbers=[0, 1, 2])


def _patterns(run: "Run", heads: Sequence[tuple[int, int]]) -> Iterator[str]:
    """The mean pattern of each layer, chosen by a slider, then the requested heads."""
    layers = run.layers_of("pattern") if "pattern" in run.points else ()
    for pair in heads:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise refusal("heads", heads, "(layer, head) of each")
        layer, head = (
            whole(name, each) for name, each in zip(("layer", "head"), pair, strict=True)
        )
        if layer not in layers:
            raise PointError(
                f"heads names layer {layer}, whose pattern the run lacks; keep it with"
                ' model.run(prompt, points=("pattern", ...))'
            )
        if not 0 <= head < run.config.n_heads:
            raise ArgumentError(f"there is no head {head}: the model has {run.config.n_heads}")
    if not layers:
        return
    n_maps = len(layers) + len(heads)
    side = max(8, min(_MOST_SIDE, int((_MAP_BYTES / n_maps) ** 0.5)))
    yield "<h2>Patterns</h2><p>Rows are queries, columns are keys; dark means much attention.</p>"
    yield (
        f'<label>layer <input type="range" min="0" max="{len(layers) - 1}" value="0"'
        ' data-of="patterns"></label><div id="patterns">'
    )
    for i, layer in enumerate(layers):
        mean = run["pattern", layer].mean(axis=0)
        yield _figure(_map(mean, side), f"layer {layer}, mean of its heads", number=i)
    yield "</div>"
    for layer, head in heads:
        yield _figure(_map(run["pattern", layer][head], side), f"layer {layer}, head {head}")


def _map(values: NDArray[Any], side: int) -> NDArray[np.uint8]:
    return png.levels(png.smaller(values, side), 1.0)


def _lens(run: "Run", model: "Model") -> Iterator[str]:
    """The likeliest token after each layer, for as many of the last positions as cost less than
    half of the run."""
    c = model.config
    n_rows = min(_LENS_ROWS, c.n_layers + 1)
    affordable = len(run) * model.n_params / (2 * (c.n_layers + 1) * c.vocab_size * c.d_model)
    n = max(1, min(len(run), _LENS_COLUMNS, int(affordable)))
    lens = model.lens(run, position=slice(len(run) - n, None), top=1)
    rows = []
    for row in range(len(lens.rows))[-n_rows:]:
        guesses = [lens.top(row, place)[0] for place in range(n)]
        cells = [html.token(text_of(guess), html.shade(share(guess))) for guess in guesses]
        rows.append((html.escape(lens.labels[row]), *cells))
    texts = texts_of(run)
    heads = ["", *(f"{i} {html.token(texts[i])}" for i in lens.positions)]
    yield "<h2>Lens</h2><p>The likeliest next token after each layer; green is likely.</p>"
    yield html.table(heads, rows)


def _figure(image: NDArray[np.uint8], caption: str, number: int | None = None) -> str:
    hidden = "" if number in (None, 0) else " hidden"
    index = "" if number is None else f' data-i="{number}"{hidden}'
    shown = html.escape(printable(caption))
    return (
        f'<figure{index}><img alt="{shown}" src="{png.data_url(image)}">'
        f"<figcaption>{shown}</figcaption></figure>"
    )
