"""Capture points: the list, what they are called elsewhere, shapes, layers, and docs/points.md."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from llamaprobe import _core, load
from llamaprobe.config import read_config
from llamaprobe.errors import ArgumentError, PointError
from llamaprobe.points import (
    all_points,
    check_layers,
    llama_points,
    points_of,
    resolve,
    resolve_all,
    shape,
)
from llamaprobe.reference import forward

REPO = Path(__file__).parent.parent

NAMES = [  # of a Llama
    *("x", "x_rms", "x_unit", "x_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "pattern"),
    *("z", "attn_out", "x_mid", "x_mid_rms", "x_mid_unit", "x_mid_norm", "gate", "up", "act"),
    *("hidden", "mlp_out", "x_out", "final_rms", "final_unit", "final_norm", "logits"),
]


def test_the_list_matches_the_core() -> None:
    points = all_points()
    names = [point.name for point in points]
    assert [point.name for point in llama_points()] == NAMES
    assert [(p.name, p.width, p.per_layer) for p in points] == _core.points()
    assert [point.number for point in points] == list(range(len(names)))
    assert [point.name for point in llama_points() if not point.per_layer] == NAMES[-4:]
    header = (REPO / "csrc/model/points.h").read_text()
    assert re.findall(r"^ +P\(\w+, (\w+),", header, re.MULTILINE) == names


@pytest.mark.parametrize("case", models.cases()[:6], ids=lambda case: case.name)
def test_shapes_match_the_reference(case: models.Case, tmp_path: Any) -> None:
    folder, ids = case.make(tmp_path)
    config = read_config(folder)
    values = forward(config, models.read_checkpoint(folder), ids)
    assert list(values) == NAMES
    for point in points_of(config):
        layers = (config.n_layers,) if point.per_layer else ()
        assert values[point.name].shape == layers + shape(point, config, len(ids))


@pytest.mark.parametrize("name", NAMES)
def test_own_names(name: str) -> None:
    point, layer = resolve(name)
    assert (point.name, layer) == (name, None)
    if point.per_layer:
        assert resolve((name, 3)) == (point, 3)
        assert resolve((name, np.int64(0))) == (point, 0)


# What docs/points.md promises: (name, point, layer).
ELSEWHERE: list[tuple[Any, str, int | None]] = [
    ("embed", "x", 0),
    ("hook_embed", "x", 0),
    ("model.embed_tokens", "x", 0),
    ("blocks.3.hook_resid_pre", "x", 3),
    ("hook_resid_pre", "x", None),
    ("resid_pre", "x", None),
    (("resid_pre", 5), "x", 5),
    (("hook_resid_pre", 5), "x", 5),
    ("blocks.0.hook_in", "x", 0),
    ("model.layers.3.input", "x", 3),
    ("residual_in", "x", None),
    ("blocks.4.ln1.hook_scale", "x_rms", 4),
    ("scale4ln1", "x_rms", 4),
    ("ln2.hook_scale", "x_mid_rms", None),
    ("blocks.1.ln1.hook_normalized", "x_unit", 1),
    (("normalized", 27, "ln2"), "x_mid_unit", 27),
    ("model.layers.3.input_layernorm", "x_norm", 3),
    ("model.layers.3.input_layernorm.output", "x_norm", 3),
    ("layers.3.input_layernorm", "x_norm", 3),
    ("input_layernorm", "x_norm", None),
    ("blocks.2.attn.hook_in", "x_norm", 2),
    ("blocks.2.ln1.hook_out", "x_norm", 2),
    ("k6", "k", 6),
    (("k", 6, "a"), "k", 6),
    ("key", "k", None),
    ("blocks.11.attn.hook_q", "q", 11),
    ("attn.hook_v", "v", None),
    ("model.layers.0.self_attn.q_proj", "q", 0),
    ("self_attn.v_proj", "v", None),
    ("rot_q", "q_rope", None),
    ("blocks.7.attn.hook_rot_k", "k_rope", 7),
    ("blocks.7.attn.hook_attn_scores", "scores", 7),
    (("attn_logits", 7), "scores", 7),
    ("attn", "pattern", None),
    ("attentions[7]", "pattern", 7),
    ("attention_matrix", "pattern", None),
    ("blocks.7.attn.hook_z", "z", 7),
    ("model.layers.7.self_attn.o_proj.input", "z", 7),
    ("model.layers.7.self_attn", "attn_out", 7),
    ("blocks.7.hook_attn_out", "attn_out", 7),
    ("blocks.7.attn.hook_out", "attn_out", 7),
    ("attention_output", "attn_out", None),
    ("blocks.7.hook_resid_mid", "x_mid", 7),
    ("blocks.7.ln2.hook_in", "x_mid", 7),
    ("residual_after_attn", "x_mid", None),
    ("model.layers.7.post_attention_layernorm.input", "x_mid", 7),
    ("model.layers.7.post_attention_layernorm", "x_mid_norm", 7),
    ("blocks.7.mlp.hook_in", "x_mid_norm", 7),
    ("pre5", "gate", 5),
    (("pre", 2), "gate", 2),
    ("blocks.2.mlp.hook_pre", "gate", 2),
    ("neuron_activations", "gate", None),
    ("hook_pre_linear", "up", None),
    ("model.layers.2.mlp.up_proj", "up", 2),
    ("model.layers.2.mlp.act_fn", "act", 2),
    ("blocks.2.mlp.hook_post", "hidden", 2),
    ("mlp_post", "hidden", None),
    ("model.layers.2.mlp.down_proj.input", "hidden", 2),
    ("model.layers.2.mlp.down_proj", "mlp_out", 2),
    ("model.layers.2.mlp", "mlp_out", 2),
    ("ffn_out", "mlp_out", None),
    ("model.layers.15", "x_out", 15),
    ("blocks.15.hook_resid_post", "x_out", 15),
    ("residual_out", "x_out", None),
    ("ln_final.hook_scale", "final_rms", None),
    ("scale", "final_rms", None),
    ("ln_final.hook_normalized", "final_unit", None),
    ("model.norm", "final_norm", None),
    ("last_hidden_state", "final_norm", None),
    ("lm_head", "logits", None),
    ("unembed.hook_out", "logits", None),
    ("unembed", "logits", None),
]


# What each module of a Hugging Face Llama takes and gives. (point, layer that the name itself says)
MODULES: list[tuple[str, str, str]] = [
    ("", "x", "x_out"),
    (".input_layernorm", "x", "x_norm"),
    (".self_attn", "x_norm", "attn_out"),
    (".self_attn.q_proj", "x_norm", "q"),
    (".self_attn.k_proj", "x_norm", "k"),
    (".self_attn.v_proj", "x_norm", "v"),
    (".self_attn.o_proj", "z", "attn_out"),
    (".post_attention_layernorm", "x_mid", "x_mid_norm"),
    (".mlp", "x_mid_norm", "mlp_out"),
    (".mlp.gate_proj", "x_mid_norm", "gate"),
    (".mlp.up_proj", "x_mid_norm", "up"),
    (".mlp.act_fn", "gate", "act"),
    (".mlp.down_proj", "hidden", "mlp_out"),
]


@pytest.mark.parametrize(("module", "takes", "gives"), MODULES, ids=lambda v: v or "layer")
def test_input_and_output_of_every_module_of_a_layer(module: str, takes: str, gives: str) -> None:
    for prefix in ("layers.2", "model.layers.2", "model.model.layers.2", "model.model.layers[2]"):
        for suffix in ("", ".output", ".output[0]", ".output[0][0]"):
            point, layer = resolve(prefix + module + suffix)
            assert (point.name, layer) == (gives, 2)
        for suffix in (".input", ".input[0]", ".inputs[0][0]"):
            point, layer = resolve(prefix + module + suffix)
            assert (point.name, layer) == (takes, 2)
    if module:
        for name in (module[1:], module.rpartition(".")[2]):
            assert resolve(name)[1] is resolve(f"{name}.input")[1] is None
            assert (resolve(name)[0].name, resolve(f"{name}.input")[0].name) == (gives, takes)


@pytest.mark.parametrize(
    ("name", "point", "layer"),
    [
        ("model.norm", "final_norm", None),
        ("model.norm.input", "x_out", -1),
        ("lm_head.output[0]", "logits", None),
        ("lm_head.input", "final_norm", None),
        ("model.lm_head.input", "final_norm", None),
        ("model.model.embed_tokens.output", "x", 0),
    ],
)
def test_input_and_output_of_modules_outside_of_layers(
    name: str, point: str, layer: int | None
) -> None:
    found, number = resolve(name)
    assert (found.name, number) == (point, layer)


@pytest.mark.parametrize(
    ("module", "value"),
    [("self_attn.rotary_emb", ""), ("mlp.output[1]", ""), ("layers.3.norm", "")],
)
def test_rejects_values_that_no_module_returns(module: str, value: str) -> None:
    with pytest.raises(PointError, match="there is no point"):
        resolve(f"model.layers.3.{module}" if "layers" not in module else module)


def names_of(points: Any) -> list[tuple[str, int | None]]:
    """In a Llama of four layers."""
    config = replace(load("demo").config, n_layers=4)
    return [(point.name, layer) for _, point, layer in resolve_all(points, config)]


def test_all_and_patterns() -> None:
    assert names_of("all") == names_of(["all"]) == [(name, None) for name in NAMES]
    assert names_of("x*") == [(name, None) for name in NAMES if name.startswith("x")]
    assert names_of(["logits", "?_rope"]) == [(n, None) for n in ("logits", "q_rope", "k_rope")]
    assert names_of([("x_mid*", -1)]) == [(n, 3) for n in NAMES if n.startswith("x_mid")]
    assert names_of("blocks.*.hook_resid_pre") == [("x", None)]
    assert names_of("model.layers.2.mlp.*_proj") == [("gate", 2), ("up", 2), ("mlp_out", 2)]
    assert names_of(("x", -1)) == [("x", 3)]
    assert names_of("model.norm.input") == [("x_out", 3)]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("y*", "no point matches 'y\\*'; all: x, x_rms"),
        ([("final_*", 2)], "no point matches"),
        ([("x", 4)], "there is no layer 4; the model has 0 to 3"),
        ([("x", -5)], "there is no layer -5; the model has 0 to 3"),
        ([], "points is empty"),
        (None, "points is empty"),
    ],
)
def test_names_without_a_match(points: Any, message: str) -> None:
    with pytest.raises(PointError, match=message):
        names_of(points)


@pytest.mark.parametrize(("name", "point", "layer"), ELSEWHERE, ids=lambda v: str(v))
def test_names_elsewhere(name: Any, point: str, layer: int | None) -> None:
    found, number = resolve(name)
    assert (found.name, number) == (point, layer)


def test_every_alias_means_its_point() -> None:
    for point in all_points():
        for alias in point.aliases:
            assert resolve(alias) == (point, None)
            numbered = re.sub(r"\bL\b", "12", alias)
            if numbered != alias:
                assert resolve(numbered) == (point, 12)


def test_no_name_has_two_meanings() -> None:
    listed = [alias for point in all_points() for alias in point.aliases]
    assert len(listed) == len(set(listed)) and not set(listed) & set(NAMES)


# Names that are close to a point, or that others use for something else.
REFUSED: list[tuple[Any, str]] = [
    ("xnorm", "near: x_norm"),
    ("patern", "near: pattern"),
    ("blocks.3.hook_resid_prre", "near: .*hook_resid_pre"),
    ("model.layers.3.input_layer_norm", "near: .*input_layernorm"),
    ("zzzzzz", "all: x, x_rms, .*, logits"),
    ("", "all: x, x_rms"),
    ("X", "all: x"),
    ("hook_in", "near"),
    ("hook_out", "near"),
    ("hook_scale", "near: .*hook_scale"),
    ("hidden_states", "entry i < n_layers is x of layer i, the last entry is final_norm"),
    ("hidden_states[3]", "entry i < n_layers is x"),
    ("past_key_values", "k_rope and v"),
    ("blocks.3.attn.hook_result", "model.head_out"),
    ("hook_mlp_in", "copy of x_mid"),
    ("tokens", "run.token_ids"),
    ("embed5", "there is no point 'embed5'"),
    (("x_norm", 3, "ln1"), "there is no point 'x_norm in ln1'"),
    (("blocks.3.hook_resid_pre", 4), "names two layers, 3 and 4"),
    (("embed", 1), "names two layers, 0 and 1"),
    (("logits", 3), "logits is computed once"),
    (("scale", 3), "final_rms is computed once"),
    (("x", True), "an integer, not True"),
    (("x", 1.0), "an integer, not 1.0"),
    (("x", "1"), "an integer, not '1'"),
    (("x", None), "an integer, not None"),
    (("x",), "not the name of a point"),
    (("x", 1, 2), "not the name of a point"),
    (3, "3 is not the name of a point"),
    (None, "None is not the name of a point"),
    (b"x", "not the name of a point"),
    (["x", 3], "not the name of a point"),
    ("x\x1b[31m", r"'x\\x1b\[31m'"),
    ("a" * 100000, r"'aaa.*\.\.\.; all"),
    ("k" + "9" * 5000, "there is no point"),
    ("blocks.٣.hook_resid_pre", "there is no point"),
]


@pytest.mark.parametrize(("name", "message"), REFUSED, ids=lambda v: str(v)[:30])
def test_refused_names(name: Any, message: str) -> None:
    with pytest.raises(PointError, match=message) as e:
        resolve(name)
    assert isinstance(e.value, KeyError) and isinstance(e.value, ArgumentError)
    assert str(e.value).isprintable() and len(str(e.value)) < 600


def test_layers() -> None:
    assert check_layers(None, 4) == (0, 1, 2, 3)
    assert check_layers([2, 0], 4) == (2, 0)
    assert check_layers(range(3), 4) == (0, 1, 2)
    assert check_layers(np.array([3, 1], np.uint8), 4) == (3, 1)
    assert check_layers((i for i in (1, 3)), 4) == (1, 3)
    assert check_layers(3, 4) == check_layers(-1, 4) == check_layers(np.int64(3), 4) == (3,)
    assert check_layers(np.array(2), 4) == (2,)
    assert check_layers([-1, 0, -3], 4) == (3, 0, 1)
    assert check_layers(range(-2, 0), 4) == (2, 3)
    assert check_layers(slice(1, None, 2), 4) == (1, 3)
    assert check_layers(slice(-2, 99), 4) == (2, 3)
    assert check_layers(slice(None, None, -1), 4) == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers is empty"),
        ([4], "there is no layer 4; the model has 0 to 3"),
        ([0, -5], "there is no layer -5; the model has 0 to 3"),
        (4, "there is no layer 4; the model has 0 to 3"),
        (slice(2, 2), "layers is empty"),
        (slice("a", None), "layers is slice"),
        (slice(None, None, 0), "layers is slice"),
        ([3, -1], "layer 3 is requested twice"),
        ([10**30], "there is no layer 1000"),
        ([1, 2, 1], "layer 1 is requested twice"),
        ([True], "an integer, not True"),
        ([1.0], "an integer, not 1.0"),
        (["0"], "an integer, not '0'"),
        (np.array([[0, 1]]), "an integer, not array"),
        (np.array([True]), "an integer, not"),
        (True, "an integer, not True"),
        (1.5, "give a layer number, a list of them, a range or a slice"),
        ("01", "give a layer number, a list of them, a range or a slice"),
    ],
)
def test_bad_layers(layers: Any, message: str) -> None:
    with pytest.raises(PointError, match=message):
        check_layers(layers, 4)


def test_the_document_is_current() -> None:
    spec = importlib.util.spec_from_file_location("doc", REPO / "tools" / "make_points_doc.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.DOC.read_text() == module.text(), "run tools/make_points_doc.py"
