"""The ids of transformers' AutoTokenizer where they depend on more than tokenizer.json.

IDS were recorded with transformers 5.24; where it is installed, they are compared with it again, these and
for random folders.
"""

import pytest
from declaration_cases import TEXT, TEXTS, random_files, small, write
from small_tokenizer import byte_level, sentencepiece

from llamaprobe import TokenizerError
from llamaprobe.prompts.tokenizer import Tokenizer

_A = {"content": "<a>", "lstrip": True, "rstrip": True, "normalized": False, "special": True}
_CODE = {"tokenizer_class": "CodeLlamaTokenizer"}
_LLAMA = {"tokenizer_class": "LlamaTokenizer"}
CASES = {
    "nothing": small(sentencepiece(), {}),
    "named": small(
        sentencepiece(), {"pad_token": "<pad>", "sep_token": {"__type": "AddedToken"} | _A}
    ),
    "additional": small(sentencepiece(), {"additional_special_tokens": ["<b>", "<a>"]}),
    "extra": small(byte_level(), {"extra_special_tokens": ["<b>", "<a>"], "pad_token": "<pad>"}),
    "extra with names": small(byte_level(), {"extra_special_tokens": {"image_token": "<a>"}}),
    "own name": small(byte_level(), {"image_token": "<b>", "pad_token": "<pad>"}),
    "decoder": small(
        byte_level(), {"added_tokens_decoder": {"299": _A, "270": {"content": "<b>"}}}
    ),
    "decoder gives flags": small(
        sentencepiece(), {"added_tokens_decoder": {"2": _A | {"content": "</s>"}}}
    ),
    "decoder hides the legacy files": small(
        sentencepiece(), {"added_tokens_decoder": {}}, {"pad_token": "<pad>"}, {"<a>": 266}
    ),
    "special_tokens_map": small(
        sentencepiece(), {"pad_token": "<b>"}, {"pad_token": "<pad>", "cls_token": _A}
    ),
    "added_tokens": small(
        sentencepiece(), {"pad_token": "<b>"}, None, {"<b>": 267, "<a>": 266}
    ),
    "padding": small(
        sentencepiece()
        | {
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            }
        },
        {},
    ),
    "split": small(sentencepiece(), {"split_special_tokens": True}),
    "Llama": small(sentencepiece(), _LLAMA),
    "Llama of config.json": small(sentencepiece(), {})
    | {"config.json": {"model_type": "llama"} | _LLAMA},
    "Llama over byte-level": small(byte_level(), _LLAMA),
    "CodeLlama": small(sentencepiece(), _CODE),
    "CodeLlama without BOS": small(sentencepiece(), _CODE | {"bos_token": None}),
    "CodeLlama with tokens": small(
        sentencepiece(), _CODE | {"prefix_token": "<b>", "add_prefix_space": False}
    ),
}

