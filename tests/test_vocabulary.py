"""tokenizer.json of strangers: each fault is one TokenizerError; nothing hangs or eats memory."""

import functools
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import byte_level, sentencepiece, write_folder

from llamaprobe import TokenizerError, _child
from llamaprobe import tokenizer as module
from llamaprobe.tokenizer import Tokenizer


@pytest.mark.parametrize("spec", [byte_level(), sentencepiece()])
def test_cut_files(tmp_path, spec):
    write_folder(tmp_path, spec)
    path = tmp_path / "tokenizer.json"
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
            Tokenizer.open(tmp_path)


def change(*keys_and_value):
    *keys, last, value = keys_and_value

    def apply(spec):
        for key in keys:
            spec = spec[key]
        spec[last] = value

    return apply


def duplicate_added(spec):
    spec["added_tokens"].append(dict(spec["added_tokens"][0], id=265))


def growing(spec):
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    spec["normalizer"] = {"type": "Sequence", "normalizers": [grow] * 4}


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
    "gap": (change("model", "vocab", "a", 300), "no token has id 97, although ids go up to 300"),
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


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tokenizer(tmp_path, name):
    breaking, fact = BROKEN[name]
    spec = byte_level()
    breaking(spec)
    with pytest.raises(TokenizerError, match=fact) as caught:
        Tokenizer.open(write_folder(tmp_path, spec))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "tokenizer.json")) and message.isprintable()


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "Expecting value"),
        (b"[]", "holds a list"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"model":{"vocab":{"a":0,"a":1}}}', "duplicate key 'a'"),
        (b'{"x":' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b" " * (64 << 20) + b"{}", "over 67108864 bytes"),
    ],
)
def test_broken_json(tmp_path, data, fact):
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(TokenizerError, match=fact) as caught:
        Tokenizer.open(tmp_path)
    assert str(caught.value).isprintable()


JUNK = st.sampled_from(
    [None, True, 0, -1, 2.5, 2**70, "", "x", "▁", [], [[]], {}, {"type": []}, {"id": {}}, ["x", 1]]
)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_value_of_another_kind(data):
    """Whatever stands in a place of the file: a tokenizer that works, or one TokenizerError."""
    spec = data.draw(st.sampled_from([byte_level, sentencepiece]))()
    node, path = spec, []
    while isinstance(node, dict | list) and node and (not path or data.draw(st.booleans())):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        path.append(data.draw(st.sampled_from(sorted(keys)[:12])))
        node = node[path[-1]]
    parent = functools.reduce(lambda part, key: part[key], path[:-1], spec)
    parent[path[-1]] = data.draw(JUNK)
    with (
        mock.patch.object(module._child, "call", no_child),
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            tokenizer = Tokenizer.open(write_folder(Path(folder), spec))
            ids = tokenizer.encode("ab the<|eot|></s>\n")
            assert len(tokenizer.pieces(ids)) == len(ids)
        except TokenizerError as e:
            assert str(e).isprintable()


def no_child(*args, **kwargs):
    raise _child.ChildError("would need a child")


BOMBS = {
    "nested quantifier": (
        change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", "(a+)+$"),
        "a" * 40 + "b",
    ),
    "many short bombs": (
        change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", r"(a+)+$"),
        ("a" * 22 + "b") * 1000,
    ),
    "growth": (growing, "a"),
    "panic": (
        change("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}),
        "a",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(tmp_path, monkeypatch, name):
    monkeypatch.setattr(module, "_LIMITS", _child.Limits(1, 60, 512 << 20, 1 << 24))
    spec = byte_level()
    setting, text = BOMBS[name]
    setting(spec)
    tokenizer = Tokenizer.open(write_folder(tmp_path, spec))
    with pytest.raises(
        TokenizerError, match="processor time|died of|memory|index out of bounds|retry-limit"
    ):
        tokenizer.encode(text)
