"""The plan of a run: what it prints for typical requests, and that it is what a run does; the lists
that it is made from have no second copy that could disagree."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.config import Config, tensors
from llamaprobe.families.core import core_numbers
from llamaprobe.points import all_points, reads

# Of two layers of the demo. The size of all scratch depends on the machine.
EXPECTED = [
    (
        "the defaults",
        3,
        {},
        """
        step layer  stage             weights  values and their places
           1        rope                    0  cos, sin
           2     0  embed                 768  x array 1,536
           3     0  norm                  256  x_rms, x_unit, x_norm array 1,536
           4     0  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
           5     0  rope                    0  q_rope scratch 1,536
           6     0  rope                    0  k_rope scratch 768
           7     0  attention               0  scores, pattern, z scratch 1,536
           8     0  o_proj             32,768  attn_out, x_mid scratch 1,536
           9     0  norm                  256  x_mid_rms, x_mid_unit, x_mid_norm scratch 1,536
          10     0  gate_up           180,224  gate, up, act, hidden scratch 4,224
          11     0  down               90,112  mlp_out, x_out array 1,536
          12     1  norm                  256  x_rms, x_unit, x_norm array 1,536
        12 steps; bytes: arrays 6,144, values in scratch 8,064, all scratch N
        """,
    ),
    (
        "logits",
        3,
        {"points": "logits"},
        """
        step layer  stage             weights  values and their places
           1        rope                    0  cos, sin
           2     0  embed                 768  x scratch 1,536
           3     0  norm                  256  x_rms, x_unit, x_norm scratch 1,536
           4     0  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
           5     0  rope                    0  q_rope scratch 1,536
           6     0  rope                    0  k_rope scratch 768
           7     0  attention               0  scores, pattern, z scratch 1,536
           8     0  o_proj             32,768  attn_out, x_mid scratch 1,536
           9     0  norm                  256  x_mid_rms, x_mid_unit, x_mid_norm scratch 1,536
          10     0  gate_up           180,224  gate, up, act, hidden scratch 4,224
          11     0  down               90,112  mlp_out, x_out scratch 1,536
          12     1  norm                  256  x_rms, x_unit, x_norm scratch 1,536
          13     1  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
          14     1  rope                    0  q_rope scratch 1,536
          15     1  rope                    0  k_rope scratch 768
          16     1  attention               0  scores, pattern, z scratch 1,536
          17     1  o_proj             32,768  attn_out, x_mid scratch 1,536
          18     1  norm                  256  x_mid_rms, x_mid_unit, x_mid_norm scratch 1,536
          19     1  gate_up           180,224  gate, up, act, hidden scratch 4,224
          20     1  down               90,112  mlp_out, x_out scratch 1,536
          21        norm                  256  final_rms, final_unit, final_norm scratch 1,536
          22        head              245,760  logits array 11,520
        22 steps; bytes: arrays 11,520, values in scratch 7,296, all scratch N
        """,
    ),
    (
        "one pattern",
        3,
        {"points": ("pattern",), "layers": [0]},
        """
        step layer  stage             weights  values and their places
           1        rope                    0  cos, sin
           2     0  embed                 768  x scratch 1,536
           3     0  norm                  256  x_rms, x_unit, x_norm scratch 1,536
           4     0  qkv                49,152  q scratch 1,536, k scratch 768
           5     0  rope                    0  q_rope scratch 1,536
           6     0  rope                    0  k_rope scratch 768
           7     0  attention               0  scores, pattern array 144
        7 steps; bytes: arrays 144, values in scratch 3,840, all scratch N
        """,
    ),
    (
        "x by both its names",
        3,
        {"points": ("x", "x_out"), "layers": [0, 1]},
        """
        step layer  stage             weights  values and their places
           1        rope                    0  cos, sin
           2     0  embed                 768  x array 1,536
           3     0  norm                  256  x_rms, x_unit, x_norm scratch 1,536
           4     0  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
           5     0  rope                    0  q_rope scratch 1,536
           6     0  rope                    0  k_rope scratch 768
           7     0  attention               0  scores, pattern, z scratch 1,536
           8     0  o_proj             32,768  attn_out, x_mid scratch 1,536
           9     0  norm                  256  x_mid_rms, x_mid_unit, x_mid_norm scratch 1,536
          10     0  gate_up           180,224  gate, up, act, hidden scratch 4,224
          11     0  down               90,112  mlp_out, x_out array 1,536
          12     1  copy                    0  x array 1,536
          13     1  norm                  256  x_rms, x_unit, x_norm scratch 1,536
          14     1  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
          15     1  rope                    0  q_rope scratch 1,536
          16     1  rope                    0  k_rope scratch 768
          17     1  attention               0  scores, pattern, z scratch 1,536
          18     1  o_proj             32,768  attn_out, x_mid scratch 1,536
          19     1  norm                  256  x_mid_rms, x_mid_unit, x_mid_norm scratch 1,536
          20     1  gate_up           180,224  gate, up, act, hidden scratch 4,224
          21     1  down               90,112  mlp_out, x_out array 1,536
        21 steps; bytes: arrays 6,144, values in scratch 7,296, all scratch N
        """,
    ),
    (
        "values inside a fused step, of a batch",
        [[1], [1, 2]],
        {"points": ("x_mid_rms", "act"), "layers": [1]},
        """
        step layer  stage             weights  values and their places
           1        rope                    0  cos, sin
           2     0  embed                 768  x scratch 1,536
           3     0  norm                  256  x_rms, x_unit, x_norm scratch 1,536
           4     0  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
           5     0  rope                    0  q_rope scratch 1,536
           6     0  rope                    0  k_rope scratch 768
           7     0  attention               0  scores, pattern, z scratch 1,536
           8     0  o_proj             32,768  attn_out, x_mid scratch 1,536
           9     0  norm                  256  x_mid_rms, x_mid_unit, x_mid_norm scratch 1,536
          10     0  gate_up           180,224  gate, up, act, hidden scratch 4,224
          11     0  down               90,112  mlp_out, x_out scratch 1,536
          12     1  norm                  256  x_rms, x_unit, x_norm scratch 1,536
          13     1  qkv                65,536  q scratch 1,536, k scratch 768, v scratch 768
          14     1  rope                    0  q_rope scratch 1,536
          15     1  rope                    0  k_rope scratch 768
          16     1  attention               0  scores, pattern, z scratch 1,536
          17     1  o_proj             32,768  attn_out, x_mid scratch 1,536
          18     1  norm                  256  x_mid_rms array 12, x_mid_unit, x_mid_norm scratch 1,536
          19     1  gate_up            90,112  gate scratch 4,224
          20     1  gate_up                 0  act array 4,224
        20 steps; bytes: arrays 4,236, values in scratch 7,296, all scratch N
        """,
    ),
]


@pytest.fixture
def model() -> lp.Model:
    return lp.load("demo", layers=2)


def unindented(text: str) -> str:
    lines = text.strip("\n").rstrip().split("\n")
    return "\n".join(line.removeprefix("        ") for line in lines)


@pytest.mark.parametrize(
    ("prompt", "request_", "text"), [e[1:] for e in EXPECTED], ids=[e[0] for e in EXPECTED]
)
def test_a_plan_is_printed(model: lp.Model, prompt: Any, request_: dict[str, Any], text: str):
    printed = str(model.plan(prompt, threads=1, **request_))
    assert re.sub(r"all scratch [\d,]+", "all scratch N", printed) == unindented(text)


@pytest.mark.parametrize("request_", [e[2] for e in EXPECTED], ids=[e[0] for e in EXPECTED])
def test_a_run_follows_its_plan(model: lp.Model, request_: dict[str, Any]):
    plan, run, profile = (
        do([1, 2, 3], **request_) for do in (model.plan, model.run, model.profile)
    )
    assert plan == model.plan(3, **request_) == model.plan(np.int64(3), **request_)
    assert plan.array_bytes == sum(run[point].nbytes for point in run.points)
    assert plan.array_bytes > 0 and plan.value_bytes < plan.scratch_bytes
    laps = {stage.name: stage.n_laps for stage in profile.stages if stage.n_laps}
    for name in ("plan", "memory", "pack"):
        laps.pop(name, None)
    found: dict[str, int] = {}
    for step in plan.steps:
        found[step.stage] = found.get(step.stage, 0) + 1
    assert laps == found
    read = sum(stage.weight_bytes for stage in profile.stages)
    assert sum(step.weight_bytes for step in plan.steps) == read


def test_scratch_is_used_again(random_checkpoint):
    model = lp.load(random_checkpoint(num_hidden_layers=6))
    small, large = (model.plan(8, points="x_out", layers=[i]).value_bytes for i in (1, 5))
    assert small == large > 0


def test_a_plan_too_large_for_memory_is_a_plan(model: lp.Model):
    n = model.config.max_positions
    assert model.plan(n, points="scores").array_bytes == 2 * model.config.n_heads * n * n * 4


@pytest.mark.parametrize("n", [0, -1, 2**40])
def test_rejects_plans_of_impossible_lengths(model: lp.Model, n: int):
    with pytest.raises(lp.ArgumentError, match="prompt is .*; give an integer from 1 to"):
        model.plan(n)


def test_a_plan_rejects_what_a_run_rejects(model: lp.Model):
    wrong = ([], {}), ([10**6], {}), ([1], {"points": "nothing"}), ([1], {"layers": [9]})
    for prompt, more in wrong:
        errors = []
        for do in (model.run, model.plan):
            with pytest.raises(lp.Error) as caught:
                do(prompt, **more)
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]
    model.close()
    with pytest.raises(lp.ArgumentError, match="closed"):
        model.plan(3)


def test_bench_shows_plans_and_measures_nothing(command, monkeypatch):
    from llamaprobe.perf import bench

    monkeypatch.setattr(bench, "measure", None)
    code, out, err = command("bench", "demo", "--plan", "--tokens", "1,3", "--points", "x")
    plan = lp.load("demo").plan(3, points="x")
    assert code == 0 and not err and "1 token" in out and out.endswith(f"3 tokens\n{plan}\n")
    code, out, _ = command("bench", "demo", "--plan", "--json")
    assert code == 0 and '"value_bytes"' in out


# ---- single lists ----


def test_numbers_of_the_core_are_numbers_of_config(model: lp.Model):
    kinds = {"size": int, "real": float, "flag": bool}
    numbers = core_numbers(model.config)
    assert [type(value) for value in numbers.values()] == [kinds[k] for _, k in _core.config()]
    special = {"rotary_dim", "qkv_bias", "gelu_tanh"}
    assert set(numbers) - special < set(Config.__dataclass_fields__)
    for name, value in numbers.items():
        if isinstance(value, float) and name != "rms_norm_eps":
            assert value == np.float32(value)


def test_tensors_are_those_of_the_file(random_checkpoint):
    for keys in ({}, {"attention_bias": True}, {"mlp_bias": True, "tie_word_embeddings": True}):
        model = lp.load(random_checkpoint(**keys))
        found = {}
        for name, shape, point, per_layer in tensors(model.config):
            assert point in {p.name for p in model.points()}
            layers = range(model.config.n_layers) if per_layer else (None,)
            found |= {name if i is None else f"model.layers.{i}.{name}": shape for i in layers}
        assert found == {name: weight.shape for name, weight in model.weights.items()}


def test_every_point_has_axes_and_reads_points_before_it():
    points = all_points()
    names = [point.name for point in points]
    axes = {axis for text in _core.widths().values() for axis in text.split()} - {"T"}
    assert axes < {name for name, kind in _core.config() if kind == "size"}
    assert {point.width for point in points} == set(_core.widths())
    assert list(_core.reads()) == names
    for point in points:
        read = reads(point.name)
        assert read and all(names.index(r) < point.number or point.name == "x" for r in read)


def test_the_stub_names_no_number_of_a_config():
    """They come with the list; a number that is written down there too could disagree."""
    stub = ast.parse(Path(_core.__file__).with_name("_core.pyi").read_text())
    signatures = [node for node in ast.walk(stub) if isinstance(node, ast.arguments)]
    named = {argument.arg for signature in signatures for argument in signature.kwonlyargs}
    assert not named & {name for name, _ in _core.config()}


SAVED = (
    *("n_layers", "n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size"),
    *("max_positions", "rms_norm_eps", "attention_scale", "mlp_bias", "tied_head"),
)


def test_meta_and_manifest_hold_every_number(model: lp.Model, tmp_path: Path):
    import json

    run = model.run([1, 2])
    run.save(tmp_path / "run")
    held = json.loads((tmp_path / "run" / "manifest.json").read_text())["model_numbers"]
    held |= json.loads((tmp_path / "run" / "meta_layer0.json").read_text())
    spelt = {"n_heads": "num_heads", "n_kv_heads": "num_kv_heads"}
    for name in core_numbers(model.config):
        if name in SAVED:
            assert held[spelt.get(name, name)] == getattr(model.config, name)


def test_arrays_of_a_batch_are_those_of_its_plan(model: lp.Model):
    runs = model.run([[1], [1, 2]], points=("scores", "x"))
    plan = model.plan([[1], [1, 2]], points=("scores", "x"))
    assert plan.array_bytes == sum(run[p].nbytes for run in runs for p in run.points)
    assert all(np.isfinite(run["x"]).all() for run in runs)


# ---- forward.c, which is prose, and the lists ----

FORWARD = (Path(__file__).parent.parent / "csrc/run/forward.c").read_text()
MODEL = (Path(__file__).parent.parent / "csrc/model/model.h").read_text()
STEPS = (Path(__file__).parent.parent / "csrc/run/steps.h").read_text()


def operations() -> list[tuple[str, str, list[str], list[str]]]:
    """(verb, value, values that it reads, tensors) of every line of the forward pass."""
    found = []
    for verb, arguments in re.findall(r"lp_pass_(\w+)\(p, (LP_[^;]*)\);", FORWARD):
        values = [name.lower() for name in re.findall(r"\bLP_(\w+)", arguments)]
        found.append((verb, values[0], values[1:], re.findall(r"&\w+->(\w+)", arguments)))
    return found


def test_every_point_has_its_line_in_the_forward_pass():
    assert len(FORWARD.splitlines()) <= 120
    computed = [value for _, value, _, _ in operations()]
    assert computed.count("x") == 2  # embedded, or carried on from the layer before
    assert ["x", *(name for name in computed if name != "x")] == [n for n, _, _ in _core.points()]


def test_a_line_reads_the_points_listed_for_it():
    for verb, value, read, _ in operations():
        assert tuple(read) == (() if verb == "embed" else reads(value)), value


def test_every_tensor_is_used_for_its_listed_point():
    listed = re.findall(r"T\((\w+), \"[^\"]+\",[^)]*, (\w+)\)", MODEL)
    assert len(listed) == 23
    used = [(tensor, value.upper()) for _, value, _, tensors in operations() for tensor in tensors]
    assert sorted(used) == sorted(listed)


def test_every_verb_is_used():
    verbs = set(re.findall(r"lp_pass_(\w+)\(lp_pass \*p, lp_point out", STEPS))
    assert len(verbs) > 10 and verbs == {verb for verb, *_ in operations()}
