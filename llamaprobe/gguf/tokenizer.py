"""The tokenizer of a GGUF: a tokenizer.json built from its metadata.

Three sources, in this order: a tokenizer.json beside the file, with the files that accompany it;
the text of one in `tokenizer.huggingface.json`; `tokenizer.ggml.*`. The last has the vocabulary of
the original tokenizer, but only names or implies its parts: `tokenizer.ggml.model` is "gpt2"
(byte-level BPE with merges; see `pretokenizers`) or "llama" (SentencePiece's BPE; `sentencepiece`
derives the merges). The parts follow the released tokenizers, even where transformers' conversion
of a GGUF differs.

Token types: control (3) and unknown (2) are special; user-defined ones (4) are matched in the text
but are not special; unused ones (5) pad the embedding, and their ids have no text. Merging produces
only normal and user-defined tokens.

The metadata is not trusted: lengths, ids, merges and strings are checked, and FormatError names
file and key. The result is read like any tokenizer.json. A vocabulary without known parts still
decodes ids; only encoding text is refused.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from .. import _core
from ..errors import FormatError, TokenizerError
from ..files.json_file import is_text, parse_object
from ..messages import printable, shown_path
from ..prompts.declarations import (
    MAX_IDS,
    Declarations,
    Token,
    around,
    own_tokens,
    sentencepiece,
)
from ..prompts.template import Template, choose, no_template
from ..prompts.tokenizer_files import NAMES, Contents, TokenizerFiles
from .pretokenizers import BYTE_LEVEL, PRE_TOKENIZERS
from .sentencepiece import MAX_COST, cost, merges

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
_MAX_MERGES = 1 << 22
_WAY_OUT = (
    "so no text and no chat; token ids still work. Put the original model's tokenizer.json beside"
    " the file"
)
_GGML = "tokenizer.ggml."
_HUGGING_FACE = "tokenizer.huggingface.json"
_TEMPLATE = "tokenizer.chat_template"
_GEMMA = ("gemma", "gemma2", "gemma3")
# Phi 3: white space after a special token belongs to it, except after these.
_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")


class Gguf(Protocol):
    """The methods of `_core.Gguf` used here."""

    def metadata(self) -> dict[str, Any]:
        """Key -> value, without long arrays."""

    def keys(self) -> list[tuple[str, str, int | None]]:
        """(key, type, length of an array or None) of each entry."""

    def array(self, key: str) -> list[Any]:
        """The array of a key, of any length."""


class GgufTokenizerFiles(TokenizerFiles):
    """The GGUF and the tokenizer.json beside it, if there is one.

    Pickled as the path and the fingerprints.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        gguf: Gguf | None = None,
        marks: dict[str, str] | None = None,
    ) -> None:
        """gguf: the open file; None: it is opened at the first read."""
        self.gguf_path = Path(os.path.abspath(path))
        self._gguf = gguf
        folder = self.gguf_path.parent
        beside = NAMES if os.path.exists(folder / NAMES[0]) else NAMES[:1]
        super().__init__(folder, marks, (*beside, self.gguf_path.name))

    def _arguments(self, marks: dict[str, str]) -> tuple[Any, ...]:
        return self.gguf_path, None, marks

    @property
    def path(self) -> Path:
        return super().path if super().has_tokenizer else self.gguf_path

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a vocabulary that can be read."""
        return super().has_tokenizer or Keys(self.gguf_path, self._open()).has_vocabulary

    def read(self) -> Contents:
        if super().has_tokenizer:
            return super().read()
        return tokenizer_of(self.gguf_path, self._open())

    def template(self, tools: bool, tokens: dict[str, str]) -> Template:
        """From the files beside the GGUF, if there is a tokenizer.json with a template; else the
        GGUF's own."""
        if super().has_tokenizer and Template.is_in(self.folder):
            return super().template(tools, tokens)
        found = Keys(self.gguf_path, self._open()).templates()
        if not found:
            raise no_template(self.gguf_path)
        return Template.of(self.gguf_path, choose(found, self.gguf_path, tools), tokens)

    def source(self) -> dict[str, Any]:
        if super().has_tokenizer:
            return super().source()
        return {"text": self.read().data.decode()}

    def _open(self) -> Gguf:
        if self._gguf is None:
            self._gguf = _core.Gguf(os.fspath(self.gguf_path))
        return self._gguf


