"""What tokenizer.json says, checked: the tokens by id, how each is spelled, and if its parts are
harmless.

The ids of all tokens, added ones included, must be 0 .. n - 1, each once: the `tokenizers`
library takes gaps, doubles and wrong ids in silence and then gives other ids than the file says.

A token's spelling is bytes. Byte-level vocabularies write each byte as one printable character
(GPT-2's table), SentencePiece's write a space as U+2581 and a lone byte as <0x0A>; added tokens
stand for themselves.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import TokenizerError

MAX_IDS = 1 << 21

# Regular expressions that were read and found to take time in proportion to the text.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_HARMLESS_REGEX = {
    _CUT % r"\p{N}{1,3}",  # Llama 3
    _CUT % r"\p{N}",  # Qwen 2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"\A▁",
}
_HARMLESS_PARTS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt", "BertNormalizer"),
    *(
        "ByteLevel",
        "Metaspace",
        "Whitespace",
        "WhitespaceSplit",
        "Digits",
        "Punctuation",
        "BertPreTokenizer",
    ),
    *("UnicodeScripts", "Sequence", "Prepend", "Replace", "Split"),
}
_MAX_GROWTH = 16
_LONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of one tokenizer.json."""

    names: list[str]
    """By id, as the file writes them."""
    added: list[dict[str, Any]]
    """The added tokens: content, id, special and the library's other flags."""
    added_ids: frozenset[int]
    byte_level: bool
    metaspace: bool
    byte_fallback: bool

    @classmethod
    def of(cls, spec: dict[str, Any], path: Path) -> "Vocabulary":
        """From tokenizer.json as parsed. TokenizerError names `path`."""
        added = _added(spec, path)
        names = _by_id(_model_ids(spec, path), added, path)
        parts = [spec.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
        types = [node.get("type") for part in parts for node in _nodes(part)]
        return cls(
            names,
            added,
            frozenset(token["id"] for token in added),
            byte_level="ByteLevel" in types,
            metaspace="▁" in str(parts),
            byte_fallback=spec["model"].get("byte_fallback") is True,
        )

    @property
    def special(self) -> list[str]:
        """The special tokens, longest first, so that the longest wins where several match."""
        return sorted((t["content"] for t in self.added if t["special"]), key=len, reverse=True)

    def spelling(self, id: int) -> bytes:
        """The bytes of text that the token stands for; empty for an id beyond the vocabulary."""
        if id >= len(self.names):
            return b""
        name = self.names[id]
        if id in self.added_ids:
            return name.encode()
        if self.byte_level:
            return b"".join(_BYTES.get(c) or c.encode() for c in name)
        if self.byte_fallback and (byte := _LONE_BYTE.fullmatch(name)):
            return bytes.fromhex(byte[1])
        return (name.replace("▁", " ") if self.metaspace else name).encode()


def is_harmless(spec: dict[str, Any], *, parts: bool = True) -> bool:
    """True if encoding takes time and memory in proportion to the text, whoever wrote the file.

    BPE, no part that is unknown here, no regular expression that is unknown here, no text that
    grows much. `parts=False`: normaliser and pre-tokeniser are not used, so they are not looked
    at.
    """
    model = spec["model"]
    repeated = ("continuing_subword_prefix", "end_of_word_suffix", "unk_token")
    if model.get("type", "BPE") != "BPE" or any(len(str(model.get(r))) > 64 for r in repeated):
        return False
    if not _is_harmless_template(spec.get("post_processor")):
        return False
    growth = 1
    for key in ("normalizer", "pre_tokenizer") if parts else ():
        for node in _nodes(spec.get(key)):
            if node.keys() <= {"String", "Regex"}:
                continue  # a pattern, looked at together with the part that has it
            if str(node.get("type")) not in _HARMLESS_PARTS:
                return False
            if not _is_harmless_pattern(node.get("pattern")):
                return False
            growth *= max(1, *(len(str(node.get(text) or "")) for text in ("content", "prepend")))
    return growth <= _MAX_GROWTH


def _is_harmless_template(part: object) -> bool:
    """No TemplateProcessing that names a special token which it does not define: a panic."""
    defined: set[str] = set()
    named: list[object] = []
    for node in _nodes(part):
        tokens = node.get("special_tokens")
        defined.update(tokens if isinstance(tokens, dict) else ())
        if "SpecialToken" in node:
            named.append(node["SpecialToken"])
    return all(isinstance(token, dict) and str(token.get("id")) in defined for token in named)


def _is_harmless_pattern(pattern: object) -> bool:
    if pattern is None:
        return True
    if not isinstance(pattern, dict) or len(pattern) != 1:
        return False
    return bool(pattern.get("String")) or str(pattern.get("Regex")) in _HARMLESS_REGEX


def _nodes(part: object) -> list[dict[str, Any]]:
    """All JSON objects in `part`; without recursion, as the file decides the depth."""
    found, rest = [], [part]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            found.append(value)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)
    return found


