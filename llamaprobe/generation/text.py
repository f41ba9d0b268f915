"""The text of new tokens as they are generated, in whole characters, and stop strings in it.

The bytes of the tokens are concatenated as in the middle of a text: nothing is stripped or cleaned
up, so that the prompt followed by this text is the whole text. Special tokens are left out, but a
stop string may name one. Bytes that may still become a stop string or a whole character are held
back.
"""

import codecs
from collections.abc import Iterable, Sequence

from ..prompts.tokenizer import Tokenizer


class TextStream:
    """The text of one continuation."""

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str] = ()) -> None:
        """Without a tokenizer, the text is empty."""
        self._tokenizer = tokenizer
        self._stops = [(stop, stop.encode()) for stop in stops]
        self._longest = max((len(stop) for _, stop in self._stops), default=0)
        self._all = bytearray()
        """The bytes of the last tokens, special ones included, as far back as a stop string may
        reach."""
        self._hidden: list[tuple[int, int]] = []
        """The spans [start, end) of special tokens in `_all`."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id: int) -> tuple[str, str | None]:
        """The text that has become certain with this token, and the stop string that it completes,
        if any: the one that is complete first, and of these the longest."""
        if self._tokenizer is None:
            return "", None
        spelling, is_special = self._tokenizer.spelling(id)
        start = len(self._all)
        self._all += spelling
        if is_special:
            self._hidden.append((start, len(self._all)))
        found = [
            (at + len(stop), at, text)
            for text, stop in self._stops
            if (at := self._all.find(stop)) >= 0
        ]
        if found:
            _, at, text = min(found)
            return self._take(at) + self._decoder.decode(b"", final=True), text
        return self._take(len(self._all) - self._n_held()), None

    def end(self) -> str:
        """The text that was held back; invalid UTF-8 becomes U+FFFD."""
        return self._take(len(self._all)) + self._decoder.decode(b"", final=True)

    def _take(self, end: int) -> str:
        """Decode the bytes up to `end`, except special tokens, and drop them."""
        shown, at = b"", 0
        for start, stop in self._hidden:
            shown += self._all[at : min(start, end)]
            at = min(stop, end)
        shown += self._all[at:end]
        del self._all[:end]
        self._hidden = [
            (max(start - end, 0), stop - end) for start, stop in self._hidden if stop > end
        ]
        return self._decoder.decode(shown)

    def _n_held(self) -> int:
        """The length of the longest suffix that is the beginning of a stop string."""
        for n in range(min(self._longest - 1, len(self._all)), 0, -1):
            tail = bytes(self._all[-n:])
            if any(stop.startswith(tail) for _, stop in self._stops):
                return n
        return 0


def text_of(tokenizer: Tokenizer, ids: Iterable[int], stops: Sequence[str] = ()) -> str:
    """The text of a continuation, up to the first stop string."""
    stream = TextStream(tokenizer, stops)
    pieces = []
    for id in ids:
        piece, stop = stream.add(int(id))
        pieces.append(piece)
        if stop is not None:
            return "".join(pieces)
    return "".join(pieces) + stream.end()
