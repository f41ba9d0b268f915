"""Untrusted tokenizer.json files: each fault is one TokenizerError; nothing hangs or exhausts memory."""

import functools
import tempfile
import time
from pathlib import Path
from unittest import mock

import pytest
from bad_inputs.prompt import change
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import byte_level, sentencepiece, write_folder

from llamaprobe import TokenizerError
from llamaprobe.prompts import sandbox
from llamaprobe.prompts import tokenizer as module
from llamaprobe.prompts.tokenizer import Tokenizer


@pytest.mark.parametrize("spec", [byte_level(), sentencepiece()])
def test_cut_files(tmp_path, spec):
    write_folder(tmp_path, spec)
    path = tmp_path / "tokenizer.json"
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
            Tokenizer.open(tmp_path)


JUNK = st.sampled_from(
    [None, True, 0, -1, 2.5, 2**70, "", "x", "▁", [], [[]], {}, {"type": []}, {"id": {}}, ["x", 1]]
)


@pytest.mark.slow
@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_value_of_another_kind(data):
    """Whatever a place of the file holds: a tokenizer that works, or one TokenizerError."""
    spec = data.draw(st.sampled_from([byte_level, sentencepiece]))()
    node, path = spec, []
    while isinstance(node, dict | list) and node and (not path or data.draw(st.booleans())):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        path.append(data.draw(st.sampled_from(sorted(keys)[:12])))
        node = node[path[-1]]
    parent = functools.reduce(lambda part, key: part[key], path[:-1], spec)
    parent[path[-1]] = data.draw(JUNK)
    with (
        mock.patch.object(module.sandbox, "call", no_child),
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            tokenizer = Tokenizer.open(write_folder(Path(folder), spec))
            ids = tokenizer.encode("ab the<|eot|></s>\n")
            assert len(tokenizer.pieces(ids)) == len(ids)
        except TokenizerError as e:
            assert str(e).isprintable()


def no_child(*args, **kwargs):
    raise sandbox.ChildError("would need a child")


def growing(spec):
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    spec["normalizer"] = {"type": "Sequence", "normalizers": [grow] * 4}


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
    monkeypatch.setattr(module, "_LIMITS", sandbox.Limits(1, 60, 512 << 20, 1 << 24))
    spec = byte_level()
    setting, text = BOMBS[name]
    setting(spec)
    tokenizer = Tokenizer.open(write_folder(tmp_path, spec))
    with pytest.raises(
        TokenizerError, match="processor time|died of|memory|index out of bounds|retry-limit"
    ):
        tokenizer.encode(text)


# ---- panics of the library, which it prints before they can be caught ----


def naming_b(spec):
    spec["post_processor"]["single"].append({"Sequence": {"id": "B", "type_id": 0}})


def without_definition(spec):
    spec["post_processor"]["special_tokens"] = {}


def with_a_long_prefix(spec):
    spec["model"]["continuing_subword_prefix"] = "longer than any token"


def stripping_much(spec):
    spec["decoder"] = {"type": "Strip", "content": "a", "start": 0, "stop": 9}


@pytest.mark.parametrize(
    "change_spec", [naming_b, without_definition, with_a_long_prefix, stripping_much]
)
def test_no_panic_reaches_stderr(tmp_path, monkeypatch, capfd, change_spec):
    monkeypatch.setenv("RUST_BACKTRACE", "1")
    spec = byte_level()
    change_spec(spec)
    with pytest.raises(TokenizerError) as caught:
        tokenizer = Tokenizer.open(write_folder(tmp_path, spec))
        tokenizer.decode(tokenizer.encode("a ab the"))
    assert str(caught.value).isprintable()
    assert capfd.readouterr().err == ""


# ---- special tokens by the thousand ----


def with_special_tokens(contents):
    spec = byte_level()
    one = spec["added_tokens"][0]
    known = {token["content"] for token in spec["added_tokens"]} | spec["model"]["vocab"].keys()
    new = [content for content in contents if content not in known]
    spec["added_tokens"] += [one | {"id": 265 + i, "content": c} for i, c in enumerate(new)]
    return spec, {content: 265 + i for i, content in enumerate(new)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "contents",
    [[f"<{n * 7919:x}>" for n in range(40_000)], ["a" * n + "b" for n in range(1, 3000)]],
    ids=["many", "long"],
)
def test_special_tokens_by_the_thousand(tmp_path, contents):
    spec, ids = with_special_tokens(contents)
    folder = write_folder(tmp_path, spec)
    start = time.process_time()
    tokenizer = Tokenizer.open(folder)
    assert tokenizer._tokenizer is None  # the library is only used in a child
    some = [content for content in contents if content in ids][5:2000:300]
    assert tokenizer.encode("".join(some), add_special_tokens=False).tolist() == [
        ids[content] for content in some
    ]
    text = "a <b> aaaa " * 100_000 + some[0]
    assert tokenizer._special.findall(text)[-1] == some[0]
    assert time.process_time() - start < 20  # by a regular expression of them all: minutes


def test_rejects_an_added_token_that_is_too_long(tmp_path):
    spec, _ = with_special_tokens(["x" * 16_385])
    with pytest.raises(TokenizerError, match="added token of 16385 characters; the limit is 16384"):
        Tokenizer.open(write_folder(tmp_path, spec))


def test_many_short_added_tokens_are_harmless(tmp_path):
    spec, _ = with_special_tokens([f"<|reserved_{n}|>" for n in range(6000)])
    assert Tokenizer.open(write_folder(tmp_path, spec))._tokenizer is not None
