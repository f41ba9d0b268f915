"""Text or chat messages to token ids, and ids back to the text of each token.

The tokenizer is the model's own tokenizer.json, run by the `tokenizers` library. The file is a
stranger's: `vocabulary` checks it first, and one whose parts could take time or memory out of
proportion to the text is only ever used in a child process with limits.

Plain text is encoded as transformers does it: special tokens around it as the tokenizer puts
them, special tokens spelled out in it read as such. In chat messages they are plain text: what a
user wrote cannot end the user's turn. For that each one spelled in a message travels through the
template as one private character, and each one that the template wrote is marked by another
before the text is encoded as a whole.
"""

import datetime
import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _child, _encode
from .errors import ArgumentError, FileError, TokenizerError
from .names import printable
from .side_file import parse_json, read_bytes, read_json
from .template import MAX_CHARS, Template, check_messages, pin_date
from .vocabulary import Vocabulary, is_harmless

_MAX_FILE = 64 << 20
_LONG = 1 << 19  # characters; takes about half a second
_LIMITS = _child.Limits(cpu_seconds=30, wall_seconds=120, memory=4 << 30, reply=32 * MAX_CHARS)
_PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat, ready to run."""

    ids: NDArray[np.int32]
    """int32 [n_tokens]."""
    text: str
    """What the template made of the messages."""
    date: str
    """The day that the template was told, YYYY-MM-DD."""


class Tokenizer:
    """The tokenizer of one model. Made by `Tokenizer.open`."""

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Tokenizer":
        """The tokenizer of the model in `folder`. TokenizerError (none, damaged), FileError."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        data = read_bytes(path, _MAX_FILE, TokenizerError)
        if data is None:
            if not os.path.isdir(folder):
                raise FileError(f"{folder}: no such folder", errno.ENOENT, folder)
            raise TokenizerError(
                f"{folder}: no tokenizer.json, so no text and no chat; token ids still work"
            )
        return cls(folder, path, data)

    def __init__(self, folder: Path, path: Path, data: bytes) -> None:
        self.folder, self.path = folder, path
        spec = parse_json(data, path, TokenizerError)
        self._vocabulary = Vocabulary.of(spec, path)
        self._special = re.compile("|".join(map(re.escape, self._vocabulary.special)) or "(?!)")
        self._template: Template | None = None
        self._prefix = _llama_prefix(folder, spec, data)
        self._tokenizer = None
        if is_harmless(spec, parts=self._prefix is None):
            try:
                self._tokenizer = _encode.load(data, self._vocabulary.added, self._prefix)
            except ValueError as e:
                raise self._error(e) from None
        self._ids("")  # what is broken shows here, not at the first prompt

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer knows, from 0 on; the model may have more rows than that."""
        return len(self._vocabulary.names)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Ids of plain text, int32 [n_tokens], as transformers' `tokenizer(text)` gives them.

        The special tokens that the tokenizer puts around a text are there; special tokens spelled
        out in the text are read as such. TokenizerError: a lone surrogate, over 4,194,304
        characters, a broken tokenizer.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text to encode: a {type(text).__name__}, not a str")
        return self._ids(text)

    def chat(
        self,
        messages: object,
        *,
        date: str | datetime.date | None = None,
        add_generation_prompt: bool = True,
        parse_special: bool = False,
    ) -> Chat:
        """Chat messages by the model's own template, without a second BOS.

        Messages are dicts with "role" and "content". Special tokens spelled out in them are plain
        text unless `parse_special`; where there are none the ids are those of transformers'
        `apply_chat_template`. `date` is what the template takes for today: None for 26 Jul 2024,
        "today", a datetime.date or YYYY-MM-DD. ArgumentError (messages, date), TemplateError,
        TokenizerError.
        """
        checked = check_messages(messages)
        if self._template is None:
            self._template = Template.find(self.folder)
        day = pin_date(date)
        render = partial(
            self._template.render,
            date=None if date is None else day,
            add_generation_prompt=add_generation_prompt,
        )
        spelled = set() if parse_special else self._spelled(checked)
        if not spelled:
            text = render(checked)
            return Chat(self._ids(text, around=False), text, day.isoformat())

        private = _unused(checked, self._template.text)
        hidden = {token: next(private) for token in sorted(spelled)}
        text = render(_map_texts(checked, lambda text: self._swap(text, hidden)))
        marks = {token: next(private) for token in sorted(self._spelled(text))}
        shown = {ord(character): token for token, character in hidden.items()}
        marked = self._swap(text, marks).translate(shown)
        ids = self._ids(marked, around=False, marks=marks, spelled=list(hidden))
        return Chat(ids, text.translate(shown), day.isoformat())

    def pieces(self, ids: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """The text of each token alone, special tokens included; bytes that are no UTF-8 as \\xNN.

        An id beyond the vocabulary has no text: "". ArgumentError.
        """
        try:
            array = np.asarray(ids)
        except ValueError:  # ragged
            array = np.zeros((0, 0))
        whole = array.ndim == 1 and (array.size == 0 or array.dtype.kind in "iu")
        if not whole or (array.size and array.min() < 0):
            raise ArgumentError("token ids: give a 1-D list or array of integers from 0 up")
        spelling = self._vocabulary.spelling
        return [spelling(int(id)).decode("utf-8", "backslashreplace") for id in array]

    def _spelled(self, value: object) -> set[str]:
        """The special tokens that occur in a text or in the texts of messages."""
        return set(self._special.findall("\0".join(_texts(value))))

    def _swap(self, text: str, characters: dict[str, str]) -> str:
        """`text` with each special token replaced by its character."""
        return self._special.sub(lambda match: characters[match[0]], text)

    def _ids(
        self,
        text: str,
        *,
        around: bool = True,
        marks: dict[str, str] | None = None,
        spelled: list[str] | None = None,
    ) -> NDArray[np.int32]:
        """int32 ids of `text`; `around`, `marks` and `spelled` as in `_encode`.

        In a child if the tokenizer is not harmless, or the text so long that an interrupt could
        not wait for the library.
        """
        self._check_text(text)
        added = self._vocabulary.added
        try:
            if self._tokenizer is None or len(text) > _LONG:
                request: dict[str, Any] = {"path": os.path.abspath(self.path), "text": text}
                request |= {"added": added, "prefix": self._prefix, "around": around}
                request |= {"marks": marks, "spelled": spelled}
                ids = _child.call("_encode.py", request, packages=("tokenizers",), limits=_LIMITS)
            elif marks is None:
                ids = _encode.encode(self._tokenizer, text, around)
            else:
                ids = _encode.encode_marked(self._tokenizer, text, added, marks, spelled or [])
        except (ValueError, _child.ChildError) as e:
            raise self._error(e) from None
        return self._checked(ids)

    def _check_text(self, text: str) -> None:
        if len(text) > MAX_CHARS:
            raise TokenizerError(
                f"a text of {len(text)} characters; the limit is {MAX_CHARS}, or give token ids"
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            code = ord(text[e.start])
            raise TokenizerError(
                f"the text has a lone surrogate, U+{code:04X}, at character {e.start}"
            ) from None

    def _checked(self, ids: Any) -> NDArray[np.int32]:
        try:
            array = np.array(ids, dtype=np.int64).reshape(-1)
        except (ValueError, TypeError, OverflowError):
            raise self._error("the child process sent no ids") from None
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            raise self._error(
                f"it gives ids from {array.min()} to {array.max()}, but has only {self.vocab_size}"
            )
        return array.astype(np.int32)

    def _error(self, reason: object) -> TokenizerError:
        return TokenizerError(f"{self.path}: the tokenizer failed: {printable(str(reason), 300)}")


def _llama_prefix(folder: Path, spec: dict[str, Any], data: bytes) -> str | None:
    """Where a space goes in front of text, or None: that is up to tokenizer.json.

    transformers 5 gives a tokenizer whose tokenizer_config.json names the class LlamaTokenizer
    Metaspace for a normaliser and pre-tokeniser, whatever its tokenizer.json has, except if that
    is byte-level. Source: models/llama/tokenization_llama.py, models/auto/tokenization_auto.py.
    """
    config = read_json(folder / "tokenizer_config.json", _MAX_FILE, TokenizerError)
    llama = config.get("tokenizer_class") in ("LlamaTokenizer", "LlamaTokenizerFast")
    if not llama or b'"ByteLevel"' in data or spec["model"].get("type", "BPE") != "BPE":
        return None
    if config.get("add_prefix_space") is False:
        return "never"
    return "always" if config.get("legacy") else "first"


def _unused(messages: list[dict[str, Any]], template: str) -> Iterator[str]:
    """Private characters that neither the messages nor the template use."""
    used = set(template).union(*_texts(messages))
    return (c for c in map(chr, _PRIVATE) if c not in used)


def _texts(value: object) -> Iterator[str]:
    """Every text in chat messages, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of chat messages with every text changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_texts(item, change) for key, item in value.items()}
    return [_map_texts(item, change) for item in value] if isinstance(value, list) else value
