"""config.json -> Config: every number of a Llama that is not a weight.

Both styles are read: `rope_theta` and `rope_scaling` on the top level (transformers 4), or both
inside `rope_parameters` (transformers 5). config.json comes from a stranger: types are exact
(2048.0 and true are no integers), every number has a range, keys that contradict each other are an
error. What would need other maths than a plain Llama's is refused by name, never approximated; a
key of another architecture, which transformers ignores in a Llama, is a warning; keys that do not
touch the maths are ignored. Nothing that decides a value is guessed: the only defaults are those
that the Llama class has always had (no biases, untied head, n_kv_heads = n_heads, SiLU). Numbers do
not depend on the caller's rounding mode.
"""

import errno
import hashlib
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import _core, log
from .files.atomic import file_error, shown_path
from .errors import ConfigError, FileError, UnsupportedError
from .files.json_file import parse_object, read_file, show
from .files.naming import printable

MAX_BYTES = 4 << 20  # real ones have 1 to 10 KB
_SIZE = 65536
_VOCAB = 1 << 21
_COUNT = 1024
_POSITIONS = 1 << 24  # beyond this a position is no exact float32
_MAX_ANGLE = 1 << 26  # radians; beyond it csrc/base/sincos.c has no sine and cosine

_ROPE_TYPES = ("default", "linear", "llama3")
_REQUIRED: Any = object()
_SHOWN = 5  # so many names in a message

# Keys by which models that are no plain Llama say that they compute something else. In a Llama
# transformers 5 ignores them.
_FOREIGN = (
    *("use_bidirectional_attention", "no_rope_layers", "no_rope_layer_interval"),
    *("rope_interleaved", "qk_norm", "use_qk_norm", "bias", "use_bias", "qkv_bias", "clip_qkv"),
    "alibi",
    *("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier", "scale_emb"),
    *("attention_multiplier", "query_pre_attn_scalar", "scale_depth", "attention_chunk_size"),
    *("attn_logit_softcapping", "final_logit_softcapping", "attn_temperature_tuning"),
    *("parallel_attn", "use_parallel_residual", "pruned_heads"),
)
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
}


class UnsupportedConfigError(ConfigError, UnsupportedError):
    """config.json asks for something that llamaprobe does not compute; the message says what."""


@dataclass(frozen=True, eq=False)
class Config:
    """The numbers of one model, checked. Made by `read_config`."""

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
    """float32(1 / sqrt(head_dim)), which multiplies q . k."""
    attention_bias: bool
    mlp_bias: bool
    tied_head: bool
    """The file says that logits use the embedding matrix."""
    qk_norm: bool
    """False for every Llama; a file with such norms is refused when it is opened."""
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    dtype: str | None
    """What the file says of the weights' dtype; the weights themselves decide."""
    path: str
    raw: dict[str, Any] = field(repr=False)
    """config.json as parsed."""
    notes: tuple[str, ...] = ()
    """What was told as a warning when the file was read."""
    sha256: str = field(default="", repr=False)
    """Of config.json; "" when the numbers come from elsewhere."""

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
    (another architecture, quantised weights, an unknown rope type).
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
    return _config(_Keys(shown_path(file), raw), file, hashlib.sha256(data).hexdigest())


def core_numbers(config: Config) -> dict[str, Any]:
    """What the core takes of a config: the numbers of csrc/model/config.h, by name."""
    return {name: getattr(config, name) for name, _ in _core.config()}


def tensors(config: Config) -> list[tuple[str, tuple[int, ...], str, bool]]:
    """(name, shape, point that is computed with it, whether each layer has one) of every tensor of
    such a model; names in a layer follow "model.layers.N."."""
    return _core.tensors(**core_numbers(config))


