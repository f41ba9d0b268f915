"""An attribution: the largest rows, then the remainder, so that the table adds up."""

import math
from typing import TYPE_CHECKING

from ..messages import printable
from . import html, text
from .run import texts_of

if TYPE_CHECKING:
    from ..lens.attribution import Attribution, Share

_SHOWN = 12


def _name(attribution: "Attribution", share: "Share") -> str:
    """The name of a row, with the text of its token."""
    kind, *numbers = share.component
    if kind == "source":
        return f"{share.name} {texts_of(attribution.run)[numbers[-1]]!r}"
    if kind == "embed":
        return f"embed {texts_of(attribution.run)[attribution.position]!r}"
    return share.name


def title(attribution: "Attribution") -> str:
    """ "' the' - ' a' at position 5, by head"."""

    def shown(id: int | None, token: str | None) -> str:
        return str(id) if token is None else printable(repr(token), 40)

    a = attribution
    minus = f" - {shown(a.against_id, a.against)}" if a.against_id is not None else ""
    return f"{shown(a.token_id, a.token)}{minus} at position {a.position}, by {a.by}"


def _rows(attribution: "Attribution", n: int) -> list[tuple[str, float]]:
    a, top = attribution, attribution.top(n)
    rows = [(_name(a, share), share.value) for share in top]
    n_others = len(a) - 1 - len(top)
    if n_others:
        others = math.fsum([a.total, -a.rounding, *(-share.value for share in top)])
        rows.append((f"{n_others} others", others))
    rows += [("rounding", a.rounding), ("total", a.total)]
    return rows + ([("after the cap", a.logit)] if a.cap_effect else [])


def _number(value: float) -> str:
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def attribution_text(attribution: "Attribution", n: int = _SHOWN) -> str:
    rows = [(printable(name, 60), _number(value)) for name, value in _rows(attribution, n)]
    return f"<Attribution of {title(attribution)}>\n{text.columns(rows, numbers=[1])}"


def attribution_html(attribution: "Attribution") -> str:
    rows = _rows(attribution, _SHOWN)
    largest = max((abs(value) for _, value in rows[:_SHOWN]), default=1) or 1
    cells = [
        (
            html.escape(name, 60),
            f'<span class="t" style="{html.signed(value / largest)}">{_number(value)}</span>',
        )
        for name, value in rows
    ]
    return html.block(
        f"<div><b>Attribution of {html.escape(title(attribution))}</b></div>",
        html.table(("part", "share of the logit"), cells, numbers=[1]),
        f'<div class="d">float32 may leave {attribution.bound:.1e} of rounding</div>',
    )
