"""Small tokenizers as files, written by hand: what each id means can be read off here.

`byte_level` is cut like Llama 3's: 256 bytes, a few merges, special tokens behind the vocabulary,
BOS in front. `sentencepiece` is made like Llama 2's: special tokens inside the vocabulary, bytes
as <0x0A>, a space as U+2581 and one in front.
"""

import json
from pathlib import Path
from typing import Any

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|bos|>", "<|eot|>", "<|eot|>>", "<|head|>", "<|/head|>"]
BOS, EOT, EOT2, HEAD, END_HEAD = range(260, 265)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>"
    "{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>{% endif %}"
)


def byte_level() -> dict[str, Any]:
    """A tokenizer.json: byte b has id b; 256 "ab", 257 " ab", 258 "th", 259 "the"; then SPECIAL."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    letter = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    vocab = {letter[b]: b for b in range(256)} | {"ab": 256, "Ġab": 257, "th": 258, "the": 259}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(260 + i, name) for i, name in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": SPLIT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": _bos_in_front("<|bos|>", BOS),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _bpe(vocab, ["a b", "Ġ ab", "t h", "th e"], byte_fallback=False),
    }


def sentencepiece() -> dict[str, Any]:
    """A tokenizer.json: 0 <unk>, 1 <s>, 2 </s>, byte b has id 3 + b, then the words."""
    words = ["▁", "a", "b", "c", "▁a", "ab", "▁ab"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *words]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, name) for i, name in enumerate(names[:3])],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _bos_in_front("<s>", 1),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": _bpe(
            {name: i for i, name in enumerate(names)},
            ["▁ a", "a b", "▁ ab", "▁a b"],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        ),
    }


def write_folder(
    folder: Path,
    spec: dict[str, Any] | None = None,
    *,
    template: object = TEMPLATE,
    **config: Any,
) -> Path:
    """A folder with tokenizer.json and a tokenizer_config.json of `template` and `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    if spec is not None:
        (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    config = {"bos_token": "<|bos|>", "eos_token": "<|eot|>", "model_max_length": 10**30} | config
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _added(id: int, content: str, **flags: bool) -> dict[str, Any]:
    plain = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {"id": id, "content": content} | plain | flags


def _bos_in_front(name: str, id: int) -> dict[str, Any]:
    single = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]}},
    }


def _bpe(vocab: dict[str, int], merges: list[str], **changes: Any) -> dict[str, Any]:
    plain = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "ignore_merges": False,
    }
    return plain | changes | {"vocab": vocab, "merges": merges}
