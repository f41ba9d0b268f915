"""Cuts documents into windows, the sequences that are run, and groups windows into shards.

A document of at most `max_tokens` tokens is one window. A longer one is split into windows that
begin `max_tokens - stride` apart, or cut to its first `max_tokens`. A shard is a series of
consecutive windows with at most `shard_rows` rows in all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .positions import Positions

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows, in the order of the harvest; window w gives the rows row[w] to row[w + 1]."""

    document: Ints
    start: Ints
    """[n]: the window has the tokens [start, stop) of the document."""
    stop: Ints
    row: Ints
    """[n + 1]."""
    shard: Ints
    """[n_shards + 1]: shard s has the windows shard[s] to shard[s + 1]."""

    def arrays(self) -> dict[str, Ints]:
        return {name: getattr(self, name) for name in NAMES}


NAMES = ("document", "start", "stop", "row", "shard")


def cut(
    lengths: Ints,
    order: Ints,
    *,
    max_tokens: int,
    stride: int,
    is_cut: bool,
    positions: Positions,
    shard_rows: int,
) -> Windows:
    """lengths: of the documents, in tokens. order: in which they are run. Windows without rows are
    left out."""
    step = max_tokens - stride
    sizes = lengths[order]
    more = np.zeros_like(sizes) if is_cut else -(-np.maximum(sizes - max_tokens, 0) // step)
    document = np.repeat(order, 1 + more)
    number = np.arange(len(document)) - np.repeat(np.cumsum(1 + more) - (1 + more), 1 + more)
    start = number * step
    stop = np.minimum(start + max_tokens, lengths[document])
    counts = positions.count(document, start, stop, np.where(start > 0, stride, 0))
    kept = counts > 0
    row = np.concatenate([[0], np.cumsum(counts[kept])])
    return Windows(document[kept], start[kept], stop[kept], row, _shards(row, shard_rows))


def _shards(row: Ints, shard_rows: int) -> Ints:
    firsts = [0]
    while firsts[-1] < len(row) - 1:
        last = np.searchsorted(row, row[firsts[-1]] + shard_rows, "right") - 1
        firsts.append(int(last))
    return np.array(firsts, np.int64)
