"""Metadata of a GGUF give the Config of the config.json that they were made from."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pytest
from gguf_cases import GgufCase, gguf_cases, llama3_case

import llamaprobe as lp
from llamaprobe.config import Config, parse_config
from llamaprobe.families.core import core_arguments
from llamaprobe.families.table import FAMILIES
from llamaprobe.gguf.config import ARCHITECTURES, read_metadata
from llamaprobe.gguf.opening import open_gguf

CASES = {case.name: case for case in gguf_cases()}
# Where it comes from, and what the two files do not have alike.
_OTHER = ("path", "raw", "sha256", "gain_offset", "inv_freq", "layers", "rope_scaling", "dtype")


def config_of(case: GgufCase, folder: Path, **more: Any) -> Config:
    case.write(folder / "m.gguf", case.weights(**more), **more)
    return open_gguf(folder, "m.gguf")[1]


def same_fields(config: Config, of_json: Config) -> None:
    for one in dataclasses.fields(Config):
        if one.name not in _OTHER:
            assert getattr(config, one.name) == getattr(of_json, one.name), one.name
    assert config.gain_offset == 0


class Changed:
    """An open file with other metadata."""

    def __init__(self, file: Any, metadata: dict[str, Any]) -> None:
        self.path, self._file, self._metadata = file.path, file, metadata

    def metadata(self) -> dict[str, Any]:
        return self._metadata

    def keys(self) -> list[tuple[str, str, int | None]]:
        return [
            (key, "", len(value) if isinstance(value, list) else None)
            for key, value in self._metadata.items()
        ]

    def array(self, key: str) -> list[Any]:
        found: list[Any] = self._metadata[key]
        return found


def test_every_architecture_has_a_case() -> None:
    assert {case.architecture for case in CASES.values()} == ARCHITECTURES.keys()
    without = {"helium", "ministral", "granitemoehybrid"}  # no converter writes these
    assert {case.model_type for case in CASES.values()} == FAMILIES.keys() - without


@pytest.mark.parametrize("name", CASES)
def test_config(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    config, of_json = config_of(case, tmp_path), case.config()
    if name == "mistral":  # a Mistral without windows is written as a Llama
        of_json = dataclasses.replace(of_json, family="llama")
    same_fields(config, of_json)
    assert config.path == str(tmp_path / "m.gguf") and config.notes == ()
    found, wanted = core_arguments(config), core_arguments(of_json)
    assert found.pop("gain_offset") == 0 and wanted.pop("gain_offset") in (0, 1)
    for key in ("ropes", "linears"):
        assert repr(found.pop(key, None)) == repr(wanted.pop(key, None)), key
    assert found == wanted


@pytest.mark.parametrize("name", CASES)
def test_a_saved_config_is_read_as_the_same(name: str, tmp_path: Path) -> None:
    config = config_of(CASES[name], tmp_path)
    again = parse_config(config.raw, "manifest.json")
    same_fields(again, config)
    assert repr(core_arguments(again)) == repr(core_arguments(config))


def test_divisors_of_frequencies(tmp_path: Path) -> None:
    case = llama3_case()
    config, of_json = config_of(case, tmp_path), case.config()
    same_fields(config, of_json)
    factors = case.vectors["rope_freqs.weight"]
    plain = parse_config(case.hub_keys(rope_scaling=None), "config.json").inv_freq
    assert 1 < factors.max() <= 8 and factors.min() == 1
    assert np.array_equal(config.inv_freq, plain / factors)
    assert np.allclose(config.inv_freq, of_json.inv_freq, rtol=1e-6, atol=0)
    assert config.rope_scaling is not None
    assert np.array_equal(np.float32(config.rope_scaling["rope_freqs"]), factors)


def test_a_divisor_counts_only_in_metadata(tmp_path: Path) -> None:
    block = {"rope_type": "rope_freqs", "rope_freqs": [2.0] * 8}
    keys = CASES["llama"].hub_keys(rope_scaling=block)
    with pytest.raises(lp.UnsupportedError, match='rope_scaling.rope_type is "rope_freqs"'):
        parse_config(keys, "config.json")
    assert parse_config(keys | {"gguf": {}}, "m.gguf").inv_freq[0] == 0.5


def test_floats_are_the_shortest_decimals(tmp_path: Path) -> None:
    config = config_of(CASES["granite"], tmp_path)
    assert (config.rms_norm_eps, config.residual_scale, config.score_scale) == (1e-5, 0.22, 0.05)


def read_with(case: GgufCase, folder: Path, changes: dict[str, Any]) -> Config:
    """The config of a case with other keys of the architecture."""
    case.write(folder / "m.gguf", case.weights())
    checkpoint = open_gguf(folder, "m.gguf")[0]
    file: Any = checkpoint.files[0]
    keys = {f"{case.architecture}.{key}": value for key, value in changes.items()}
    changed = Changed(file, file.metadata() | keys)
    return read_metadata(dataclasses.replace(checkpoint, files=(changed,)))


_SMALL = 0.1 * math.log(4.0) + 1  # of YaRN with the factor 4


@pytest.mark.parametrize(
    ("name", "changes", "factor"),
    [
        ("qwen3-yarn", {}, _SMALL),
        ("qwen3-yarn", {"rope.scaling.attn_factor": 2.0}, 2 * _SMALL),
        (
            "qwen3-yarn",
            {"rope.scaling.yarn_log_multiplier": 0.5},
            _SMALL / (0.05 * math.log(4.0) + 1),
        ),
        ("phi3-longrope", {"rope.scaling.attn_factor": 1.25}, 1.25),
        ("phi3-longrope", {"rope.scaling.attn_factor": 0.0}, 1.0),
    ],
)
def test_the_factor_of_cos_and_sin(
    name: str, changes: dict[str, Any], factor: float, tmp_path: Path
) -> None:
    """As llama.cpp computes it: attn_factor multiplies YaRN's, and is LongRoPE's own."""
    config = read_with(CASES[name], tmp_path, changes)
    rope = config.layers[0].rope
    assert rope is not None and rope.attention_factor == pytest.approx(factor, rel=1e-12)


def test_the_old_key_of_a_linear_factor(tmp_path: Path) -> None:
    old = {"rope.scaling.type": None, "rope.scaling.factor": None, "rope.scale_linear": 8.0}
    found = read_with(CASES["llama-linear"], tmp_path, old)
    assert np.array_equal(found.inv_freq, CASES["llama-linear"].config().inv_freq)
    assert not np.array_equal(found.inv_freq, CASES["llama"].config().inv_freq)


def test_any_part_of_a_head_turns(tmp_path: Path) -> None:
    """30 of 44, whose quotient times 44 is below 30 in floats."""
    sizes = {"attention.key_length": 44, "attention.value_length": 44, "rope.dimension_count": 30}
    assert len(read_with(CASES["phi3"], tmp_path, sizes).inv_freq) == 15


def test_gemma_27b_scales_by_the_width_of_a_head(tmp_path: Path) -> None:
    """No key says it: 46 layers of Gemma 2 and 62 of Gemma 3 are the 27B."""
    for name, n_layers in (("gemma2", 46), ("gemma3-full", 62)):
        case = CASES[name]
        for n, scale in ((n_layers, 0.25), (n_layers - 1, 0.125)):
            sizes = {"block_count": n, "attention.key_length": 64, "attention.value_length": 64}
            assert read_with(case, tmp_path, sizes).score_scale == scale, name


def test_more_rows_than_tokens_are_padding(tmp_path: Path) -> None:
    case = CASES["llama"]
    tokens = {"tokenizer.ggml.tokens": [f"t{i}" for i in range(90)]}
    write(case, tmp_path, tokens)
    assert open_gguf(tmp_path, "m.gguf")[1].vocab_size == 97


def test_all_that_ends_a_turn_ends_a_text(tmp_path: Path) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 6}
    write(CASES["llama"], tmp_path, ends)
    assert open_gguf(tmp_path, "m.gguf")[1].eos_token_id == (2, 5, 6)


def write(case: GgufCase, folder: Path, changes: dict[str, Any], drop: str = "") -> None:
    """The GGUF of a case with other metadata: None removes a key; without the tensor `drop`."""
    keys = case.hub_keys()
    tensors = gguf_maker.model_tensors(
        case.architecture,
        case.weights(),
        keys["head_dim"],
        lambda _, values: gguf_maker.stored(values, "F32"),
    )
    tensors.pop(drop, None)
    metadata = gguf_maker.model_metadata(case.architecture, keys, **case.metadata) | changes
    kept = {key: value for key, value in metadata.items() if value is not None}
    gguf_maker.write_gguf(folder / "m.gguf", kept, tensors)


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "adapter": ("llama", {"general.type": "adapter"}, "a LoRA is not a model"),
    "imatrix": ("llama", {"general.type": "imatrix"}, 'general.type is "imatrix": statistics'),
    "mmproj": ("llama", {"general.type": "mmproj"}, "an encoder of images cannot be run"),
    "no architecture": ("llama", {"general.architecture": None}, "general.architecture is missing"),
    "another architecture": (
        "llama",
        {"general.architecture": "qwen2moe"},
        'general.architecture is "qwen2moe": only "llama", "mistral3", "qwen2"',
    ),
    "mamba": ("llama", {"general.architecture": "mamba"}, "Mamba layers cannot be run"),
    "experts": ("llama", {"llama.expert_count": 8}, "a mixture of experts cannot be run"),
    "missing width": ("llama", {"llama.embedding_length": None}, "llama.embedding_length is miss"),
    "missing eps": (
        "qwen2",
        {"qwen2.attention.layer_norm_rms_epsilon": None},
        "epsilon is missing",
    ),
    "missing scale": ("granite", {"granite.attention.scale": None}, "attention.scale is missing"),
    "text for a number": ("llama", {"llama.block_count": "4"}, 'llama.block_count is "4"'),
    "a float for a number": ("llama", {"llama.block_count": 4.0}, "llama.block_count is 4.0"),
    "heads that differ": (
        "llama",
        {"llama.attention.head_count": [4, 2, 4, 4]},
        "only layers that are all alike can be run",
    ),
    "heads of too few layers": (
        "llama",
        {"llama.attention.head_count": [4, 4, 4]},
        "head_count is [4, 4, 4]: the model has 4 layers",
    ),
    "heads that do not divide": (
        "llama",
        {"llama.attention.head_count_kv": 3},
        "num_key_value_heads is 3; it must be a divisor",
    ),
    "other values than keys": ("llama", {"llama.attention.value_length": 8}, "value_length is 8"),
    "half a head turns": ("llama", {"llama.rope.dimension_count": 8}, "only whole heads"),
    "rows": (
        "llama",
        {"llama.vocab_size": 96},
        "llama.vocab_size is 96, but token_embd.weight has 97",
    ),
    "tokens": (
        "llama",
        {"tokenizer.ggml.tokens": ["t"] * 98},
        "tokenizer.ggml.tokens is 98, but token_embd.weight has 97 rows",
    ),
    "a window": ("qwen2", {"qwen2.attention.sliding_window": 8}, "sliding_window is 8: only"),
    "a cap": ("llama", {"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    "a scale": ("llama", {"llama.logit_scale": 0.5}, "llama.logit_scale is 0.5"),
    "a window of 1": ("qwen2", {"qwen2.attention.sliding_window": 1}, "sliding_window is 1: only"),
    "a cap of 1": ("llama", {"llama.attn_logit_softcapping": 1.0}, "attn_logit_softcapping is 1.0"),
    "one expert": ("llama", {"llama.expert_count": 1}, "expert_count is 1: a mixture of experts"),
    "a factor of cos and sin": (
        "llama",
        {"llama.rope.scaling.attn_factor": 1.5},
        "rope.scaling.attn_factor is 1.5: only 1 can be run",
    ),
    "both directions": ("llama", {"llama.attention.causal": False}, "only attention over earlier"),
    "rope": ("llama", {"llama.rope.scaling.type": "longrope"}, 'rope.scaling.type is "longrope"'),
    "no rope": ("granite", {"granite.rope.scaling.finetuned": False}, "without RoPE"),
    "temperature": (
        "mistral3",
        {"mistral3.attention.temperature_scale": 0.1},
        "queries scaled by their position",
    ),
    "pattern": (
        "exaone4",
        {"exaone4.attention.sliding_window_pattern": [True]},
        "true or false for each of 4 layers",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_metadata(name: str, tmp_path: Path) -> None:
    case, changes, message = BAD[name]
    write(CASES[case], tmp_path, changes)
    with pytest.raises((lp.ConfigError, lp.FormatError), match=".*m.gguf: .*") as error:
        open_gguf(tmp_path, "m.gguf")
    assert message in str(error.value)


def test_what_changes_nothing_is_accepted(tmp_path: Path) -> None:
    ones = {"logit_scale": 1.0, "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_ext_factor": 1}
    zeros = {"expert_count": 0, "attention.sliding_window": 0, "final_logit_softcapping": 0.0}
    write(
        CASES["llama"], tmp_path, {f"llama.{key}": value for key, value in (ones | zeros).items()}
    )
    same_fields(open_gguf(tmp_path, "m.gguf")[1], CASES["llama"].config())


def test_an_embedding_is_required(tmp_path: Path) -> None:
    write(CASES["llama"], tmp_path, {}, drop="token_embd.weight")
    with pytest.raises(lp.FormatError, match="tensor token_embd.weight is missing"):
        open_gguf(tmp_path, "m.gguf")


ODD = (0, 1, 3, -1, 2**32 - 1, 2**63, 0.0, 1e-300, 1e300, math.nan, math.inf, "", "x", True, False)
ODD = (*ODD, [], [0], [4] * 4, [True] * 4, ["a"], [1] * 2000)


@pytest.mark.parametrize(
    "name",
    ["gemma3", "gemma2", "phi3-longrope", "qwen3-yarn", "olmo3", "exaone4", "granite", "llama3"],
)
def test_odd_values_are_errors_of_ours(name: str, tmp_path: Path) -> None:
    """Every key in turn has a value that a stranger may have written, or none."""
    case = llama3_case() if name == "llama3" else CASES[name]
    case.write(tmp_path / "m.gguf", case.weights())
    checkpoint = open_gguf(tmp_path, "m.gguf")[0]
    file: Any = checkpoint.files[0]
    metadata = file.metadata()
    more = dict.fromkeys(f"{case.architecture}.{key}" for key in _MAYBE if key) | metadata
    n_refused = 0
    for key in more:
        for value in (*ODD, None):
            changed = metadata | {key: value}
            if value is None:
                del changed[key]
            other = dataclasses.replace(checkpoint, files=(Changed(file, changed),))
            try:
                config = read_metadata(other)
                core_arguments(config)
            except lp.Error as error:
                assert "m.gguf" in str(error)
                n_refused += 1
    assert n_refused > 5 * len(metadata)


_MAYBE = ("vocab_size", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor")
_MAYBE += ("rope.scaling.attn_factor", "rope.scaling.original_context_length", "rope.freq_base_swa")
_MAYBE += ("attention.sliding_window", "attention.sliding_window_pattern", "attention.scale")


@pytest.mark.parametrize("name", ["blk.0.self_attn.q_proj.weight", "model.norm.weight"])
def test_two_tensors_of_one_name(name: str, tmp_path: Path) -> None:
    case = CASES["qwen3"]
    tensors = gguf_maker.model_tensors(
        "qwen3", case.weights(), 16, lambda _, v: gguf_maker.stored(v, "F32")
    )
    shape = (64, 64) if "proj" in name else (64,)
    tensors[name] = gguf_maker.stored(np.ones(shape), "F32")
    metadata = gguf_maker.model_metadata("qwen3", case.hub_keys())
    gguf_maker.write_gguf(tmp_path / "m.gguf", metadata, tensors)
    with pytest.raises(lp.FormatError, match=f"and '{name}' are the same tensor of the model"):
        open_gguf(tmp_path, "m.gguf")


def test_keys_that_nothing_reads_are_noted(tmp_path: Path) -> None:
    """Those that say 0 are not, and those that say what the tensors are."""
    said = {"attention.chunk_size": 8192, "nextn_predict_layers": 1, "new_list": [1.0] * 1500}
    zeros = {"attention.shared_kv_layers": 0, "pooling_type": 0, "swin_norm": False}
    zeros |= {"tensor_data_layout": "Meta AI original pth", "rope.scaling.finetuned": True}
    write(CASES["llama"], tmp_path, {f"llama.{key}": x for key, x in (said | zeros).items()})
    (note,) = open_gguf(tmp_path, "m.gguf")[1].notes
    assert (
        "m.gguf: llama.attention.chunk_size, llama.nextn_predict_layers, llama.new_list: " in note
    )
    assert "ignored, as unknown for llama" in note


@pytest.mark.parametrize("key", ["attention.sliding_window", "expert_count", "vocab_size"])
def test_an_array_longer_than_is_read_is_not_absent(tmp_path: Path, key: str) -> None:
    write(CASES["llama"], tmp_path, {f"llama.{key}": [4] * 1025})
    with pytest.raises(lp.ConfigError, match=rf"m.gguf: llama.{key} is an array of 1025; .*1024"):
        open_gguf(tmp_path, "m.gguf")


def test_a_factor_that_is_not_used_is_noted(tmp_path: Path) -> None:
    """Neither llama.cpp nor transformers uses what the converter takes from attn_factor."""
    write(CASES["qwen3-yarn"], tmp_path, {"qwen3.rope.scaling.yarn_attn_factor": 0.8782})
    (note,) = open_gguf(tmp_path, "m.gguf")[1].notes
    assert "qwen3.rope.scaling.yarn_attn_factor (0.8782) is ignored" in note and "1.13863" in note
