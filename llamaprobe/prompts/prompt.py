"""A user's prompt -> token ids, checked.

A prompt is a str (text), a 1-D sequence of integers (token ids), or a list of dicts (chat
messages); a list of these is a batch. The container may be a list, a tuple, a range, a generator,
or anything that NumPy makes an array of: tensors, Series, arrays of str. The output of a tokenizer
of transformers counts as its input_ids. Refused: empty prompts, floats, bools, bytes, sets, masked
values, padding, arrays of ids with more than one axis, ids outside the vocabulary, more tokens than
the model has positions. An error in a batch begins with the number of the prompt, from 0, and its
first words.
"""

import contextlib
import io
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .. import log
from ..arguments import shown
from ..config import Config
from ..errors import ArgumentError, Cancelled, Error, Timeout
from ..files.encode import check_unmasked
from ..messages import printable
from .chat import ChatOptions
from .tokenizer import Tokenizer
from .tokenizer_files import TokenizerFiles
from .workers import Workers


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt, ready to run."""

    token_ids: NDArray[np.int32]
    """int32 [n_tokens], a private copy."""
    text: str | None
    """The text that was encoded: as given, or from the chat template. None for ids."""
    date: str | None
    """The date that the chat template saw, YYYY-MM-DD; None without a template."""
    template_inputs: Mapping[str, Any] = field(default_factory=dict)
    """template_vars, tools and continue_final_message of a chat, where they were given."""


class TokenizerSource:
    """The tokenizer of a folder, opened at first use, by any number of threads.

    Its files must then be as they were when this was made.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """As its files, without the lock and the open tokenizer."""
        return type(self), (self._files,)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder had a tokenizer.json."""
        return self._files.has_tokenizer

    def get(self, workers: Workers | None = None) -> Tokenizer:
        """TokenizerError (missing, damaged), FileError, FileChangedError."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer(self._files, workers)
                log.info("%s: opened the tokenizer", self._files.folder)
            return self._tokenizer

    @contextlib.contextmanager
    def batch(self, check: Callable[[], object] | None = None) -> Iterator["TokenizerOfBatch"]:
        """The tokenizer for the prompts of one batch; see `Tokenizer.batch`. `check` is called
        regularly while a child process works; an exception from it ends the child."""
        with contextlib.ExitStack() as stack:
            yield TokenizerOfBatch(self, stack, check)

    def pieces(self, ids: NDArray[np.integer[Any]]) -> list[str] | None:
        """The text of each token; None when the folder had no tokenizer. Raises as `get`."""
        if not self._files.has_tokenizer:
            log.info("%s: no tokenizer.json, so tokens have no text", self._files.folder)
            return None
        return self.get().pieces(ids)

    def marks(self) -> dict[str, str]:
        """Fingerprints of its files, by name. FileChangedError, FileError."""
        return self._files.fingerprints()


class HasTokenizer(Protocol):
    def get(self) -> Tokenizer:
        """TokenizerError (missing, damaged), FileError."""


class TokenizerOfBatch:
    """The tokenizer of a batch, opened at first use."""

    def __init__(
        self,
        source: TokenizerSource,
        stack: contextlib.ExitStack,
        check: Callable[[], object] | None,
    ) -> None:
        self._source, self._stack, self._check = source, stack, check
        self._tokenizer: Tokenizer | None = None

    def get(self) -> Tokenizer:
        """TokenizerError (missing, damaged), FileError."""
        if self._tokenizer is None:
            workers = self._stack.enter_context(Workers(self._check))
            tokenizer = self._source.get(workers)
            self._tokenizer = self._stack.enter_context(tokenizer.batch(workers))
        return self._tokenizer


def is_batch(prompt: object) -> TypeGuard[Sequence[object]]:
    """True for a list of prompts: its first item is a prompt by itself, or is neither an id nor a
    message while another item is a prompt. For the result of `as_plain`."""
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return False
    first = prompt[0]
    is_odd = not isinstance(first, Mapping) and not hasattr(first, "__index__")
    return _is_prompt(first) or (is_odd and any(map(_is_prompt, prompt)))


def as_plain(prompt: object) -> object:
    """A prompt or a batch as a str, a list, a tuple or an array of numbers; ArgumentError."""
    if isinstance(prompt, (str, list, tuple)):
        return prompt
    if isinstance(prompt, Mapping):
        return _encoding(prompt)
    if hasattr(prompt, "__array__") and not isinstance(prompt, np.generic):
        return _array(prompt)
    if isinstance(prompt, _MISTAKEN):
        raise ArgumentError(_MISTAKEN_HINT.format(printable(type(prompt).__name__)))
    if isinstance(prompt, Iterable):
        return list(prompt)
    raise ArgumentError(
        f"a prompt is text, a list of token ids, a list of chat messages, or a list of these, not"
        f" {printable(type(prompt).__name__)}"
    )


def read_prompts(
    prompt: object, read: Callable[[object], Prompt], check: Callable[[], None]
) -> tuple[list[Prompt], bool]:
    """The prompts of a user's argument, and whether that is a batch.

    `read` makes a Prompt of one, `check` is called before each. An error of `read` for one of a
    batch says which.
    """
    prompt = as_plain(prompt)
    check()
    if not is_batch(prompt):
        return [read(prompt)], False
    prompts = []
    for number, one in enumerate(prompt):
        with numbered(number, len(prompt), one):
            prompts.append(read(one))
        check()
    return prompts, True


