"""Bad inputs 66, 68 and 69: tokenizer.json, and prompts of token ids."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
from small_tokenizer import byte_level, write_folder

import llamaprobe as lp
from bad_inputs import BadInput, Refusal
from llamaprobe import ArgumentError, TokenizerError
from llamaprobe.prompts.tokenizer import Tokenizer

FILE = "tokenizer.json"

# ---- 66: tokenizer.json ----


def change(*keys_and_value: Any) -> Callable[[dict], None]:
    """change("model", "vocab", None): what sets the last key of a path to the last value."""
    *keys, last, value = keys_and_value

    def apply(spec: Any) -> None:
        for key in keys:
            spec = spec[key]
        spec[last] = value

    return apply


def duplicate_added(spec: dict) -> None:
    spec["added_tokens"].append(dict(spec["added_tokens"][0], id=265))


BROKEN = {
    "no model": (change("model", None), "no model"),
    "model type": (change("model", "type", "Telepathy"), "tokenizer failed: .*data did not match"),
    "no vocabulary": (change("model", "vocab", None), "no vocabulary"),
    "empty vocabulary": (change("model", "vocab", {}), "vocabulary is empty|no token has id 0"),
    "merge of 3": (change("model", "merges", ["a b", "Ġ ab", "t h", "t h e"]), "invalid at line"),
    "merge list of 3": (change("model", "merges", [["t", "h", "e"]]), "tokenizer failed"),
    "merge of unknown": (change("model", "merges", ["a ~~"]), "out of vocabulary"),
    "negative id": (
        change("model", "vocab", "a", -1),
        "token 'a' has id -1; ids go from 0 to 2097151",
    ),
    "id 2^40": (change("model", "vocab", "a", 2**40), "has id 1099511627776"),
    "id 2^31": (change("model", "vocab", "a", 2**31), "has id 2147483648"),
    "id is text": (change("model", "vocab", "a", "97"), "has id '97'"),
    "id is a float": (change("model", "vocab", "a", 97.0), r"has id 97\.0"),
    "id is true": (change("model", "vocab", "\u0101", True), "has id True"),
    "duplicate id": (change("model", "vocab", "a", 98), "id 98 belongs to both 'a' and 'b'"),
    "gap": (
        lambda s: s["model"]["vocab"].pop("a"),
        r"'<\|bos\|>' has id 260 but would get 259, as no token has id 97",
    ),
    "added negative": (change("added_tokens", 0, "id", -1), "has id -1"),
    "added 2^40": (change("added_tokens", 0, "id", 2**40), "has id 1099511627776"),
    "added duplicate id": (change("added_tokens", 1, "id", 260), "id 260 belongs to both"),
    "added id of another": (change("added_tokens", 1, "id", 97), "id 97 belongs to both 'a' and"),
    "added gap": (change("added_tokens", 4, "id", 400), "no token has id 264"),
    "added no id": (change("added_tokens", 4, "id", None), "has id None"),
    "added no content": (change("added_tokens", 4, "content", ""), "added token without content"),
    "added twice": (duplicate_added, "'<|bos|>' occurs twice"),
    "added contradicts": (
        change("added_tokens", 4, "content", "the"),
        "has id 264, in the vocabulary 259",
    ),
    "added not in order": (lambda s: s["added_tokens"].reverse(), "has id 26[0-4] but would get"),
    "added not a list": (change("added_tokens", {}), "added_tokens is no list|tokenizer failed"),
    "added not a dict": (change("added_tokens", 2, "x"), "added token without content"),
    "bad regex": (
        change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", "(((a"),
        "unmatched parenthesis",
    ),
    "unknown part": (
        change("pre_tokenizer", "pretokenizers", 0, "type", "Guess"),
        "tokenizer failed",
    ),
    "8 GB at load": (
        change("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////wAA"}),
        "died of SIGABRT; it may use 4096 MiB",
    ),
    "panic at use": (change("post_processor", "special_tokens", {}), "no entry found for key"),
    "post-processor id": (
        change("post_processor", "special_tokens", "<|bos|>", "ids", [4000000000]),
        "gives ids from 4000000000 to 4000000000, but has only 265",
    ),
}


def with_change(breaking: Callable[[dict], object]) -> Callable[[Path], Path]:
    def make(box: Path) -> Path:
        spec = byte_level()
        breaking(spec)
        return write_folder(box, spec)

    return make


def with_bytes(data: bytes) -> Callable[[Path], Path]:
    return lambda box: (box / FILE).write_bytes(data) and box or box


CASES = [
    BadInput("66", name, with_change(breaking), Tokenizer.open, Refusal(TokenizerError, fact, FILE))
    for name, (breaking, fact) in BROKEN.items()
]
NO_JSON = [
    (b"", "not valid JSON: Expecting value"),
    (b"\xef\xbb\xbf{}", "starts with a byte order mark; save it as plain UTF-8"),
    (b"[]", "must be a JSON object"),
    (b"[" * 1_000_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (b'{"model":{"vocab":{"a":0,"a":1}}}', 'duplicate key "a"'),
    (b'{"x":' + b"9" * 5000 + b"}", "digits"),
    (b"\xff\xfe{\x00}\x00", "not UTF-8"),
]
CASES += [
    BadInput("66", f"no JSON: {ascii(data[:12])[2:-1]}", with_bytes(data), Tokenizer.open,
             Refusal(TokenizerError, fact, FILE))
    for data, fact in NO_JSON
]
CASES.append(BadInput("66", "64 MB of spaces", lambda box: with_bytes(b" " * (64 << 20) + b"{}")(box),
                      Tokenizer.open, Refusal(TokenizerError, "over 67108864 bytes", FILE)))

# ---- 68 and 69: token ids ----

BAD_PROMPTS: list[tuple[Any, str]] = [
    ([], "empty"),
    ((), "empty"),
    ("", "empty"),
    (np.array([]), "empty"),
    (np.array([], int), "empty"),
    ([1.0, 2.0], "item 0 of the prompt is 1.0"),
    ([1, 2.5], "item 1 of the prompt is 2.5"),
    ([1, "a"], "item 1 of the prompt is 'a'"),
    ([1, True], "item 1 of the prompt is True"),
    ([1, None], "item 1 of the prompt is None"),
    ([1, [2]], "item 1 of the prompt is"),
    ([1, np.array([2, 3])], "item 1 of the prompt is"),
    (np.array([1.0]), "integers, not float64"),
    (np.array([True]), "integers, not bool"),
    (np.array([["a"]]), "item 0 of the prompt is 'a'"),
    (np.array([[1, 2]]), r"shape \[1, 2\]"),
    (np.array(3), r"shape \[\]"),
    ([1, -1], "token id -1 at position 1 is outside the vocabulary, 0 to 96"),
    ([97], "token id 97 at position 0"),
    (np.array([1, 2**32 + 1]), "token id 4294967297 at position 1"),
    (np.array([2**64 - 1], np.uint64), "token id 18446744073709551615 at position 0"),
    ([10**30], "outside the vocabulary"),
    ([[1, 2], [3, 97]], "token id 97 at position 1"),
    ([[1], []], "empty"),
    ([[[1]]], "item 0 of the prompt is"),
    ([0] * 257, "257 tokens, over the 256 positions"),
    (b"bytes", "is not a bytes; decode"),
    (7, "not int"),
    (None, "not NoneType"),
    ({"role": "user"}, "a list of messages, not one dict"),
    ({1, 2}, "is not a set; .* put ids in order"),
]


def model(box: Path) -> Path:
    config = models.make_config()
    return models.write_checkpoint(box, config, models.make_weights(config))


def run(prompt: Any) -> Callable[[Path], list[float]]:
    return lambda folder: lp.load(folder).run(prompt)["x"].ravel().tolist()


CASES += [
    BadInput("69" if "256 positions" in fact else "68", f"prompt {ascii(prompt)[:40]}", model,
             run(prompt), Refusal(ArgumentError, fact))
    for prompt, fact in BAD_PROMPTS
]
