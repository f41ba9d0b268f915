"""The vocabulary of tokenizer.json, checked: the tokens by id, and their spelling.

No id occurs twice; some below the highest may be unused. The `tokenizers` library numbers added
tokens itself, from the number of tokens on: an added token whose id in the file is another one, or
whose number belongs to another token, is refused.

A token is spelled in bytes. Byte-level vocabularies write each byte as one printable character
(GPT-2's table), SentencePiece's write a space as U+2581, also in added tokens, and a single byte as
<0x0A>; else added tokens are spelled as their text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from ..messages import shown_path
from .declarations import MAX_IDS, Declarations, Token
from .trust import nodes

_LONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_MAX_TOKEN = 1 << 14  # characters of an added token, which is compared at each position of a text


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of one tokenizer.json."""

    names: list[str | None]
    """By id, as in the file; None for an unused id."""
    added: list[dict[str, Any]]
    """The added tokens: content, id, special and the library's other flags."""
    changes: list[dict[str, Any]]
    """Tokens to add to the file's own added tokens, or to change in them, in order."""
    added_ids: frozenset[int]
    special_ids: frozenset[int]
    byte_level: bool
    metaspace: bool
    byte_fallback: bool

    @classmethod
    def of(cls, spec: dict[str, Any], path: Path, declared: Declarations) -> "Vocabulary":
        """From tokenizer.json as parsed, `declared.parts` in it. TokenizerError names `path`."""
        own = {token.content: id for id, token in declared.own.items()}
        numbering = _Numbering(_model_ids(spec, path), own, path)
        if declared.parts is None:
            numbering.add(declared.own.values())
        changes = numbering.add(declared.tokens)
        names, added = numbering.names, numbering.added
        if not names:
            raise TokenizerError(f"{shown_path(path)}: the vocabulary is empty")
        parts = [spec.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
        types = [node.get("type") for part in parts for node in nodes(part)]
        return cls(
            [names.get(id) for id in range(max(names) + 1)],
            [{"id": id, **token._asdict()} for id, token in added.items()],
            [token._asdict() for token in changes],
            frozenset(added),
            frozenset(id for id, token in added.items() if token.special),
            byte_level="ByteLevel" in types,
            metaspace="▁" in str(parts),
            byte_fallback=spec["model"].get("byte_fallback") is True,
        )

    @property
    def special(self) -> list[str]:
        """The special tokens."""
        return [token["content"] for token in self.added if token["special"]]

    def id_of(self, added: str) -> int:
        """The id of an added token. KeyError."""
        for token in self.added:
            if token["content"] == added:
                return token["id"]
        raise KeyError(added)

    def spelling(self, id: int) -> bytes:
        """The bytes of the token's text; empty for an unused id."""
        name = self.names[id] if id < len(self.names) else None
        if name is None:
            return b""
        if id not in self.added_ids:
            if self.byte_level:
                return b"".join(_BYTES.get(c) or c.encode() for c in name)
            if self.byte_fallback and (byte := _LONE_BYTE.fullmatch(name)):
                return bytes.fromhex(byte[1])
        return (name.replace("▁", " ") if self.metaspace else name).encode()


def _model_ids(spec: dict[str, Any], path: Path) -> list[tuple[str, int]]:
    """(name, id) of the model's own vocabulary."""
    model = spec.get("model")
    if not isinstance(model, dict):
        raise TokenizerError(f"{shown_path(path)}: it has no model")
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        return list(vocab.items())
    if isinstance(vocab, list) and all(
        isinstance(t, list) and t and isinstance(t[0], str) for t in vocab
    ):
        return [(token[0], id) for id, token in enumerate(vocab)]
    raise TokenizerError(
        f"{shown_path(path)}:"
        f" the model of type {model.get('type')!r:.80} has no vocabulary of a known form"
    )


class _Numbering:
    """Assigns ids as the `tokenizers` library does."""

    def __init__(self, vocab: list[tuple[str, int]], own: dict[str, int], path: Path) -> None:
        self.names: dict[int, str] = {}
        self.added: dict[int, Token] = {}
        self._own, self._path, self._n = own, path, len(vocab)
        for name, id in vocab:
            if type(id) is not int or not 0 <= id < MAX_IDS:
                raise TokenizerError(
                    f"{shown_path(path)}:"
                    f" token {name!r:.80} has id {id!r:.40}; ids go from 0 to {MAX_IDS - 1}"
                )
            if id in self.names:
                raise TokenizerError(
                    f"{shown_path(path)}:"
                    f" id {id} belongs to both {self.names[id]!r:.80} and {name!r:.80}"
                )
            self.names[id] = name
        self._ids = dict(vocab)

    def add(self, tokens: Iterable[Token]) -> list[Token]:
        """Add tokens in one call; returns those that change something."""
        next_id = max(self._n, *(id + 1 for id in self.added)) if self.added else self._n
        changes = []
        for token in tokens:
            name = token.content
            if not name:
                continue  # as in the library
            if len(name) > _MAX_TOKEN:
                raise TokenizerError(
                    f"{shown_path(self._path)}:"
                    f" an added token of {len(name)} characters; the limit is"
                    f" {_MAX_TOKEN}"
                )
            id = self._ids.get(name, next_id)
            if fault := _fault(name, id, self._own.get(name, id), self.names):
                raise TokenizerError(f"{shown_path(self._path)}: {fault}")
            next_id += name not in self._ids
            before = self.added.get(id)
            after = token.final(before is not None and before.special)
            if after != before:
                changes.append(after)
            self._ids[name], self.names[id], self.added[id] = id, name, after
        return changes


def _fault(name: str, id: int, own: int, names: dict[int, str]) -> str | None:
    """Why an added token cannot get `id`, where the file has `own`."""
    shown = f"{name!r:.80}"
    if id != own:
        if names.get(id) == name:
            return f"the added token {shown} has id {own}, in the vocabulary {id}"
        if own in names:
            return f"id {own} belongs to both {names[own]!r:.80} and {shown}"
        return f"the added token {shown} has id {own} but would get {id}{_gap(names)}"
    if names.get(id, name) != name:
        taken = f"{id}, which belongs to {names[id]!r:.80}"
        return f"the added token {shown} would get id {taken}{_gap(names)}"
    return f"token {shown} gets id {id}; ids go to {MAX_IDS - 1}" if id >= MAX_IDS else None


def _gap(names: dict[int, str]) -> str:
    gap = next(id for id in range(len(names) + 1) if id not in names)
    return f", as no token has id {gap}"


def _byte_table() -> dict[str, bytes]:
    """GPT-2's spelling of bytes: printable Latin-1 as itself, the others from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): bytes([b]) for b in shown} | {
        chr(256 + i): bytes([b]) for i, b in enumerate(hidden)
    }


_BYTES = _byte_table()
