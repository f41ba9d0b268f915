"""A diff: the first difference, and one row per value that differs."""

import math
from typing import TYPE_CHECKING

from ..messages import counted
from . import html

if TYPE_CHECKING:
    from ..comparison import Diff, Difference

_SHOWN = 120  # values
_NAMES = 3  # names shown of values that only one run has
_HEADS = (
    "point",
    "layer",
    "numbers that differ",
    "of",
    "tokens",
    "first token",
    "largest",
    "relative",
)


def diff_html(diff: "Diff") -> str:
    different = [one for one in diff.values if one.n_different]
    facts = f"{len(different)} of {counted(len(diff.values), 'value')} differ"
    notes = []
    if len(diff.tokens):
        n = counted(len(diff.tokens), "token")
        notes.append(f"{n} of the prompts differ, the first at position {diff.tokens[0]}")
    if diff.first is not None:
        notes.append(f"first: {diff.first!r}")
    for which, only in (("first", diff.only_a), ("second", diff.only_b)):
        if only:
            more = f" and {len(only) - _NAMES} more" if len(only) > _NAMES else ""
            notes.append(f"only in the {which}: {', '.join(only[:_NAMES])}{more}")
    worst = max((one.relative for one in different if math.isfinite(one.relative)), default=0.0)
    rows = [_row(one, worst) for one in different[:_SHOWN]]
    if len(different) > _SHOWN:
        notes.append(f"{len(different) - _SHOWN} more values are not shown")
    return html.block(
        f"<div><b>Diff</b>: {facts}</div>",
        *(f'<div class="d">{html.escape(note)}</div>' for note in notes),
        html.table(_HEADS, rows, numbers=range(1, len(_HEADS))) if rows else "",
    )


def _row(one: "Difference", worst: float) -> tuple[str, ...]:
    shade = html.shade(one.relative / worst) if worst else "s0"
    return (
        f"<code>{html.escape(one.point)}</code>",
        "" if one.layer is None else str(one.layer),
        f"{one.n_different:,}",
        f"{one.n_values:,}",
        str(len(one.rows)),
        str(one.rows[0]),
        f"{one.largest:.3g}",
        f'<span class="t {shade}">{one.relative:.3g}</span>',
    )
