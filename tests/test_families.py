"""The table of families: what config.json of each means, what is refused, and by which name."""

import pickle
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import truth
from family_keys import LONGROPE, SIZES, YARN, read

import llamaprobe as lp
from llamaprobe.config import Config
from llamaprobe.families.points import absent, embedding_is_x, lens_names, modules
from llamaprobe.families.rope import Rope
from llamaprobe.families.table import BY_CLASS, FAMILIES, REFUSED, SHELLS
from llamaprobe.families.tensors import checkpoint_shapes, matrix
from llamaprobe.reference import forward


def windows(config: Config) -> list[int | None]:
    return [config.layer(i).window for i in range(config.n_layers)]


def turned(config: Config) -> list[bool]:
    return [config.layer(i).rope is not None for i in range(config.n_layers)]


# ---- the table ----


def test_names_are_of_one_family() -> None:
    assert len(BY_CLASS) == len(FAMILIES) and not FAMILIES.keys() & {*REFUSED, *SHELLS}
    for name, (_, inside, _) in SHELLS.items():
        assert inside in FAMILIES, name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_defaults_are_those_of_the_class(tmp_path: Path, model_type: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import AutoConfig

    made = AutoConfig.for_model(model_type)
    for key, value in FAMILIES[model_type].defaults.items():
        assert getattr(type(made), key, "missing") == value, key
    config = read(tmp_path, model_type)
    if model_type != "llama":  # it has no defaults of these: a file must say them
        assert config.rms_norm_eps == made.rms_norm_eps
        parameters = made.rope_parameters.get("full_attention", made.rope_parameters)
        assert config.rope_theta == parameters["rope_theta"]
    assert config.tied_head == made.tie_word_embeddings
    assert config.attention_bias == (
        getattr(made, "attention_bias", False) or model_type == "qwen2"
    )


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_survives_a_pickle(tmp_path: Path, model_type: str) -> None:
    config = read(tmp_path, model_type)
    again = pickle.loads(pickle.dumps(config))
    ropes = {id(layer.rope) for layer in again.layers}
    assert len(ropes) == len({id(layer.rope) for layer in config.layers})
    for layer in again.layers:
        for table in layer.rope.tables() if layer.rope else ():
            assert not table.flags.writeable
    assert list(checkpoint_shapes(again)) == list(checkpoint_shapes(config))


# ---- windows and tables of layers ----

LAYERS: dict[str, tuple[str, dict[str, Any], list[int | None]]] = {
    "qwen2 off": ("qwen2", {"sliding_window": 7}, [None] * 6),
    "qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 4},
        [None] * 4 + [7, 7],
    ),
    "qwen2 null": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": None},
        [None] * 6,
    ),
    "qwen2 by type": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 7}
        | {"layer_types": ["sliding_attention"] + ["attention"] * 5},
        [7] + [None] * 5,
    ),
    "mistral": (
        "mistral",
        {"sliding_window": 7, "layer_types": ["full_attention"]},
        [7] * 6,
    ),
    "mistral null": ("mistral", {"sliding_window": None}, [None] * 6),
    "mistral default": ("mistral", {"max_position_embeddings": 8192}, [4096] * 6),
    "a window as long as any prompt": ("mistral", {"sliding_window": 64}, [None] * 6),
    "a window that is one shorter": ("mistral", {"sliding_window": 63}, [63] * 6),
    "ministral": ("ministral", {"sliding_window": 7}, [7] * 6),
    "gemma2": ("gemma2", {"sliding_window": 7}, [7, None] * 3),
    "gemma3": ("gemma3_text", {"sliding_window": 7}, [7] * 5 + [None]),
    "gemma3 pattern": (
        "gemma3_text",
        {"sliding_window": 7, "sliding_window_pattern": 3},
        [7, 7, None] * 2,
    ),
    "phi3": ("phi3", {}, [None] * 6),
    "olmo3": ("olmo3", {"sliding_window": 7}, [7, 7, 7, None, 7, 7]),
    "exaone4": ("exaone4", {"sliding_window": 7}, [7, 7, 7, None, 7, 7]),
    "smollm3": (
        "smollm3",
        {"sliding_window": 7, "use_sliding_window": True},
        [None, None, None, 7, None, None],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_windows(tmp_path: Path, name: str) -> None:
    model_type, keys, expected = LAYERS[name]
    assert windows(read(tmp_path, model_type, **keys)) == expected


def test_layers_that_are_not_turned(tmp_path: Path) -> None:
    every_fourth = [True, True, True, False, True, True]
    assert turned(read(tmp_path, "smollm3")) == every_fourth
    assert turned(read(tmp_path, "smollm3", no_rope_layers=[0, 1, 1, 1, 1, 0])) == [
        *(False, True, True, True, True, False)
    ]
    assert turned(read(tmp_path, "exaone4", sliding_window=7)) == every_fourth
    whole = read(
        tmp_path, "exaone4", sliding_window=None, layer_types=["full_attention"] * 6
    )
    assert all(turned(whole)) and windows(whole) == [None] * 6
    assert not any(
        turned(read(tmp_path, "granitemoehybrid", position_embedding_type="nope"))
    )


def test_a_long_window_does_not_turn_exaone(tmp_path: Path) -> None:
    """Which layers turn hangs on their type, also where no prompt fills the window."""
    config = read(tmp_path, "exaone4", sliding_window=4096)
    assert windows(config) == [None] * 6 and turned(config).count(False) == 1


def test_tables_by_type_of_layer(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    config = read(
        tmp_path, "gemma3_text", rope_scaling=scaling, rope_theta=1e6, sliding_window=7
    )
    sliding, full = config.layer(0).rope, config.layer(5).rope
    assert sliding and full and sliding is config.layer(4).rope
    assert np.array_equal(full.inv_freq, config.inv_freq) and config.rope_theta == 1e6
    plain = read(tmp_path, "gemma3_text", sliding_window=7)
    assert np.array_equal(plain.layer(0).rope.inv_freq, sliding.inv_freq)
    assert np.array_equal(plain.inv_freq / np.float32(8), full.inv_freq)
    olmo = read(tmp_path, "olmo3", rope_theta=1e4, sliding_window=7)
    assert olmo.rope_theta == 1e4  # of full layers alone, as transformers 5.24 reads it
    fixed = read(tmp_path, "olmo3", sliding_window=7)
    assert np.array_equal(olmo.layer(0).rope.inv_freq, fixed.inv_freq)


def test_longrope_switches_at_the_old_length(tmp_path: Path) -> None:
    keys = {"original_max_position_embeddings": 16, "rope_scaling": LONGROPE}
    rope = read(tmp_path, "phi3", **keys).layer(0).rope
    assert np.array_equal(rope.frequencies(16), rope.inv_freq)
    assert np.array_equal(rope.frequencies(17), rope.long_inv_freq)
    assert rope.attention_factor == np.sqrt(1 + np.log(4) / np.log(16))


@pytest.mark.parametrize("spelling", ["su", "yarn", "longrope"])
def test_old_names_of_longrope(tmp_path: Path, spelling: str) -> None:
    block = LONGROPE | {"rope_type": spelling}
    keys = {"original_max_position_embeddings": 16}
    rope = read(tmp_path, "phi3", **keys, rope_scaling=block).layer(0).rope
    assert rope.long_inv_freq is not None and rope.original_positions == 16


def test_a_factor_that_others_multiply_in_is_reported(tmp_path: Path) -> None:
    """attn_factor of R1-0528: transformers ignores it, and so do we, but not in silence."""
    with pytest.raises(UserWarning, match=r"rope_scaling\.attn_factor: ignored"):
        read(tmp_path, "qwen3", rope_scaling=YARN | {"attn_factor": 0.8782})


def _torch_table(model_type: str, keys: dict[str, Any]) -> tuple[np.ndarray, float]:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.for_model(model_type, **keys)
    table, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config)
    return table.numpy(), factor


def _random_yarns() -> list[dict[str, Any]]:
    random = np.random.default_rng(7)
    found = []
    for _ in range(60):
        block: dict[str, Any] = {
            "rope_type": "yarn",
            "factor": float(random.choice([4.0, 8.0, random.uniform(1, 50)])),
            "original_max_position_embeddings": int(random.choice([32, 4096, 32768])),
        }
        if random.random() < 0.5:
            block |= {
                "beta_fast": float(random.uniform(2, 64)),
                "beta_slow": float(random.uniform(0.2, 2)),
            }
        if random.random() < 0.3:
            block |= {
                "mscale": float(random.uniform(0.5, 2)),
                "mscale_all_dim": float(random.uniform(0.5, 2)),
            }
        if random.random() < 0.3:
            block["attention_factor"] = float(random.uniform(0.5, 2))
        if random.random() < 0.3:
            block["truncate"] = False
        found.append(
            {"rope_theta": float(random.choice([1e4, 1e6])), "rope_scaling": block}
        )
    return found


def test_yarn_is_that_of_transformers(tmp_path: Path) -> None:
    """But for torch's own powf, which is up to 2 ulp off."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    for keys in _random_yarns():
        ours = read(tmp_path, "qwen3", head_dim=64, **keys).layer(0).rope
        table, factor = _torch_table("qwen3", SIZES | keys | {"head_dim": 64})
        assert ours.attention_factor == factor, keys
        distance = np.abs(ours.inv_freq.view(np.int32) - table.view(np.int32))
        assert distance.max() <= 6 and np.count_nonzero(distance) <= 6, keys


# ---- what runs ----


def test_a_mistral_without_a_window_runs(tmp_path: Path) -> None:
    """A family that needs nothing new is one entry."""
    config = models.make_config(
        model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=None
    )
    weights = models.make_weights(config)
    models.write_checkpoint(tmp_path, config, weights)
    ids = models.make_token_ids(config, 9)
    model = lp.load(tmp_path)
    expected = forward(model.config, weights, ids)
    run = model.run(ids, points="all")
    assert model.config.family == "mistral"
    for point, value in expected.items():
        assert truth.norm_error(run[point], value) < 1e-6, point


@pytest.mark.parametrize("model_type", SHELLS)
def test_text_of_a_model_of_text_and_images(tmp_path: Path, model_type: str) -> None:
    family = FAMILIES[SHELLS[model_type][1]]
    inside = SIZES | {"head_dim": 16, "sliding_window": 7}
    text = read(tmp_path, family.model_type, **inside, tie_word_embeddings=True)
    shell = read(
        tmp_path, model_type, text_config=inside, hidden_size=1, eos_token_id=[1, 106]
    )
    assert shell.family == family.model_type and shell.eos_token_id == (1, 106)
    assert [(f"language_model.{n}", s) for n, s in checkpoint_shapes(text)] == [
        *checkpoint_shapes(shell)
    ]
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(size=shape) for name, shape in checkpoint_shapes(text)
    }
    outer = {f"language_model.{name}": value for name, value in weights.items()}
    expected, got = forward(text, weights, range(9)), forward(shell, outer, range(9))
    assert all(np.array_equal(got[point], expected[point]) for point in expected)
    assert not read(
        tmp_path, model_type, text_config=inside, tie_word_embeddings=False
    ).tied_head


# ---- points and names ----


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_model_has_the_points_that_are_not_absent(
    tmp_path: Path, model_type: str
) -> None:
    config = read(tmp_path, model_type)
    weights = {name: np.ones(shape) for name, shape in checkpoint_shapes(config)}
    with np.errstate(all="ignore"):
        found = set(forward(config, weights, [1, 2]))
    llama = {point.name for point in lp.Model.points()}
    new = {"scores_raw", "logits_raw"}
    new |= {
        f"{stem}_{part}"
        for stem in ("q", "k", "attn", "mlp")
        for part in ("rms", "unit", "norm")
    }
    assert found == (llama | new) - absent(config).keys()
    assert set(lens_names(config)) <= found
    given = {point for _, point in modules(config).values() if point}
    assert given <= found and {taken for taken, _ in modules(config).values()} <= found


def test_a_module_means_what_it_means_in_its_family(tmp_path: Path) -> None:
    after = "post_attention_layernorm"
    assert modules(read(tmp_path, "qwen3"))[after] == ("x_mid", "x_mid_norm")
    assert modules(read(tmp_path, "gemma2"))[after] == ("attn_out", "attn_norm")
    assert modules(read(tmp_path, "olmo2"))[after] == ("attn_out", "attn_norm")
    assert modules(read(tmp_path, "olmo2"))["mlp"] == ("x_mid", "mlp_out")
    assert modules(read(tmp_path, "phi3"))["self_attn.qkv_proj"] == ("x_norm", None)
    assert "blocks.L.hook_attn_out" in lens_names(read(tmp_path, "gemma2"))["attn_norm"]
    assert (
        "blocks.L.hook_attn_out" not in lens_names(read(tmp_path, "olmo2"))["attn_norm"]
    )
    assert embedding_is_x(read(tmp_path, "gemma"))
    assert not embedding_is_x(read(tmp_path, "granite", embedding_multiplier=12.0))


def test_rows_of_fused_matrices(tmp_path: Path) -> None:
    config = read(tmp_path, "phi3")
    assert matrix(config, "k") == ("self_attn.qkv_proj", 48, 24, 48, False)
    assert matrix(config, "v") == ("self_attn.qkv_proj", 72, 24, 48, False)
    assert matrix(config, "up") == ("mlp.gate_up_proj", 80, 80, 48, False)


def test_a_table_cannot_be_changed() -> None:
    rope = Rope(np.ones(2, np.float32), 1.0, np.ones(2, np.float32), 16)
    for table in rope.tables():
        with pytest.raises(ValueError):
            table[0] = 0
