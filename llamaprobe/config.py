"""config.json -> Config: every number of a model that is not a weight.

What the keys mean is the family's, by model_type (families/table.py). config.json comes from a
stranger: types are exact (2048.0 and true are not integers), every number has a range, keys that
contradict each other are an error. What would need other maths than llamaprobe has is refused by
name, never approximated; a key of another architecture, which transformers ignores, is a warning;
keys that do not touch the maths are ignored. Nothing that decides a value is guessed: the only
defaults are those of the family's class in transformers. Numbers do not depend on the caller's
rounding mode.
"""

import errno
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core, log
from .arguments import whole
from .errors import ConfigError, FileError
from .families.family import LINEARS, PRE_NORMS, Family
from .families.keys import Keys, any_of
from .families.keys import UnsupportedConfigError as UnsupportedConfigError
from .families.rope import Rope
from .families.rope import inverse_frequencies as inverse_frequencies
from .families.rope_keys import POSITIONS, Ropes, read_ropes, rotation_notes
from .families.table import BY_CLASS, FAMILIES, LLAMA, REFUSED, SHELLS
from .families.tensors import tensors as tensors
from .files.atomic import file_error
from .files.json_file import parse_object, read_file, show
from .messages import printable, shown_path

MAX_BYTES = 4 << 20  # real ones have 1 to 10 KB
_SIZE = 65536
_VOCAB = 1 << 21
_COUNT = 1024
_MAX_ANGLE = 1 << 26  # radians; beyond it csrc/base/sincos.c has no sine and cosine

_SHOWN = 5  # so many names in a message

# Keys by which models say that they compute something else. Where the class of a family does not
# read one, transformers 5 ignores it.
_FOREIGN = (
    *("use_bidirectional_attention", "no_rope_layers", "no_rope_layer_interval"),
    *(
        "rope_interleaved",
        "qk_norm",
        "use_qk_norm",
        "bias",
        "use_bias",
        "qkv_bias",
        "clip_qkv",
    ),
    "alibi",
    *(
        "logit_scale",
        "logits_scaling",
        "embedding_multiplier",
        "residual_multiplier",
        "scale_emb",
    ),
    *(
        "attention_multiplier",
        "query_pre_attn_scalar",
        "scale_depth",
        "attention_chunk_size",
    ),
    *("attn_logit_softcapping", "final_logit_softcapping", "attn_temperature_tuning"),
    *("parallel_attn", "use_parallel_residual", "pruned_heads"),
)
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


class Layer(NamedTuple):
    """What one layer has of its own."""

    window: int | None
    """Key k is seen by query q if q - window < k <= q; None: every key up to q."""
    rope: Rope | None
    """What turns q and k; None: nothing."""


