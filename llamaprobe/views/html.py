"""Building blocks of HTML for dark and light themes: text colours are inherited and backgrounds are
translucent. No script, and nothing from the network.
"""

import html
from collections.abc import Iterable, Sequence

from ..messages import printable

ENDS = 150  # tokens shown at each end of a long run
_LONGEST = 60  # characters of a token
_TOKEN_CHARS = 36_000  # of a run's tokens, with markup
STYLE = (
    "<style>.lp{font:13px/1.5 system-ui,sans-serif;overflow-x:auto}"
    ".lp table{border-collapse:collapse;margin:.4em 0;color:inherit;font-size:12px}"
    ".lp th,.lp td{padding:1px 8px;text-align:left;background:none;white-space:nowrap;"
    "border:0 solid rgba(128,128,128,.25);border-bottom-width:1px}"
    ".lp th{font-weight:600}.lp .n{text-align:right;font-variant-numeric:tabular-nums}"
    ".lp code,.lp .t{font-family:ui-monospace,monospace;white-space:pre}"
    ".lp code{background:none;color:inherit}"
    ".lp .t{padding:1px 0;border-radius:3px}.lp .w{white-space:normal;overflow-wrap:anywhere}"
    ".lp .a{background:rgba(70,130,220,.22)}.lp .b{background:rgba(230,150,40,.22)}"
    ".lp .d{opacity:.7}"
    + "".join(f".lp .s{i}{{background:rgba(60,150,110,{0.08 + i / 18:.2f})}}" for i in range(10))
    + "</style>"
)


def escape(text: object, limit: int = 200) -> str:
    """Any text as HTML: on one line, unprintable characters escaped."""
    return html.escape(printable(str(text), limit), quote=True)


def block(*parts: str) -> str:
    """The HTML of one notebook output."""
    return f'{STYLE}<div class="lp">{"".join(parts)}</div>'


def token(text: str, kind: str = "", limit: int = _LONGEST) -> str:
    """One token as a coloured span; `kind` is a class of STYLE."""
    return f'<span class="t {kind}">{escape(text, limit)}</span>'


def tokens(texts: Sequence[str]) -> str:
    """Tokens in two alternating colours; only the first and the last of many."""
    ends = ENDS
    shown = _spans(texts, ends)
    while sum(map(len, shown)) > _TOKEN_CHARS:  # long or heavily escaped tokens
        ends //= 2
        shown = _spans(texts, ends)
    return f'<div class="w">{"".join(shown)}</div>'


def _spans(texts: Sequence[str], ends: int) -> list[str]:
    gap = len(texts) - 2 * ends
    places = range(len(texts)) if gap <= 0 else [*range(ends), *range(ends + gap, len(texts))]
    spans = [token(texts[i], "ab"[i % 2]) for i in places]
    if gap > 0:
        spans.insert(ends, f' <span class="d">&hellip; {gap} more &hellip;</span> ')
    return spans


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Cells are HTML; `numbers` are the columns to align right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if i in numbers else "" for i in range(len(cells))]
        inner = (f"<{tag}{k}>{c}</{tag}>" for c, k in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(heads, 'th') if heads else ''}{body}</table>"


def shade(share: float) -> str:
    """The CSS class of a cell for a share from 0 to 1."""
    return f"s{round(9 * min(max(share, 0.0), 1.0))}" if share == share else "s0"


def signed(share: float) -> str:
    """The style of a cell for a share from -1 to 1: red below 0, blue above, nothing at 0."""
    colour = "70,130,220" if share > 0 else "220,80,70"
    return f"background:rgba({colour},{0.55 * min(abs(share), 1.0):.2f})"