IDS = {
    "nothing": [
        1, 1, 265, 2, 259, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65,
        198, 135, 265, 259, 119, 107, 104,
    ],
    "named": [
        1, 1, 265, 2, 259, 265, 266, 259, 123, 63, 261, 65, 259, 267, 259, 198, 135, 265, 259,
        119, 107, 104,
    ],
    "additional": [
        1, 1, 265, 2, 259, 265, 259, 267, 259, 123, 266, 259, 259, 63, 115, 260, 103, 65, 198,
        135, 265, 259, 119, 107, 104,
    ],
    "extra": [
        260, 60, 115, 62, 256, 60, 47, 115, 62, 257, 32, 267, 120, 266, 32, 265, 195, 132, 226,
        150, 129, 256, 32, 259,
    ],
    "extra with names": [
        260, 60, 115, 62, 256, 60, 47, 115, 62, 257, 32, 265, 120, 60, 98, 62, 32, 60, 112, 97,
        100, 62, 195, 132, 226, 150, 129, 256, 32, 259,
    ],
    "own name": [
        260, 60, 115, 62, 256, 60, 47, 115, 62, 257, 32, 60, 97, 62, 120, 266, 32, 265, 195,
        132, 226, 150, 129, 256, 32, 259,
    ],
    "decoder": [
        260, 60, 115, 62, 256, 60, 47, 115, 62, 257, 266, 120, 265, 32, 60, 112, 97, 100, 62,
        195, 132, 226, 150, 129, 256, 32, 259,
    ],
    "decoder gives flags": [
        1, 1, 265, 2, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65, 198,
        135, 265, 259, 119, 107, 104,
    ],
    "decoder hides the legacy files": [
        1, 1, 265, 2, 259, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65,
        198, 135, 265, 259, 119, 107, 104,
    ],
    "special_tokens_map": [
        1, 1, 265, 2, 259, 265, 267, 259, 123, 63, 261, 65, 259, 266, 259, 198, 135, 265, 259,
        119, 107, 104,
    ],
    "added_tokens": [
        1, 1, 265, 2, 259, 265, 266, 123, 267, 259, 259, 63, 115, 260, 103, 65, 198, 135, 265,
        259, 119, 107, 104,
    ],
    "padding": [
        1, 1, 265, 2, 259, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 266, 259, 198, 135,
        265, 259, 119, 107, 104,
    ],
    "split": [
        1, 259, 63, 118, 65, 264, 63, 50, 118, 65, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259,
        63, 115, 260, 103, 65, 198, 135, 265, 259, 119, 107, 104,
    ],
    "Llama": [
        1, 1, 264, 2, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65, 198,
        135, 265, 259, 119, 107, 104,
    ],
    "Llama of config.json": [
        1, 1, 264, 2, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65, 198,
        135, 265, 259, 119, 107, 104,
    ],
    "Llama over byte-level": [
        260, 60, 115, 62, 256, 60, 47, 115, 62, 257, 32, 60, 97, 62, 120, 60, 98, 62, 32, 60,
        112, 97, 100, 62, 195, 132, 226, 150, 129, 256, 32, 259,
    ],
    "CodeLlama": [
        1, 1, 264, 2, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65, 198,
        135, 265, 259, 119, 107, 104,
    ],
    "CodeLlama without BOS": [
        1, 264, 2, 265, 259, 63, 260, 65, 123, 63, 261, 65, 259, 63, 115, 260, 103, 65, 198,
        135, 265, 259, 119, 107, 104,
    ],
    "CodeLlama with tokens": [
        1, 1, 264, 2, 265, 259, 63, 260, 65, 123, 266, 259, 63, 115, 260, 103, 65, 198, 135,
        265, 259, 119, 107, 104,
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_recorded_ids(tmp_path, name):
    assert Tokenizer.open(write(tmp_path, CASES[name])).encode(TEXT).tolist() == IDS[name]


def theirs_of(folder):
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[truth]'")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("name", CASES)
def test_recorded_ids_are_those_of_transformers(tmp_path, name):
    assert theirs_of(write(tmp_path, CASES[name]))(TEXT)["input_ids"] == IDS[name]


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_random_folders_as_transformers(tmp_path, first):
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[truth]'")
    n_compared = 0
    for seed in range(first, first + 50):
        folder = write(tmp_path / str(seed), random_files(seed))
        try:
            theirs = theirs_of(folder)
        except (ValueError, TypeError, NotImplementedError):
            continue  # what it cannot open; this test checks that nothing else happens
        ours = Tokenizer.open(folder)
        assert ours.vocab_size == max(theirs.get_vocab().values()) + 1, seed
        for text in TEXTS:
            for around in (True, False):
                expected = theirs(text, add_special_tokens=around)["input_ids"]
                got = ours.encode(text, add_special_tokens=around).tolist()
                assert got == expected, (seed, text)
                for skip in (True, False):
                    expected_text = theirs.decode(expected, skip_special_tokens=skip)
                    assert ours.decode(got, skip_special_tokens=skip) == expected_text, (seed, text)
        n_compared += 1
    assert n_compared > 30


def test_child_and_caller_agree(tmp_path, monkeypatch):
    from llamaprobe.prompts import tokenizer as module

    for name in ("CodeLlama with tokens", "named", "split", "decoder gives flags"):
        folder = write(tmp_path / name, CASES[name])
        with monkeypatch.context() as patch:
            patch.setattr(module, "is_harmless", lambda *args: False)
            patch.setattr(module, "decodes_harmlessly", lambda *args: False)
            there = Tokenizer.open(folder)
        assert there._tokenizer is None
        assert there.encode(TEXT).tolist() == IDS[name]
        assert there.decode(IDS[name]) == Tokenizer.open(folder).decode(IDS[name])


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizerFast"])
def test_other_classes_leave_tokenizer_json_alone(tmp_path, name):
    plain = write(tmp_path / "plain", small(byte_level(), {}))
    named = write(tmp_path / "named", small(byte_level(), {"tokenizer_class": name}))
    text = "2023 the ab <s>"
    expected = Tokenizer.open(plain).encode(text).tolist()
    assert Tokenizer.open(named).encode(text).tolist() == expected


def test_unigram_under_the_llama_class_keeps_its_parts(tmp_path):
    spec = sentencepiece()
    names = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    scores = [[name, 0.0 if id < 3 else -20.0 if id < 259 else len(name) - 8.0]
              for id, name in enumerate(names)]
    spec["model"] = {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": scores}
    folder = write(tmp_path, small(spec, {"tokenizer_class": "LlamaTokenizer"}))
    assert Tokenizer.open(folder).encode("ab abc").tolist() == [1, 265, 265, 262]


def test_text_to_fill_in_is_refused(tmp_path):
    tokenizer = Tokenizer.open(write(tmp_path, CASES["CodeLlama"]))
    with pytest.raises(TokenizerError, match="<FILL_ME>.*give such a prompt as token ids"):
        tokenizer.encode("def f(): <FILL_ME> return")


BROKEN = [
    ({"bos_token": 5}, "bos_token is 5, which is not a token"),
    ({"extra_special_tokens": 5}, "extra_special_tokens is not a list of tokens"),
    ({"extra_special_tokens": [[]]}, "which is not a token"),
    ({"added_tokens_decoder": None}, "not an object of tokens by id"),
    ({"added_tokens_decoder": {"x": {"content": "a"}}}, "has the id 'x'"),
    ({"added_tokens_decoder": {"5": "a"}}, "an added token without content"),
    ({"pad_token": "x" * 20_000}, "an added token of 20000 characters"),
    ({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "fast_tokenizer_files"),
]


@pytest.mark.parametrize("config, fact", BROKEN)
def test_broken_declarations(tmp_path, config, fact):
    with pytest.raises(TokenizerError, match=f"tokenizer.*json: .*{fact}"):
        Tokenizer.open(write(tmp_path, small(byte_level(), config)))


def test_broken_files_of_tokens(tmp_path):
    for number, (name, value, fact) in enumerate(
        [
            ("added_tokens.json", {"<a>": "5"}, "ids are numbers"),
            ("special_tokens_map.json", {"pad_token": {"x": 1}}, "without content"),
            ("special_tokens_map.json", {"pad_token": []}, "which is not a token"),
            ("added_tokens.json", [], "must be a JSON object"),
        ]
    ):
        folder = write(tmp_path / str(number), small(byte_level(), {}) | {name: value})
        with pytest.raises(TokenizerError, match=fact):
            Tokenizer.open(folder)


# ---- unused ids ----


def test_unused_ids(tmp_path):
    spec = sentencepiece()
    del spec["model"]["vocab"]["c"]  # 262
    tokenizer = Tokenizer.open(write(tmp_path / "hole", small(spec, {})))
    assert tokenizer.encode("ab abc").tolist() == [1, 265, 265, 102]
    assert tokenizer.pieces([262, 265, 999]) == ["", " ab", ""]
    assert tokenizer.decode([262, 265, 999]) == "ab"
    assert tokenizer.vocab_size == 266
    spec = sentencepiece()
    spec["model"]["vocab"]["▁ab"] = 300
    tokenizer = Tokenizer.open(write(tmp_path / "moved", small(spec, {})))
    assert tokenizer.encode("ab abc").tolist() == [1, 300, 300, 262]
    assert tokenizer.vocab_size == 301


def test_added_tokens_behind_unused_ids_are_refused(tmp_path):
    spec = byte_level()
    del spec["model"]["vocab"]["~"]
    with pytest.raises(TokenizerError, match="id 260 but would get 259, as no token has id 126"):
        Tokenizer.open(write(tmp_path / "own", small(spec, {})))
    spec = sentencepiece()
    del spec["model"]["vocab"]["c"]
    with pytest.raises(TokenizerError, match="'<pad>' would get id 265, which belongs to '▁ab'"):
        Tokenizer.open(write(tmp_path / "declared", small(spec, {"pad_token": "<pad>"})))
