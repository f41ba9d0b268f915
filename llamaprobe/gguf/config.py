"""Metadata of a GGUF -> the config.json that it was converted from -> Config.

The metadata is translated to the keys of config.json, which config.py reads, so that nothing is
decided twice. Two things differ, marked by the key `gguf`: norm gains are stored as they multiply
(Gemma's 1 is already added to w), and a table rope_freqs divides the frequencies of RoPE. Metadata
that requires other maths is refused by name. Missing keys default as in llama.cpp, except that
llama.cpp also finds tokens that end a turn by their text.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ..config import Config, parse_config
from ..errors import ConfigError, FormatError
from ..families.keys import REQUIRED, Keys, any_of
from ..families.layers import FULL, SLIDING
from ..families.rope import attention_factor
from ..families.table import REFUSED
from ..messages import printable, shown_path
from .names import OUTPUT, ROPE_FREQS, ROPE_LONG, ROPE_SHORT, TOKENS

if TYPE_CHECKING:
    from ..checkpoint.folder import Checkpoint

ARCHITECTURE = "general.architecture"
_TYPE = "general.type"
_OTHER_TYPES = {
    "adapter": "a LoRA is not a model; give the model that it was made for",
    "imatrix": "statistics of activations are not a model",
    "mmproj": "an encoder of images cannot be run; give the file of the language model",
}
_MOST = (1 << 32) - 1
_LAYERS = 1024
_SHOWN = 5  # keys in a note
_MOST_PAIRS = 1 << 15  # pairs of components of a head that RoPE rotates
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
_SCORE_CAP, _LOGIT_CAP = "attn_logit_softcapping", "final_logit_softcapping"
_SCALES = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}

# Keys that change the maths, refused unless the architecture reads them. 0 and false count as
# absent, and so does 1 for the keys in _FACTORS.
_FACTORS = ("rope.scaling.yarn_ext_factor", "rope.scaling.attn_factor", *_SCALES.values())
_HARMLESS = ("tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length")
_FOREIGN = {
    "expert_count": "a mixture of experts cannot be run",
    "attention.max_alibi_bias": "ALiBi cannot be run",
    "attention.clamp_kqv": "clamped q, k and v cannot be run",
    "attention.temperature_scale": "queries scaled by their position cannot be run",
    "rope.dimension_sections": "RoPE of several axes cannot be run",
    _WINDOW: "only attention over all earlier tokens can be run",
    **dict.fromkeys((_SCORE_CAP, _LOGIT_CAP), "only logits and scores without a cap can be run"),
    **dict.fromkeys(_FACTORS, "only 1 can be run"),
}


class Metadata:
    """The metadata of a GGUF. Keys are given without their architecture prefix."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        file: Any = checkpoint.files[0]
        self.file_path = os.fspath(file.path)
        self.path = shown_path(self.file_path)
        self.tensors = checkpoint.tensors
        values = dict(file.metadata())
        self.keys = Keys(self.path, values)
        if why := _OTHER_TYPES.get(self.keys.text(_TYPE) or ""):
            self.keys.refuse(_TYPE, why)
        self.architecture: str = self.keys.value(ARCHITECTURE, (str,), "a string", REQUIRED)
        self.lengths = {key: n for key, _, n in file.keys() if n is not None}
        values |= {
            key: file.array(key)
            for key in self._own(self.lengths)
            if key not in values and self.lengths[key] <= _LAYERS
        }
        self._all = self._own(key for key, *_ in file.keys())
        self._requested: set[str] = set()

    def _own(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if key.startswith(f"{self.architecture}.")]

    def name(self, key: str) -> str:
        """The full key in the file, which then no longer counts as `unread`. ConfigError for an array
        that is too long to have been read: it must not count as absent."""
        found = f"{self.architecture}.{key}"
        self._requested.add(found)
        if self.lengths.get(found, 0) > _LAYERS:
            raise ConfigError(
                f"{self.path}: {found} is an array of {self.lengths[found]}; it may have at most"
                f" {_LAYERS} items, one for each layer"
            )
        return found

    @property
    def unread(self) -> list[str]:
        """Keys of the architecture that nothing has read, except those that are 0 or empty."""
        values = self.keys.values
        return [key for key in self._all if key not in self._requested and values.get(key, True)]

    def value(self, key: str) -> Any:
        """None if the key is missing."""
        return self.keys.values.get(self.name(key))

    def integer(self, key: str, default: Any = REQUIRED) -> Any:
        return self.keys.integer(self.name(key), 0, _MOST, default)

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        """A number above 0; 0 counts as absent."""
        if self.value(key) == 0 and default is not REQUIRED:
            return default
        return self.keys.number(self.name(key), default)

    def same(self, key: str, default: Any = REQUIRED) -> Any:
        """One integer, or a list with the same integer for each layer."""
        found, n_layers = self.value(key), self.value("block_count")
        if type(found) is list:
            if not found or any(each != found[0] for each in found):
                self.keys.refuse(self.name(key), "only layers that are all alike can be run")
            if len(found) != n_layers:
                self.keys.refuse(self.name(key), f"the model has {n_layers} layers")
            self.keys.values[self.name(key)] = found[0]
        return self.integer(key, default)

    def refuse(self, key: str, why: str) -> NoReturn:
        self.keys.refuse(self.name(key), why)

    def numbers(self, tensor: str) -> list[float]:
        """A float32 vector, each number as its shortest decimal."""
        info = self.tensors[tensor]
        if info.dtype != "F32" or len(info.shape) != 1 or info.shape[0] > _MOST_PAIRS:
            raise FormatError(
                f"{self.path}: tensor {tensor} is {info.dtype} {list(info.shape)}; it must be a"
                f" vector of F32, of at most {_MOST_PAIRS} numbers"
            )
        return [float(str(x)) for x in info.file.read(tensor)]


