"""Whether a tokenizer.json from anywhere may be used in the caller's process.

It is harmless if all its parts are listed here: they were read and found to take time and memory in
proportion to the text, and never to panic in the `tokenizers` library, which prints a panic before
it can be caught. Unknown parts, regular expressions and templates are not harmless.
"""

from collections.abc import Iterable
from typing import Any

# Regular expressions that take time in proportion to the text.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_REGEX = {
    _CUT % r"\p{N}{1,3}",  # Llama 3
    _CUT % r"\p{N}",  # Qwen 2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"\A▁",
}
_PARTS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt", "BertNormalizer"),
    *("ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation"),
    *("BertPreTokenizer", "UnicodeScripts", "Sequence", "Prepend", "Replace", "Split"),
}
_PROCESSORS = {
    *("TemplateProcessing", "ByteLevel", "RobertaProcessing", "BertProcessing", "Sequence")
}
_DECODERS = {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip", "Sequence"}
_MAX_GROWTH = 16
_MAX_ADDED = 1 << 14  # tokens; the library takes 20 us for each before a text can be encoded
_MAX_ADDED_CHARS = 1 << 20


def is_harmless(spec: dict[str, Any], added: Iterable[dict[str, Any]]) -> bool:
    """True if loading `spec` and encoding with it take time and memory in proportion to file and
    text: BPE, only known parts, no text that grows much, not too many added tokens.
    """
    model = spec["model"]
    repeated = ("end_of_word_suffix", "unk_token")
    if model.get("type", "BPE") != "BPE" or any(len(str(model.get(r))) > 64 for r in repeated):
        return False
    if model.get("continuing_subword_prefix"):  # longer than a token that it joins: a panic
        return False
    lengths = [len(token["content"]) for token in added]
    if len(lengths) > _MAX_ADDED or sum(lengths) > _MAX_ADDED_CHARS:
        return False
    return _is_harmless_processor(spec.get("post_processor")) and _are_known(
        spec, ("normalizer", "pre_tokenizer"), _PARTS
    )


def decodes_harmlessly(spec: dict[str, Any]) -> bool:
    """True if the decoder of `spec` takes time and memory in proportion to the tokens' text."""
    strips = [node for node in nodes(spec.get("decoder")) if node.get("type") == "Strip"]
    if any(node.get("stop") != 0 for node in strips):  # a token shorter than that: a panic
        return False
    return _are_known(spec, ("decoder",), _DECODERS)


def nodes(part: object) -> list[dict[str, Any]]:
    """All JSON objects in `part`; without recursion, because the file decides the depth."""
    found, rest = [], [part]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            found.append(value)
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)
    return found


def _are_known(spec: dict[str, Any], keys: tuple[str, ...], types: set[str]) -> bool:
    growth = 1
    for key in keys:
        for node in nodes(spec.get(key)):
            if node.keys() <= {"String", "Regex"}:
                continue  # a pattern, checked together with its part
            if str(node.get("type")) not in types or not _is_harmless_pattern(node.get("pattern")):
                return False
            growth *= max(1, *(len(str(node.get(text) or "")) for text in ("content", "prepend")))
    return growth <= _MAX_GROWTH


def _is_harmless_pattern(pattern: object) -> bool:
    if pattern is None:
        return True
    if not isinstance(pattern, dict) or len(pattern) != 1:
        return False
    return bool(pattern.get("String")) or str(pattern.get("Regex")) in _REGEX


def _is_harmless_processor(part: object) -> bool:
    """Only known parts, and no TemplateProcessing that panics: one with an undefined special token,
    or with a second text for a single one.
    """
    for node in nodes(part):
        if "type" in node and str(node["type"]) not in _PROCESSORS:
            return False
        if node.get("type") == "TemplateProcessing":
            tokens = node.get("special_tokens")
            names = set(tokens if isinstance(tokens, dict) else ())
            if not _has_pieces(node.get("single"), names, ("A",)):
                return False
            if not _has_pieces(node.get("pair"), names, ("A", "B")):
                return False
    return True


def _has_pieces(pieces: object, tokens: set[str], texts: tuple[str, ...]) -> bool:
    """Whether `pieces` is a list of these tokens and texts only."""
    if not isinstance(pieces, list):
        return False
    for piece in pieces:
        if not isinstance(piece, dict) or len(piece) != 1:
            return False
        kind, value = next(iter(piece.items()))
        known = {"SpecialToken": tokens, "Sequence": texts}.get(kind, ())
        if not isinstance(value, dict) or str(value.get("id")) not in known:
            return False
    return True