@dataclass(frozen=True, eq=False)
class Config:
    """The numbers of one model, checked: `Model.config` and `Run.config`.

    n_layers, n_heads, n_kv_heads, d_model, d_ff, vocab_size, rms_norm_eps and rope_theta are those
    of the file, or the defaults of the family. bos_token_id and eos_token_id are the file's, None
    where it has none.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    """Floats of one head; even, and n_heads * head_dim need not be d_model."""
    d_model: int
    d_ff: int
    vocab_size: int
    max_positions: int
    """Longest sequence that a run accepts: max_position_embeddings, or fewer where later positions
    turn by more than 2^26 radians, of which no sine is computed (`notes` says so)."""
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    """The rope block as the file has it; None when nothing is scaled."""
    inv_freq: NDArray[np.float32] = field(repr=False)
    """float32 [head_dim / 2], radians per position, read-only: the rotation really used."""
    attention_scale: float
    """float32(1 / sqrt(head_dim)), or what the family has instead: multiplies q . k."""
    attention_bias: bool
    """q, k and v have a bias."""
    o_bias: bool
    """The product after the attention has a bias."""
    mlp_bias: bool
    """The products of the MLP have a bias."""
    tied_head: bool
    """The file says that logits use the embedding matrix."""
    qk_norm: bool
    """q and k have a norm of their own before they are rotated."""
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    dtype: str | None
    """What the file says of the weights' dtype; the weights themselves decide."""
    path: str
    """Of config.json."""
    raw: dict[str, Any] = field(repr=False)
    """config.json as parsed."""
    notes: tuple[str, ...] = ()
    """Warnings issued when the file was read."""
    sha256: str = field(default="", repr=False)
    """Of config.json; "" when the numbers come from elsewhere."""
    # What a Llama does not have: the defaults below are a Llama.
    family: str = "llama"
    """model_type of its family."""
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    """[n_layers]; (): all without a window, rotated by inv_freq."""
    linears: Mapping[str, str] = field(default_factory=lambda: LINEARS, repr=False)
    """Point -> module of a layer whose matrix computes it; points that share one are consecutive
    ranges of its rows."""
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORMS, repr=False)
    """Point -> module of a layer whose gain computes it."""
    gain_offset: float = 0.0
    """Added to the gain of every norm."""
    qk_norm_whole: bool = False
    """The norms of q and k go over all heads at once, not over each."""
    activation: str = "silu"
    """Or "gelu_tanh"."""
    score_scale: float | None = None
    """attention_scale before it was rounded; None: 1 / sqrt(head_dim)."""
    embedding_scale: float = 1.0
    """Multiplies the rows of the embedding matrix."""
    residual_scale: float = 1.0
    """Multiplies what is added to the residual stream."""
    logits_divisor: float = 1.0
    """Divides the logits, before logits_cap."""
    score_cap: float | None = None
    """c of c * tanh(scores_raw / c)."""
    logits_cap: float | None = None
    """c of c * tanh(logits / c)."""
    interleaved: bool = False
    """RoPE turns components 2i and 2i + 1 together, not i and i + rotary_dim / 2."""

    prefix: str = ""
    """What stands before the names of tensors."""

    def layer(self, i: int) -> Layer:
        """The window and the rotation of layer number i. ArgumentError."""
        i = whole("i", i, 0, self.n_layers)
        return self.layers[i] if self.layers else Layer(None, Rope(self.inv_freq))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After unpickling and copying inv_freq is read-only again."""
        self.__dict__.update(state)
        self.inv_freq.flags.writeable = False


def read_config(path: str | os.PathLike[str], *, stacklevel: int = 2) -> Config:
    """Read and check the config of a model: a folder that holds config.json, or that file.

    A key that is ignored although its author meant something by it (`auto_map`, `logit_scale`), or
    a value that the file leaves to history (`rope_theta`), is reported once per call through
    `warnings` and kept in `Config.notes`. The rounding mode of the calling thread does not matter.

    Raises FileError (missing, unreadable, no regular file), ConfigError (broken JSON, a key that is
    missing, of the wrong type, out of range or contradicted by another), UnsupportedConfigError
    (another architecture, an unknown rope type).
    """
    file = os.fsdecode(path)
    if os.path.isdir(file):
        folder, file = file, os.path.join(file, "config.json")
        if not os.path.lexists(file):
            raise _no_model(folder)
    config: Config = _core.call_rounded(_read, file)
    for note in config.notes:
        log.warn(note, stacklevel=stacklevel)
    return config


def _read(file: str) -> Config:
    data = read_file(file, MAX_BYTES, ConfigError)
    raw = parse_object(data, file, ConfigError)
    return _config(raw, file, hashlib.sha256(data).hexdigest())


def parse_config(raw: dict[str, Any], name: str) -> Config:
    """The config of a config.json that was parsed; `name` is what messages call it. A key `gguf`
    says that it was made of the metadata of a GGUF (gguf/config.py). Raises as `read_config`."""
    is_gguf = isinstance(raw.get("gguf"), dict)
    config: Config = _core.call_rounded(lambda values: _config(values, name, "", is_gguf), raw)
    return config


def _no_model(folder: str) -> FileError:
    """For a folder without config.json: a few names of what is in it tell which folder it is."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return file_error(error, folder)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    held = ", ".join(printable(name, 60) for name in names[:_SHOWN]) or "nothing"
    return FileError(
        f"{shown_path(folder)}: has no config.json, so this is not a model folder; it holds:"
        f" {held}{more}",
        errno.ENOENT,
        os.path.join(folder, "config.json"),
    )


# ---- from keys to Config ----


