"""The merges of a SentencePiece BPE, which has none, but a score for each piece.

SentencePiece joins the two neighbours whose joint piece has the highest score. A BPE of the
`tokenizers` library joins the pair of the lowest rank: each way to cut a piece into two pieces is a
merge, in the order of the scores. Among equal scores the order is that of transformers, so that the
ranks are the same.
"""

from collections.abc import Mapping

MAX_COST = 1 << 27  # characters that `merges` may copy; for Gemma 3 it is 1e7


def cost(pieces: Mapping[str, float]) -> int:
    """How many characters `merges` copies at most."""
    return sum(len(piece) ** 2 for piece in pieces)


def merges(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs of pieces that make a piece, the one with the highest score first.

    `pieces`: score of each, in the order of their ids.
    """
    found: list[tuple[str, str]] = []
    for piece in sorted(pieces, key=pieces.__getitem__, reverse=True):
        for at in range(len(piece) - 1, 0, -1):  # 1.4 million times for Gemma 3
            left = piece[:at]
            if left in pieces and (right := piece[at:]) in pieces:
                found.append((left, right))
    if len(set(pieces.values())) < len(pieces):
        found.sort(key=lambda p: (pieces[p[0] + p[1]], len(p[0]), len(p[1])), reverse=True)
    return found