class Architecture(NamedTuple):
    """How to read the metadata of one general.architecture."""

    model_type: str
    """The model_type of the family with its maths; `own` may choose another."""
    own: Callable[[Metadata, dict[str, Any]], dict[str, Any]]
    """(metadata, keys so far) -> further keys of config.json."""
    is_turned: bool = False
    """The rows of q and k are permuted so that each pair of components that RoPE rotates is
    adjacent: 2 i and 2 i + 1 instead of i and i + head_dim / 2."""
    reads: tuple[str, ...] = ()
    """The keys of _FOREIGN that it reads."""


def read_metadata(checkpoint: "Checkpoint") -> Config:
    """The config of a GGUF model. ConfigError (a key is missing, of the wrong type or out of
    range), UnsupportedConfigError (another architecture, other maths), FormatError."""
    metadata = Metadata(checkpoint)
    raw = config_keys(metadata)
    config = parse_config(raw, f"{metadata.path}: as config.json")
    notes = (*config.notes, *_unused_factor(metadata, raw), *_unread(metadata))
    return dataclasses.replace(config, path=metadata.file_path, notes=notes)


def architecture_of(metadata: Metadata) -> Architecture:
    """UnsupportedConfigError for an architecture that does not run."""
    name = metadata.architecture
    found = ARCHITECTURES.get(name)
    if found is None:
        why = f"only {any_of(tuple(ARCHITECTURES))} can be run"
        metadata.keys.refuse(ARCHITECTURE, REFUSED.get(name, why))
    return found