def read_prompt(
    prompt: object,
    config: Config,
    tokenizer: HasTokenizer,
    options: ChatOptions,
    *,
    first: int = 0,
) -> Prompt:
    """One prompt as token ids, which begin at position `first` of a text. ArgumentError,
    TokenizerError, TemplateError, FileError."""
    prompt = as_plain(prompt)
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        chat = tokenizer.get().chat_by(options, list(prompt))
        if not chat.text:
            raise ArgumentError("the prompt is empty: the chat template makes no text of the chat")
        return Prompt(_check(chat.ids, config), chat.text, chat.date, chat.inputs)
    if given := options.check().inputs:
        raise ArgumentError(
            f"{next(iter(given))} is for chat messages, a list of dicts with role and content"
        )
    if isinstance(prompt, str):
        if not prompt:
            raise ArgumentError("the prompt is empty; give text, or token ids")
        return Prompt(_check(tokenizer.get().encode(prompt), config), prompt, None)
    return Prompt(_check(_integers(prompt), config, first), None, None)


def _is_prompt(item: object) -> bool:
    if isinstance(item, Mapping):
        return "input_ids" in item
    return isinstance(item, (str, list, tuple, range, Iterator)) or getattr(item, "ndim", 0) > 0


# Iterables that are refused as prompts, although their items may be valid.
_MISTAKEN = (bytes, bytearray, memoryview, set, frozenset, io.IOBase)
_MISTAKEN_HINT = "a prompt is not a {}; decode bytes to a str, read a file, and put ids in order"


def _encoding(encoding: Mapping[str, Any]) -> object:
    """The ids in the output of a tokenizer of transformers; padded ones are refused."""
    if "input_ids" not in encoding:
        raise ArgumentError("a chat is a list of messages, not one dict; give [message]")
    mask = encoding.get("attention_mask")
    if mask is not None and not np.all(_array(mask) if hasattr(mask, "__array__") else _flat(mask)):
        raise ArgumentError(
            "the attention_mask has zeros, so the ids are padded; encode without padding: the"
            " prompts of a batch may differ in length"
        )
    if isinstance(encoding["input_ids"], Mapping):
        raise ArgumentError("input_ids is a dict; give token ids")
    return as_plain(encoding["input_ids"])


def _flat(mask: Any) -> list[Any]:
    """The items of a list, or of a list of lists."""
    lists = (each if isinstance(each, (list, tuple)) else [each] for each in mask)
    return [item for items in lists for item in items]


def _array(prompt: Any) -> Any:
    """A tensor or a Series as an array; one of texts or objects as a list."""
    check_unmasked(prompt)
    try:
        array = np.asarray(prompt)
    except Exception:  # a tensor on another device, or one that requires gradients
        try:
            if not hasattr(prompt, "tolist"):
                raise
            array = np.asarray(prompt.tolist())
        except Exception as error:  # a sparse one, or one without data
            raise ArgumentError(
                f"NumPy cannot read the prompt, {printable(type(prompt).__name__)}:"
                f" {printable(str(error), 120)}; give a list of token ids"
            ) from None
    is_plain = array.dtype.kind in "OUT" and (array.ndim > 0 or array.dtype.kind != "O")
    return array.tolist() if is_plain else array


@contextlib.contextmanager
def numbered(number: int, of: int, prompt: object) -> Iterator[None]:
    """Errors begin with the number and the first words of the prompt."""
    try:
        yield
    except (Timeout, Cancelled):  # of the whole call
        raise
    except Error as e:
        e.reword(f"prompt {number} of {of} ({_beginning(prompt)}): {e}")
        raise


def _beginning(prompt: object) -> str:
    """The first words of a text or of a chat's first message; the first ids."""
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        prompt = prompt[0].get("content", prompt[0])
    if isinstance(prompt, str):
        return printable(repr(prompt if len(prompt) <= 30 else prompt[:27].rstrip() + " ..."))
    if isinstance(prompt, (list, tuple, range, np.ndarray)):
        items = ", ".join(printable(str(item), 12) for item in prompt[:4])
        return f"[{items}{', ...' if len(prompt) > 4 else ''}]"
    return printable(repr(prompt), 40)


def _integers(prompt: Any) -> NDArray[np.generic]:
    """Token ids in a list, a tuple or an array as a 1-D array of some integer dtype."""
    if isinstance(prompt, np.ndarray):
        if prompt.ndim != 1:
            raise ArgumentError(
                f"token ids are a 1-D array of integers, not one of shape {list(prompt.shape)};"
                " give array[0] of a batch of one, list(array) of a batch without padding"
            )
        if prompt.size and prompt.dtype.kind not in "iu":
            raise ArgumentError(f"token ids are integers, not {prompt.dtype}")
        return prompt
    ids = [_integer(item, at) for at, item in enumerate(prompt)]
    is_small = all(-(1 << 63) <= id < 1 << 63 for id in ids)
    return np.array(ids, dtype=np.int64 if is_small else object)


def _integer(item: Any, at: int) -> int:
    if not isinstance(item, (bool, np.bool_)):
        try:
            return operator.index(item)
        except TypeError:
            pass
    raise ArgumentError(
        f"item {at} of the prompt is {printable(repr(item), 60)}, not a token id;"
        " the items of a list are all of one kind"
    )


def _check(ids: NDArray[Any], config: Config, first: int = 0) -> NDArray[np.int32]:
    """A private int32 copy of ids that are in the vocabulary, at most one per position; they begin
    at position `first`."""
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
            f"token id {shown(int(ids[at]))} at position {first + at} is outside the vocabulary, 0 to"
            f" {config.vocab_size - 1}"
        )
    return np.array(ids, dtype=np.int32)