def _model_ids(spec: dict[str, Any], path: Path) -> list[tuple[str, int]]:
    """(name, id) of the model's own vocabulary."""
    model = spec.get("model")
    if not isinstance(model, dict):
        raise TokenizerError(f"{path}: it has no model")
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        return list(vocab.items())
    if isinstance(vocab, list) and all(
        isinstance(t, list) and t and isinstance(t[0], str) for t in vocab
    ):
        return [(token[0], id) for id, token in enumerate(vocab)]
    raise TokenizerError(
        f"{path}: the model of type {model.get('type')!r:.80} has no vocabulary that is known here"
    )


def _added(spec: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
    tokens = spec.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise TokenizerError(f"{path}: added_tokens is no list")
    added = []
    for token in tokens:
        if (
            not isinstance(token, dict)
            or not isinstance(token.get("content"), str)
            or not token["content"]
        ):
            raise TokenizerError(f"{path}: an added token without content: {token!r:.120}")
        added.append(
            {
                "content": token["content"],
                "id": token.get("id"),
                **{f: token.get(f) is True for f in flags},
            }
        )
    return added


def _by_id(vocab: list[tuple[str, int]], added: list[dict[str, Any]], path: Path) -> list[str]:
    """The names by id, after the proof that each id from 0 up is there once."""
    ids = dict(vocab)
    if len(ids) != len(vocab):
        ids = {f"{id}": id for _, id in vocab}  # a Unigram list may spell two tokens alike
    seen = set()
    pairs = list(vocab)
    for token in added:
        name, id = token["content"], token["id"]
        if name in seen:
            raise TokenizerError(f"{path}: the added token {name!r:.80} occurs twice")
        seen.add(name)
        if name not in ids:
            pairs.append((name, id))
        elif ids[name] != id:
            raise TokenizerError(
                f"{path}: the added token {name!r:.80} has id {id}, in the vocabulary {ids[name]}"
            )
    names: dict[int, str] = {}
    for name, id in pairs:
        if type(id) is not int or not 0 <= id < MAX_IDS:
            raise TokenizerError(
                f"{path}: token {name!r:.80} has id {id!r:.40}; ids go from 0 to {MAX_IDS - 1}"
            )
        if id in names:
            raise TokenizerError(
                f"{path}: id {id} belongs to both {names[id]!r:.80} and {name!r:.80}"
            )
        names[id] = name
    if names and max(names) != len(names) - 1:
        gap = next(id for id in range(len(names)) if id not in names)
        raise TokenizerError(f"{path}: no token has id {gap}, although ids go up to {max(names)}")
    if not names:
        raise TokenizerError(f"{path}: the vocabulary is empty")
    return [names[id] for id in range(len(names))]


def _byte_table() -> dict[str, bytes]:
    """GPT-2's spelling of bytes: the printable Latin-1 ones as themselves, the others from U+0100
    on.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): bytes([b]) for b in shown} | {
        chr(256 + i): bytes([b]) for i, b in enumerate(hidden)
    }


_BYTES = _byte_table()
