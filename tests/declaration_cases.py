"""Folders whose ids depend on more than tokenizer.json: small ones with names, and random ones.

Each is a dict of file name -> JSON, tokenizer.json among them.
"""

import json
import random
from pathlib import Path
from typing import Any

from small_tokenizer import byte_level, sentencepiece

Files = dict[str, Any]

TEXT = "<s>ab</s> ab <a>x<b> <pad>Ä▁ab the"
"""What CASES in test_declarations.py were recorded with."""


def small(spec: dict[str, Any], config: Files, special_map: Any = None, added: Any = None) -> Files:
    """Files of one tokenizer of a Llama."""
    files = {"tokenizer.json": spec, "config.json": {"model_type": "llama"}}
    files["tokenizer_config.json"] = config
    if special_map is not None:
        files["special_tokens_map.json"] = special_map
    if added is not None:
        files["added_tokens.json"] = added
    return files


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


# ---- random ones ----

_CONTENTS = [
    *("<s>", "</s>", "<unk>", "<|bos|>", "<|eot|>", "<pad>", "<a>", "<b>", "<c>", "ab", "the"),
    *(" y", "<a>>", "▁ab", "[M]", "q"),
]
_NAMES = [f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image")]
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_CLASSES = [
    *("LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"),
    *("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "NoSuchTokenizer"),
]
TEXTS = [
    *("", "ab", "  ab the", "<s>ab</s> ab", "the<a> <a>x<b>", "<c>ab <pad>q [M] x"),
    *("<|bos|>ab<|eot|><|eot|>>", "Ää<unk>b", "ab<a>>the ab <image> ▁ab q", "▁<PRE> ab"),
    " . ab 's n't ,",
]


def random_files(seed: int) -> Files:
    """A tokenizer of random tokens, declared in random files with random flags."""
    r = random.Random(seed)
    spec = r.choice([byte_level, sentencepiece])()
    plain = spec["model"]["byte_fallback"]
    if r.random() < 0.3:
        spec["added_tokens"] = spec["added_tokens"][: r.randint(0, len(spec["added_tokens"]))]
        if len(spec["added_tokens"]) < 2:
            spec["post_processor"] = None
    if r.random() < 0.3:
        for token in spec["added_tokens"]:
            token |= {key: not token[key] for key in (*_FLAGS, "special") if r.random() < 0.2}
    if r.random() < 0.1:
        spec["padding"] = {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": r.choice(_CONTENTS),
        }
    if plain:
        spec["model"]["ignore_merges"] = r.random() < 0.2
        spec["model"]["byte_fallback"] = r.random() < 0.9
        spec["model"]["unk_token"] = r.choice([None, "<unk>", "<unk>"])
    classes = _CLASSES if plain else [name for name in _CLASSES if "Code" not in name]
    config: Files = {name: _token(r) for name in _NAMES if r.random() < 0.25}
    model = {"model_type": "llama"}
    if r.random() < 0.75:
        config["tokenizer_class"] = r.choice(classes)
    elif r.random() < 0.5:
        model["tokenizer_class"] = r.choice(classes[:4])
    for key in ("legacy", "add_prefix_space", "add_bos_token", "add_eos_token"):
        if r.random() < 0.3:
            config[key] = r.random() < 0.5
    if r.random() < 0.2:
        config["additional_special_tokens"] = [_token(r) for _ in range(r.randint(0, 3))]
    if r.random() < 0.1:
        config["extra_special_tokens"] = [_token(r) for _ in range(r.randint(0, 3))]
    elif r.random() < 0.1:
        config["extra_special_tokens"] = {"audio_token": _token(r), "bos_token": _token(r)}
    if r.random() < 0.4:
        config["added_tokens_decoder"] = _decoder(r, spec)
    if r.random() < 0.07:
        config["split_special_tokens"] = True
    config["clean_up_tokenization_spaces"] = r.random() < 0.2
    if r.random() < 0.2:
        config["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
    special_map = added = None
    if r.random() < 0.3:
        special_map = {name: _token(r, plain=True) for name in _NAMES if r.random() < 0.3}
        if r.random() < 0.4:
            special_map["additional_special_tokens"] = r.sample(_CONTENTS, 2)
    if r.random() < 0.3:
        first = len(spec["model"]["vocab"])
        ids = r.sample(range(first, first + 9), 3)
        added = {r.choice(_CONTENTS): id for id in ids}
    return small(spec, config, special_map, added) | {"config.json": model}


def _token(r: random.Random, *, plain: bool = False) -> Any:
    content = r.choice(_CONTENTS)
    if r.random() < 0.5:
        return content
    mark = {} if plain else {"__type": "AddedToken", "special": r.random() < 0.5}
    return {"content": content} | _flags(r) | mark


def _flags(r: random.Random) -> dict[str, bool]:
    return {key: r.random() < 0.3 for key in _FLAGS if key != "normalized" or r.random() < 0.8}


def _decoder(r: random.Random, spec: dict[str, Any]) -> dict[str, Any]:
    ids = r.sample(range(len(spec["model"]["vocab"]) + 12), r.randint(0, 6))
    tokens = {
        str(id): {"content": r.choice(_CONTENTS), "special": r.random() < 0.6} | _flags(r)
        for id in ids
    }
    if r.random() < 0.5:
        for token in spec["added_tokens"]:
            tokens[str(token["id"])] = {key: token[key] for key in token if key != "id"}
    return tokens
