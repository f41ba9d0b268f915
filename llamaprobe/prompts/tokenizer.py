"""Text or chat messages to token ids, and ids back to the text of each token.

The tokenizer is the model's own tokenizer.json, run by the `tokenizers` library, with what the
files beside it declare (`declarations`). The file is not trusted: `vocabulary` checks it first, and
one that could take time or memory out of proportion to the text (`trust`) is only used in a child
process with limits.

Plain text is encoded as in transformers: with the special tokens that the tokenizer puts around it,
and with those spelled out in it. In chat messages spelled-out special tokens are plain text, so
that a user's message cannot end the user's turn. The template sees the messages unchanged, and the
origin of each output character is known (`_origin`); each special token of the template is then
marked by a private character, and the text is encoded as a whole.
"""

import contextlib
import datetime
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import flag, whole
from ..errors import ArgumentError, TemplateError, TokenizerError
from ..files.encode import check_unmasked
from ..messages import printable, shown_path
from . import _encode, _origin, sandbox
from .chat import MAX_CHARS, ChatOptions, check_messages, pin_date, texts
from .declarations import around
from .special_tokens import SpecialTokens
from .template import Template, private_characters
from .tokenizer_files import TokenizerFiles
from .trust import decodes_harmlessly, is_harmless
from .vocabulary import Vocabulary
from .workers import Workers