def tokenizer_of(path: Path, gguf: Gguf) -> Contents:
    """The tokenizer of an open GGUF; `path` is for messages. FormatError; TokenizerError if no
    vocabulary can be read.
    """
    keys = Keys(path, gguf)
    if (text := keys.value(_HUGGING_FACE, str)) is not None:
        return _from_text(keys, text)
    if not keys.has_vocabulary:
        model = keys.value(_GGML + "model", str)
        there = keys.has(_GGML + "tokens") and model is not None
        fact = f"{_GGML}model is {model!r:.60}" if there else f"has no {_GGML}model and tokens"
        raise TokenizerError(f"{shown_path(path)}: {fact}, {_WAY_OUT}")
    return _Vocabulary(keys).contents()


def _from_text(keys: "Keys", text: str) -> Contents:
    """From the text of a tokenizer.json."""
    data = text.encode()
    name = keys.path / _HUGGING_FACE
    spec = parse_object(data, name, TokenizerError, strict=False)
    own = own_tokens(spec, name)
    names = {}
    if keys.has(_GGML + "tokens"):
        tokens = keys.array("tokens", str)
        names = {key: tokens[id] for key, id in keys.named(len(tokens)).items()}
    there = {token.content for token in own.values()}
    add = [Token(t, special=True) for t in dict.fromkeys(names.values()) if t not in there]
    return Contents(spec, data, _declared(own, names, add))


def _declared(own: dict[int, Token], names: dict[str, str], tokens: list[Token]) -> Declarations:
    return Declarations(
        own=own,
        parts=None,
        names=names,
        tokens=tokens,
        begin=None,
        fill=None,
        eos=names.get("eos_token"),
        split_special=False,
        clean_up=False,
    )


class Keys:
    """Checked access to the metadata."""

    def __init__(self, path: Path, gguf: Gguf) -> None:
        self.path = path
        self._gguf = gguf
        self._values = gguf.metadata()
        self._lengths = {key: length for key, _, length in gguf.keys()}

    def has(self, key: str) -> bool:
        return key in self._lengths

    @property
    def has_vocabulary(self) -> bool:
        """Whether the text of a token can be found."""
        if self.has(_HUGGING_FACE):
            return True
        return self.has(_GGML + "tokens") and self._values.get(_GGML + "model") in ("gpt2", "llama")

    def templates(self) -> dict[str, str]:
        """Name -> chat template; the main one is "default". FormatError."""
        found = {}
        for key in self._lengths:
            name = "default" if key == _TEMPLATE else key.removeprefix(_TEMPLATE + ".")
            if name != key:
                found[name] = self.value(key, str)
        return found

    def error(self, key: str, fact: str) -> FormatError:
        return FormatError(f"{shown_path(self.path)}: {printable(key)} {fact}")

    def value(self, key: str, kind: type) -> Any:
        """A single value; None if the key is missing."""
        value = self._values.get(key)
        if value is None and self.has(key):
            raise self.error(key, f"is an array, not {kind.__name__}")
        if value is not None and type(value) is not kind:
            raise self.error(key, f"is {value!r:.60}, not {kind.__name__}")
        if isinstance(value, str) and not is_text(value):
            raise self.error(key, "is not UTF-8")
        return value

    def array(self, name: str, kind: type, most: int = MAX_IDS) -> list[Any]:
        """The array `tokenizer.ggml.NAME`, whose items must all be of this kind."""
        key = _GGML + name
        if not self.has(key):
            raise self.error(key, "is missing")
        length = self._lengths[key]
        if length is None:
            raise self.error(key, "is not an array")
        if length > most:
            raise self.error(key, f"has {length} items; the limit is {most}")
        items = self._gguf.array(key)
        if set(map(type, items)) - {kind}:
            at = next(i for i, item in enumerate(items) if type(item) is not kind)
            raise self.error(key, f"[{at}] is {items[at]!r:.60}, not {kind.__name__}")
        if kind is str and not is_text("".join(items)):
            at = next(i for i, item in enumerate(items) if not is_text(item))
            raise self.error(key, f"[{at}] is not UTF-8: {items[at]!r:.60}")
        return items

    def matching(self, name: str, kind: type, n_tokens: int) -> list[Any]:
        """An array with one item per token."""
        items = self.array(name, kind)
        if len(items) != n_tokens:
            raise self.error(
                _GGML + name, f"has {len(items)} items, but {_GGML}tokens has {n_tokens}"
            )
        return items

    def named(self, n_tokens: int, defaults: dict[str, int] | None = None) -> dict[str, int]:
        """Name ("bos_token", ...) -> id of each special token."""
        ids = dict(defaults or {})
        for name, short in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            key = f"{_GGML}{short}_token_id"
            id = self.value(key, int)
            if id is None:
                continue
            if not 0 <= id < n_tokens:
                raise self.error(key, f"is {id}; there are {n_tokens} tokens, from 0 on")
            ids[f"{name}_token"] = id
        return ids


