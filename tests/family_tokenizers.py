"""Small tokenizers, each built as the released ones of a family are.

Normaliser, pre-tokeniser, decoder, post-processor, flags of the model and of the added tokens, and
the keys of tokenizer_config.json are those of the family; vocabulary and merges are learnt here
from a few sentences.
"""

import functools
import json
from typing import Any

from family_texts import CL100K, O200K, QWEN2, SENTENCES, TEKKEN

Files = dict[str, Any]
"""File name -> JSON, for `declaration_cases.write`."""


def byte_level_split(regex: str, *, cut_out: bool = False) -> list[Files]:
    """`cut_out`: as converters of tiktoken write it."""
    return [
        {
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": "Removed" if cut_out else "Isolated",
            "invert": cut_out,
        },
        _byte_level(use_regex=False),
    ]


def _byte_level(*, use_regex: bool) -> Files:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


_PLAIN = {
    "special": True,
    "normalized": False,
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
}


def _token(content: str, **flags: bool) -> Files:
    return {"content": content} | _PLAIN | flags


def begin_with(token: str, id: int) -> Files:
    single = [
        {"SpecialToken": {"id": token, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }


@functools.cache
def _learnt(parts: str, byte_level: bool) -> str:
    """vocab and merges of a BPE over these parts, as JSON."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    empty = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    model = {"type": "BPE", "vocab": {}, "merges": []}
    spec = empty | json.loads(parts) | {"post_processor": None, "decoder": None, "model": model}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(alphabet), show_progress=False, max_token_length=9
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return json.dumps({"vocab": model["vocab"], "merges": model["merges"]})


def byte_level(
    pre: list[Files],
    tokens: list[Files],
    *,
    normalizer: Files | None = None,
    begin: str | None = None,
    first: bool = False,
    **model: Any,
) -> Files:
    """`begin`: the token before every text. `first`: added tokens have the lowest ids."""
    parts = {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre},
    }
    learnt = json.loads(_learnt(json.dumps(parts), True))
    names = sorted(learnt["vocab"], key=learnt["vocab"].get)
    added = [token["content"] for token in tokens]
    vocab = {name: i for i, name in enumerate([*added, *names] if first else names)}
    ids = {name: i for i, name in enumerate(added, 0 if first else len(names))}
    after: Files = _byte_level(use_regex=False)
    if begin is not None:
        after = {"type": "Sequence", "processors": [after, begin_with(begin, ids[begin])]}
    flags = {"dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    flags |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "ignore_merges": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token["content"]]} | token for token in tokens],
        **parts,
        "post_processor": after,
        "decoder": _byte_level(use_regex=True),
        "model": {"type": "BPE"} | flags | model | {"vocab": vocab, "merges": learnt["merges"]},
    }


_BYTES = [f"<0x{b:02X}>" for b in range(256)]
_TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_FROM_SPACE = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_DROP_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, _TO_SPACE]}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def sentencepiece(
    first: list[Files],
    last: list[Files],
    *,
    normalizer: Files | None,
    pre: Files | None,
    begin: str | None,
    strip: bool,
) -> Files:
    """BPE with byte fallback. The added tokens `first` and the bytes have the lowest ids."""
    parts = {"normalizer": normalizer, "pre_tokenizer": pre}
    learnt = json.loads(_learnt(json.dumps(parts), False))
    names = sorted(learnt["vocab"], key=learnt["vocab"].get)
    front = [token["content"] for token in first]
    inside = [token["content"] for token in last if token["content"] in names]
    vocab = {name: i for i, name in enumerate([*front, *_BYTES, *names])}
    ids = dict(vocab)
    for token in last:
        if token["content"] not in inside:
            ids[token["content"]] = len(ids)
    flags = {"dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    flags |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}
    decoders = [*_FROM_SPACE, _DROP_SPACE] if strip else _FROM_SPACE
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token["content"]]} | token for token in (*first, *last)],
        **parts,
        "post_processor": None if begin is None else begin_with(begin, ids[begin]),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE"} | flags | {"vocab": vocab, "merges": learnt["merges"]},
    }


def _unigram() -> Files:
    """As Helium's: a character from bytes has its own tokens, a line break is an added token."""
    first = ["<unk>", "<s>", "</s>", "<pad>"]
    bytes_ = ["\n" if name == "<0x0A>" else name for name in _BYTES]
    words = sorted({f"▁{w}"[:9] for s in SENTENCES for w in s.split()})
    letters = sorted({c for s in SENTENCES[:4] for c in s if not c.isspace()} | {"▁"})
    scores: list[list[Any]] = [[name, 0.0] for name in (*first, *bytes_)]
    scores += [[name, -3.0 - len(name) / 7] for name in words if name not in letters]
    scores += [[name, -9.0 - i / 50] for i, name in enumerate(letters)]
    tokens = [_token(name) for name in first] + [_token("\n", special=False)]
    ids = {name: i for i, (name, _) in enumerate(scores)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 3,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
        "added_tokens": [{"id": ids[token["content"]]} | token for token in tokens],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": " "}, _TO_SPACE],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": "\n"},
            "behavior": "Contiguous",
            "invert": False,
        },
        "post_processor": begin_with("<s>", 1),
        "decoder": {"type": "Sequence", "decoders": [*_FROM_SPACE, _DROP_SPACE]},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": scores},
    }