_MAX_DECODED = 1 << 26
_LONG = 1 << 19  # characters; takes about half a second
_LIMITS = sandbox.Limits(cpu_seconds=30, wall_seconds=120, memory=4 << 30, reply=32 * MAX_CHARS)


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat, ready to run."""

    ids: NDArray[np.int32]
    """int32 [n_tokens]."""
    text: str
    """The text that the template made of the messages."""
    date: str
    """The date that the template saw, YYYY-MM-DD."""
    inputs: dict[str, Any]
    """template_vars, tools and continue_final_message, where they were given."""


class Tokenizer:
    """The tokenizer of one model: `Model.tokenizer`, or `Tokenizer.open(folder)`.

    Any number of threads may use it at once. Pickled and copied as its folder, and opened again
    when unpickled: FileChangedError if the files differ there.
    """

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Tokenizer":
        """The tokenizer of the model in `folder`. TokenizerError (none, damaged), FileError."""
        return cls(TokenizerFiles(folder))

    def __init__(self, files: TokenizerFiles, workers: Workers | None = None) -> None:
        """From files as they were at one moment: FileChangedError if they have changed since.

        workers: of a batch, whose child processes then serve the first question too.
        """
        self._files = files
        self.folder, self.path = files.folder, files.path
        self._templates: dict[bool, Template] = {}  # False: the default, True: the one for tools
        self._workers = workers
        with files.unchanged():
            self._open()
        self._workers = None

    def _open(self) -> None:
        spec, data, declared, self._refusal = self._files.read()
        spec = _encode.patched(spec, declared.parts)
        vocabulary = self._vocabulary = Vocabulary.of(spec, self.path, declared)
        parts = declared.parts
        if declared.begin is not None:
            processor = around((declared.begin, vocabulary.id_of(declared.begin)), None)
            parts = {**(parts or {}), "post_processor": processor}
            spec["post_processor"] = processor
        self._declared = declared
        self._special = SpecialTokens(() if declared.split_special else vocabulary.special)
        self._setup = {
            "parts": parts,
            "tokens": vocabulary.changes,
            "added": vocabulary.added,
            "split_special": declared.split_special,
        }
        self._decodes_here = decodes_harmlessly(spec)
        self._tokenizer: _encode.State | None = None
        if is_harmless(spec, vocabulary.added):
            try:
                self._tokenizer = _encode.load(data, self._setup)
            except ValueError as e:
                raise self._error(e) from None
        if not self._refusal:
            self._ids("")  # fails here, not at the first prompt, if it is broken

    @functools.cached_property
    def _file(self) -> dict[str, Any]:
        """What a child process prepares."""
        return {**self._files.source(), "setup": self._setup}

    def __reduce__(self) -> tuple[Any, ...]:
        """As its files: FileChangedError where they differ."""
        return type(self), (self._files,)

    @contextlib.contextmanager
    def batch(self, workers: Workers | None = None) -> Iterator["Tokenizer"]:
        """This tokenizer for many texts: all questions that need a child process share one until
        the end of the block. Otherwise each text has a child of its own.
        """
        one = object.__new__(type(self))
        one.__dict__.update(self.__dict__)
        with workers or Workers() as one._workers:
            yield one

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id. The model may have more rows, and some ids may be
        unused.
        """
        return len(self._vocabulary.names)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> NDArray[np.int32]:
        """Ids of plain text, int32 [n_tokens], as transformers' `tokenizer(text)` gives them.

        add_special_tokens: with the special tokens that the tokenizer puts around a text. Special
            tokens spelled out in the text are read as such either way.

        Raises TokenizerError (a lone surrogate, over 4,194,304 characters, a broken tokenizer),
        ArgumentError (not a str).
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text to encode: a {type(text).__name__}, not a str")
        return self._ids(text, around=flag("add_special_tokens", add_special_tokens))

    def decode(
        self, ids: Sequence[int] | NDArray[np.integer], *, skip_special_tokens: bool = False
    ) -> str:
        """The text of token ids together, as transformers' `tokenizer.decode(ids)` gives it.

        ids: a list of ints or a 1-D array or tensor of integers. Ids without a token are skipped;
            bytes that are not UTF-8 become U+FFFD.
        skip_special_tokens: without the special tokens.

        The result may differ from the encoded text: a SentencePiece tokenizer drops the first
        space. Raises ArgumentError (not such ids), TokenizerError (over 67,108,864 characters, a
        broken tokenizer).
        """
        names = self._vocabulary.names
        known = [id for id in _id_array(ids).tolist() if id < len(names)]
        n_chars = sum(len(names[id] or "") for id in known)
        if n_chars > _MAX_DECODED:
            raise TokenizerError(
                f"ids of {n_chars} characters of text; the limit is {_MAX_DECODED}"
            )
        question = {"ids": known, "skip_special": flag("skip_special_tokens", skip_special_tokens)}
        text = self._answer(question, here=self._decodes_here and n_chars <= _LONG)
        if not isinstance(text, str):
            raise self._error("the child process sent no text")
        return _clean_up(text) if self._declared.clean_up else text

    def chat(
        self,
        messages: object,
        *,
        date: str | datetime.date | None = None,
        add_generation_prompt: bool | None = None,
        template_vars: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool | str = False,
        parse_special: bool = False,
    ) -> Chat:
        """Chat messages in the model's own template, without a second BOS.

        Messages are dicts with "role" and "content". Special tokens spelled out in them, in tools
        and in template_vars are plain text unless `parse_special`; else the ids are those of
        transformers' `apply_chat_template`, and so is the text.

        date: the date that the template sees: None for 26 Jul 2024, "today", a datetime.date or
            YYYY-MM-DD.
        add_generation_prompt: begin an answer; None for True, False with continue_final_message.
        template_vars: further variables of the template by name: {"enable_thinking": False}.
        tools: JSON schemas of functions, as dicts.
        continue_final_message: the text ends with the last message, for the model to continue; a
            str names a field other than "content".

        ArgumentError (messages or options), TemplateError, TokenizerError.
        """
        options = ChatOptions(
            date, add_generation_prompt, template_vars, tools, continue_final_message
        )
        return self.chat_by(options, messages, parse_special=parse_special)

    def chat_by(
        self, options: ChatOptions, messages: object, *, parse_special: bool = False
    ) -> Chat:
        """`chat` with its options as one object."""
        parse_special = flag("parse_special", parse_special)
        checked, options = check_messages(messages), options.check()
        template = self._template_for(options.tools is not None)
        spelled = self._spelled([checked, options.template_vars, options.tools])
        rendered = template.render(
            checked,
            options,
            traced=not parse_special and (not template.known or bool(spelled)),
            spelled=[] if parse_special else sorted(spelled),
            call=self._call,
        )
        text = rendered.text
        if parse_special or (template.known and not spelled):
            ids = self._ids(text, around=False)
        else:
            ids = self._chat_ids(text, rendered.origin, spelled, template)
        return Chat(ids, text, pin_date(options.date).isoformat(), options.inputs)

    def _template_for(self, tools: bool) -> Template:
        if tools not in self._templates:
            with self._files.unchanged():
                template = self._files.template(tools, self._declared.names)
            self._templates[tools] = template
        return self._templates[tools]

    def _chat_ids(
        self, text: str, origin: str | None, spelled: set[str], template: Template
    ) -> NDArray[np.int32]:
        """Ids of a rendered chat, in which only the template's own special tokens count."""
        found = list(self._special.find(text))
        if not found:
            return self._ids(text, around=False)
        private = private_characters(set(text))
        own: list[tuple[int, int, str]] = []
        origin = origin or _origin.LOST * len(text)
        for start, end, token in self._special.find(_without_given(text, origin, next(private))):
            letters = origin[start:end]
            if _origin.LOST in letters and token in spelled:
                raise TemplateError(
                    f"{shown_path(template.path)}:"
                    " the template changes the messages in a way that does not"
                    f" show if {printable(repr(token), 60)} is its own or a message's; take it"
                    " out of the messages"
                )
            if _origin.ROLE not in (letters[0], letters[-1]):
                own.append((start, end, token))
        if own == found:
            return self._ids(text, around=False)
        marks = {token: next(private) for token in sorted({token for _, _, token in own})}
        parts, at = [], 0
        for start, end, token in own:
            parts += [text[at:start], marks[token]]
            at = end
        marked = "".join(parts) + text[at:]
        return self._ids(marked, around=False, marks=marks, spelled=sorted(self._spelled(marked)))

    def pieces(self, ids: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """The text of each token alone, also of special tokens; bytes that are not UTF-8 as \\xNN.

        ids: a list of ints or a 1-D array or tensor of integers. An id without a token gives "".
        ArgumentError.
        """
        array = _id_array(ids)
        spelling = self._vocabulary.spelling
        known = {
            id: spelling(id).decode("utf-8", "backslashreplace") for id in np.unique(array).tolist()
        }
        return [known[id] for id in array.tolist()]

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that the files call eos_token: what ends a text or, in most chat
        models, a turn; None without one."""
        names, eos = self._vocabulary.names, self._declared.eos
        return names.index(eos) if eos in names and eos is not None else None

    def spelling(self, id: int) -> tuple[bytes, bool]:
        """The bytes of a token in the midst of a text, b"" for an id without one; whether it is a
        special token."""
        id = whole("id", id, 0)
        return self._vocabulary.spelling(id), id in self._vocabulary.special_ids

    def gives(self, text: str, ids: NDArray[np.int32], *, chat: bool) -> bool:
        """Whether these can be the ids of a text or of a rendered chat. TokenizerError."""
        chat = flag("chat", chat)
        found = self.encode(text, add_special_tokens=not chat)
        if not chat or np.array_equal(found, ids):
            return np.array_equal(found, ids)
        # special tokens spelled out in a message were plain text: compare the letters
        ours, theirs = ("".join("".join(self.pieces(each)).split()) for each in (found, ids))
        return ours == theirs

    def _spelled(self, value: object) -> set[str]:
        """The special tokens spelled out in a text or in messages."""
        return set(self._special.findall("\0".join(texts(value))))

    @property
    def _call(self) -> Any:
        """Runs a script in a child process."""
        return sandbox.call if self._workers is None else self._workers.call

    def _ids(
        self,
        text: str,
        *,
        around: bool = True,
        marks: dict[str, str] | None = None,
        spelled: list[str] | None = None,
    ) -> NDArray[np.int32]:
        """int32 ids of `text`; `around`, `marks` and `spelled` as in `_encode`."""
        self._check_text(text)
        if self._refusal:
            raise TokenizerError(f"{shown_path(self.path)}: {self._refusal}")
        fill = self._declared.fill
        if fill and fill in text:
            raise TokenizerError(
                f"{shown_path(self.path)}:"
                f" the text holds {printable(fill, 60)}, between the prefix and the"
                " suffix of a text to fill in; give such a prompt as token ids"
            )
        question = {"text": text, "around": around, "marks": marks, "spelled": spelled}
        return self._checked(self._answer(question, here=len(text) <= _LONG))

    def _answer(self, question: dict[str, Any], *, here: bool) -> Any:
        """`_encode.answer`; in a child process if the tokenizer is not harmless, or not `here`: for
        a text so long that Ctrl-C would wait for the library.
        """
        try:
            if self._tokenizer is not None and here:
                return _encode.answer(self._tokenizer, question)
            return self._call(
                "_encode.py", self._file, question, packages=("tokenizers",), limits=_LIMITS
            )
        except (ValueError, sandbox.ChildError) as e:
            if not here or self._tokenizer is None:
                self._files.check()
            raise self._error(e) from None

    def _check_text(self, text: str) -> None:
        if len(text) > MAX_CHARS:
            raise TokenizerError(
                f"a text of {len(text)} characters; the limit is {MAX_CHARS}, or give token ids"
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as e:
            code = ord(text[e.start])
            byte = (
                f", for the byte 0x{code & 0xFF:02X}, which was not decoded; give text of UTF-8 in a"
                " UTF-8 locale"
                if 0xDC80 <= code <= 0xDCFF  # of surrogateescape, as sys.argv has it
                else ""
            )
            raise TokenizerError(
                f"the text has a lone surrogate, U+{code:04X}, at character {e.start}{byte}"
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
        fact = printable(str(reason), 300)
        return TokenizerError(f"{shown_path(self.path)}: the tokenizer failed: {fact}")


def _id_array(ids: Any) -> NDArray[np.integer]:
    """A user's ids, 1-D and at least 0. ArgumentError."""
    check_unmasked(ids)
    try:
        array = np.asarray(ids)
    except (ValueError, TypeError, RuntimeError):  # ragged; a tensor of another device
        array = np.zeros((0, 0))
    whole = array.ndim == 1 and (array.size == 0 or array.dtype.kind in "iu")
    if not whole or (array.size and array.min() < 0):
        raise ArgumentError("token ids: give a 1-D list or array of integers from 0 up")
    return array.astype(np.int64) if array.size == 0 else array


def _clean_up(text: str) -> str:
    """Without spaces before punctuation and English contractions, as in transformers."""
    for mark in (".", "?", "!", ","):
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for short in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {short}", short)
    return text


def _without_given(text: str, origin: str, filler: str) -> str:
    """`text` with `filler` in place of each GIVEN character."""
    if _origin.GIVEN not in origin:
        return text
    parts, at = [], 0
    for match in re.finditer(_origin.GIVEN + "+", origin):
        parts += [text[at : match.start()], filler * (match.end() - match.start())]
        at = match.end()
    return "".join(parts) + text[at:]