class _Vocabulary:
    """The tokens with their types, and the tokenizer built from them."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._byte_level = keys.value(_GGML + "model", str) == "gpt2"
        self._architecture = keys.value("general.architecture", str)
        self._pre = keys.value(_GGML + "pre", str)
        self.tokens: list[str] = keys.array("tokens", str)
        n_tokens = len(self.tokens)
        self._types = [_NORMAL] * n_tokens
        if keys.has(_GGML + "token_type"):
            self._types = keys.matching("token_type", int, n_tokens)
            if wrong := set(self._types) - set(range(7)):
                at = self._types.index(wrong.pop())
                raise keys.error(
                    _GGML + "token_type", f"[{at}] is {self._types[at]}; types go from 0 to 6"
                )
        defaults = {} if self._byte_level else self._usual_ids()
        self._named = keys.named(n_tokens, defaults)
        for name, id in self._named.items():
            if not self.tokens[id]:
                raise keys.error(_GGML + "tokens", f"[{id}] is empty, but it is the {name}")
            if self._types[id] == _UNUSED or name in ("bos_token", "eos_token"):
                self._types[id] = _CONTROL
        if not self._byte_level and self._architecture in _GEMMA:
            self._spell_spaces()
        self.vocab = self._ids()

    def _usual_ids(self) -> dict[str, int]:
        """SentencePiece's ids, for files that do not give them."""
        usual = (("unk_token", 0, _UNKNOWN), ("bos_token", 1, _CONTROL), ("eos_token", 2, _CONTROL))
        return {name: id for name, id, kind in usual if self._types[id : id + 1] == [kind]}

    def _spell_spaces(self) -> None:
        """The converter writes a piece of spaces as spaces, but normalised text never has it so."""
        for id, token in enumerate(self.tokens):
            if " " in token and not token.strip(" "):
                self.tokens[id] = "▁" * len(token)

    def _ids(self) -> dict[str, int]:
        """Token -> id, of the tokens that are used."""
        vocab: dict[str, int] = {}
        for id, (token, kind) in enumerate(zip(self.tokens, self._types, strict=True)):
            if kind != _UNUSED and token and vocab.setdefault(token, id) != id:
                raise self._keys.error(
                    _GGML + "tokens",
                    f"has {token!r:.60} twice, with the ids {vocab[token]} and {id}",
                )
        return vocab

    def contents(self) -> Contents:
        """The tokenizer, as from a tokenizer.json."""
        own = self._added()
        parts, pairs = self._bytes() if self._byte_level else self._pieces()
        names = {name: self.tokens[id] for name, id in self._named.items()}
        spec = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            **parts,
            "added_tokens": [{"id": id, **token._asdict()} for id, token in own.items()],
            "model": {**parts["model"], "vocab": self.vocab, "merges": pairs},
        }
        data = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()
        return Contents(spec, data, _declared(own, names, []), self._refusal())

    def _refusal(self) -> str:
        """Why no text can be encoded."""
        if self._byte_level and self._pre not in PRE_TOKENIZERS:
            fact = "is missing" if self._pre is None else f"is {self._pre!r:.60}, an unknown name"
            return f"{_GGML}pre, which says how a text is cut, {fact}, {_WAY_OUT}"
        key = _GGML + "remove_extra_whitespaces"
        if not self._byte_level and self._keys.value(key, bool):
            return f"{key} is true, which is not supported, {_WAY_OUT}"
        return ""

    def _added(self) -> dict[int, Token]:
        """The tokens that are matched in a text before it is split."""
        found = {
            id: Token(self.tokens[id], kind != _USER_DEFINED, normalized=False)
            for id, kind in enumerate(self._types)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) and self.tokens[id]
        }
        if not self._byte_level and self._architecture == "phi3":
            for id, token in found.items():
                found[id] = token._replace(rstrip=token.content not in _KEEPS_SPACE)
        return found

    def _processor(self, *, begins: bool) -> dict[str, Any] | None:
        """Adds BOS before and EOS after a text, if the file says so."""
        said = self._keys.value(_GGML + "add_bos_token", bool)
        first = self._named.get("bos_token") if (begins if said is None else said) else None
        ends = self._keys.value(_GGML + "add_eos_token", bool)
        last = self._named.get("eos_token") if ends else None
        if first is None and last is None:
            return None
        return around(self._token(first), self._token(last))

    def _token(self, id: int | None) -> tuple[str, int] | None:
        return None if id is None else (self.tokens[id], id)

    def _bytes(self) -> tuple[dict[str, Any], Sequence[Any]]:
        """The parts of a byte-level tokenizer, and its merges."""
        pre = PRE_TOKENIZERS.get(self._pre or "") or PRE_TOKENIZERS["gpt-2"]
        model = {"type": "BPE", "ignore_merges": pre.ignore_merges}
        parts = {
            "normalizer": pre.normalizer,
            "pre_tokenizer": pre.pre_tokenizer,
            "post_processor": self._processor(begins=pre.begins),
            "decoder": BYTE_LEVEL,
            "model": model,
        }
        return parts, self._file_merges()

    def _pieces(self) -> tuple[dict[str, Any], Sequence[Any]]:
        """The parts of SentencePiece's tokenizer, and its merges."""
        prefix = self._keys.value(_GGML + "add_space_prefix", bool)
        prefix = self._architecture not in _GEMMA if prefix is None else prefix
        unknown = self._named.get("unk_token")
        parts = sentencepiece(
            "first" if prefix else "never",
            unknown=None if unknown is None else self.tokens[unknown],
            strip=prefix,
        )
        if self._architecture == "phi3" and prefix:  # before every text between special tokens
            steps = [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]
            parts["normalizer"] = {"type": "Sequence", "normalizers": steps}
            parts["pre_tokenizer"] = None
        parts["model"]["byte_fallback"] = "<0x00>" in self.vocab
        parts["post_processor"] = self._processor(begins=True)
        if self._keys.has(_GGML + "merges"):
            return parts, self._file_merges()
        return parts, self._made_merges()

    def _file_merges(self) -> list[str]:
        """The merges of the file, "left right": two tokens that form a token."""
        found: list[str] = self._keys.array("merges", str, _MAX_MERGES)
        vocab = self.vocab
        for at, merge in enumerate(found):
            left, _, right = merge.partition(" ")
            known = left in vocab and right in vocab and left + right in vocab
            if not known or " " in right:
                raise self._keys.error(
                    _GGML + "merges",
                    f"[{at}] is {merge!r:.60}, which are not two tokens that make one",
                )
        return found

    def _made_merges(self) -> list[tuple[str, str]]:
        """The merges that the scores imply."""
        mergeable = (0, _NORMAL, _USER_DEFINED)
        scores: list[float] = self._keys.matching("scores", float, len(self.tokens))
        if not all(map(math.isfinite, scores)):
            at = next(i for i, score in enumerate(scores) if not math.isfinite(score))
            raise self._keys.error(_GGML + "scores", f"[{at}] is {scores[at]}")
        if self._architecture in _GEMMA:  # in the order of the ids, not of the scores
            scores = [-float(id) for id in range(len(scores))]
        pieces = {
            token: scores[id] for token, id in self.vocab.items() if self._types[id] in mergeable
        }
        if (n_chars := cost(pieces)) > MAX_COST:
            raise self._keys.error(
                _GGML + "tokens",
                f"are too long to find their merges: the squares of the lengths sum to {n_chars},"
                f" the limit is {MAX_COST}",
            )
        return merges(pieces)