def _files(model_type: str | None, spec: Files, **config: Any) -> Files:
    """With `added_tokens_decoder`, as released ones have it, unless `config` has None for it."""
    listed = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]}
    config = {"added_tokens_decoder": listed, "clean_up_tokenization_spaces": False} | config
    if config["added_tokens_decoder"] is None:
        del config["added_tokens_decoder"]
    model = {} if model_type is None else {"config.json": {"model_type": model_type}}
    return {"tokenizer.json": spec, "tokenizer_config.json": config} | model


_CHATML = [_token(f"<|{name}|>") for name in ("endoftext", "im_start", "im_end")]
_THOUGHT = [_token(name, special=False) for name in ("<tool_call>", "<think>", "</think>")]
_NFC = {"type": "NFC"}
_LLAMA_TOKENS = [_token(name) for name in ("<unk>", "<s>", "</s>")]
_INST = [_token(name) for name in ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]")]
_GEMMA_FIRST = [_token(name) for name in ("<pad>", "<eos>", "<bos>", "<unk>")] + [
    _token("<mask>", special=False)
]
_GEMMA_LAST = [_token(f"{name}_of_turn>") for name in ("<start", "<end")] + [
    _token(name, special=False) for name in ("<unused0>", "\n\n", "▁▁", "<table>", "<h1>")
]


def _qwen(model_type: str, **config: Any) -> Files:
    spec = byte_level(byte_level_split(QWEN2), [*_CHATML, *_THOUGHT], normalizer=_NFC)
    how = {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "add_prefix_space": False}
    how |= {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    how |= {"unk_token": None, "errors": "replace", "split_special_tokens": False}
    how |= {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    return _files(model_type, spec, **how | config)


def _r1(model_type: str, regex: str, normalizer: Files | None) -> Files:
    marks = [_token(f"<｜{name}▁of▁sentence｜>") for name in ("begin", "end")]
    tokens = [*marks, _token("<｜User｜>", special=False), _token("<｜Assistant｜>", special=False)]
    spec = byte_level(
        byte_level_split(regex), tokens + _THOUGHT, normalizer=normalizer, begin=marks[0]["content"]
    )
    added = {
        k: {"__type": "AddedToken"} | _PLAIN | v
        for k, v in zip(("bos_token", "eos_token"), marks, strict=True)
    }
    return _files(
        model_type,
        spec,
        tokenizer_class="LlamaTokenizerFast",
        legacy=True,
        add_bos_token=True,
        add_eos_token=False,
        added_tokens_decoder=None,
        pad_token=added["eos_token"],
        **added,
    )


def _mistral(normalizer: Files | None, pre: Files | None, **config: Any) -> Files:
    spec = sentencepiece(
        _LLAMA_TOKENS, _INST, normalizer=normalizer, pre=pre, begin="<s>", strip=True
    )
    how = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    how |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    return _files("mistral", spec, **how | config)


def _tekken(regex: str, model_type: str, **config: Any) -> Files:
    spec = byte_level(
        byte_level_split(regex),
        [*_LLAMA_TOKENS, *_INST],
        begin="<s>",
        first=True,
        ignore_merges=True,
    )
    how = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}
    how |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _files(model_type, spec, **how | config)


def _gemma(model_type: str, **config: Any) -> Files:
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    spec = sentencepiece(
        _GEMMA_FIRST,
        _GEMMA_LAST,
        normalizer=_TO_SPACE,
        pre=None if model_type == "gemma" else split | {"invert": False},
        begin="<bos>",
        strip=False,
    )
    how = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}
    how |= {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    return _files(
        model_type, spec, sp_model_kwargs={}, spaces_between_special_tokens=False, **how | config
    )


def _phi3() -> Files:
    tokens = [_token(f"<|{name}|>", rstrip=True) for name in ("user", "assistant", "system", "end")]
    spec = sentencepiece(
        _LLAMA_TOKENS,
        [_token("<|endoftext|>"), *tokens],
        normalizer=_PREPEND,
        pre=None,
        begin="<s>",
        strip=True,
    )
    return _files(
        "phi3",
        spec,
        tokenizer_class="LlamaTokenizer",
        add_bos_token=True,
        add_eos_token=False,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        legacy=False,
        sp_model_kwargs={},
        use_default_system_prompt=False,
    )


def _tiktoken(
    model_type: str | None, regex: str, *, end: str = "<|endoftext|>", **how: Any
) -> Files:
    tokens = [_token(end), *_CHATML[1:], _token("<|im_sep|>", lstrip=True, rstrip=True)]
    spec = byte_level(byte_level_split(regex, cut_out=True), tokens)
    how = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False} | how
    return _files(
        model_type, spec, bos_token=end, eos_token="<|im_end|>", pad_token=end, unk_token=end, **how
    )


