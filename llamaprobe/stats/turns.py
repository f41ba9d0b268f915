"""mask="assistant": the assistant's tokens in chats, located by the tokens that the model's chat
template puts around them.

A turn starts after the header that `add_generation_prompt` writes and goes up to the special token
that ends it, inclusive. Special tokens spelled out in a message are encoded as plain text, so that
nothing in a message looks like a header.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from ..prompts.tokenizer import Tokenizer

_USER = {"role": "user", "content": "a"}
_ASSISTANT = {"role": "assistant", "content": "b"}


def assistant_turns(tokenizer: Tokenizer) -> Callable[[NDArray[np.int32]], NDArray[np.bool_]]:
    """A function of a document's token ids -> its mask. ArgumentError for a template whose turns
    cannot be located; TemplateError, TokenizerError, FileError."""
    before, begun, whole = (
        tokenizer.chat(messages, add_generation_prompt=begins).ids.tolist()
        for messages, begins in (
            ([_USER], False),
            ([_USER], True),
            ([_USER, _ASSISTANT], False),
        )
    )
    head, tail = begun[len(before) :], whole[len(begun) :]
    is_sound = begun[: len(before)] == before and whole[: len(begun)] == begun
    ends = [id for id in tail if tokenizer.spelling(id)[1]]
    if not is_sound or not ends or not any(tokenizer.spelling(id)[1] for id in head):
        raise ArgumentError(
            "the chat template of this model does not put special tokens around the assistant's"
            " turns; give a mask as a function of token ids"
        )
    n_blank = 0
    while _is_blank(tokenizer, head[-1]):  # may merge with the first token of the text
        head, n_blank = head[:-1], n_blank + 1

    def mask(ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        found, listed = np.zeros(len(ids), bool), ids.tolist()
        ended = np.flatnonzero(ids == ends[0])
        for start in np.flatnonzero(ids == head[0]).tolist():
            first = start + len(head)
            if listed[start:first] != head:
                continue
            last = first + n_blank
            while first < min(last, len(listed)) and _is_blank(tokenizer, listed[first]):
                first += 1
            at = np.searchsorted(ended, first)
            found[first : ended[at] + 1 if at < len(ended) else len(ids)] = True
        return found

    return mask


def _is_blank(tokenizer: Tokenizer, id: int) -> bool:
    spelling, is_special = tokenizer.spelling(id)
    return not is_special and not spelling.strip()