def _no_model(folder: str) -> FileError:
    """For a folder without config.json: a few names of what is in it tell which folder it is."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return file_error(error, folder)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    held = ", ".join(printable(name, 60) for name in names[:_SHOWN]) or "nothing"
    return FileError(
        f"{shown_path(folder)}: has no config.json, so this is no model folder; it holds:"
        f" {held}{more}",
        errno.ENOENT,
        os.path.join(folder, "config.json"),
    )


def inverse_frequencies(
    theta: float, head_dim: int, scaling: dict[str, Any] | None = None
) -> NDArray[np.float32]:
    """The rotation of RoPE in radians per position: float32 [head_dim / 2].

    `scaling` is None or holds rope_type "linear" (factor) or "llama3" (factor, low_freq_factor,
    high_freq_factor, original_max_position_embeddings). Each step is rounded to float32 in the
    order in which transformers 5 takes it, so that only its powf can differ (by 1 or 2 ulp in about
    one value of 70, and not alike on all CPUs). Source: Su et al. 2021 (RoFormer) for
    theta^(-2i / head_dim), the Llama 3.1 release for the bands.
    """
    f32 = np.float32
    exponent = np.arange(0, head_dim, 2, dtype=f32) / f32(head_dim)
    base = float(f32(theta))
    # libm, not NumPy: its vector pow is less exact and differs between CPUs
    power = np.array([math.pow(base, float(e)) for e in exponent]).astype(f32)
    inv = f32(1) / power
    kind = scaling.get("rope_type", scaling.get("type")) if scaling else "default"
    if scaling is None or kind == "default":
        return inv
    if kind == "linear":
        return inv / f32(scaling["factor"])
    return _llama3_bands(inv, scaling)


def _llama3_bands(inv: NDArray[np.float32], scaling: dict[str, Any]) -> NDArray[np.float32]:
    """Long waves are slowed down by factor, short ones stay, those between are blended."""
    f32 = np.float32
    factor = f32(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    old = float(scaling["original_max_position_embeddings"])
    # torch takes number / tensor as reciprocal * number, two roundings; so does this
    wavelength = (f32(1) / inv) * f32(2 * math.pi)
    slowed = np.where(wavelength > f32(old / low), inv / factor, inv)
    smooth = ((f32(1) / wavelength) * f32(old) - f32(low)) / f32(high - low)
    blend = (f32(1) - smooth) * slowed / factor + smooth * slowed
    between = (wavelength >= f32(old / high)) & (wavelength <= f32(old / low))
    return np.where(between, blend, slowed)


# ---- from keys to Config ----


class _Keys:
    """The keys of one JSON object; `name` stands before a key in messages."""

    def __init__(self, path: str, values: dict[str, Any], name: str = "") -> None:
        self.path, self.values, self.name = path, values, name

    def fail(self, key: str, allowed: str) -> NoReturn:
        fact = f"is {show(self.values[key])}" if key in self.values else "is missing"
        raise ConfigError(f"{self.path}: {self.name}{key} {fact}; it must be {allowed}")

    def refuse(self, key: str, why: str) -> NoReturn:
        value = show(self.values.get(key))
        raise UnsupportedConfigError(f"{self.path}: {self.name}{key} is {value}: {why}")

    def value(self, key: str, kinds: tuple[type, ...], allowed: str, default: Any) -> Any:
        found = self.values.get(key)
        if found is None and default is not _REQUIRED:
            return default
        if type(found) not in kinds:  # exact: True is no int here
            self.fail(key, allowed)
        return found

    def integer(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        allowed = f"an integer from {low} to {high}"
        found = self.value(key, (int,), allowed, default)
        if found is not None and not low <= found <= high:
            self.fail(key, allowed)
        return found

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        allowed = "a number above 0 that a float32 can hold"
        found = self.value(key, (int, float), allowed, default)
        with np.errstate(over="ignore"):
            if found is not None and not 0 < np.float32(found) < np.inf:
                self.fail(key, allowed)
        return found if found is None else float(found)

    def flag(self, key: str) -> bool:
        found: bool = self.value(key, (bool,), "true or false", False)
        return found

    def text(self, key: str) -> str | None:
        found: str | None = self.value(key, (str,), "a string", None)
        return found

    def block(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = self.value(key, (dict,), "an object", {})
        return found


def _config(keys: _Keys, file: str, sha256: str) -> Config:
    _check_family(keys)
    _check_extras(keys)
    d_model = keys.integer("hidden_size", 1, _SIZE)
    n_heads, n_kv_heads, head_dim = _heads(keys, d_model)
    scaling, theta, notes = _rope(keys)
    inv_freq = _inv_freq(keys, theta, head_dim, scaling)
    max_positions, limits = _positions(keys, inv_freq, theta, scaling)
    return Config(
        n_layers=keys.integer("num_hidden_layers", 1, _COUNT),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        d_model=d_model,
        d_ff=keys.integer("intermediate_size", 1, 16 * _SIZE),
        vocab_size=keys.integer("vocab_size", 1, _VOCAB),
        max_positions=max_positions,
        rms_norm_eps=keys.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        inv_freq=inv_freq,
        attention_scale=float(np.float32(1 / math.sqrt(head_dim))),
        attention_bias=keys.flag("attention_bias"),
        mlp_bias=keys.flag("mlp_bias"),
        tied_head=keys.flag("tie_word_embeddings"),
        qk_norm=False,
        bos_token_id=keys.integer("bos_token_id", -1, _VOCAB, None),
        eos_token_id=_eos(keys),
        dtype=keys.text("dtype") or keys.text("torch_dtype"),
        path=file,
        raw=keys.values,
        notes=(*notes, *limits, *_ignored_notes(keys)),
        sha256=sha256,
    )


def _check_family(keys: _Keys) -> None:
    """model_type and architectures must mean Llama; one of the two may be missing."""
    names = keys.value("architectures", (list,), "a list of strings", [])
    if keys.text("model_type") is None and not names:
        keys.fail("model_type", '"llama"')
    if keys.text("model_type") not in (None, "llama"):
        keys.refuse("model_type", 'only "llama" can be run')
    if names not in ([], ["LlamaForCausalLM"]):
        keys.refuse("architectures", "only LlamaForCausalLM can be run")


def _check_extras(keys: _Keys) -> None:
    """Keys that would change the maths of a Llama."""
    for key in ("quantization_config", "quantization", "compression_config"):
        if keys.values.get(key) is not None:
            keys.refuse(key, "quantised weights cannot be run; take bf16, f16 or f32 ones")
    if keys.values.get("hidden_act", "silu") not in ("silu", "swish"):  # two names of one function
        keys.refuse("hidden_act", 'only "silu" can be run')
    windowed = keys.values.get("use_sliding_window") is not False
    if keys.values.get("sliding_window") is not None and windowed:
        keys.refuse("sliding_window", "only attention over all earlier tokens can be run")
    if keys.values.get("is_causal", True) is not True:  # null too: eager attention takes it so
        keys.refuse("is_causal", "only attention over earlier tokens can be run")
    if keys.values.get("per_layer_config"):
        keys.refuse("per_layer_config", "only layers that are all alike can be run")
    if keys.values.get("attribute_map"):
        keys.refuse("attribute_map", "keys can only be read under their own names")
    if keys.values.get("transformers_weights") not in (None, *_WEIGHT_FILES):
        keys.refuse("transformers_weights", "only model.safetensors or its shards can be run")
    kinds = keys.value("layer_types", (list,), "a list of strings", [])
    if any(kind != "full_attention" for kind in kinds):
        keys.refuse("layer_types", 'only "full_attention" can be run')


def _heads(keys: _Keys, d_model: int) -> tuple[int, int, int]:
    """n_heads, n_kv_heads, head_dim. Without a key for the last two: n_heads, d_model / n_heads."""
    n_heads = keys.integer("num_attention_heads", 1, _COUNT)
    n_kv_heads = keys.integer("num_key_value_heads", 1, _COUNT, n_heads)
    if n_heads % n_kv_heads:
        keys.fail("num_key_value_heads", f"a divisor of num_attention_heads, which is {n_heads}")
    head_dim = keys.integer("head_dim", 2, _SIZE, None)
    if head_dim is None and d_model % n_heads:
        keys.fail(
            "num_attention_heads",
            f"a divisor of hidden_size, which is {d_model}, unless the file has a head_dim",
        )
    if head_dim is not None and head_dim % 2:
        keys.fail("head_dim", "even")
    if head_dim is None and d_model // n_heads % 2:
        keys.fail("hidden_size", f"an even multiple of num_attention_heads, which is {n_heads}")
    return n_heads, n_kv_heads, head_dim or d_model // n_heads


def _rope(keys: _Keys) -> tuple[dict[str, Any] | None, float, list[str]]:
    """The rope block as found (None when it scales nothing), theta, notes."""
    new, old = _rope_block(keys, "rope_parameters"), _rope_block(keys, "rope_scaling")
    if new and old and new != old:
        keys.fail("rope_scaling", f"what rope_parameters says, {show(new)}, or absent")
    if keys.number("partial_rotary_factor", 1.0) != 1.0:
        keys.refuse("partial_rotary_factor", "only whole heads can be rotated")
    theta, notes = _rope_theta(keys)
    if (new or old or {}).get("rope_type", "default") == "default":
        return None, theta, notes
    return keys.block("rope_parameters" if new else "rope_scaling"), theta, notes


def _rope_block(keys: _Keys, name: str) -> dict[str, Any] | None:
    """What the block says of scaling, in one spelling; None without a block."""
    block = _Keys(keys.path, keys.block(name), f"{name}.")
    kind = block.text("rope_type") or block.text("type")
    if block.text("type") not in (None, kind):
        block.fail("type", f"what rope_type says, {show(kind)}, or absent")
    if block.number("partial_rotary_factor", 1.0) != 1.0:
        block.refuse("partial_rotary_factor", "only whole heads can be rotated")
    if not block.values:
        return None
    if kind is None and set(block.values) != {"rope_theta"}:
        block.fail("rope_type", _any_of(_ROPE_TYPES))
    if kind not in (None, *_ROPE_TYPES):
        spelt = "rope_type" if "rope_type" in block.values else "type"
        block.refuse(spelt, f"only {_any_of(_ROPE_TYPES)} can be run")
    if kind == "linear":
        return {"rope_type": kind, "factor": block.number("factor")}
    return _llama3_block(keys, block) if kind == "llama3" else {"rope_type": "default"}


def _llama3_block(keys: _Keys, block: _Keys) -> dict[str, Any]:
    low, high = block.number("low_freq_factor"), block.number("high_freq_factor")
    if low >= high:
        block.fail("low_freq_factor", f"below high_freq_factor, which is {show(high)}")
    key = "original_max_position_embeddings"
    old = block.integer(key, 1, _POSITIONS)
    if keys.integer(key, 1, _POSITIONS, old) != old:
        keys.fail(key, f"what {block.name}{key} says: {old}")
    factor = block.number("factor")
    return {"rope_type": "llama3", "factor": factor, "low": low, "high": high, "old": old}


def _rope_theta(keys: _Keys) -> tuple[float, list[str]]:
    """theta from wherever it stands; only files older than the key itself may leave it out."""
    found = keys.number("rope_theta", None)
    for name in ("rope_parameters", "rope_scaling"):
        inside = _Keys(keys.path, keys.block(name), f"{name}.").number("rope_theta", found)
        if found not in (None, inside):
            keys.fail("rope_theta", f"what {name} says: {show(inside)}")
        found = inside
    if found is not None:
        return found, []
    version = re.match(r"(\d{1,4})\.(\d{1,4})\.", keys.text("transformers_version") or "")
    if not version or (int(version[1]), int(version[2])) >= (4, 33):
        keys.fail("rope_theta", "the number that the model was trained with (Llama 2: 10000.0)")
    note = (
        f"{keys.path}: there is no rope_theta; 10000 is used, as it was fixed in the code of the"
        f" transformers {version[0]}x that wrote this file"
    )
    return 10000.0, [note]


def _inv_freq(
    keys: _Keys, theta: float, head_dim: int, scaling: dict[str, Any] | None
) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        inv_freq = inverse_frequencies(theta, head_dim, scaling)
    if not np.all((inv_freq > 0) & np.isfinite(inv_freq)):
        raise ConfigError(
            f"{keys.path}: rope_theta {theta:g} with {show(scaling)} gives a frequency that is 0"
            " or infinite in float32"
        )
    inv_freq.flags.writeable = False
    return inv_freq


def _eos(keys: _Keys) -> int | tuple[int, ...] | None:
    """One id, or several: Llama 3's chat models end at any of a list."""
    ids = keys.values.get("eos_token_id")
    if type(ids) is not list:
        one: int | None = keys.integer("eos_token_id", -1, _VOCAB, None)
        return one
    if any(type(i) is not int or not -1 <= i <= _VOCAB for i in ids):
        keys.fail("eos_token_id", "an id, or a list of ids")
    return tuple(ids)


