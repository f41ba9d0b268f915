"""Merges for a SentencePiece BPE, which has a score for each piece instead.

SentencePiece joins the two adjacent pieces whose union has the highest score. BPE in the
`tokenizers` library joins the pair with the lowest rank. So each way to split a piece into two
pieces becomes a merge, in the order of the scores; ties are ordered as in transformers, so that the
ranks are the same.
"""

from collections.abc import Mapping

MAX_COST = 1 << 27  # characters that `merges` may copy; Gemma 3 needs 1e7


def cost(pieces: Mapping[str, float]) -> int:
    """An upper bound on the characters that `merges` copies."""
    return sum(len(piece) ** 2 for piece in pieces)


def merges(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs of pieces that form a piece, the highest score first.

    pieces: piece -> score, in the order of the ids.
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
