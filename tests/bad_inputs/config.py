"""Bad inputs 56 to 65: config.json, and what it says against the weights."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models

import llamaprobe as lp
from bad_inputs import BadInput, Refusal
from llamaprobe import ConfigError, FormatError, UnsupportedError
from llamaprobe.config import MAX_BYTES, read_config

FILE = "config.json"
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def config(**overrides: Any) -> Callable[[Path], Path]:
    """A config.json with keys changed; `key=...` leaves one out."""
    return text(json.dumps(models.make_config(**overrides)))


def text(data: bytes | str | Callable[[], bytes]) -> Callable[[Path], Path]:
    """`data` may be a function where it is too large to keep."""

    def make(box: Path) -> Path:
        made = data() if callable(data) else data
        (box / FILE).write_bytes(made.encode() if isinstance(made, str) else made)
        return box

    return make


def refused(number: str, name: str, make: Callable[[Path], Path], fact: str,
            error: type[Exception] = ConfigError) -> BadInput:
    return BadInput(number, name, make, read_config, Refusal(error, f"^/.*/{FILE}: .*{fact}", FILE))


# ---- 56: malformed JSON ----

BROKEN = {
    "empty": (b"", "not valid JSON"),
    "cut off": (b'{"a": 1', "not valid JSON"),
    "two values": (b"{} x", "not valid JSON"),
    "control character": (b'{"a": "\x01"}', "not valid JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
    "overlong UTF-8": (b'{"a": "\xc0\xaf"}', "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8"),
    "list": (b"[1]", r"holds \[1\]; it must be a JSON object"),
    "null": (b"null", "holds null"),
    "duplicate key": (b'{"a": 1, "a": 1}', 'duplicate key "a"'),
    "duplicate key inside": (b'{"b": {"a": 1, "a": 2}}', 'duplicate key "a"'),
    "duplicate by escape": (b'{"a": 1, "\\u0061": 2}', 'duplicate key "a"'),
    "NaN": (b'{"rms_norm_eps": NaN}', "NaN is not valid JSON"),
    "Infinity": (b'{"a": [-Infinity]}', "-Infinity is not valid JSON"),
    "1e400": (b'{"a": 1e400}', "number 1e400 does not fit"),
    "2^63": (b'{"a": 9223372036854775808}', "integer 9223372036854775808 does not fit 64 bits"),
    "4,000 digits": (b'{"a": ' + b"1" * 4000 + b"}", "does not fit 64 bits"),
    "100,000 digits": (b'{"a": ' + b"1" * 100000 + b"}", "does not fit 64 bits"),
    "half a surrogate": (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    "half a surrogate in a key": (b'{"a": [{"\\udc00": 1}]}', "half of a surrogate pair"),
    "65 levels": (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "more than 64 levels"),
    "100,000 levels": (b"[" * 100000, "more than 64 levels"),
    "levels behind a cut string": (b'{"a": "' + b'\\"' * 50000 + b"[" * 100, "not valid JSON"),
    "a long text": (b'"' + b"x" * 10000 + b'"', "it must be a JSON object"),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 7\n",
        r"is a Git LFS pointer and not the file itself; `git lfs pull` in its folder fetches it$",
    ),
    "web page": (
        b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "is a web page and not the file itself; download the file again$",
    ),
    "web page behind a comment": (
        b'\xef\xbb\xbf\r\n<?xml version="1.0"?><!-- a\nb -->\n<HTML lang="en">', "is a web page"
    ),
    "a tag that begins no page": (b"<htmlx>{}</htmlx>", "not valid JSON"),
    "200 MB": (lambda: b" " * (200 << 20), f"over {MAX_BYTES} bytes"),
}


def read_with_deep_stack(folder: Path) -> object:
    """A caller who raised the limit must get the same error, not a crash of the C stack."""
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(10**6)
        return read_config(folder)
    finally:
        sys.setrecursionlimit(limit)


CASES = [refused("56", name, text(data), fact) for name, (data, fact) in BROKEN.items()]
CASES.append(
    BadInput("56", "300,000 levels and no recursion limit", text(b'{"a":' * 300000),
             read_with_deep_stack, Refusal(ConfigError, "more than 64 levels", FILE))
)

# ---- 56, 57, 59: missing keys, and numbers of the wrong kind ----

INTEGERS = {
    "hidden_size": 65536,
    "intermediate_size": 1048576,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "vocab_size": 2097152,
    "max_position_embeddings": 16777216,
}
NO_INTEGERS = [0, -1, 10**9, 2**31, 2**62, "2048", 2048.0, True, None, [8], {}]
CASES += [
    refused("59" if value == 2**31 else "57", f"{key} {json.dumps(value)}", config(**{key: value}),
            f"{key} is {json.dumps(value)}; it must be an integer from 1 to {most}$"
            .replace("[", r"\[").replace("{}", r"\{\}"))
    for key, most in INTEGERS.items()
    for value in NO_INTEGERS
]
CASES += [
    refused("56", f"no {key}", config(**{key: ...}), f"{key} is missing; it must be ")
    for key in (*INTEGERS, "rms_norm_eps", "rope_theta")
]
CASES.append(refused("56", "no model_type", config(model_type=..., architectures=...),
                    "model_type is missing; it must be "))

# ---- 58: heads ----

HEADS: dict[str, tuple[dict[str, Any], str]] = {
    "kv heads 0": ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    "kv heads no divisor": (
        {"num_key_value_heads": 3},
        "num_key_value_heads is 3; it must be a divisor of num_attention_heads, which is 4",
    ),
    "more kv heads": ({"num_key_value_heads": 8}, "a divisor of num_attention_heads, which is 4"),
    "odd head_dim": ({"head_dim": 15}, "head_dim is 15; it must be even"),
    "head_dim 0": ({"head_dim": 0}, "head_dim is 0; it must be an integer from 2"),
    "heads do not divide": (
        {"head_dim": ..., "num_attention_heads": 5, "num_key_value_heads": 1},
        "num_attention_heads is 5; it must be a divisor of hidden_size, which is 48",
    ),
    "odd width of a head": (
        {"head_dim": ..., "hidden_size": 60},
        "hidden_size is 60; it must be an even multiple of num_attention_heads, which is 4",
    ),
}
CASES += [refused("58", name, config(**keys), fact) for name, (keys, fact) in HEADS.items()]
CASES.append(
    BadInput("58", "a head_dim that does not divide the width",
             config(head_dim=6, hidden_size=50, num_attention_heads=12),
             lambda folder: read_config(folder).head_dim, 6)
)

# ---- 60 and 65: the config against the weights ----


def disagreeing(said: dict[str, Any], **made: Any) -> Callable[[Path], Path]:
    """Weights that are made by one config, and another config beside them."""

    def make(box: Path) -> Path:
        keys = models.make_config(**made)
        models.write_checkpoint(box, keys, models.make_weights(keys))
        return text(json.dumps(keys | said))(box)

    return make


def head_is_tied(folder: Path) -> bool:
    return lp.load(folder).config.tied_head


CASES += [
    BadInput("60", f"vocab_size {n} over 97 rows", disagreeing({"vocab_size": n}), lp.load,
             Refusal(FormatError, rf"model\.embed_tokens\.weight.*97.*{n}", "model.safetensors"))
    for n in (96, 98, 2097152)
]
CASES += [
    BadInput("65", "tied, and a head in the file", disagreeing({"tie_word_embeddings": True}),
             head_is_tied, False),
    BadInput("65", "not tied, and no head in the file",
             disagreeing({"tie_word_embeddings": False}, tie_word_embeddings=True), lp.load,
             Refusal(FormatError, r"lm_head\.weight", "model.safetensors")),
    BadInput("65", "tied, and no head in the file", disagreeing({}, tie_word_embeddings=True),
             head_is_tied, True),
]

# ---- 61 and 62: rope and eps ----

NO_NUMBERS = [0, -1, -1e-5, 1e-60, 1e39, "1e-5", True, [1.0], None]
ROPE_NUMBERS = [
    ("linear", "factor"),
    *(("llama3", key) for key in LLAMA3 if key != "rope_type"),
]
CASES += [
    refused(number, f"{key} {json.dumps(value)}", config(**{key: value}), f"{key} is .*; it must be ")
    for number, key in (("61", "rope_theta"), ("62", "rms_norm_eps"))
    for value in NO_NUMBERS
]
CASES += [
    refused("61", f"{kind} {key} {'absent' if value is ... else json.dumps(value)}",
            config(rope_scaling={k: v for k, v in (LLAMA3 | {"rope_type": kind, key: value}).items()
                                 if v is not ...}),
            rf"rope_scaling\.{key} is .*; it must be ")
    for kind, key in ROPE_NUMBERS
    for value in (*NO_NUMBERS, ...)
]
ROPE: dict[str, tuple[dict[str, Any], str]] = {
    "low at high": (
        {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
        "rope_scaling.low_freq_factor is 4.0; it must be below high_freq_factor, which is 4.0",
    ),
    "type and rope_type": (
        {"rope_scaling": LLAMA3 | {"type": "linear"}},
        'rope_scaling.type is "linear"; it must be what rope_type says, "llama3", or absent',
    ),
    "no type": ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type is missing"),
    "type not a string": ({"rope_scaling": {"type": 3}}, "rope_scaling.type is 3"),
    "block not an object": ({"rope_scaling": [1]}, r"rope_scaling is \[1\]; it must be an object"),
    "two blocks": (
        {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3 | {"factor": 8.0}},
        "it must be what rope_parameters says",
    ),
    "scaled and not": (
        {"rope_scaling": {"type": "default"}, "rope_parameters": LLAMA3},
        "it must be what rope_parameters says",
    ),
    "two thetas": (
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        "rope_theta is 10000.0; it must be what rope_parameters says: 500000.0",
    ),
    "two old lengths": (
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 4096},
        "it must be what rope_scaling.original_max_position_embeddings says: 8192",
    ),
    "frequency of 0": (
        {"rope_theta": 3e38, "rope_scaling": {"type": "linear", "factor": 1e30}},
        "gives a frequency that is 0",
    ),
    "infinite frequency": ({"rope_theta": 1e-44, "head_dim": 128}, "infinite in float32"),
}
CASES += [refused("61", name, config(**keys), fact) for name, (keys, fact) in ROPE.items()]

# ---- 56: other keys of the wrong kind ----

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "flag 1": ({"attention_bias": 1}, "attention_bias is 1; it must be true or false"),
    "flag as text": ({"tie_word_embeddings": "true"}, 'is "true"; it must be true or false'),
    "eos as text": ({"eos_token_id": ["</s>"]}, "eos_token_id is"),
    "eos as bool": ({"eos_token_id": [True]}, r"eos_token_id is \[true\]"),
    "architectures as text": ({"architectures": "LlamaForCausalLM"}, "must be a list of strings"),
}
CASES += [refused("56", name, config(**keys), fact) for name, (keys, fact) in KINDS.items()]

# ---- 63: well formed, but not a supported model; such an error is a ConfigError too ----

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "mistral": ({"model_type": "mistral"}, 'model_type is "mistral"'),
    "mistral by class": ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
    "class of an unnamed type": (
        {"model_type": ..., "architectures": ["Qwen2MoeForCausalLM"]},
        "Qwen2MoeForCausalLM",
    ),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM"),
    "other activation": ({"hidden_act": "gelu"}, 'hidden_act is "gelu"'),
    "sliding window": ({"sliding_window": 4096}, "sliding_window is 4096"),
    "layers with windows": ({"layer_types": ["sliding_attention"]}, "layer_types"),
    "part of a head turned": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "the same, inside": (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "rope_parameters.partial_rotary_factor is 0.5",
    ),
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 'rope_scaling.type is "yarn"'),
    "dynamic": ({"rope_scaling": {"rope_type": "dynamic"}}, 'rope_scaling.rope_type is "dynamic"'),
    "unheard of": ({"rope_scaling": {"rope_type": "\x1b[31m"}}, r'"\\u001b\[31m"'),
}
CASES += [
    refused("63", name, config(**keys), fact, UnsupportedError) for name, (keys, fact) in OTHERS.items()
]
QUANTISED: dict[str, tuple[dict[str, Any], str]] = {
    "quantised": ({"quantization_config": {"quant_method": "aqlm"}}, "aqlm weights cannot be run"),
    "quantised for MLX": (
        {"quantization": {"bits": 4, "group_size": 64}},
        "mlx weights cannot be run: .*mlx_lm.convert --dequantize",
    ),
}
CASES += [
    refused("63", name, config(**keys), fact, UnsupportedError)._replace(use=lp.load)
    for name, (keys, fact) in QUANTISED.items()
]


def other_format(name: str) -> Callable[[Path], Path]:
    def make(box: Path) -> Path:
        (box / name).write_bytes(b"x")
        return config()(box)

    return make


FORMATS = {
    "mmproj-model.gguf": "GGUF of a part of a model; choose another",
    "pytorch_model.bin": "pickle.*convert it",
    "consolidated.00.pth": "pickle.*convert it",
    "MODEL.PT": "pickle.*convert it",
}
CASES += [
    BadInput("63", name, other_format(name), lp.load, Refusal(UnsupportedError, fact, name))
    for name, fact in FORMATS.items()
]

# ---- 64: code that comes with a model ----


def notes(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_config(folder)
    return [str(warning.message).partition(": ")[2][:19] for warning in caught]


CASES.append(BadInput("64", "auto_map", config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
                     notes, ["auto_map is ignored"]))
