"""Tokenizers as the families have them: the ids of transformers' AutoTokenizer, whatever class the
files declare, and without a child process where they are harmless.
"""

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from declaration_cases import small, write
from family_texts import REGEXES, TEXTS, random_text
from family_tokenizers import families
from small_tokenizer import byte_level, sentencepiece

from llamaprobe import Tokenizer, TokenizerError
from llamaprobe.families.table import FAMILIES, SHELLS
from llamaprobe.prompts.trust import _REGEX

NAMES = list(families())
# Where a class makes parts that the file has not, and those were the ones of the training.
_OF_A_CLASS = ("llama of another family",)
_RANDOM = 60


def auto_tokenizer(folder: Path):
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[truth]'")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def texts_of(name: str) -> list[str]:
    tokens = [token["content"] for token in families()[name]["tokenizer.json"]["added_tokens"]]
    r = random.Random(name)
    found = [*TEXTS, *(random_text(r, tokens) for _ in range(_RANDOM))]
    if name == "r1-distill-qwen":  # Qwen2Tokenizer adds this token of its own; the file lacks it
        found = [text.replace("<|endoftext|>", "") for text in found]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_text_are_those_of_transformers(tmp_path, name):
    folder = write(tmp_path, families()[name])
    theirs = auto_tokenizer(folder)
    with Tokenizer.open(folder).batch() as ours:
        for text in texts_of(name):
            for around in (True, False):
                expected = theirs(text, add_special_tokens=around)["input_ids"]
                assert ours.encode(text, add_special_tokens=around).tolist() == expected, text
            for skip in (True, False):
                shown = theirs.decode(expected, skip_special_tokens=skip)
                assert ours.decode(expected, skip_special_tokens=skip) == shown, text


@pytest.mark.parametrize("name", [name for name in NAMES if name not in _OF_A_CLASS])
def test_ids_are_those_of_tokenizer_json(tmp_path, name):
    from tokenizers import Tokenizer as Library

    folder = write(tmp_path, families()[name])
    theirs = Library.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.vocab_size == theirs.get_vocab_size()
    with tokenizer.batch() as ours:
        for text in texts_of(name):
            assert ours.encode(text).tolist() == theirs.encode(text).ids, text


@pytest.mark.parametrize("name", NAMES)
def test_no_family_needs_a_child_process(tmp_path, name):
    assert Tokenizer.open(write(tmp_path, families()[name]))._tokenizer is not None


@pytest.mark.parametrize("piece", ["", "x" * 65])
def test_a_unigram_model_of_long_or_empty_pieces_needs_one(tmp_path, piece):
    files = families()["helium"]
    model = files["tokenizer.json"]["model"]
    spec = files["tokenizer.json"] | {"model": model | {"vocab": [*model["vocab"], [piece, -1.0]]}}
    tokenizer = Tokenizer.open(write(tmp_path, files | {"tokenizer.json": spec}))
    assert tokenizer._tokenizer is None
    text = TEXTS[9]
    plain = Tokenizer.open(write(tmp_path / "plain", files))
    assert tokenizer.encode(text).tolist() == plain.encode(text).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_names_of_special_tokens_are_those_of_transformers(tmp_path, name):
    folder = write(tmp_path, families()[name])
    expected = auto_tokenizer(folder).special_tokens_map
    if name == "r1-distill-qwen":
        del expected["unk_token"]
    assert Tokenizer.open(folder)._declared.names == expected


def test_names_that_only_the_class_has(tmp_path):
    files = dict(families()["gemma3_text"])
    config = {"tokenizer_class": "GemmaTokenizer"}
    folder = write(tmp_path, files | {"tokenizer_config.json": config})
    names = Tokenizer.open(folder)._declared.names
    assert names["bos_token"] == "<bos>" and names["mask_token"] == "<mask>"
    assert names == auto_tokenizer(folder).special_tokens_map
    folder = write(tmp_path / "other", small(byte_level(), config))
    assert Tokenizer.open(folder)._declared.names == {}


# ---- which class reads the file ----


