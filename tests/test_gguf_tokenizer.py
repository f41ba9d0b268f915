"""Tokenizers of GGUF metadata: the ids of the original tokenizer, and of transformers for the same
file where its conversion has the original's parts.
"""

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from declaration_cases import write
from family_texts import CL100K, GPT2, R1, REGEXES, SENTENCES, TEXTS, random_text
from family_tokenizers import byte_level, byte_level_split, families
from gguf_tokenizers import (
    CONVERTED,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Metadata,
    converted,
    metadata_of,
    opened,
    original,
    texts_of,
    with_tokens,
    write_gguf,
)

from llamaprobe import FileChangedError, FormatError, TemplateError, Tokenizer, TokenizerError
from llamaprobe.gguf.pretokenizers import PRE_TOKENIZERS
from llamaprobe.gguf.sentencepiece import merges
from llamaprobe.gguf.tokenizer import GgufTokenizerFiles
from llamaprobe.prompts.trust import _REGEX


def library(spec: dict[str, Any]):
    from tokenizers import Tokenizer as Library

    return Library.from_str(json.dumps(spec))


# ---- the original's ids ----


@pytest.mark.parametrize("name", CONVERTED)
def test_ids_and_text_are_those_of_the_original(name):
    theirs = library(original(name))
    tokenizer = opened(converted(name))
    assert tokenizer._tokenizer is not None  # no child process
    for text in texts_of(name):
        for around in (True, False):
            expected = theirs.encode(text, add_special_tokens=around).ids
            assert tokenizer.encode(text, add_special_tokens=around).tolist() == expected, text
        assert tokenizer.decode(expected) == theirs.decode(expected, skip_special_tokens=False)


@pytest.mark.parametrize("name", CONVERTED)
def test_names_and_spellings_are_those_of_the_original(tmp_path, name):
    theirs = Tokenizer.open(write(tmp_path, families()[name]))
    ours = opened(converted(name))
    for key in ("bos_token", "eos_token"):
        expected = theirs._declared.names.get(key)
        assert expected in (None, ours._declared.names.get(key))
    assert ours.eos_token_id == theirs.eos_token_id
    n_tokens = theirs.vocab_size
    spelled = [ours.spelling(id)[0] for id in range(n_tokens)]
    expected = [theirs.spelling(id)[0] for id in range(n_tokens)]
    assert spelled == expected
    assert ours.pieces([n_tokens + 1]) == [""]  # what fills up the embedding