def _positions(
    keys: _Keys, inv_freq: NDArray[np.float32], theta: float, scaling: dict[str, Any] | None
) -> tuple[int, list[str]]:
    """The positions that a run may have, and a note where the rotation leaves fewer than the file
    says."""
    said: int = keys.integer("max_position_embeddings", 1, _POSITIONS)
    fastest = float(inv_freq.max())
    usable = int(_MAX_ANGLE / fastest) + 1
    if usable >= said:
        return said, []
    last = f"{(said - 1) * fastest:.4g} radians at position {said - 1}"
    fact = (
        f"{keys.path}: rope_theta {theta:g} with {show(scaling)} turns by {fastest:.4g} radians per"
        f" position, {last}; sines are computed up to {_MAX_ANGLE}"
    )
    if usable == 1:
        raise UnsupportedConfigError(f"{fact}, so that no prompt of two tokens can be run")
    return usable, [f"{fact}, so that a prompt may have {usable} tokens at most"]


def _ignored_notes(keys: _Keys) -> list[str]:
    notes = []
    if keys.values.get("auto_map") is not None:
        notes = [f"{keys.path}: auto_map is ignored: code that comes with a model is never run"]
    found = [f"{key} ({show(keys.values[key])})" for key in _FOREIGN if _is_meant(keys, key)]
    for name in ("rope_parameters", "rope_scaling"):
        block = keys.block(name)
        known = _ROPE_KEYS[block.get("rope_type") or block.get("type") or "default"]
        named = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *known}
        found += [f"{name}.{printable(k, 60)}" for k, v in block.items() if k not in named and v]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        notes.append(
            f"{keys.path}: {', '.join(found[:_SHOWN])}{more}: ignored, as transformers does in a"
            " Llama; the values are those of a model without"
        )
    return notes


def _is_meant(keys: _Keys, key: str) -> bool:
    """Whether a key says anything but that nothing is different."""
    value = keys.values.get(key)
    if value is True and key.endswith("bias"):  # another name of the flags, which say the same
        return not keys.flag("attention_bias")
    if key == "no_rope_layers" and isinstance(value, list):
        return any(layer != 1 for layer in value)
    return bool(value) and (value is True or value != 1)


def _any_of(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