def _config(raw: dict[str, Any], file: str, sha256: str, is_gguf: bool = False) -> Config:
    keys, prefix = _text_keys(shown_path(file), raw)
    family = _family(keys)
    if is_gguf:  # its gains are those that multiply, and it may hold a table of RoPE
        family = replace(family, gain_offset=0.0, rope_types=(*family.rope_types, "rope_freqs"))
    keys = Keys(keys.path, {**family.defaults, **keys.values}, keys.name)
    _check_extras(keys, family)
    d_model = keys.integer("hidden_size", 1, _SIZE)
    n_heads, n_kv_heads, head_dim = _heads(keys, d_model)
    n_layers = keys.integer("num_hidden_layers", 1, _COUNT)
    ropes = read_ropes(keys, family, head_dim)
    max_positions, limits = _positions(keys, ropes)
    layers = [
        Layer(kind.window, None if kind.rope is None else ropes.of(kind.rope))
        for kind in family.layers(keys, n_layers)
    ]
    scale = _score_scale(keys, family, head_dim)
    return Config(
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        d_model=d_model,
        d_ff=keys.integer(family.d_ff, 1, 16 * _SIZE),
        vocab_size=keys.integer("vocab_size", 1, _VOCAB),
        max_positions=max_positions,
        rms_norm_eps=keys.number("rms_norm_eps"),
        rope_theta=ropes.theta,
        rope_scaling=ropes.scaling,
        inv_freq=next(iter(ropes.tables.values())).inv_freq,
        attention_scale=float(np.float32(1 / math.sqrt(head_dim) if scale is None else scale)),
        attention_bias=_flag(keys, family.qkv_bias),
        o_bias=_flag(keys, family.o_bias),
        mlp_bias=_flag(keys, family.mlp_bias),
        tied_head=keys.flag("tie_word_embeddings"),
        qk_norm="q_norm" in family.norms,
        bos_token_id=keys.integer("bos_token_id", -1, _VOCAB, None),
        eos_token_id=_eos(keys),
        dtype=keys.text("dtype") or keys.text("torch_dtype"),
        path=file,
        raw=raw,
        notes=(*ropes.notes, *limits, *_ignored_notes(keys, family)),
        sha256=sha256,
        family=family.model_type,
        layers=tuple(layers),
        linears=family.linears,
        norms=family.norms,
        gain_offset=family.gain_offset,
        qk_norm_whole=family.qk_norm == "whole",
        activation=family.activations[keys.values.get(family.activation, "silu")],
        score_scale=scale,
        embedding_scale=_embedding_scale(keys, family, d_model),
        residual_scale=_number(keys, family.residual_scale) or 1.0,
        logits_divisor=_number(keys, family.logits_divisor) or 1.0,
        score_cap=_number(keys, family.score_cap),
        logits_cap=_number(keys, family.logits_cap),
        interleaved=family.interleaved,
        prefix=prefix,
    )


def _text_keys(path: str, raw: dict[str, Any]) -> tuple[Keys, str]:
    """The keys of the decoder, and what stands before its tensors' names: text_config of a model of
    text and images, which has the flags of the head outside."""
    keys = Keys(path, raw)
    shell = SHELLS.get(keys.text("model_type") or "")
    if shell is None:
        return keys, ""
    architecture, model_type, prefix = shell
    if keys.strings("architectures") not in ([], [architecture]):
        keys.refuse("architectures", f"only {architecture} can be run")
    inside = keys.inside("text_config")
    ids = ("bos_token_id", "eos_token_id")
    values: dict[str, Any] = {
        "model_type": model_type,
        **{k: raw[k] for k in ids if k in raw},
    }
    values |= inside.values
    values["tie_word_embeddings"] = raw.get("tie_word_embeddings", True)
    values.pop("architectures", None)
    return Keys(path, values, inside.name), prefix


def _family(keys: Keys) -> Family:
    """What model_type and architectures mean; one of the two may be missing."""
    names, model_type = keys.strings("architectures"), keys.text("model_type")
    if model_type is None and not names:
        keys.fail("model_type", '"llama"')
    known = BY_CLASS.get(names[0]) if len(names) == 1 and type(names[0]) is str else None
    family = FAMILIES.get(model_type) if model_type is not None else known
    if family is None and model_type is not None:
        why = f"only {any_of(tuple(FAMILIES))} can be run"
        keys.refuse("model_type", REFUSED.get(model_type, why))
    if family is None or (names and known is None):
        keys.refuse("architectures", f"only {(family or LLAMA).architecture} can be run")
    if known not in (None, family):
        keys.refuse("model_type", f"its class is {family.architecture}, not {show(names)}")
    return family


def _check_extras(keys: Keys, family: Family) -> None:
    """Keys that would change the maths."""
    activation = keys.values.get(family.activation, "silu")
    if type(activation) is not str or activation not in family.activations:
        shown = [name for name in family.activations if name != "swish"]
        keys.refuse(family.activation, f"only {any_of(tuple(shown))} can be run")
    for key, allowed in family.fixed.items():
        if keys.values.get(key) not in allowed:
            keys.refuse(key, f"only {' or '.join(map(show, allowed))} can be run")
    if keys.values.get("is_causal", True) is not True:  # null too: eager attention takes it so
        keys.refuse("is_causal", "only attention over earlier tokens can be run")
    if keys.values.get("per_layer_config"):
        keys.refuse("per_layer_config", "only layers that are all alike can be run")
    if keys.values.get("attribute_map"):
        keys.refuse("attribute_map", "keys can only be read under their own names")
    if keys.values.get("transformers_weights") not in (None, *_WEIGHT_FILES):
        keys.refuse("transformers_weights", "only model.safetensors or its shards can be run")


