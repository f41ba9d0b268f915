"""Which positions of a window give rows: all, last, skip:N, A-B, hash:F.

Positions count from the beginning of the window, as in RoPE. `hash:F` keeps a fraction F of the
tokens, chosen by a hash of the document's number and the token's place in it.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arguments import refusal
from .mixing import mix

_FORMS = "all, last, skip:N (without the first N), A-B, or hash:F (a fraction F of the tokens)"


@dataclass(frozen=True)
class Positions:
    first: int = 0
    """The first position."""
    stop: int | None = None
    """One past the last position; None for no end."""
    last: bool = False
    """Only the last position of a window."""
    fraction: float | None = None

    def of(self, document: int, start: int, stop: int, context: int) -> NDArray[np.int64]:
        """The positions that give rows in the window of tokens [start, stop) of a document. The
        first `context` positions never do."""
        n = stop - start
        if self.last:
            return np.arange(n - 1, n)
        kept = np.arange(max(self.first, context), n if self.stop is None else min(n, self.stop))
        if self.fraction is None:
            return kept
        key = mix(np.array([document], np.uint64))
        marks = mix(key ^ (kept + start).astype(np.uint64))
        return kept[marks < np.uint64(int(self.fraction * 2.0**64))]

    def count(
        self,
        documents: NDArray[np.int64],
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        contexts: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The number of rows of each window."""
        if self.last:
            return np.ones(len(starts), np.int64)
        if self.fraction is None:
            n = stops - starts
            ends = n if self.stop is None else np.minimum(n, self.stop)
            return np.maximum(ends - np.maximum(contexts, self.first), 0)
        windows = zip(documents, starts, stops, contexts, strict=True)
        return np.array([len(self.of(*map(int, window))) for window in windows], np.int64)


def read_positions(text: str) -> Positions:
    """ArgumentError."""
    if not isinstance(text, str):
        raise refusal("positions", text, _FORMS)
    if text == "all":
        return Positions()
    if text == "last":
        return Positions(last=True)
    if match := re.fullmatch(r"skip:([0-9]{1,8})", text):
        return Positions(first=int(match[1]))
    if match := re.fullmatch(r"([0-9]{1,8})-([0-9]{1,8})", text):
        first, last = int(match[1]), int(match[2])
        if first <= last:
            return Positions(first=first, stop=last + 1)
    if match := re.fullmatch(r"hash:(0?\.[0-9]{1,9})", text):
        if 0 < float(match[1]) < 1:
            return Positions(fraction=float(match[1]))
    raise refusal("positions", text, _FORMS)
