"""The metadata that llama.cpp's converter writes for a tokenizer.json, and files of it."""

import random
from pathlib import Path
from typing import Any

from family_texts import TEXTS, random_text
from family_tokenizers import Files, families

from llamaprobe import Tokenizer
from llamaprobe.gguf.tokenizer import GgufTokenizerFiles

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# Family -> tokenizer.ggml.pre and general.architecture; "" is SentencePiece.
CONVERTED = {
    "qwen2.5": ("qwen2", "qwen2"),
    "qwen2.5 with a tool": ("qwen2", "qwen2"),
    "qwen3": ("qwen2", "qwen3"),
    "r1-distill-qwen": ("deepseek-r1-qwen", "qwen2"),
    "r1-distill-llama": ("llama-bpe", "llama"),
    "mistral 0.2": ("", "llama"),
    "mistral 0.3": ("", "llama"),
    "nemo": ("tekken", "llama"),
    "small 3.1": ("pixtral", "llama"),
    "ministral": ("tekken", "llama"),
    "gemma": ("", "gemma"),
    "gemma2": ("", "gemma2"),
    "gemma3": ("", "gemma3"),
    "phi3": ("", "phi3"),
    "phi4": ("dbrx", "phi3"),
    "phi4-mini": ("gpt-4o", "phi3"),
    "smollm3": ("smaug-bpe", "smollm3"),
    "olmo2": ("dbrx", "olmo2"),
    "olmo3": ("dbrx", "olmo2"),
    "granite": ("refact", "granite"),
    "granite 4": ("dbrx", "granitehybrid"),
    "exaone4": ("exaone4", "exaone4"),
}


class Metadata:
    """What is used of a `_core.Gguf`, of a dict."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def metadata(self) -> dict[str, Any]:
        short = (int, float, bool, str)
        return {k: v for k, v in self.values.items() if isinstance(v, short) or len(v) <= 64}

    def keys(self) -> list[tuple[str, str, int | None]]:
        return [
            (key, "", len(value) if isinstance(value, list) else None)
            for key, value in self.values.items()
        ]

    def array(self, key: str) -> list[Any]:
        return list(self.values[key])


def opened(metadata: dict[str, Any], folder: Path | None = None) -> Tokenizer:
    """`folder`: the file is there, else nowhere."""
    path = (folder or Path("/nowhere")) / "m.gguf"
    if folder is not None:
        path.write_bytes(b"GGUF")
    return Tokenizer(GgufTokenizerFiles(path, Metadata(metadata)))


def converted(name: str) -> dict[str, Any]:
    """The metadata of a family."""
    pre, architecture = CONVERTED[name]
    files = families()[name]
    return metadata_of(
        files["tokenizer.json"], files["tokenizer_config.json"], pre=pre, architecture=architecture
    )


def metadata_of(spec: Files, config: Files, *, pre: str, architecture: str) -> dict[str, Any]:
    """`pre`: "" for SentencePiece. The score of a piece is its id below zero."""
    ids = {**spec["model"]["vocab"], **{t["content"]: t["id"] for t in spec["added_tokens"]}}
    n_tokens = max(ids.values()) + 3  # as embeddings that are filled up
    tokens = [f"[PAD{id}]" for id in range(n_tokens)]
    types = [UNUSED] * n_tokens
    for token, id in ids.items():
        is_byte = not pre and token.startswith("<0x")
        tokens[id], types[id] = token, BYTE if is_byte else NORMAL
    for token in spec["added_tokens"]:
        id, content = token["id"], token["content"]
        looks = content.startswith(("<|", "<｜", "<unused")) or content in ("<pad>", "<mask>")
        types[id] = CONTROL if token["special"] or looks else USER_DEFINED
        tokens[id] = content if types[id] == CONTROL else content.replace("▁", " ")
    begins = _first(spec["post_processor"])
    found: dict[str, Any] = {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "gpt2" if pre else "llama",
        "tokenizer.ggml.pre": pre or "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": begins is not None,
    }
    if pre:
        merges = spec["model"]["merges"]
        found["tokenizer.ggml.merges"] = [m if type(m) is str else " ".join(m) for m in merges]
    else:
        scores = [-float(id) for id in range(n_tokens)]
        found["tokenizer.ggml.scores"] = scores
        found["tokenizer.ggml.add_space_prefix"] = architecture not in ("gemma", "gemma2", "gemma3")
    for key, short in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        value = config.get(f"{key}_token")
        value = value["content"] if isinstance(value, dict) else value
        if key == "bos" and value is None:
            value = begins
        if value in ids:
            found[f"tokenizer.ggml.{short}_token_id"] = ids[value]
    return found


def _first(part: Any) -> str | None:
    """The token that a post-processor puts before a text."""
    for one in (part or {}).get("processors", [part]):
        if one and one["type"] == "TemplateProcessing":
            return one["single"][0]["SpecialToken"]["id"]
    return None


def with_tokens(metadata: dict[str, Any], *tokens: tuple[str, int, float]) -> dict[str, Any]:
    """With (token, type, score), but for those that are there."""
    changed = dict(metadata)
    there = metadata["tokenizer.ggml.tokens"]
    new = [one for one in tokens if one[0] not in there]
    for at, key in enumerate(("tokens", "token_type", "scores")):
        changed[f"tokenizer.ggml.{key}"] = [
            *metadata[f"tokenizer.ggml.{key}"],
            *(one[at] for one in new),
        ]
    return changed


def original(name: str) -> Files:
    """The family's tokenizer.json; SentencePiece's with all merges that its pieces allow, and Phi
    3's with the flag of </s> that Microsoft's has."""
    spec: Files = families()[name]["tokenizer.json"]
    if name == "phi3":
        flagged = [t | {"rstrip": t["rstrip"] or t["id"] == 2} for t in spec["added_tokens"]]
        spec = spec | {"added_tokens": flagged}
    if CONVERTED[name][0]:
        return spec
    added = {t["content"] for t in spec["added_tokens"] if t["special"]}
    plain = {t for t in spec["model"]["vocab"] if t not in added and not t.startswith("<0x")}
    merges = [
        [token[:at], token[at:]]
        for token in sorted(plain, key=spec["model"]["vocab"].get)
        for at in reversed(range(1, len(token)))
        if token[:at] in plain and token[at:] in plain
    ]
    return spec | {"model": spec["model"] | {"merges": merges}}


def texts_of(name: str) -> list[str]:
    """Texts without what a GGUF does not keep: the flags of <|im_sep|>."""
    tokens = [token["content"] for token in families()[name]["tokenizer.json"]["added_tokens"]]
    r = random.Random(name)
    found = [*TEXTS, *(random_text(r, tokens) for _ in range(40))]
    return [text.replace("<|im_sep|>", "") for text in found]


def write_gguf(path: Path, metadata: dict[str, Any]) -> Path:
    """A file of metadata alone, by gguf-py, with a config that transformers reads."""
    import gguf

    name = metadata["general.architecture"]
    writer = gguf.GGUFWriter(str(path), name)
    for key, value in {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 8,
        "feed_forward_length": 8,
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
    }.items():
        writer.add_uint32(f"{name}.{key}", value)
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", 1e-5)
    add = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        list: writer.add_array,
    }
    for key, value in metadata.items():
        if key != "general.architecture":
            add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