def _flag(keys: Keys, flag: str | bool) -> bool:
    return keys.flag(flag) if isinstance(flag, str) else flag


def _number(keys: Keys, key: str) -> float | None:
    """None where the family has no such number, or the file turns it off."""
    found: float | None = keys.number(key, None) if key else None
    return found


def _score_scale(keys: Keys, family: Family, head_dim: int) -> float | None:
    key, power = family.scale
    return None if key == "head_dim" else float(keys.number(key) ** power)


def _embedding_scale(keys: Keys, family: Family, d_model: int) -> float:
    if family.embedding_scale == "sqrt(hidden_size)":
        return float(np.float32(math.sqrt(d_model)))
    return _number(keys, family.embedding_scale) or 1.0


def _heads(keys: Keys, d_model: int) -> tuple[int, int, int]:
    """n_heads, n_kv_heads, head_dim. Without a key for the last two: n_heads, d_model / n_heads."""
    n_heads = keys.integer("num_attention_heads", 1, _COUNT)
    n_kv_heads = keys.integer("num_key_value_heads", 1, _COUNT, n_heads)
    if n_heads % n_kv_heads:
        keys.fail(
            "num_key_value_heads",
            f"a divisor of num_attention_heads, which is {n_heads}",
        )
    head_dim = keys.integer("head_dim", 2, _SIZE, None)
    if head_dim is None and d_model % n_heads:
        keys.fail(
            "num_attention_heads",
            f"a divisor of hidden_size, which is {d_model}, unless the file has a head_dim",
        )
    if head_dim is not None and head_dim % 2:
        keys.fail("head_dim", "even")
    if head_dim is None and d_model // n_heads % 2:
        keys.fail(
            "hidden_size",
            f"an even multiple of num_attention_heads, which is {n_heads}",
        )
    return n_heads, n_kv_heads, head_dim or d_model // n_heads


def _eos(keys: Keys) -> int | tuple[int, ...] | None:
    """One id, or several: Llama 3's chat models end at any of a list."""
    ids = keys.values.get("eos_token_id")
    if type(ids) is not list:
        one: int | None = keys.integer("eos_token_id", -1, _VOCAB, None)
        return one
    if any(type(i) is not int or not -1 <= i <= _VOCAB for i in ids):
        keys.fail("eos_token_id", "an id, or a list of ids")
    return tuple(ids)


def _positions(keys: Keys, ropes: Ropes) -> tuple[int, list[str]]:
    """The positions that a run may have, and a note where the rotation leaves fewer than the file
    says."""
    said: int = keys.integer("max_position_embeddings", 1, POSITIONS)
    fastest = max(float(t.max()) for rope in ropes.tables.values() for t in rope.tables())
    usable = int(_MAX_ANGLE / fastest) + 1
    if usable >= said:
        return said, []
    last = f"{(said - 1) * fastest:.4g} radians at position {said - 1}"
    turned = f"rope_theta {ropes.theta:g} with {show(ropes.scaling)}"
    fact = (
        f"{keys.path}: {turned} turns by {fastest:.4g} radians per position, {last}; sines are"
        f" computed up to {_MAX_ANGLE}"
    )
    if usable == 1:
        raise UnsupportedConfigError(f"{fact}, so that no prompt of two tokens can be run")
    return usable, [f"{fact}, so that a prompt may have {usable} tokens at most"]


def _ignored_notes(keys: Keys, family: Family) -> list[str]:
    notes = []
    if keys.values.get("auto_map") is not None:
        notes = [f"{keys.path}: auto_map is ignored: code that comes with a model is never run"]
    found = [
        f"{key} ({show(keys.values[key])})"
        for key in _FOREIGN
        if not family.reads(key) and _is_meant(keys, key)
    ]
    found += [printable(name, 60) for name in rotation_notes(keys, family)]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        notes.append(
            f"{keys.path}: {', '.join(found[:_SHOWN])}{more}: ignored, as transformers does in a"
            f" {family.title}; the values are those of a model without"
        )
    return notes


def _is_meant(keys: Keys, key: str) -> bool:
    """Whether a key says anything but that nothing is different."""
    value = keys.values.get(key)
    if value is True and key.endswith("bias"):  # another name of the flags, which say the same
        return not keys.flag("attention_bias")
    if key == "no_rope_layers" and isinstance(value, list):
        return any(layer != 1 for layer in value)
    return bool(value) and (value is True or value != 1)
