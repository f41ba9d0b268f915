"""config.json: what is read (what is refused: bad_inputs/config.py); the rotation to the last bit."""

import ctypes
import hashlib
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from bad_inputs.config import LLAMA3

import llamaprobe as lp
from llamaprobe.config import Config, inverse_frequencies, read_config
from llamaprobe.errors import ConfigError, FileError, UnsupportedError


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
def test_a_scaling_block_without_effect(tmp_path: Path, block: Any) -> None:
    config = read(tmp_path, rope_theta=1e6, rope_parameters=block)
    assert config.rope_scaling is None
    assert np.array_equal(config.inv_freq, inverse_frequencies(1e6, 16))


@pytest.mark.parametrize("version", ["4.31.0.dev0", "4.32.1", "4.9.2"])
def test_theta_of_files_older_than_the_key(tmp_path: Path, version: str) -> None:
    """Llama 2's own config.json is like that."""
    with pytest.warns(UserWarning, match="no rope_theta; 10000 is used") as caught:
        config = read(tmp_path, rope_theta=..., transformers_version=version)
    assert config.rope_theta == 10000.0
    assert config.notes == (str(caught[0].message),) and len(caught) == 1


@pytest.mark.parametrize("version", ["4.33.0.dev0", "4.45.0", "5.24.0", "", "main", ...])
def test_theta_is_never_guessed(tmp_path: Path, version: Any) -> None:
    with pytest.raises(ConfigError, match="rope_theta is missing"):
        read(tmp_path, rope_theta=..., transformers_version=version)


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


CHANGED = {
    "is_causal": (False, None, 0, 1, "true"),  # eager attention takes null for false
    "per_layer_config": ({"1": {"rms_norm_eps": 0.5}},),
    "attribute_map": ({"rms_norm_eps": "eps"},),
    "transformers_weights": ("other.safetensors", ["x"]),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in CHANGED.items() for v in vs])
def test_rejects_keys_that_only_transformers_reads(
    tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(UnsupportedError, match=f"config.json: {key} is "):
        read(tmp_path, **{key: value})


def test_the_same_keys_without_effect(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, is_causal=True, per_layer_config=None, attribute_map={},
             transformers_weights="model.safetensors", bias=False, logit_scale=1.0,
             use_bidirectional_attention=False, no_rope_layers=[1, 1, 1], pruned_heads={},
             attn_logit_softcapping=None, attention_multiplier=0)
        read(tmp_path, bias=True, qkv_bias=True, attention_bias=True)


FOREIGN = {
    "use_bidirectional_attention": True, "rope_interleaved": True, "qk_norm": True, "bias": True,
    "logit_scale": 2.0, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 256,
    "no_rope_layers": [1, 0, 1], "attention_chunk_size": 8192, "residual_multiplier": 0.5,
}


@pytest.mark.parametrize("key", FOREIGN)
def test_keys_of_other_architectures_are_warned_about(tmp_path: Path, key: str) -> None:
    with pytest.warns(UserWarning, match=rf"{key} \(.*\): ignored, as transformers does") as caught:
        config = read(tmp_path, **{key: FOREIGN[key]})
    assert config.notes == (str(caught[0].message),) and len(caught) == 1


def test_keys_of_other_rotations_are_warned_about(tmp_path: Path) -> None:
    block = LLAMA3 | {"attention_factor": 3.0, "mscale": None}
    with pytest.warns(UserWarning, match="json: rope_scaling.attention_factor: ignored"):
        config = read(tmp_path, rope_scaling=block)
    assert np.array_equal(config.inv_freq, read(tmp_path, rope_scaling=LLAMA3).inv_freq)


def _transformers_logits(folder: Path) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model(torch.tensor([[5, 1, 96, 5, 40]])).logits[0].numpy()


def test_transformers_ignores_the_keys_of_other_architectures(random_checkpoint) -> None:
    """And does not ignore is_causal: our warnings about both are true."""
    folder = random_checkpoint()
    plain = _transformers_logits(folder)
    write(folder, models.make_config(**FOREIGN))
    assert np.array_equal(_transformers_logits(folder), plain)
    for value in (False, None):
        write(folder, models.make_config(is_causal=value))
        assert np.abs(_transformers_logits(folder) - plain).max() > 0.1


def test_positions_are_limited_to_the_range_of_sine(tmp_path: Path) -> None:
    """sin and cos are computed up to 2^26 radians."""
    message = "4.642e.06 radians per position, .* at position 255; .* 67108864, so that a"
    with pytest.warns(UserWarning, match=message) as caught:
        config = read(tmp_path, rope_theta=1e-10, head_dim=6)
    assert config.max_positions == 15 and config.notes == (str(caught[0].message),)
    assert config.raw["max_position_embeddings"] == 256
    for keys in ({"rope_theta": 1e-30}, {"rope_scaling": {"type": "linear", "factor": 1e-8}}):
        with pytest.raises(UnsupportedError, match="no prompt of two tokens can be run"):
            read(tmp_path, **keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        most = read(tmp_path, rope_theta=1.0, max_position_embeddings=1 << 24)
    assert most.max_positions == 1 << 24


def test_the_last_position_in_the_range_of_sine_runs(random_checkpoint) -> None:
    folder = random_checkpoint(rope_theta=1e-10, head_dim=6)
    with pytest.warns(UserWarning, match="15 tokens"):
        model = lp.load(folder)
    points = [point.name for point in model.points()]
    run = model.run(list(range(15)), points=points)
    assert not any(np.isnan(run[point]).any() for point in points)
    with pytest.raises(lp.ArgumentError, match="16 tokens, over the 15"):
        model.run(list(range(16)))
    expected = _transformers_logits(folder)
    logits = model.run([5, 1, 96, 5, 40], points="logits")["logits"]
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


ROUNDINGS = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x400000, 0x800000, 0xC00000)}


