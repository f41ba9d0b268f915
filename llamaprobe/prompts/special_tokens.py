"""Finding special tokens in a text, however many there are and however long.

A file may have 100,000 special tokens; one regular expression of them takes minutes and gigabytes.
Here they are sorted. The token at the beginning of a text is, or is a prefix of, the last one that
does not sort after the text, so each position takes one binary search; and only positions that
begin like a token are searched.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

_HEAD = 8  # characters: enough to rule out most positions


class SpecialTokens:
    """A set of special tokens. The leftmost match counts, then the longest."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = sorted({token for token in tokens if token})
        self._lengths = _lengths_of_beginnings(self._tokens)
        self._longest = max(map(len, self._tokens), default=0)
        self._heads: dict[int, set[str]] = {}  # by length
        for token in self._tokens:
            head = token[:_HEAD]
            self._heads.setdefault(len(head), set()).add(head)
        first = sorted({token[0] for token in self._tokens})
        self._first = re.compile(f"[{''.join(map(re.escape, first))}]" if first else "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int, str]]:
        """(start, end, token) of each special token in `text`, from left to right."""
        at = 0
        while first := self._first.search(text, at):
            at = first.start()
            for n_head, heads in self._heads.items():
                if text[at : at + n_head] in heads and (token := self._longest_at(text, at)):
                    yield at, at + len(token), token
                    at += len(token)
                    break
            else:
                at += 1

    def findall(self, text: str) -> list[str]:
        """As `re.Pattern.findall`."""
        return [token for _, _, token in self.find(text)]

    def _longest_at(self, text: str, at: int) -> str:
        """The longest token at this position, or ""."""
        rest = text[at : at + self._longest]
        place = bisect_right(self._tokens, rest) - 1
        if place < 0:
            return ""
        token, lengths = self._tokens[place], self._lengths[place]
        if rest.startswith(token):
            return token
        if lengths == 1 << len(token):  # no shorter token is a prefix
            return ""
        lengths &= (2 << _n_shared(token, rest)) - 1
        return token[: lengths.bit_length() - 1] if lengths else ""


def _lengths_of_beginnings(tokens: list[str]) -> list[int]:
    """For each of the sorted tokens, as bits: the lengths of all tokens that are prefixes of it."""
    lengths: list[int] = []
    open_ones: list[tuple[str, int]] = []  # each is a prefix of the next
    for token in tokens:
        while open_ones and not token.startswith(open_ones[-1][0]):
            open_ones.pop()
        bits = (open_ones[-1][1] if open_ones else 0) | 1 << len(token)
        open_ones.append((token, bits))
        lengths.append(bits)
    return lengths


def _n_shared(a: str, b: str) -> int:
    """The length of the common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a.startswith(b[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
