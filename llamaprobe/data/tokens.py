"""Documents -> token ids, or the reason why a document has none.

The tokenizer is opened at the first text, so that datasets of ids need none.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, Cancelled, Error, FileError, OutOfMemory, Timeout
from ..messages import printable
from ..model import Model
from ..prompts.chat import ChatOptions
from ..prompts.prompt import TokenizerOfBatch
from .document import Fault, kind_of

_OF_ALL = (Cancelled, Timeout, FileError, OutOfMemory)  # not caused by one document


class Encoder:
    """The tokenizer of a model, for the documents of one dataset."""

    def __init__(
        self, tokenizer: TokenizerOfBatch, vocab_size: int, special: bool, first: int | None
    ) -> None:
        """special: whether to add the tokenizer's special tokens to a text. first: the token that
        every document must begin with; None: any."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._special, self._first = special, first
        self._chat = ChatOptions(add_generation_prompt=False)

    def encode(self, value: object) -> NDArray[np.int32] | Fault:
        """Token ids, empty for an empty text, or a Fault. Raises only errors that the document did
        not cause: FileError, FileChangedError."""
        if isinstance(value, Fault):
            return value
        try:
            return self._begun(self._encode(value))
        except _OF_ALL:
            raise
        except Error as error:
            return Fault(str(error))

    def _encode(self, value: Any) -> NDArray[np.int32] | Fault:
        if isinstance(value, str):
            if not value:
                return np.zeros(0, np.int32)
            return self._tokenizer.get().encode(value, add_special_tokens=self._special)
        if kind_of(value) == "chat":
            return self._tokenizer.get().chat_by(self._chat, list(value)).ids
        return self._checked(value)

    def _begun(self, ids: NDArray[np.int32] | Fault) -> NDArray[np.int32] | Fault:
        """The ids with the first token prepended if needed, unless there are none."""
        if isinstance(ids, Fault) or self._first is None or not len(ids) or ids[0] == self._first:
            return ids
        return np.concatenate([np.array([self._first], np.int32), ids])

    def _checked(self, value: Sequence[int] | NDArray[Any]) -> NDArray[np.int32] | Fault:
        """Token ids given by a document, checked."""
        try:
            ids = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            ids = np.zeros((), object)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            return Fault(f"{printable(repr(value), 60)} is not a list of token ids (integers)")
        outside = np.flatnonzero((ids < 0) | (ids >= self._vocab_size)) if ids.size else ids
        if outside.size:
            at = int(outside[0])
            return Fault(
                f"token id {ids[at]} at position {at} is outside the vocabulary, 0 to"
                f" {self._vocab_size - 1}"
            )
        return ids.astype(np.int32)


@contextlib.contextmanager
def encoder_of(model: Model, bos: str = "auto") -> Iterator[Encoder]:
    """bos: "auto" adds the special tokens that the tokenizer puts around a text, "never" adds none;
    "always" makes every document begin with the model's BOS. ArgumentError if it has none."""
    first = bos_token_of(model) if bos == "always" else None
    with model._tokenizer.batch() as tokenizer:
        yield Encoder(tokenizer, model.config.vocab_size, bos != "never", first)


def bos_token_of(model: Model) -> int:
    """ArgumentError."""
    found = model.config.bos_token_id
    if found is None or not 0 <= found < model.config.vocab_size:
        raise ArgumentError("bos='always' needs a bos_token_id in the model's config.json")
    return found
