"""llamaprobe bench: stages that add up, operations counted as an independent formula counts them."""

import json
import re

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.perf.bench import measure, random_ids
from llamaprobe.perf.machine import Roof, cpu_name, roof
from llamaprobe.perf.profile import Profile, Stage

STAGES = (
    "plan memory embed rope norm pack qkv attention o_proj gate_up down copy head"  # csrc/sys/profile.h
).split()
FLOAT = 4


def profile(model, n_tokens, **more) -> dict[str, Stage]:
    told = model.profile(random_ids(model, n_tokens), threads=2, **more)
    assert [stage.name for stage in told.stages] == STAGES
    return {stage.name: stage for stage in told.stages}


# ---- what is counted ----


def products(c, n_tokens: int, n_layers: int) -> dict[str, float]:
    """FLOP of the products of so many whole layers, from the shapes alone."""
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    pairs = sum(query + 1 for query in range(n_tokens))
    a_layer = {
        "qkv": n_tokens * c.d_model * (q + 2 * kv),
        "attention": 2 * pairs * c.n_heads * c.head_dim,
        "o_proj": n_tokens * q * c.d_model,
        "gate_up": 2 * n_tokens * c.d_model * c.d_ff,
        "down": n_tokens * c.d_ff * c.d_model,
    }
    return {name: 2.0 * n_layers * macs for name, macs in a_layer.items()}