def config_keys(metadata: Metadata) -> dict[str, Any]:
    """The keys that config.json would have."""
    m, architecture = metadata, architecture_of(metadata)
    _check_foreign(m, architecture)
    d_model, n_heads = m.integer("embedding_length"), m.same("attention.head_count")
    head_dim = m.keys.integer(
        m.name("attention.key_length"), 1, 2 * _MOST_PAIRS, max(1, d_model // max(1, n_heads))
    )
    if m.integer("attention.value_length", head_dim) != head_dim:
        m.refuse("attention.value_length", f"only that of keys, {head_dim}, can be run")
    raw: dict[str, Any] = {
        "model_type": architecture.model_type,
        "hidden_size": d_model,
        "intermediate_size": m.same("feed_forward_length"),
        "num_hidden_layers": m.keys.integer(m.name("block_count"), 1, _LAYERS),
        "num_attention_heads": n_heads,
        "num_key_value_heads": m.same("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "vocab_size": _vocab_size(m),
        "max_position_embeddings": m.integer("context_length"),
        "rms_norm_eps": m.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": OUTPUT not in m.tensors,
        "gguf": {"architecture": m.architecture},
    }
    raw |= _biases(m) | _tokens(m) | _rope(m, raw)
    return raw | architecture.own(m, raw)


def _unread(m: Metadata) -> list[str]:
    """A note on unknown keys, which may imply other maths: those of a newer llama.cpp, say."""
    known = {m.name(key) for key in _HARMLESS}
    found = [printable(key, 60) for key in m.unread if key not in known]
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [
        f"{m.path}: {', '.join(found[:_SHOWN])}{more}: ignored, as unknown for"
        f" {printable(m.architecture, 60)}; if llama.cpp uses them, its values differ"
    ]


def _check_foreign(m: Metadata, architecture: Architecture) -> None:
    reads = (*architecture.reads, *(("rope.scaling.attn_factor",) if _is_stretched(m) else ()))
    for key, why in _FOREIGN.items():
        found = m.value(key)
        is_one = key in _FACTORS and found == 1 and found is not True
        if key not in reads and found and not is_one:
            m.refuse(key, why)
    if m.value("attention.causal") is False:
        m.refuse("attention.causal", "only attention over earlier tokens can be run")


def _vocab_size(m: Metadata) -> int:
    """The number of rows of the embedding, which exceeds the number of tokens if it is padded."""
    info = m.tensors.get(TOKENS)
    if info is None or len(info.shape) != 2:
        fact = f"has the shape {list(info.shape)}; it must be a matrix" if info else "is missing"
        raise FormatError(f"{m.path}: tensor {TOKENS} {fact}")
    n_rows = info.shape[0]
    said, n_tokens = m.integer("vocab_size", n_rows), m.lengths.get("tokenizer.ggml.tokens", 0)
    for key, n, is_wrong in (
        (m.name("vocab_size"), said, said != n_rows),
        ("the length of tokenizer.ggml.tokens", n_tokens, n_tokens > n_rows),
    ):
        if is_wrong:
            raise FormatError(f"{m.path}: {key} is {n}, but {TOKENS} has {n_rows} rows")
    return n_rows


def _biases(m: Metadata) -> dict[str, bool]:
    """The bias flags, from the tensors that are there."""
    attention = any(f"blk.0.{part}.bias" in m.tensors for part in ("attn_q", "attn_qkv"))
    return {"attention_bias": attention, "mlp_bias": "blk.0.ffn_up.bias" in m.tensors}


def _tokens(m: Metadata) -> dict[str, Any]:
    """bos_token_id, and the ids that end a text or a turn."""
    bos, *ends = (
        m.keys.integer(f"tokenizer.ggml.{key}_token_id", 0, _MOST, None)
        for key in ("bos", "eos", "eot", "eom")
    )
    ids = [*dict.fromkeys(id for id in ends if id is not None)]
    found = {} if bos is None else {"bos_token_id": bos}
    return found | ({"eos_token_id": ids if len(ids) > 1 else ids[0]} if ids else {})


# ---- rotation ----


def _rope(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_theta": m.number("rope.freq_base", 10000.0)}
    if scaling := _scaling(m, raw):
        found["rope_scaling"] = scaling
    head_dim = raw["head_dim"]
    rotary = m.integer("rope.dimension_count", head_dim)
    if rotary != head_dim:
        part = rotary / head_dim
        found["partial_rotary_factor"] = (
            part if int(head_dim * part) == rotary else float(np.nextafter(part, 2))
        )
    return found


def _is_stretched(m: Metadata) -> bool:
    """Whether the scaling multiplies cos and sin: LongRoPE or YaRN."""
    if ROPE_LONG in m.tensors or ROPE_SHORT in m.tensors:
        return True
    return ROPE_FREQS not in m.tensors and m.value("rope.scaling.type") == "yarn"


def _scaling(m: Metadata, raw: dict[str, Any]) -> dict[str, Any] | None:
    kind = m.keys.text(m.name("rope.scaling.type"))
    factor = m.number("rope.scaling.factor", None) or m.number("rope.scale_linear", None)
    if ROPE_LONG in m.tensors or ROPE_SHORT in m.tensors:
        return _longrope(m, raw)
    if ROPE_FREQS in m.tensors:
        if kind not in (None, "none") and factor not in (None, 1.0):
            m.refuse("rope.scaling.type", f"beside the tensor {ROPE_FREQS} none can be run")
        return {"rope_type": "rope_freqs", "rope_freqs": m.numbers(ROPE_FREQS)}
    if kind == "yarn":
        return _yarn(m, raw, factor)
    if kind not in (None, "none", "linear"):
        m.refuse("rope.scaling.type", f"only {any_of(('none', 'linear', 'yarn'))} can be run")
    return (
        None
        if kind == "none" or factor in (None, 1.0)
        else {"rope_type": "linear", "factor": factor}
    )


def _yarn(m: Metadata, raw: dict[str, Any], factor: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor or m.number("rope.scaling.factor"),
        **_original(m, raw),
    }
    for key in ("beta_fast", "beta_slow"):
        if beta := m.number(f"rope.scaling.yarn_{key}", None):
            found[key] = beta
    if of_all := m.number("rope.scaling.yarn_log_multiplier", None):
        found |= {"mscale": 1.0, "mscale_all_dim": of_all}
    if times := m.number("rope.scaling.attn_factor", None):
        if times != 1:
            found["attention_factor"] = times * attention_factor(found)
    return found


def _longrope(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    for name in (ROPE_LONG, ROPE_SHORT):
        if name not in m.tensors:
            raise FormatError(f"{m.path}: tensor {name} is missing; it comes with the other table")
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": m.numbers(ROPE_SHORT),
        "long_factor": m.numbers(ROPE_LONG),
        **_original(m, raw),
    }
    given = m.number("rope.scaling.attn_factor", 1.0)
    stretch = raw["max_position_embeddings"] / max(1, found["original_max_position_embeddings"])
    if found["original_max_position_embeddings"] > 1:
        usual = attention_factor(found | {"factor": stretch})
        if np.float32(usual) == np.float32(given):  # computed from the two lengths
            return found
    return found | {"attention_factor": given}


def _original(m: Metadata, raw: dict[str, Any]) -> dict[str, int]:
    key, longest = "rope.scaling.original_context_length", raw["max_position_embeddings"]
    return {"original_max_position_embeddings": m.integer(key, longest)}


def _unused_factor(m: Metadata, raw: Mapping[str, Any]) -> list[str]:
    """A note on an attn_factor that neither llama.cpp nor transformers uses: for YaRN it follows
    from the scaling factor."""
    key = "rope.scaling.yarn_attn_factor"
    given, block = m.number(key, None), raw.get("rope_scaling") or {}
    if given is None or block.get("rope_type") != "yarn":
        return []
    used = attention_factor(block)
    if np.float32(given) == np.float32(used):
        return []
    return [f"{m.path}: {m.name(key)} ({given:g}) is ignored, as llama.cpp does; it is {used:g}"]


# ---- architectures ----


def _llama(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    """Llama, and what converters write under its name: with a window or YaRN, it is Mistral."""
    window = m.integer(_WINDOW, 0) or None
    if window or (raw.get("rope_scaling") or {}).get("rope_type") == "yarn":
        return {"model_type": "mistral", "sliding_window": window}
    return {}


def _mistral(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    return {"sliding_window": m.integer(_WINDOW, 0) or None}


def _plain(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    return {}


def _gemma2(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    caps = {
        key: m.number(key, None) for key in (_SCORE_CAP, _LOGIT_CAP) if m.value(key) is not None
    }
    window = m.integer(_WINDOW, 4096)
    return caps | _gemma_scale(raw, 46) | _windows(m, raw, window, 2)


def _gemma3(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    found = {"rope_local_base_freq": m.number("rope.freq_base_swa", 10000.0)}
    if cap := m.number(_LOGIT_CAP, None):
        found[_LOGIT_CAP] = cap
    return found | _gemma_scale(raw, 62) | _windows(m, raw, m.integer(_WINDOW, 0), 6)


def _gemma_scale(raw: dict[str, Any], n_layers_of_27b: int) -> dict[str, int]:
    """No key holds it; the 27B models are recognised by their number of layers, as in llama.cpp."""
    is_27b = raw["num_hidden_layers"] == n_layers_of_27b
    of_width = raw["hidden_size"] // max(1, raw["num_attention_heads"])
    return {"query_pre_attn_scalar": of_width if is_27b else raw["head_dim"]}


def _phi3(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    return {"sliding_window": m.integer(_WINDOW, 0) or None, **_original(m, raw)}


def _smollm3(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    """Every fourth layer has no RoPE, as llama.cpp hard-codes it."""
    return {"no_rope_layer_interval": 4}


def _olmo2(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    """With windows it is OLMo 3, whose sliding layers use RoPE without scaling."""
    window = m.integer(_WINDOW, 0)
    if not window:
        return {}
    theta, scaling = raw.pop("rope_theta"), raw.pop("rope_scaling", {"rope_type": "default"})
    sliding = m.number("rope.freq_base_swa", theta)
    blocks = {
        FULL: {**scaling, "rope_theta": theta},
        SLIDING: {"rope_type": "default", "rope_theta": sliding},
    }
    return {"model_type": "olmo3", "rope_parameters": blocks, **_windows(m, raw, window, 4)}


def _granite(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    if m.value("rope.scaling.finetuned") is False:
        m.refuse("rope.scaling.finetuned", "a Granite without RoPE cannot be run")
    numbers = {key: m.number(stored, 1.0) for key, stored in _SCALES.items()}
    return numbers | {"attention_multiplier": m.number(_SCALES["attention_multiplier"])}


def _exaone4(m: Metadata, raw: dict[str, Any]) -> dict[str, Any]:
    return _windows(m, raw, m.integer(_WINDOW, 0), 4)


def _windows(m: Metadata, raw: dict[str, Any], window: int, every: int) -> dict[str, Any]:
    """Which layers have a sliding window: a flag for each, or every n-th is full."""
    n_layers = raw["num_hidden_layers"]
    pattern = m.value(_PATTERN)
    if not window:
        slides = [False] * n_layers
    elif type(pattern) is list:
        if len(pattern) != n_layers or any(type(flag) is not bool for flag in pattern):
            m.keys.fail(
                m.name(_PATTERN), f"a number, or true or false for each of {n_layers} layers"
            )
        slides = pattern
    else:
        every = m.integer(_PATTERN, every)
        slides = [every == 0 or (i + 1) % every != 0 for i in range(n_layers)]
    kinds = [SLIDING if flag else FULL for flag in slides]
    return {"sliding_window": window or None, "layer_types": kinds}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", _llama, is_turned=True, reads=(_WINDOW,)),
    "mistral3": Architecture("mistral", _mistral, is_turned=True, reads=(_WINDOW,)),
    "qwen2": Architecture("qwen2", _plain),
    "qwen3": Architecture("qwen3", _plain),
    "gemma": Architecture("gemma", _plain),
    "gemma2": Architecture("gemma2", _gemma2, reads=(_WINDOW, _SCORE_CAP, _LOGIT_CAP)),
    "gemma3": Architecture("gemma3_text", _gemma3, reads=(_WINDOW, _LOGIT_CAP)),
    "phi3": Architecture("phi3", _phi3, reads=(_WINDOW,)),
    "smollm3": Architecture("smollm3", _smollm3, is_turned=True),
    "olmo2": Architecture("olmo2", _olmo2, reads=(_WINDOW,)),
    "granite": Architecture("granite", _granite, is_turned=True, reads=tuple(_SCALES.values())),
    "exaone4": Architecture("exaone4", _exaone4, reads=(_WINDOW,)),
}
