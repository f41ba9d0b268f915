"""Whether a tokenizer.json from anywhere may be used in the caller's process.

It is harmless if all its parts are listed here: they were read and found to take time and memory in
proportion to the text, and never to panic in the `tokenizers` library, which prints a panic before
it can be caught. Unknown parts, regular expressions and templates are not harmless.
"""

from collections.abc import Iterable
from typing import Any

_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CUT = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
# Words that end where lower case is followed by upper case.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = "|".join(
    rf"[^\r\n\p{{L}}\p{{N}}]?{word}%s" for word in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
)
CASED += rf"|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"

# Expressions that cut one after the other.
DEEPSEEK_V3 = (  # also R1
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
DEEPSEEK_CODER = (
    "[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
)

# Regular expressions that take time in proportion to the text: each alternative is a run of
# characters of one class behind at most one other character, so a failed one is scanned once more.
_REGEX = {
    CUT % r"\p{N}{1,3}",  # Llama 3; cl100k: Phi 4, OLMo 2 and 3, Granite 4
    CUT % r"\p{N}",  # Qwen 2 to 3
    CUT % r"\p{N}+",  # MiniCPM
    rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"  # Qwen 3.5
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",
    CASED % ("", "", r"\p{N}"),  # tekken: Mistral Nemo, Ministral
    CASED % (f"{CONTRACTION}?", f"{CONTRACTION}?", r"\p{N}{1,3}"),  # o200k: Phi 4-mini
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"\A▁",
    *DEEPSEEK_V3,
    *DEEPSEEK_CODER,
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
_MAX_PIECE = 64  # characters; a Unigram model looks for each of its pieces at each character
_MAX_ADDED = 1 << 14  # tokens; the library takes 20 us for each before a text can be encoded
_MAX_ADDED_CHARS = 1 << 20


def is_harmless(spec: dict[str, Any], added: Iterable[dict[str, Any]]) -> bool:
    """True if loading `spec` and encoding with it take time and memory in proportion to file and
    text: BPE or Unigram, only known parts, no text that grows much, not too many added tokens.
    """
    if not _is_harmless_model(spec["model"]):
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


def _is_harmless_model(model: dict[str, Any]) -> bool:
    if model.get("type") == "Unigram":
        pieces = model["vocab"] if isinstance(model["vocab"], list) else [("",)]
        return all(0 < len(piece[0]) <= _MAX_PIECE for piece in pieces)
    repeated = ("end_of_word_suffix", "unk_token")
    if model.get("type", "BPE") != "BPE" or any(len(str(model.get(r))) > 64 for r in repeated):
        return False
    return not model.get("continuing_subword_prefix")  # longer than a token that it joins: a panic


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
