"""config.json: what is read, what is refused and in which words; the rotation to the last bit."""

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from llamaprobe.config import MAX_BYTES, Config, inverse_frequencies, read_config
from llamaprobe.errors import ConfigError, FileError, UnsupportedError

LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def write(folder: Path, config: dict[str, Any] | bytes | str) -> Path:
    text = config if isinstance(config, (bytes, str)) else json.dumps(config)
    (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def read(folder: Path, **overrides: Any) -> Config:
    return read_config(write(folder, models.make_config(**overrides)))


# ---- what is read ----


def test_every_number(tmp_path: Path) -> None:
    flags = {"attention_bias": True, "tie_word_embeddings": True}
    config = read(tmp_path, eos_token_id=[2, 3], torch_dtype="x", **flags)
    assert (config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim) == (3, 4, 2, 16)
    assert (config.d_model, config.d_ff, config.vocab_size) == (48, 80, 97)
    assert (config.max_positions, config.rms_norm_eps, config.rope_theta) == (256, 1e-5, 10000.0)
    assert (config.attention_bias, config.mlp_bias, config.tied_head) == (True, False, True)
    assert (config.bos_token_id, config.eos_token_id, config.dtype) == (1, (2, 3), "x")
    assert config.rope_scaling is None and config.qk_norm is False and config.notes == ()
    assert config.attention_scale == 0.25 and config.raw["hidden_size"] == 48
    assert config.path == str(tmp_path / "config.json")
    assert config.inv_freq.dtype == np.float32 and config.inv_freq.shape == (8,)


def test_file_or_folder(tmp_path: Path) -> None:
    read(tmp_path)
    assert read_config(tmp_path / "config.json").d_model == read_config(str(tmp_path)).d_model == 48


def test_nothing_can_be_changed(tmp_path: Path) -> None:
    config = read(tmp_path)
    with pytest.raises(AttributeError):
        config.d_model = 1  # type: ignore[misc]
    with pytest.raises(ValueError):
        config.inv_freq[0] = 0


def test_defaults_of_the_class(tmp_path: Path) -> None:
    keys = ["num_key_value_heads", "attention_bias", "mlp_bias", "tie_word_embeddings"]
    keys += ["hidden_act", "bos_token_id", "eos_token_id"]
    config = read(tmp_path, **dict.fromkeys(keys, ...))
    assert config.n_kv_heads == config.n_heads == 4
    assert not (config.attention_bias or config.mlp_bias or config.tied_head)
    assert config.bos_token_id is config.eos_token_id is None


@pytest.mark.parametrize("null", [..., None])
def test_head_dim_from_the_width(tmp_path: Path, null: Any) -> None:
    assert read(tmp_path, head_dim=null, hidden_size=64).head_dim == 16


def test_head_dim_need_not_divide_the_width(tmp_path: Path) -> None:
    config = read(tmp_path, head_dim=6, hidden_size=50, num_attention_heads=12)
    assert (config.head_dim, config.d_model) == (6, 50)


def test_scale_is_a_float32(tmp_path: Path) -> None:
    assert read(tmp_path, head_dim=20).attention_scale == float(np.float32(1 / np.sqrt(20.0)))


def test_both_styles_are_the_same(tmp_path: Path) -> None:
    old = read(tmp_path, rope_theta=500000.0, rope_scaling=LLAMA3)
    block = {"rope_theta": 500000.0, **LLAMA3}
    new = read(tmp_path, rope_theta=..., rope_scaling=..., rope_parameters=block)
    spelt = {("type" if k == "rope_type" else k): v for k, v in LLAMA3.items()}
    typed = read(tmp_path, rope_theta=500000.0, rope_scaling=spelt)
    both = read(tmp_path, rope_theta=500000.0, rope_scaling=spelt, rope_parameters=block)
    assert new.rope_scaling == block and typed.rope_scaling == spelt
    for config in (new, typed, both):
        assert config.rope_theta == 500000.0
        assert np.array_equal(config.inv_freq, old.inv_freq)


@pytest.mark.parametrize(
    "block", [{}, None, {"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_type": "default"}]
)
def test_a_block_that_scales_nothing(tmp_path: Path, block: Any) -> None:
    config = read(tmp_path, rope_theta=1e6, rope_parameters=block)
    assert config.rope_scaling is None
    assert np.array_equal(config.inv_freq, inverse_frequencies(1e6, 16))


@pytest.mark.parametrize("version", ["4.31.0.dev0", "4.32.1", "4.9.2"])
def test_theta_of_files_older_than_the_key(tmp_path: Path, version: str) -> None:
    """Llama 2's own config.json is like that."""
    with pytest.warns(UserWarning, match="no rope_theta; 10000 is used") as told:
        config = read(tmp_path, rope_theta=..., transformers_version=version)
    assert config.rope_theta == 10000.0
    assert config.notes == (str(told[0].message),) and len(told) == 1


@pytest.mark.parametrize("version", ["4.33.0.dev0", "4.45.0", "5.24.0", "", "main", ...])
def test_theta_is_never_guessed(tmp_path: Path, version: Any) -> None:
    with pytest.raises(ConfigError, match="rope_theta is missing"):
        read(tmp_path, rope_theta=..., transformers_version=version)


def test_code_in_the_repository_is_told_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="auto_map is ignored") as told:
        config = read(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert len(told) == len(config.notes) == 1


def test_keys_without_effect_are_ignored(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(
            tmp_path,
            pretraining_tp=2,
            rope_interleaved=False,
            is_llama_config=True,
            use_sliding_window=False,
            sliding_window=4096,
            layer_types=["full_attention"] * 3,
            attention_dropout=0.1,
            partial_rotary_factor=1.0,
            quantization_config=None,
            hidden_act="swish",
        )


# ---- what is refused ----

INTEGERS = {
    "hidden_size": 65536,
    "intermediate_size": 1048576,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "vocab_size": 2097152,
    "max_position_embeddings": 16777216,
}


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, 10**9, 2**31, 2**62, "2048", 2048.0, True, None, [8], {}])
def test_integers(tmp_path: Path, key: str, value: Any) -> None:
    shown = json.dumps(value)
    with pytest.raises(ConfigError) as e:
        read(tmp_path, **{key: value})
    assert str(e.value) == (
        f"{tmp_path}/config.json: {key} is {shown}; it must be an integer from 1 to {INTEGERS[key]}"
    )


