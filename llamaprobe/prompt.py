"""What a user gives as a prompt -> token ids, checked.

A prompt is a str (text), a list of ints or a 1-D integer array (token ids), or a list of dicts
(chat messages); a list of these is a batch. Refused: nothing at all, floats, bools, arrays of more
than one axis, ids outside the vocabulary, more tokens than the model has positions.
"""

import datetime
import operator
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .config import Config
from .errors import ArgumentError
from .names import printable
from .tables import plain_array
from .tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt, ready to run."""

    token_ids: NDArray[np.int32]
    """int32 [n_tokens], ours alone."""
    text: str | None
    """The text that was encoded: as given, or what the chat template made. None for ids."""
    date: str | None
    """The day that the chat template was told, YYYY-MM-DD; None without a template."""


class TokenizerSource:
    """The tokenizer of a folder, opened at first use; any number of threads may ask for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None

    def get(self) -> Tokenizer:
        """TokenizerError (none, damaged), FileError."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.open(self._folder)
            return self._tokenizer

    def pieces(self, ids: NDArray[np.int32]) -> list[str] | None:
        """The text of each token; None when the folder has no tokenizer."""
        if self._tokenizer is None and not os.path.exists(self._folder / "tokenizer.json"):
            return None
        return self.get().pieces(ids)


def is_batch(prompt: object) -> TypeGuard[Sequence[object]]:
    """True for a list of prompts: one whose first item is a prompt by itself."""
    return isinstance(prompt, (list, tuple)) and len(prompt) > 0 and _is_prompt(prompt[0])


def read_prompt(
    prompt: object,
    config: Config,
    tokenizer: TokenizerSource,
    *,
    date: str | datetime.date | None = None,
    add_generation_prompt: bool = True,
) -> Prompt:
    """One prompt as token ids. ArgumentError, TokenizerError, TemplateError, FileError."""
    if isinstance(prompt, str):
        if not prompt:
            raise ArgumentError("the prompt is empty; give text, or token ids")
        return Prompt(_check(tokenizer.get().encode(prompt), config), prompt, None)
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        chat = tokenizer.get().chat(
            list(prompt), date=date, add_generation_prompt=add_generation_prompt
        )
        return Prompt(_check(chat.ids, config), chat.text, chat.date)
    return Prompt(_check(_integers(prompt), config), None, None)


def _is_prompt(item: object) -> bool:
    return isinstance(item, (str, list, tuple)) or (isinstance(item, np.ndarray) and item.ndim > 0)


def _integers(prompt: object) -> NDArray[np.generic]:
    """Token ids as an integer array of some dtype, 1-D."""
    if isinstance(prompt, np.ndarray):
        prompt = plain_array(prompt)
        if prompt.ndim != 1:
            raise ArgumentError(
                f"token ids are one row of integers, not an array of shape {list(prompt.shape)};"
                " a batch is a list of rows"
            )
        if prompt.size and prompt.dtype.kind not in "iu":
            raise ArgumentError(f"token ids are integers, not {prompt.dtype}")
        return prompt
    if not isinstance(prompt, (list, tuple)):
        raise ArgumentError(
            f"a prompt is text, a list of token ids, a list of chat messages, or a list of"
            f" these, not {printable(type(prompt).__name__)}"
        )
    return np.array([_integer(item, at) for at, item in enumerate(prompt)], dtype=np.int64)


def _integer(item: Any, at: int) -> int:
    if not isinstance(item, (bool, np.bool_)):
        try:
            value = operator.index(item)
        except TypeError:
            pass
        else:
            return max(-1, min(value, 2**31))  # outside of every vocabulary stays outside
    raise ArgumentError(
        f"item {at} of the prompt is {printable(repr(item), 60)}, not a token id;"
        " the items of a list are all of one kind"
    )


def _check(ids: NDArray[Any], config: Config) -> NDArray[np.int32]:
    """A private int32 copy of ids that the model has, as many as it has positions."""
    if not ids.size:
        raise ArgumentError("the prompt is empty; the model needs at least one token")
    if ids.size > config.max_positions:
        raise ArgumentError(
            f"the prompt has {ids.size} tokens, over the {config.max_positions} positions of this"
            " model (max_position_embeddings)"
        )
    outside = np.flatnonzero((ids < 0) | (ids >= config.vocab_size))
    if outside.size:
        at = int(outside[0])
        raise ArgumentError(
            f"token id {ids[at]} at position {at} is outside the vocabulary, 0 to"
            f" {config.vocab_size - 1}"
        )
    return np.array(ids, dtype=np.int32)