@pytest.mark.linux
@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize(
    "keys",
    [{}, {"head_dim": 20, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}},
     {"head_dim": 6, "rope_theta": 123456.7, "rope_scaling": {"type": "linear", "factor": 3}}],
    ids=["plain", "llama3", "linear"],
)
def test_the_callers_rounding_changes_no_bit(
    random_checkpoint, keys: dict[str, Any], way: int
) -> None:
    """Neither when a model is loaded, nor when it is run."""
    if platform.machine() not in ROUNDINGS or not sys.platform.startswith("linux"):
        pytest.skip("the numbers of the rounding modes are not known here")
    libm = ctypes.CDLL("libm.so.6")
    folder = random_checkpoint(**keys)
    points = [point.name for point in lp.Model.points()]
    model = lp.load(folder)
    expected = model.run([5, 1, 96, 5, 40], points=points)
    assert libm.fegetround() == 0
    try:
        mode = ROUNDINGS[platform.machine()][way]
        assert libm.fesetround(mode) == 0
        other = lp.load(folder)
        runs = [m.run([5, 1, 96, 5, 40], points=points) for m in (model, other)]
        assert libm.fegetround() == mode
    finally:
        libm.fesetround(0)
    runs.append(other.run([5, 1, 96, 5, 40], points=points))
    assert all(run.equals(expected) for run in runs)
    for name in ("attention_scale", "rms_norm_eps", "rope_theta"):
        assert getattr(other.config, name) == getattr(model.config, name)