@pytest.mark.parametrize("key", [*INTEGERS, "rms_norm_eps", "rope_theta", "model_type"])
def test_missing_keys(tmp_path: Path, key: str) -> None:
    extra = {"architectures": ...} if key == "model_type" else {}
    with pytest.raises(ConfigError, match=f"config.json: {key} is missing; it must be "):
        read(tmp_path, **{key: ...}, **extra)


BAD_NUMBERS = [0, -1, -1e-5, 1e-60, 1e39, "1e-5", True, [1.0]]


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [*BAD_NUMBERS, None])
def test_numbers(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key} is .*; it must be "):
        read(tmp_path, **{key: value})


ROPE_NUMBERS = [
    ("linear", "factor"),
    ("llama3", "factor"),
    ("llama3", "low_freq_factor"),
    ("llama3", "high_freq_factor"),
    ("llama3", "original_max_position_embeddings"),
]


@pytest.mark.parametrize(("rope_type", "key"), ROPE_NUMBERS)
@pytest.mark.parametrize("value", [*BAD_NUMBERS, None, ...])
def test_rope_numbers(tmp_path: Path, rope_type: str, key: str, value: Any) -> None:
    block = LLAMA3 | {"rope_type": rope_type, key: value}
    block = {k: v for k, v in block.items() if v is not ...}
    with pytest.raises(ConfigError, match=rf"rope_scaling\.{key} is .*; it must be "):
        read(tmp_path, rope_scaling=block)