def _digits(model_type: str, normalizer: Files | None = None) -> Files:
    pre = [{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)]
    spec = byte_level(pre, [*_CHATML, _token("<|start_of_role|>")], normalizer=normalizer)
    return _files(
        model_type,
        spec,
        tokenizer_class="GPT2Tokenizer",
        add_bos_token=False,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def _smollm3() -> Files:
    tokens = [
        _token(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "im_start", "im_end")
    ]
    spec = byte_level(
        byte_level_split(CL100K), tokens + _THOUGHT, begin="<|begin_of_text|>", ignore_merges=True
    )
    return _files(
        "smollm3",
        spec,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        fast=False,
    )


def _exaone4() -> Files:
    tokens = [
        _token(f"[{name}]") for name in ("PAD", "BOS", "|endofturn|", "|user|", "|assistant|")
    ]
    spec = byte_level([_byte_level(use_regex=True)], tokens + _THOUGHT, normalizer=None, first=True)
    return _files(
        "exaone4",
        spec,
        tokenizer_class="GPT2Tokenizer",
        bos_token="[BOS]",
        eos_token="[|endofturn|]",
        pad_token="[PAD]",
        unk_token="[PAD]",
        add_prefix_space=False,
    )


@functools.cache
def families() -> dict[str, Files]:
    """A folder of each kind of tokenizer, by name."""
    llama = {"tokenizer_class": "LlamaTokenizer"}
    return {
        "qwen2.5": _qwen("qwen2"),
        "qwen2.5 with a tool": _qwen("qwen2", additional_special_tokens=["<tool_call>"]),
        "qwen3": _qwen("qwen3"),
        "r1-distill-qwen": _r1("qwen2", QWEN2, _NFC),
        "r1-distill-llama": _r1("llama", CL100K, None),
        "mistral 0.1": _mistral(_PREPEND, None, legacy=True),
        "mistral 0.2": _mistral(None, _METASPACE, legacy=True),
        "mistral 0.3": _mistral(None, _METASPACE),
        "mistral without added_tokens_decoder": _mistral(_PREPEND, None, added_tokens_decoder=None),
        "mistral without prefix": _mistral(_PREPEND, None, add_prefix_space=False),
        "mistral of text and images": _mistral(_PREPEND, None, legacy=True)
        | {"config.json": {"model_type": "mistral3", "text_config": {"model_type": "mistral"}}},
        "nemo": _tekken(TEKKEN, "mistral"),
        "nemo as GPT-2": _tekken(TEKKEN, "mistral", tokenizer_class="GPT2Tokenizer"),
        "small 3.1": _tekken(CL100K, "mistral3", **llama),
        "ministral": _tekken(TEKKEN, "ministral", **llama),
        "gemma": _gemma("gemma"),
        "gemma2": _gemma("gemma2", tokenizer_class="GemmaTokenizerFast"),
        "gemma3": _gemma(
            "gemma3",
            boi_token="<unused0>",
            image_token="<table>",
            extra_special_tokens={"boi_token": "<unused0>", "image_token": "<table>"},
        ),
        "gemma3_text": _gemma("gemma3_text", add_bos_token=False),
        "phi3": _phi3(),
        "phi4": _tiktoken("phi3", CL100K),
        "phi4-mini": _tiktoken("phi3", O200K, add_eos_token=False),
        "smollm3": _smollm3(),
        "olmo2": _tiktoken("olmo2", CL100K, tokenizer_class="GPT2Tokenizer"),
        "olmo3": _tiktoken("olmo3", CL100K, tokenizer_class="GPT2TokenizerFast"),
        "granite": _digits("granite"),
        "granite 4": _tiktoken("granitemoehybrid", CL100K, add_bos_token=False),
        "exaone4": _exaone4(),
        "exaone 3.5 parts": _digits("granite", _NFC),
        "helium": _files(
            "helium",
            _unigram(),
            tokenizer_class="PreTrainedTokenizerFast",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
        ),
        "llama of another family": _mistral(_PREPEND, None, legacy=True)
        | {"config.json": {"model_type": "qwen3"}},
    }
