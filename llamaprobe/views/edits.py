"""Edits: one row each, with its text and, after a run, the number of elements it changed."""

from typing import TYPE_CHECKING

from ..messages import counted
from . import html

if TYPE_CHECKING:
    from ..edits.edit import Edit
    from ..edits.edits import Edits

_ENDS = 60  # edits shown at each end of a long list
_LONGEST = 160  # characters of one
_CHARS = 36_000  # of the table, with markup


def edits_html(edits: "Edits") -> str:
    every = list(edits)
    ran = any(edit.n_changed is not None for edit in every)
    ends = _ENDS
    while len(table := _table(every, ends, ran)) > _CHARS:  # long or heavily escaped texts
        ends //= 2
    hidden = len(every) - 2 * ends
    more = f", {hidden} of them not shown" if hidden > 0 else ""
    return html.block(f"<div><b>{counted(len(every), 'edit')}</b>{more}</div>", table)


def _table(every: "list[Edit]", ends: int, ran: bool) -> str:
    shown = list(enumerate(every))
    if len(every) > 2 * ends:
        shown = [*shown[:ends], *shown[len(every) - ends :]]
    rows = [_row(number, edit, ran) for number, edit in shown]
    heads = ("", "edit", *(("as written", "elements changed") if ran else ()))
    return html.table(heads, rows, numbers=[0, 3]) if rows else ""


def _row(number: int, edit: "Edit", ran: bool) -> tuple[str, ...]:
    code = _code(repr(edit).partition("  # ")[0])
    if not ran:
        return str(number), code
    changed = "" if edit.n_changed is None else f"{edit.n_changed:,}"
    return str(number), code, _code(edit.written or ""), changed


def _code(text: str) -> str:
    return f"<code>{html.escape(text, _LONGEST)}</code>"