CONTRADICTIONS = {
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
    "low above high": (
        {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
        "rope_scaling.low_freq_factor is 4.0; it must be below high_freq_factor, which is 4.0",
    ),
    "type and rope_type": (
        {"rope_scaling": LLAMA3 | {"type": "linear"}},
        'rope_scaling.type is "linear"; it must be what rope_type says, "llama3", or absent',
    ),
    "no type": ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type is missing"),
    "type not a string": ({"rope_scaling": {"type": 3}}, "rope_scaling.type is 3"),
    "block not an object": ({"rope_scaling": [1]}, "rope_scaling is [1]; it must be an object"),
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
    "flag not a bool": ({"attention_bias": 1}, "attention_bias is 1; it must be true or false"),
    "tied as text": ({"tie_word_embeddings": "true"}, 'is "true"; it must be true or false'),
    "eos as text": ({"eos_token_id": ["</s>"]}, "eos_token_id is"),
    "eos as bool": ({"eos_token_id": [True]}, "eos_token_id is [true]"),
    "architectures as text": ({"architectures": "LlamaForCausalLM"}, "must be a list of strings"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(tmp_path: Path, name: str) -> None:
    overrides, message = CONTRADICTIONS[name]
    with pytest.raises(ConfigError) as e:
        read(tmp_path, **overrides)
    assert message in str(e.value) and str(e.value).startswith(f"{tmp_path}/config.json: ")
    assert not isinstance(e.value, UnsupportedError)


UNSUPPORTED = {
    "mistral": ({"model_type": "mistral"}, 'model_type is "mistral"'),
    "mistral by class": ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
    "class of an unnamed type": (
        {"model_type": ..., "architectures": ["Qwen2ForCausalLM"]},
        "Qwen2ForCausalLM",
    ),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM"),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    "quantised for MLX": ({"quantization": {"bits": 4}}, "quantization is"),
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
    "unheard of": ({"rope_scaling": {"rope_type": "\x1b[31m"}}, r'"\u001b[31m"'),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(tmp_path: Path, name: str) -> None:
    """Such an error is a ConfigError too: the fault stands in that file."""
    overrides, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedError) as e:
        read(tmp_path, **overrides)
    assert message in str(e.value) and str(e.value).startswith(f"{tmp_path}/config.json: ")
    assert isinstance(e.value, ConfigError)


# ---- JSON from a stranger ----

BROKEN = {
    "empty": (b"", "not valid JSON"),
    "cut off": (b'{"a": 1', "not valid JSON"),
    "two values": (b"{} x", "not valid JSON"),
    "control character": (b'{"a": "\x01"}', "not valid JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
    "overlong UTF-8": (b'{"a": "\xc0\xaf"}', "not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8"),
    "list": (b"[1]", "holds [1]; it must be a JSON object"),
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
    "200 MB": (b" " * (MAX_BYTES + 1), f"over {MAX_BYTES} bytes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(ConfigError) as e:
        read_config(write(tmp_path, data))
    text = str(e.value)
    assert message in text and text.startswith(f"{tmp_path}/config.json: ")
    assert text.isprintable() and len(text) < 300 + len(str(tmp_path))


def test_depth_does_not_hang_on_the_recursion_limit(tmp_path: Path) -> None:
    """A caller who raised the limit must get the same error, not a crash of the C stack."""
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(10**6)
        with pytest.raises(ConfigError, match="more than 64 levels"):
            read_config(write(tmp_path, b'{"a":' * 300000))
    finally:
        sys.setrecursionlimit(limit)


def test_brackets_in_strings_are_no_levels(tmp_path: Path) -> None:
    config = read(tmp_path, note="[" * 100 + '"\\{' * 100, deep=json.loads("[" * 60 + "]" * 60))
    assert config.raw["note"].startswith("[[[")


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    (tmp_path / "link").symlink_to("nowhere")
    for name, fact in {
        "missing": "No such file",
        "fifo": "not a regular file",
        "link": "No such file",
        "folder": "not a regular file",
        "nul\0": "null",
        ".": "config.json: No such file",
    }.items():
        with pytest.raises(FileError, match=fact) as e:
            read_config(str(tmp_path / name))
        assert str(e.value).startswith(str(tmp_path)) and str(e.value).isprintable()
    with pytest.raises(FileError, match="not a regular file"):
        read_config("/dev/zero")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write(tmp_path, b"[")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "folder", "/dev/null"):
        with pytest.raises((ConfigError, FileError)):
            read_config(path)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- the rotation ----

# sha256 of the little-endian float32 of transformers 5.24.0, on which torch's AVX-512, AVX2 and
# plain kernels agree.
ROTATIONS = {
    "Llama 2 7B": (1e4, 128, None, "4b659c349432de9f"),
    "TinyLlama": (1e4, 64, None, "734f9e6b629f7bac"),
    "Llama 3 8B": (5e5, 128, None, "dde15c3172417735"),
    "Llama 3.1 8B": (5e5, 128, LLAMA3 | {"factor": 8.0}, "4ae2280930816279"),
    "Llama 3.2 1B": (5e5, 64, LLAMA3, "db702e51cd2b99ea"),
    "Llama 3.2 3B": (5e5, 128, LLAMA3, "9dd7e33d93f45171"),
    "SmolLM2 135M": (1e5, 64, None, "4dcfda84ce763abe"),
    "SmolLM2 1.7B": (1.3e5, 64, None, "7816107835806381"),
    "stories260K": (1e4, 8, None, "47d9d469d9542448"),
    "all three bands": (
        1e4,
        32,
        LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 256},
        "30ae34087a658acf",
    ),
    "linear": (1e4, 128, {"rope_type": "linear", "factor": 4.0}, "d04657744c7090f2"),
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotation_of_real_models(name: str) -> None:
    theta, head_dim, scaling, digest = ROTATIONS[name]
    inv_freq = inverse_frequencies(theta, head_dim, scaling)
    assert inv_freq.dtype == np.float32 and inv_freq.shape == (head_dim // 2,)
    assert hashlib.sha256(inv_freq.astype("<f4").tobytes()).hexdigest()[:16] == digest


def test_rotation_of_llama_32() -> None:
    """Values computed elsewhere: 15 frequencies unchanged, 3 blended, 14 divided."""
    plain, scaled = inverse_frequencies(5e5, 64), inverse_frequencies(5e5, 64, LLAMA3)
    assert np.array_equal(scaled[:15], plain[:15])
    assert np.allclose(scaled[15:18], [1.290548e-3, 4.295567e-4, 9.708286e-5], rtol=5e-7, atol=0)
    assert np.array_equal(scaled[18:], plain[18:] / np.float32(32))
    assert np.isclose(scaled[-1], 9.418307e-8, rtol=5e-7, atol=0)


def _torch_rotation(theta: float, head_dim: int, scaling: dict[str, Any] | None) -> np.ndarray:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    block = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim, rope_parameters=block
    )
    return LlamaRotaryEmbedding(config).inv_freq.numpy()


def _random_scalings() -> list[tuple[float, int, dict[str, Any], dict[str, Any]]]:
    random = np.random.default_rng(5)
    found = []
    for _ in range(60):
        low = float(random.choice([1.0, random.uniform(0.5, 3)]))
        llama3 = {
            "rope_type": "llama3",
            "factor": float(random.choice([8.0, 32.0, random.uniform(1, 50)])),
            "low_freq_factor": low,
            "high_freq_factor": low + float(random.uniform(0.1, 6)),
            "original_max_position_embeddings": int(random.choice([8192, 256, 333])),
        }
        linear = {"rope_type": "linear", "factor": float(random.uniform(1, 9))}
        theta = float(random.choice([1e4, 5e5, 10 ** random.uniform(1, 7)]))
        found.append((theta, 2 * int(random.integers(1, 129)), llama3, linear))
    return found


def test_rotation_is_that_of_transformers() -> None:
    """torch's powf is not exact and differs between its own kernels, by 2 ulp; what follows it is
    the same to the bit once it gets the same powers."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from llamaprobe.config import _llama3_bands

    n_values = n_different = 0
    for theta, head_dim, llama3, linear in _random_scalings():
        torch_plain = _torch_rotation(theta, head_dim, None)
        plain = inverse_frequencies(theta, head_dim)
        distance = np.abs(plain.view(np.int32) - torch_plain.view(np.int32))
        assert distance.max() <= 4, (theta, head_dim)
        n_values, n_different = n_values + plain.size, n_different + np.count_nonzero(distance)
        bands = _llama3_bands(torch_plain, llama3)
        assert np.array_equal(bands, _torch_rotation(theta, head_dim, llama3)), (theta, llama3)
        divided = torch_plain / np.float32(linear["factor"])
        assert np.array_equal(divided, _torch_rotation(theta, head_dim, linear))
    assert n_values > 3000 and n_different < n_values / 20
