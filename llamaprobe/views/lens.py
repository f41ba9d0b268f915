"""A lens: rows are layers, columns are positions, cells have the likeliest token."""

import math
from typing import TYPE_CHECKING

from ..messages import counted, printable
from . import html, text

if TYPE_CHECKING:
    from ..lens.logits import Guess, Lens

_CELLS = 300  # cells with a token, in HTML
_CELL = 16  # characters of a token there
_WIDE = 3  # positions shown as text
_ROWS = 60  # shown at most


def text_of(guess: "Guess") -> str:
    """The token's text, or its id if it has none."""
    return str(guess.id) if guess.text is None else guess.text


def _places(n: int, most: int) -> list[int]:
    """Indices of the first and the last of n items, at most `most` in all."""
    return list(range(n)) if n <= 2 * most else [*range(most), *range(n - most, n)]


def _number(guess: "Guess") -> str:
    return f"{guess.logit:.2f}" if guess.logprob is None else f"{share(guess):.0%}"


def share(guess: "Guess") -> float:
    """The token's probability; 0 if only the logit is known."""
    return 0.0 if guess.logprob is None else math.exp(guess.logprob)


def _title(lens: "Lens") -> str:
    n = len(lens.positions)
    where = f"position {lens.positions[0]}" if n == 1 else counted(n, "position")
    return f"Lens on {lens.point}: {counted(len(lens.rows), 'row')}, {where}"


def lens_text(lens: "Lens") -> str:
    """The likeliest tokens of each row; for several positions, the likeliest token of each."""
    labels = lens.labels
    rows = []
    places = _places(len(lens.positions), _WIDE)
    for row in _places(len(labels), _ROWS // 2):
        if len(places) == 1:
            guesses = lens.top(row, 0)
        else:
            guesses = [lens.top(row, place, 1)[0] for place in places]
        cells = [f"{printable(repr(text_of(g)), 24)} {_number(g)}" for g in guesses]
        rows.append((labels[row], *cells))
    if len(places) > 1:
        heads = [f"{lens.positions[i]} {printable(repr(lens.tokens[i]), 24)}" for i in places]
        rows.insert(0, ("", *heads))
    return f"<{_title(lens)}>\n{text.columns(rows)}"


def lens_html(lens: "Lens") -> str:
    labels = lens.labels
    shown = _places(len(labels), _ROWS // 2)
    places = _places(len(lens.positions), max(1, _CELLS // (2 * len(shown))))
    if len(places) == 1:
        heads = ["layer", *(str(i + 1) for i in range(len(lens.top(0, 0))))]
        guesses = {row: lens.top(row, 0) for row in shown}
    else:
        heads = [f"{lens.positions[i]} {html.token(lens.tokens[i], limit=_CELL)}" for i in places]
        heads.insert(0, "layer")
        guesses = {row: [lens.top(row, place, 1)[0] for place in places] for row in shown}
    rows = [
        (html.escape(labels[row]), *(_cell(guess) for guess in found))
        for row, found in guesses.items()
    ]
    some = "" if len(places) == len(lens.positions) else f", {len(places)} of them shown"
    return html.block(f"<div><b>{_title(lens)}</b>{some}</div>", html.table(heads, rows))


def _cell(guess: "Guess") -> str:
    kind = "" if guess.logprob is None else html.shade(share(guess))
    token = html.token(text_of(guess), kind, _CELL)
    return f'{token} <span class="d">{_number(guess)}</span>'
