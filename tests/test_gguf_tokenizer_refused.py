"""Metadata of tokenizers that breaks the rules, and vocabularies of which only ids can be read."""

import random
from pathlib import Path
from typing import Any

import pytest
from gguf_tokenizers import Metadata, converted, opened

from llamaprobe import FormatError, Tokenizer, TokenizerError
from llamaprobe.gguf.tokenizer import GgufTokenizerFiles, tokenizer_of

_BYTES = converted("granite")
_PIECES = converted("mistral 0.3")
_N = len(_BYTES["tokenizer.ggml.tokens"])


def changed(metadata: dict[str, Any], key: str, change: Any) -> dict[str, Any]:
    """With another value of this key; a function makes it of the one that is there."""
    key = key if "." in key else f"tokenizer.ggml.{key}"
    value = change(metadata.get(key)) if callable(change) else change
    return metadata | {key: value}


def put(at: int, value: Any):
    return lambda items: [*items[:at], value, *items[at + 1 :]]


@pytest.mark.parametrize(
    ("metadata", "key", "change", "message"),
    [
        (_BYTES, "tokens", put(7, _BYTES["tokenizer.ggml.tokens"][3]), r"tokens has '.*' twice, with the ids 3 and 7"),
        (_BYTES, "tokens", put(7, "\udcff"), r"tokens \[7\] is not UTF-8: '\\udcff'"),
        (_BYTES, "tokens", put(7, 5), r"tokens \[7\] is 5, not str"),
        (_BYTES, "tokens", "ab", "tokens is not an array"),
        (_BYTES, "tokens", lambda t: t[:-1], f"token_type has {_N} items, but .*tokens has {_N - 1}"),
        (_BYTES, "token_type", lambda t: [*t, 1], f"token_type has {_N + 1} items, but .*tokens has {_N}"),
        (_BYTES, "token_type", put(2, 9), r"token_type \[2\] is 9; types go from 0 to 6"),
        (_BYTES, "token_type", put(2, True), r"token_type \[2\] is True, not int"),
        (_BYTES, "merges", put(0, "a"), r"merges \[0\] is 'a', which are not two tokens that make one"),
        (_BYTES, "merges", put(0, "a no such token"), r"merges \[0\] is 'a no such token', which are"),
        (_BYTES, "merges", put(1, "Z Z"), r"merges \[1\] is 'Z Z', which are not two tokens"),
        (_BYTES, "merges", lambda m: m * (1 + (1 << 22) // len(m)), r"merges has \d+ items; the limit is 4194304"),
        (_BYTES, "bos_token_id", _N, f"bos_token_id is {_N}; there are {_N} tokens"),
        (_BYTES, "eos_token_id", -1, f"eos_token_id is -1; there are {_N} tokens"),
        (_BYTES, "padding_token_id", 1 << 40, "padding_token_id is 1099511627776; there are"),
        (_BYTES, "unknown_token_id", 2.0, "unknown_token_id is 2.0, not int"),
        (_BYTES, "add_bos_token", 1, "add_bos_token is 1, not bool"),
        (_BYTES, "pre", [0] * 99, "pre is an array, not str"),
        (_BYTES, "pre", "\udc80", "pre is not UTF-8"),
        (_PIECES, "scores", lambda s: s[:-1], r"scores has \d+ items, but tokenizer.ggml.tokens has"),
        (_PIECES, "scores", put(300, float("nan")), r"scores \[300\] is nan"),
        (_PIECES, "scores", put(300, 1), r"scores \[300\] is 1, not float"),
        (_PIECES, "tokens", put(300, "x" * 40_000), "tokens are too long to find their merges: .* 16000.*, the limit is"),
        (_PIECES, "tokens", put(2, ""), r"tokens \[2\] is empty, but it is the eos_token"),
    ],
)  # fmt: skip
def test_bad_metadata_is_refused_by_file_and_key(metadata, key, change, message):
    with pytest.raises(FormatError, match=f"^/nowhere/m.gguf: tokenizer.ggml.{message}"):
        opened(changed(metadata, key, change))


_VALUES = (
    *(0, 1, 2, -1, 1 << 63, 0.5, float("inf"), True, False, "", "a", "default", "gpt2", "llama"),
    *("\udc80", "phi3", "gemma3", "tekken", [], [""], ["a", "a"], ["<s>"] * 3, [1.0, 2.0], [3, 4]),
)


@pytest.mark.parametrize("seed", range(40))
def test_random_changes_are_refused_or_work(seed):
    r = random.Random(seed)
    for metadata in (_BYTES, _PIECES):
        values = dict(metadata)
        for key in r.sample(list(values), r.randint(1, 3)):
            value, other = values[key], r.choice(_VALUES)
            if isinstance(value, list) and r.random() < 0.8:
                at, other = r.randrange(len(value)), r.choice([other, r.choice(value)])
                value = r.choice([value[:at], [*value, other], put(at, other)(value)])
            else:
                value = other
            values[key] = value
        try:
            tokenizer = opened(values)
            ids = tokenizer.encode("The cat's <s>kitten</s> 12")
        except (FormatError, TokenizerError) as error:
            assert str(error).startswith("/nowhere/m.gguf: ")
        else:
            assert "kitten" in tokenizer.decode(ids)


def test_missing_arrays():
    for metadata, key in ((_BYTES, "merges"), (_PIECES, "scores")):
        short = {k: v for k, v in metadata.items() if k != f"tokenizer.ggml.{key}"}
        with pytest.raises(FormatError, match=f"tokenizer.ggml.{key} is missing"):
            opened(short)


def test_a_huge_vocabulary_is_refused_before_it_is_read():
    class Huge(Metadata):
        def keys(self):
            return [(k, t, 1 << 40 if k.endswith("tokens") else n) for k, t, n in super().keys()]

        def array(self, key):
            raise AssertionError("read")

    with pytest.raises(FormatError, match="tokens has 1099511627776 items; the limit is 2097152"):
        tokenizer_of(Path("m.gguf"), Huge(_BYTES))


@pytest.mark.parametrize("pre", ["nobody-knows", "default", None])
def test_an_unknown_name_has_no_text_prompts_but_tokens_have_text(pre):
    metadata = changed(_BYTES, "pre", pre)
    metadata["tokenizer.chat_template"] = "{{ messages[0].content }}"
    known = opened(_BYTES)
    if pre is None:
        del metadata["tokenizer.ggml.pre"]
    tokenizer = opened(metadata)
    ids = known.encode("The cat's kitten")
    assert tokenizer.decode(ids) == "The cat's kitten"
    assert tokenizer.pieces(ids) == known.pieces(ids)
    fact = "is missing" if pre is None else f"is '{pre}', an unknown name"
    for ask in (
        lambda: tokenizer.encode("a"),
        lambda: tokenizer.chat([{"role": "u", "content": "a"}]),
    ):
        with pytest.raises(
            TokenizerError, match=f"m.gguf: tokenizer.ggml.pre, .*{fact}, so .*beside"
        ):
            ask()


def test_whitespace_that_would_be_removed():
    tokenizer = opened(_PIECES | {"tokenizer.ggml.remove_extra_whitespaces": True})
    assert tokenizer.pieces([1]) == ["<s>"]
    with pytest.raises(TokenizerError, match="remove_extra_whitespaces is true, which is not supp"):
        tokenizer.encode("a")


@pytest.mark.parametrize(
    ("metadata", "fact"),
    [
        ({}, "has no tokenizer.ggml.model and tokens"),
        ({"tokenizer.ggml.model": "no_vocab"}, "has no tokenizer.ggml.model and tokens"),
        (_PIECES | {"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model is 't5'"),
    ],
)
def test_no_vocabulary_that_can_be_read(metadata, fact):
    files = GgufTokenizerFiles("/nowhere/m.gguf", Metadata(metadata))
    assert not files.has_tokenizer
    with pytest.raises(
        TokenizerError, match=f"^/nowhere/m.gguf: {fact}, so no text and no chat; tok"
    ):
        Tokenizer(files)