@pytest.mark.parametrize("model_type", sorted({*FAMILIES, *SHELLS}))
def test_the_class_is_the_one_that_transformers_chooses(tmp_path, model_type):
    """SentencePiece's space in front shows whether LlamaTokenizer read the file."""
    for name in (None, "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer"):
        config = {} if name is None else {"tokenizer_class": name, "add_prefix_space": False}
        folder = write(
            tmp_path / str(name),
            small(sentencepiece(), config) | {"config.json": {"model_type": model_type}},
        )
        theirs = auto_tokenizer(folder)
        if type(theirs).__name__ in ("Qwen2Tokenizer", "GemmaTokenizer"):
            continue  # makes parts that this file has not; see docs/chat.md
        for text in ("ab", "  ab<s> ab", "</s>ab\n"):
            assert Tokenizer.open(folder).encode(text).tolist() == theirs(text)["input_ids"]


def test_a_mistral_is_read_as_its_file_says(tmp_path):
    """Without transformers: the space in front of text behind a special token is the file's."""
    files = small(sentencepiece(), {"tokenizer_class": "LlamaTokenizer"})
    for model_type, expected in [("mistral", [1, 265, 2, 265]), ("llama", [1, 265, 2, 264])]:
        folder = write(tmp_path / model_type, files | {"config.json": {"model_type": model_type}})
        assert Tokenizer.open(folder).encode("ab</s>ab").tolist() == expected


def test_nfc_belongs_to_some_families(tmp_path):
    for name, same in [("qwen2.5", True), ("qwen3", True), ("phi4", False), ("gemma3", False)]:
        ours = Tokenizer.open(write(tmp_path / name, families()[name]))
        two = ours.encode("caf\u00e9").tolist(), ours.encode("cafe\u0301").tolist()
        assert (two[0] == two[1]) == same, name


# ---- files that are not read ----


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "tekken.json", "vocab.json", "tiktoken.model", "spiece.model"]
)
def test_another_vocabulary_alone_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>")
    with pytest.raises(TokenizerError) as error:
        Tokenizer.open(tmp_path)
    assert f"no tokenizer.json, so no text and no chat; token ids still work. {name} is not" in str(
        error.value
    )
    assert "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)" in str(error.value)


def test_the_way_out_leads_out(tmp_path):
    """What transformers saves is read, with the same ids."""
    theirs = auto_tokenizer(write(tmp_path / "a", families()["gemma3"]))
    theirs.save_pretrained(tmp_path / "b")
    ours = Tokenizer.open(tmp_path / "b")
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs(text)["input_ids"]


# ---- regular expressions ----

# Runs in which a quadratic search would begin anew at each character.
_RUNS = (
    "a",
    "A",
    " ",
    "\n",
    " \n",
    "\u0301",
    "\u0301" + "A" * 40,
    "日" + "A" * 40,
    "1",
    "!",
    "'",
    "\r\n/",
)

_CODE = """
import json, sys
from tokenizers import Regex, pre_tokenizers
regex, runs = json.load(sys.stdin)
for run in runs:
    pre_tokenizers.Split(Regex(regex), "isolated").pre_tokenize_str(run * (200_000 // len(run)) + "x")
"""


def status_of(regex: str, limit: int, runs: tuple[str, ...] = _RUNS) -> int:
    """The exit status of splitting a long text of each run within `limit` s of processor time."""
    return subprocess.run(
        [sys.executable, "-c", _CODE],
        input=json.dumps([regex, runs]).encode(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit)),
    ).returncode


@pytest.mark.slow
@pytest.mark.parametrize("regex", sorted(_REGEX))
def test_known_expressions_take_time_in_proportion_to_the_text(regex):
    assert status_of(regex, 60) == 0


@pytest.mark.slow
def test_an_expression_that_is_searched_anew_at_each_character_takes_longer():
    """This one is DeepSeek LLM's."""
    assert r"\s+$" not in _REGEX
    assert status_of(r"\s+$", 5, (" ",)) < 0


def test_known_expressions_are_those_of_the_families():
    assert _REGEX.issuperset(REGEXES)
