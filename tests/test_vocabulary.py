"""tokenizer.json of strangers: each fault is one TokenizerError; nothing hangs or eats memory."""

import functools
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from bad_inputs.prompt import change
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
    monkeypatch.setattr(module, "_LIMITS", _child.Limits(1, 60, 512 << 20, 1 << 24))
    spec = byte_level()
    setting, text = BOMBS[name]
    setting(spec)
    tokenizer = Tokenizer.open(write_folder(tmp_path, spec))
    with pytest.raises(
        TokenizerError, match="processor time|died of|memory|index out of bounds|retry-limit"
    ):
        tokenizer.encode(text)
