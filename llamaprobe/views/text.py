"""Aligned columns of text."""

from collections.abc import Iterable, Sequence

from ..messages import printable


def columns(rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), indent: str = "  ") -> str:
    """Lines of padded cells; `numbers` are the columns to align right."""
    lines = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        indent
        + "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def joined(texts: Sequence[str], limit: int) -> str:
    """Token texts joined; the first and the last ones if there are many."""
    whole = printable("|".join(texts), limit + 1)
    if len(whole) <= limit:
        return whole
    half = limit // 2 - 4
    last = printable("|".join(texts[-half:]), 10 * limit)[-half:]
    return f"{whole[:half]} ... {last}"