# tokenizer.ggml.pre -> the regular expressions of the original, and whether it cuts digits
_CUTS: dict[str, tuple[list[str], bool]] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "midm-2.0"), ([CL100K], False)),
    **dict.fromkeys(("pixtral", "smaug-bpe", "dbrx"), ([CL100K], False)),
    **dict.fromkeys(("smollm", "refact", "starcoder"), ([], True)),
    **dict.fromkeys(("gpt-2", "phi-2", "exaone4"), ([], False)),
    "qwen2": ([REGEXES[2]], False),
    "deepseek-r1-qwen": ([REGEXES[2]], False),
    "tekken": ([REGEXES[4]], False),
    "gpt-4o": ([REGEXES[5]], False),
    "deepseek-v3": ([r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", R1], False),
    "deepseek-coder": (
        ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"],
        True,
    ),
}


def test_each_name_is_tested_and_harmless():
    assert set(_CUTS) == set(PRE_TOKENIZERS)
    for pre in PRE_TOKENIZERS.values():
        assert _REGEX.issuperset(pre.cuts)


def parts_of(pre: str) -> list[dict[str, Any]]:
    cuts, digits = _CUTS[pre]
    steps = [part for cut in cuts for part in byte_level_split(cut)[:1]]
    if digits:
        steps.append({"type": "Digits", "individual_digits": True})
    return [*steps, byte_level_split(GPT2)[1] | {"use_regex": not cuts}]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_a_name_stands_for_the_parts_of_its_tokenizers(pre):
    nfc = {"type": "NFC"} if "qwen" in pre else None
    spec = byte_level(parts_of(pre), [], normalizer=nfc)
    theirs = library(spec)
    ours = opened(metadata_of(spec, {}, pre=pre, architecture="llama"))
    r = random.Random(pre)
    for text in [*TEXTS, *(random_text(r, []) for _ in range(60))]:
        assert ours.encode(text).tolist() == theirs.encode(text).ids, text


@pytest.mark.slow
def test_llama_3(llama3_tokenizer):
    theirs = Tokenizer.open(llama3_tokenizer)
    spec = json.loads((llama3_tokenizer / "tokenizer.json").read_bytes())
    config = json.loads((llama3_tokenizer / "tokenizer_config.json").read_bytes())
    metadata = metadata_of(spec, config, pre="llama-bpe", architecture="llama")
    metadata["tokenizer.chat_template"] = config["chat_template"]
    ours = opened(metadata)
    for text in [*TEXTS, *SENTENCES]:
        assert ours.encode(text).tolist() == theirs.encode(text).tolist()
    chat = [{"role": "user", "content": "Hi<|eot_id|> there"}]
    assert ours.chat(chat).ids.tolist() == theirs.chat(chat).ids.tolist()
    assert ours.chat(chat).text == theirs.chat(chat).text
    del metadata["tokenizer.ggml.add_bos_token"]  # files of the first months
    assert opened(metadata).encode("a").tolist() == theirs.encode("a").tolist()


# ---- SentencePiece ----


def joined(text: str, scores: dict[str, float]) -> list[str]:
    """As SentencePiece: again and again the neighbours whose joint piece has the highest score."""
    parts = list(text)
    while True:
        found = [
            (-scores[pair], at)
            for at in range(len(parts) - 1)
            if (pair := parts[at] + parts[at + 1]) in scores
        ]
        if not found:
            return parts
        at = min(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def ids_by_scores(text: str, ids: dict[str, int], scores: dict[str, float]) -> list[int]:
    found = []
    for part in joined(text, scores):
        bytes_ = [f"<0x{byte:02X}>" for byte in part.encode()]
        found += [ids[part]] if part in scores else [ids[byte] for byte in bytes_]
    return found


def test_ids_are_those_of_the_scores():
    metadata = converted("mistral 0.3")
    tokens, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores"))
    types = metadata["tokenizer.ggml.token_type"]
    r = random.Random(5)
    normal = [id for id, kind in enumerate(types) if kind == NORMAL]
    for id in normal:
        scores[id] = -r.choice((1.0, 2.0, 3.5, 8.0, 9.25)) * len(normal) / len(tokens[id])
    known = {tokens[id]: scores[id] for id in normal}
    ids = {token: id for id, token in enumerate(tokens)}
    tokenizer = opened(metadata)
    for text in [*SENTENCES, "A B", "xyz\x01日本", *(random_text(r, []) for _ in range(40))]:
        text = " ".join(text.split(" "))
        if "  " in text or "▁" in text or not text or text[0] == " ":
            continue
        spaced = "▁" + text.replace(" ", "▁")
        expected = ids_by_scores(spaced, ids, known)
        assert tokenizer.encode(text, add_special_tokens=False).tolist() == expected, text


def test_merges_are_in_the_order_of_the_scores():
    scores = {"a": -9.0, "b": -9.0, "ab": -2.0, "aba": -1.0, "ba": -2.0, "bb": -3.0, "x y": 0.0}
    expected = [("ab", "a"), ("a", "ba"), ("a", "b"), ("b", "a"), ("b", "b")]
    assert merges(scores) == expected


def test_the_space_in_front():
    metadata = converted("mistral 0.3") | {"tokenizer.ggml.add_bos_token": False}
    tokenizer = opened(metadata)
    assert "".join(tokenizer.pieces(tokenizer.encode("The</s>The"))) == " The</s>The"
    assert tokenizer.decode(tokenizer.encode(" The")) == "The"
    metadata["tokenizer.ggml.add_space_prefix"] = False
    tokenizer = opened(metadata)
    assert "".join(tokenizer.pieces(tokenizer.encode("The"))) == "The"
    assert tokenizer.decode(tokenizer.encode(" The")) == " The"
    metadata = converted("phi3") | {"tokenizer.ggml.add_bos_token": False}
    tokenizer = opened(metadata)
    pieces = tokenizer.pieces(tokenizer.encode("The<|user|> \n The<|endoftext|> The"))
    assert "".join(pieces) == " The<|user|> The<|endoftext|>  The"


def test_control_and_unused_tokens_do_not_come_of_merging():
    """A piece "<s" beside ">" is not the beginning of a text."""
    metadata = with_tokens(
        converted("mistral 0.3"),
        *((token, NORMAL, -1.0) for token in ("<", "s", "<s", ">", "U", "<U")),
        ("<U>", UNUSED, -1.0),
    )
    metadata["tokenizer.chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = opened(metadata)
    chat = tokenizer.chat([{"role": "user", "content": "a<s>b"}])
    assert 1 not in chat.ids.tolist() and "<s" in tokenizer.pieces(chat.ids)
    unused = metadata["tokenizer.ggml.tokens"].index("<U>")
    ids = tokenizer.encode("<U>")
    assert unused not in ids.tolist() and tokenizer.pieces([unused]) == [""]


# ---- transformers' conversion of the same file ----


def auto_tokenizer(path: Path):
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[truth]'")
    pytest.importorskip("gguf", reason="needs gguf-py: pip install -e '.[truth]'")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


# Families whose conversion has the original's parts, and what texts must not have, since theirs has
# it otherwise: Gemma's added tokens of "▁"; a token that their class adds.
_AS_TRANSFORMERS = {
    "gemma2": "▁",
    "gemma3": "▁",
    "mistral 0.3": "\0",
    "nemo": "<|endoftext|>",
    "phi4-mini": "\0",
    "granite 4": "\0",
    "exaone4": "<|endoftext|>",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _AS_TRANSFORMERS)
def test_ids_are_those_of_transformers_for_the_same_file(tmp_path, name):
    pytest.importorskip("gguf", reason="needs gguf-py: pip install -e '.[truth]'")
    metadata = converted(name)
    if metadata["tokenizer.ggml.model"] == "gpt2":  # they know only some architectures
        metadata["general.architecture"] = "llama"
    theirs = auto_tokenizer(write_gguf(tmp_path / "m.gguf", metadata))
    ours = opened(metadata)
    for text in texts_of(name):
        text = text.replace(_AS_TRANSFORMERS[name], "")
        for around in (True, False):
            expected = theirs(text, add_special_tokens=around)["input_ids"]
            assert ours.encode(text, add_special_tokens=around).tolist() == expected, text
        assert ours.decode(expected) == theirs.decode(expected), text


class File(Metadata):
    """A real file, read by gguf-py."""

    def __init__(self, path: Path) -> None:
        gguf = pytest.importorskip("gguf", reason="needs gguf-py: pip install -e '.[truth]'")
        fields = gguf.GGUFReader(path).fields.items()
        super().__init__({k: f.contents() for k, f in fields if k.startswith(("tok", "general"))})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "as_theirs"),
    [
        ("LLAMAPROBE_GGUF_GEMMA3", lambda text: "▁" not in text),
        # their conversion does not cut digits off a space before them
        ("LLAMAPROBE_GGUF_SMOLLM2", lambda text: not any(c.isnumeric() for c in text)),
    ],
)
def test_real_files(name, as_theirs):
    """Gemma 3 270M (Q4_K_M) and SmolLM2-135M-Instruct (Q4_1), where the environment says."""
    if name not in os.environ:
        pytest.skip(f"{name} is not set")
    path = Path(os.environ[name])
    theirs = auto_tokenizer(path)
    ours = Tokenizer(GgufTokenizerFiles(path, File(path)))
    assert ours._tokenizer is not None
    r = random.Random(name)
    tokens = [token["content"] for token in ours._vocabulary.added[:200]]
    n_compared = 0
    for text in [*TEXTS, *SENTENCES, *(random_text(r, tokens) for _ in range(200))]:
        if as_theirs(text):
            n_compared += 1
            for around in (True, False):
                expected = theirs(text, add_special_tokens=around)["input_ids"]
                assert ours.encode(text, add_special_tokens=around).tolist() == expected, text
            assert ours.decode(expected) == theirs.decode(expected), text
    assert n_compared > 100
    assert ours.eos_token_id == theirs.eos_token_id
    if theirs.chat_template is not None:
        chat = [{"role": "user", "content": "Why?"}]
        expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ours.chat(chat).ids.tolist() == expected


# ---- tokens ----

_BYTES = converted("granite")
_PIECES = converted("mistral 0.3")


def test_names_without_ids_are_those_of_sentencepiece():
    short = {k: v for k, v in _PIECES.items() if not k.endswith("_token_id")}
    assert opened(short)._declared.names == {"bos_token": "<s>", "eos_token": "</s>"}
    assert opened(short).encode("a").tolist() == opened(_PIECES).encode("a").tolist()


def test_a_padding_token_that_is_a_word_stays_one():
    """Some configs name id 0, which is "!" in many vocabularies."""
    tokens = _BYTES["tokenizer.ggml.tokens"]
    tokenizer = opened(_BYTES | {"tokenizer.ggml.padding_token_id": tokens.index("!")})
    assert tokenizer._declared.names["pad_token"] == "!"
    assert tokens.index("!") not in tokenizer._vocabulary.special_ids


def test_eos_after_a_text():
    for metadata in (_BYTES, _PIECES):
        tokenizer = opened(metadata | {"tokenizer.ggml.add_eos_token": True})
        plain = opened(metadata).encode("a").tolist()
        assert tokenizer.encode("a").tolist() == [*plain, tokenizer.eos_token_id]
        assert (
            tokenizer.encode("a", add_special_tokens=False).tolist()
            == plain[-len(plain) :][int(metadata is _PIECES) :]
        )


def test_tokens_without_types():
    short = {k: v for k, v in _BYTES.items() if k != "tokenizer.ggml.token_type"}
    tokenizer = opened(short)
    assert tokenizer.encode("a<|endoftext|>").tolist()[-1] == tokenizer.eos_token_id


def test_user_defined_tokens_are_found_but_not_special():
    metadata = converted("qwen3")
    tokens = metadata["tokenizer.ggml.tokens"]
    id = tokens.index("<tool_call>")
    assert metadata["tokenizer.ggml.token_type"][id] == USER_DEFINED
    tokenizer = opened(metadata)
    assert tokenizer.encode("a<tool_call>").tolist()[-1] == id
    assert tokenizer.decode([id], skip_special_tokens=True) == "<tool_call>"


def test_gemmas_added_tokens_of_spaces_are_spaces(tmp_path):
    folder = write(tmp_path, families()["gemma3"])
    for tokenizer in (opened(converted("gemma3")), Tokenizer.open(folder)):
        ids = tokenizer.encode("a  b", add_special_tokens=False)
        assert tokenizer.pieces(ids) == ["a", "  ", "b"]
        assert tokenizer.decode(ids) == "a  b"


# ---- templates ----

_CHAT = [{"role": "user", "content": "Hi"}]
_TOOL = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def test_the_template_inside():
    template = "{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}"
    tokenizer = opened(_PIECES | {"tokenizer.chat_template": template})
    chat = tokenizer.chat(_CHAT)
    assert chat.text == "<s>[Hi]</s>"
    assert chat.ids[0] == 1 and chat.ids[-1] == 2
    ids = tokenizer.chat([{"role": "user", "content": "<s></s>"}]).ids.tolist()
    assert (ids[0], ids[-1]) == (1, 2) and not {1, 2} & set(ids[1:-1])


def test_named_templates():
    named = _PIECES | {
        "tokenizer.chat_template": "plain",
        "tokenizer.chat_templates": ["tool_use", "rag"],
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_template.rag": "rag",
    }
    assert opened(named).chat(_CHAT).text == "plain"
    assert opened(named).chat(_CHAT, tools=_TOOL).text == "tools"
    del named["tokenizer.chat_template"]
    with pytest.raises(TemplateError, match="m.gguf: no chat template named default, only 'rag, t"):
        opened(named).chat(_CHAT)


def test_bad_templates():
    with pytest.raises(TemplateError, match="m.gguf: this model has no chat template; give the"):
        opened(_PIECES).chat(_CHAT)
    with pytest.raises(FormatError, match="m.gguf: tokenizer.chat_template is 5, not str"):
        opened(_PIECES | {"tokenizer.chat_template": 5}).chat(_CHAT)
    with pytest.raises(TemplateError, match="m.gguf: the template has 300000 characters"):
        opened(_PIECES | {"tokenizer.chat_template": "x" * 300_000}).chat(_CHAT)
    with pytest.raises(TemplateError, match="m.gguf: the chat template failed: .*no such"):
        template = "{{ raise_exception('no such role') }}"
        opened(_PIECES | {"tokenizer.chat_template": template}).chat(_CHAT)


# ---- where the tokenizer comes from ----


def test_the_text_of_a_tokenizer_json_inside():
    files = families()["nemo"]
    spec = files["tokenizer.json"]
    metadata = converted("nemo") | {
        "tokenizer.huggingface.json": json.dumps(spec),
        "tokenizer.ggml.pre": "nobody-knows",
    }
    tokenizer = opened(metadata)
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == library(spec).encode(text).ids
    assert tokenizer.eos_token_id == 2 and tokenizer._declared.names["bos_token"] == "<s>"
    alone = {"tokenizer.huggingface.json": json.dumps(spec)}
    assert opened(alone).encode("a b").tolist() == tokenizer.encode("a b").tolist()
    with pytest.raises(TokenizerError, match="m.gguf/tokenizer.huggingface.json: not valid JSON"):
        opened(metadata | {"tokenizer.huggingface.json": "{"})


def test_a_tokenizer_json_beside_comes_first(tmp_path):
    spec = families()["granite"]["tokenizer.json"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    metadata = _PIECES | {"tokenizer.chat_template": "inside"}
    tokenizer = opened(metadata, tmp_path)
    assert tokenizer.encode("The 12").tolist() == library(spec).encode("The 12").ids
    assert tokenizer.chat(_CHAT).text == "inside"
    (tmp_path / "chat_template.jinja").write_text("beside")
    assert opened(metadata, tmp_path).chat(_CHAT).text == "beside"


def test_files_that_change(tmp_path):
    tokenizer = opened(_BYTES | {"tokenizer.chat_template": "inside"}, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileChangedError, match="tokenizer.json: appeared since"):
        tokenizer.chat(_CHAT)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "config.json").write_text("{}")  # of another model in the folder
    (tmp_path / "m.gguf").write_bytes(b"GGUFGGUF")
    with pytest.raises(FileChangedError, match="m.gguf: changed since"):
        tokenizer.chat(_CHAT)


def test_pickled_as_its_file(tmp_path, monkeypatch):
    tokenizer = opened(_BYTES, tmp_path)
    data = pickle.dumps(tokenizer)
    assert len(data) < 1000
    monkeypatch.setattr("llamaprobe._core.Gguf", lambda path: Metadata(_BYTES), raising=False)
    again = pickle.loads(data)
    assert again.encode("The cat").tolist() == tokenizer.encode("The cat").tolist()
    (tmp_path / "m.gguf").write_bytes(b"another")
    with pytest.raises(FileChangedError, match="m.gguf: is not the file that was pickled"):
        pickle.loads(data)


@pytest.mark.slow
def test_a_long_text_is_encoded_in_a_child_process():
    tokenizer = opened(_PIECES)
    text = "The cat's kitten is on the mat. " * 17_000
    assert len(text) > 1 << 19
    ids = tokenizer.encode(text)
    assert tokenizer._file.keys() == {"text", "setup"}
    assert ids.tolist() == library(original("mistral 0.3")).encode(text).ids