@pytest.mark.parametrize("n_tokens", [1, 3, 40])
def test_what_is_not_computed_is_not_counted(random_checkpoint, n_tokens):
    model = lp.load(random_checkpoint(num_hidden_layers=4))
    c = model.config
    told = profile(model, n_tokens)  # x and x_norm: the last layer ends with its first norm
    assert {name: told[name].flops for name in STAGES if told[name].flops} == products(
        c, n_tokens, c.n_layers - 1
    )
    assert told["head"].n_laps == told["copy"].n_laps == 0
    told = profile(model, n_tokens, points=("logits",))
    whole = products(c, n_tokens, c.n_layers) | {"head": 2.0 * n_tokens * c.d_model * c.vocab_size}
    assert {name: told[name].flops for name in STAGES if told[name].flops} == whole
    told = profile(model, n_tokens, points=("scores",), layers=[0])
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    assert told["qkv"].flops == 2.0 * n_tokens * c.d_model * (q + kv)  # without v
    assert told["attention"].flops == products(c, n_tokens, 1)["attention"] / 2  # without z
    assert told["o_proj"].n_laps == 0


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_bytes(random_checkpoint, dtype):
    model = lp.load(random_checkpoint(dtype=dtype, attention_bias=True, mlp_bias=True))
    c, m, word = model.config, 5, {"BF16": 2, "F32": 4}[dtype]
    told = profile(model, m, points=("x_out", "pattern", "logits"))
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    qkv, o, mlp = (c.d_model + 1) * (q + 2 * kv), (q + 1) * c.d_model, (c.d_model + 1) * c.d_ff
    weights = {
        "embed": m * c.d_model,
        "norm": (2 * c.n_layers + 1) * c.d_model,
        "qkv": c.n_layers * qkv,
        "o_proj": c.n_layers * o,
        "gate_up": c.n_layers * 2 * mlp,
        "down": c.n_layers * (c.d_ff + 1) * c.d_model,
        "head": c.d_model * c.vocab_size,
    }
    read = {name: told[name].weight_bytes for name in STAGES if told[name].weight_bytes}
    assert read == {name: float(word * n) for name, n in weights.items()}
    assert sum(weights.values()) == model.n_params - (c.vocab_size - m) * c.d_model
    moved = {
        "embed": m * c.d_model,
        "rope": c.n_layers * 2 * m * (q + kv),
        "norm": (2 * c.n_layers + 1) * 2 * m * c.d_model,
        "qkv": c.n_layers * m * (c.d_model + q + 2 * kv),
        "attention": c.n_layers * (2 * m * (q + kv) + c.n_heads * m * (m + 1) // 2),
        "o_proj": c.n_layers * m * (q + 2 * c.d_model),
        "gate_up": c.n_layers * m * (c.d_model + c.d_ff),
        "down": c.n_layers * m * (c.d_ff + 2 * c.d_model),
        "head": m * (c.d_model + c.vocab_size),
    }
    assert {name: told[name].value_bytes for name in moved} == {
        name: float(FLOAT * n) for name, n in moved.items()
    }


def test_the_stages_add_up(random_checkpoint):
    model = lp.load(random_checkpoint())
    covered = []
    for _ in range(20):
        told = model.profile([1, 2, 3] * 20, threads=2)
        total = sum(stage.seconds for stage in told.stages)
        assert 0 < total <= told.seconds
        assert all(s.seconds >= 0 and (s.n_laps or not s.seconds) for s in told.stages)
        covered.append(total / told.seconds)
    assert max(covered) > 0.8  # the rest is Python's; a busy machine may interrupt it now and then
    busy = sum(stage.seconds for stage in told.stages if stage.flops)
    assert told.share_without_products == pytest.approx(1 - busy / told.seconds)


def test_a_profile_changes_no_value(random_checkpoint):
    model = lp.load(random_checkpoint())
    ids = random_ids(model, 20)
    numbers = [(point.number, (0,)) for point in model.points()]
    arrays, _ = model._core.profile(ids, [0, 20], numbers, n_threads=2)
    plain = model._core.run(ids, [0, 20], numbers, n_threads=1)
    assert [a.tobytes() for a in arrays] == [b.tobytes() for b in plain]


def test_a_copy_is_a_stage(random_checkpoint):
    model = lp.load(random_checkpoint())
    told = profile(model, 7, points=("x", "x_out"))
    assert told["copy"].n_laps == model.config.n_layers - 1
    assert told["copy"].value_bytes == 2 * FLOAT * 7 * model.config.d_model * told["copy"].n_laps


# ---- the roof ----


def test_the_roof_of_a_stage():
    machine = Roof(flops=100.0, bytes=10.0)
    multiplies = Stage("qkv", 4.0, 1, 200.0, 10.0, 1e9)
    reads = Stage("down", 4.0, 1, 200.0, 30.0, 1e9)
    passes = Stage("norm", 2.0, 1, 0.0, 10.0, 1e9)
    assert (multiplies.at_roof(machine), reads.at_roof(machine)) == (2.0, 3.0)
    told = Profile(20.0, (multiplies, reads, passes))
    assert told.at_roof(machine) == 5.0  # a pass without products is all loss
    assert told.share_without_products == pytest.approx(0.6)


def test_the_roof_is_measured():
    measured = roof(2)
    assert 1e6 < measured.flops < 1e15 and 1e6 < measured.bytes < 1e15
    with pytest.raises(lp.ArgumentError, match="threads"):
        roof(0)


def test_the_kernels_of_the_roof_are_those_in_use(monkeypatch):
    monkeypatch.setenv("LLAMAPROBE_KERNELS", "nothing")
    with pytest.raises(lp.ArgumentError, match="LLAMAPROBE_KERNELS"):
        roof(1)


def test_the_cpu_has_a_name():
    assert cpu_name().strip() and "\n" not in cpu_name()


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("model name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 17\n", "AMD EPYC (family 25, model 17)"),
        ("model name\t: AMD EPYC 7763 64-Core\ncpu family\t: 25\nmodel\t\t: 1\n", "AMD EPYC 7763 64-Core"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "x (implementer 0x41, part 0xd0c)"),
        ("", "x"),
    ],
)
def test_a_vague_name_gets_numbers(monkeypatch, tmp_path, told, name):
    (tmp_path / "cpuinfo").write_text(told)
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: real(tmp_path / "cpuinfo", *a, **k))
    monkeypatch.setattr("platform.processor", lambda: "x")
    assert cpu_name() == name