def test_flushing_denormals_changes_no_bit(random_checkpoint) -> None:
    """torch, for one, sets it for the calling thread."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    folder = random_checkpoint(rms_norm_eps=1e-40, rope_theta=3e38, dtype="F16")
    points = [point.name for point in lp.Model.points()]
    model = lp.load(folder)
    expected = model.run([5, 1, 96, 5, 40], points=points)
    if not torch.set_flush_denormal(True):
        pytest.skip("torch cannot set it here")
    try:
        other = lp.load(folder)
        runs = [m.run([5, 1, 96, 5, 40], points=points) for m in (model, other)]
        flushes = float(torch.tensor(1e-40) * 1) == 0
    finally:
        torch.set_flush_denormal(False)
    assert flushes and all(run.equals(expected) for run in runs)
    assert other.config.rms_norm_eps == 1e-40
    assert np.array_equal(other.config.inv_freq.view(np.uint32), model.config.inv_freq.view(np.uint32))


@pytest.mark.linux
def test_the_rounding_is_put_back_after_an_error(tmp_path: Path) -> None:
    if platform.machine() not in ROUNDINGS or not sys.platform.startswith("linux"):
        pytest.skip("the numbers of the rounding modes are not known here")
    libm, mode = ctypes.CDLL("libm.so.6"), ROUNDINGS[platform.machine()][1]
    try:
        libm.fesetround(mode)
        with pytest.raises(ConfigError):
            read(tmp_path, rms_norm_eps=0)
        assert libm.fegetround() == mode
    finally:
        libm.fesetround(0)


def test_the_sha256_matches_the_file(tmp_path: Path) -> None:
    config = read(tmp_path)
    data = (tmp_path / "config.json").read_bytes()
    assert config.sha256 == hashlib.sha256(data).hexdigest()


def test_brackets_in_strings_are_not_levels(tmp_path: Path) -> None:
    config = read(tmp_path, note="[" * 100 + '"\\{' * 100, deep=json.loads("[" * 60 + "]" * 60))
    assert config.raw["note"].startswith("[[[")


def test_rejects_what_is_not_a_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    (tmp_path / "link").symlink_to("nowhere")
    for name, fact in {
        "missing": "No such file",
        "fifo": "not a regular file",
        "link": "No such file",
        "folder": "not a regular file",
        "nul\0": "cannot hold a NUL",
        ".": "no config.json, so this is not a model folder; it holds: fifo, folder, link$",
    }.items():
        with pytest.raises(FileError, match=fact) as e:
            read_config(str(tmp_path / name))
        assert str(e.value).startswith(str(tmp_path)) and str(e.value).isprintable()
    with pytest.raises(FileError, match="not a regular file"):
        read_config("/dev/zero")
    for i in range(9):
        (tmp_path / f"a{i}").touch()
    with pytest.raises(FileError, match="it holds: a0, a1, a2, a3, a4 and 7 more$"):
        read_config(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="it holds: nothing$"):
        read_config(tmp_path / "empty")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write(tmp_path, b"[")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    before = len(os.listdir("/dev/fd"))
    for path in (tmp_path, tmp_path / "folder", "/dev/null"):
        with pytest.raises((ConfigError, FileError)):
            read_config(path)
    assert len(os.listdir("/dev/fd")) == before


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


def test_rotation_equals_that_of_transformers() -> None:
    """torch's powf is not exact and differs between its own kernels, by 2 ulp; what follows it is
    the same to the bit once it gets the same powers."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from llamaprobe.families.rope import llama3_bands

    n_values = n_different = 0
    for theta, head_dim, llama3, linear in _random_scalings():
        torch_plain = _torch_rotation(theta, head_dim, None)
        plain = inverse_frequencies(theta, head_dim)
        distance = np.abs(plain.view(np.int32) - torch_plain.view(np.int32))
        assert distance.max() <= 4, (theta, head_dim)
        n_values, n_different = n_values + plain.size, n_different + np.count_nonzero(distance)
        bands = llama3_bands(torch_plain, llama3)
        assert np.array_equal(bands, _torch_rotation(theta, head_dim, llama3)), (theta, llama3)
        divided = torch_plain / np.float32(linear["factor"])
        assert np.array_equal(divided, _torch_rotation(theta, head_dim, linear))
    assert n_values > 3000 and n_different < n_values / 20