# ---- the command ----


def test_measure(random_checkpoint):
    model = lp.load(random_checkpoint())
    timing = measure(model, 9, threads=1, repeat=4)
    assert (timing.n_tokens, timing.n_threads, len(timing.trials)) == (9, 1, 4)
    seconds = [trial.seconds for trial in timing.trials]
    assert seconds == sorted(seconds) and timing.median.seconds == seconds[1]
    assert timing.seconds == pytest.approx((seconds[1] + seconds[2]) / 2)
    assert all(trial.faults >= 0 and trial.of_roof > 0 for trial in timing.trials)


def test_random_ids_are_always_the_same(random_checkpoint):
    model = lp.load(random_checkpoint())
    ids = random_ids(model, 1000)
    assert ids.dtype == np.int32 and (ids == random_ids(model, 1000)).all()
    assert ids.min() >= 0 and ids.max() < model.config.vocab_size and len(set(ids.tolist())) > 50


def test_a_table_for_each_length(command):
    code, told, errors = command("bench", "demo", "--tokens", "8,1", "--repeat", 1, "--threads", 1)
    assert (code, errors) == (0, "")
    assert told.count("\nthe roof: ") == 2 and "demo: 8 tokens, x, x_norm\n" in told
    for stage in ("plan", "memory", "embed", "rope", "norm", "qkv", "attention", "down"):
        assert told.count(f"\n{stage} ") == 2
    assert told.count("\npack ") == 1  # one token is not packed
    assert "\nhead " not in told and "times the median" in told and "demo: 1 token, x" in told
    assert len(re.findall(r"^page faults: \d+ \(in the first run \d+\)$", told, re.MULTILINE)) == 2
    epilog = command("bench", "--help")[1].partition("Stages: ")[2]
    assert all(re.search(rf"\b{stage}\b", epilog) for stage in STAGES)


def test_json(command):
    args = ["--tokens", 5, "--repeat", 2, "--points", "logits,pattern", "--layers", "0", "--json"]
    code, told, errors = command("bench", "demo", *args)
    assert (code, errors) == (0, "")
    (one,) = json.loads(told)
    assert one["points"] == ["logits", "pattern"] and one["layers"] == [0] and one["cpu"] == cpu_name()
    assert len(one["trials"]) == 2 and one["n_tokens"] == 5
    assert one["seconds"] == pytest.approx(np.mean([trial["seconds"] for trial in one["trials"]]))
    assert one["kernels"] in [kernel.name for kernel in lp.kernels() if kernel.in_use]
    median = one["median"]
    assert [stage["name"] for stage in median["stages"]] == STAGES
    assert sum(stage["seconds"] for stage in median["stages"]) <= median["seconds"]
    at_roof = sum(stage["at_roof"] for stage in median["stages"] if stage["flops"])
    assert median["of_roof"] == pytest.approx(at_roof / median["seconds"])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--tokens", "0"], 2, "'0' is not a number"),
        (["--tokens", "8,,9"], 2, "'' is not a number"),
        (["--tokens", "many"], 2, "'many' is not a number"),
        (["--repeat", "0"], 2, "'0' is not a number"),
        (["--tokens", "999999"], 1, "999999 tokens"),
        (["--points", "x_nrm"], 1, "x_norm"),
        (["--layers", "77"], 1, "no layer 77"),
        (["extra"], 2, "unrecognized arguments"),
    ],
)
def test_mistakes(command, args, code, message):
    found, told, errors = command("bench", "demo", *args)
    assert (found, told) == (code, "") and message in errors


def test_no_such_model(command, tmp_path):
    code, told, errors = command("bench", tmp_path / "nothing")
    assert (code, told) == (1, "") and "nothing" in errors and errors.count("\n") == 1
