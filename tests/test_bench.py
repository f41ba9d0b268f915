"""llamaprobe bench: stages that add up, operations counted as an independent formula counts them."""

import json
import re

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe.cli.bench import _print
from llamaprobe.perf.bench import Timing, Trial, measure, random_ids
from llamaprobe.perf.machine import Roof, cpu_name, roof
from llamaprobe.perf.profile import Profile, Stage

STAGES = (
    "plan memory embed rope norm pack qkv attention o_proj gate_up down copy head"  # csrc/sys/profile.h
).split()
FLOAT = 4


def profile(model, n_tokens, **more) -> dict[str, Stage]:
    printed = model.profile(random_ids(model, n_tokens), threads=2, **more)
    assert [stage.name for stage in printed.stages] == STAGES
    return {stage.name: stage for stage in printed.stages}


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
def test_skipped_work_is_not_counted(random_checkpoint, n_tokens):
    model = lp.load(random_checkpoint(num_hidden_layers=4))
    c = model.config
    printed = profile(model, n_tokens)  # x and x_norm: the last layer ends with its first norm
    assert {name: printed[name].flops for name in STAGES if printed[name].flops} == products(
        c, n_tokens, c.n_layers - 1
    )
    assert printed["head"].n_laps == printed["copy"].n_laps == 0
    printed = profile(model, n_tokens, points=("logits",))
    whole = products(c, n_tokens, c.n_layers) | {"head": 2.0 * n_tokens * c.d_model * c.vocab_size}
    assert {name: printed[name].flops for name in STAGES if printed[name].flops} == whole
    printed = profile(model, n_tokens, points=("scores",), layers=[0])
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    assert printed["qkv"].flops == 2.0 * n_tokens * c.d_model * (q + kv)  # without v
    assert printed["attention"].flops == products(c, n_tokens, 1)["attention"] / 2  # without z
    assert printed["o_proj"].n_laps == 0


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_bytes(random_checkpoint, dtype):
    model = lp.load(random_checkpoint(dtype=dtype, attention_bias=True, mlp_bias=True))
    c, m, word = model.config, 5, {"BF16": 2, "F32": 4}[dtype]
    printed = profile(model, m, points=("x_out", "pattern", "logits"))
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
    read = {name: printed[name].weight_bytes for name in STAGES if printed[name].weight_bytes}
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
    assert {name: printed[name].value_bytes for name in moved} == {
        name: float(FLOAT * n) for name, n in moved.items()
    }


def test_the_stages_add_up(random_checkpoint):
    model = lp.load(random_checkpoint())
    covered = []
    for _ in range(20):
        printed = model.profile([1, 2, 3] * 20, threads=2)
        total = sum(stage.seconds for stage in printed.stages)
        assert 0 < total <= printed.seconds
        assert all(s.seconds >= 0 and (s.n_laps or not s.seconds) for s in printed.stages)
        covered.append(total / printed.seconds)
    assert max(covered) > 0.8  # the rest is Python's; a busy machine may interrupt it now and then
    busy = sum(stage.seconds for stage in printed.stages if stage.flops)
    assert printed.share_without_products == pytest.approx(1 - busy / printed.seconds)


def test_a_profile_changes_no_value(random_checkpoint):
    model = lp.load(random_checkpoint())
    ids = random_ids(model, 20)
    numbers = [(point.number, (0,)) for point in model.points()]
    arrays, _ = model._core.profile(ids, [0, 20], numbers, n_threads=2)
    plain = model._core.run(ids, [0, 20], numbers, n_threads=1)
    assert [a.tobytes() for a in arrays] == [b.tobytes() for b in plain]


def test_a_copy_is_a_stage(random_checkpoint):
    model = lp.load(random_checkpoint())
    printed = profile(model, 7, points=("x", "x_out"))
    assert printed["copy"].n_laps == model.config.n_layers - 1
    assert printed["copy"].value_bytes == 2 * FLOAT * 7 * model.config.d_model * printed["copy"].n_laps


# ---- the roof ----


def test_the_roof_of_a_stage():
    machine = Roof(flops=100.0, bytes=10.0)
    multiplies = Stage("qkv", 4.0, 1, 200.0, 10.0, 1e9)
    reads = Stage("down", 4.0, 1, 200.0, 30.0, 1e9)
    passes = Stage("norm", 2.0, 1, 0.0, 10.0, 1e9)
    assert (multiplies.at_roof(machine), reads.at_roof(machine)) == (2.0, 3.0)
    printed = Profile(20.0, (multiplies, reads, passes))
    assert printed.at_roof(machine) == 5.0  # a pass without products is all loss
    assert printed.share_without_products == pytest.approx(0.6)


@pytest.mark.slow
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
    ("printed", "name"),
    [
        ("model name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 17\n", "AMD EPYC (family 25, model 17)"),
        ("model name\t: AMD EPYC 7763 64-Core\ncpu family\t: 25\nmodel\t\t: 1\n", "AMD EPYC 7763 64-Core"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "x (implementer 0x41, part 0xd0c)"),
        ("", "x"),
    ],
)
def test_a_vague_name_gets_numbers(monkeypatch, tmp_path, printed, name):
    (tmp_path / "cpuinfo").write_text(printed)
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: real(tmp_path / "cpuinfo", *a, **k))
    monkeypatch.setattr("platform.processor", lambda: "x")
    assert cpu_name() == name


# ---- the command ----


@pytest.mark.parametrize(
    ("roofs", "factor"),
    [
        ([(100, 10), (119, 10)], ""),
        ([(100, 10), (100, 12)], ""),
        ([(100, 10), (250, 11)], "2.5"),
        ([(100, 30), (110, 10)], "3.0"),
    ],
)
def test_a_busy_machine_is_reported(capsys, roofs, factor):
    profile = Profile(1.0, (Stage("qkv", 1.0, 1, 50.0, 5.0, 1e9),))
    first, *others = (Trial(profile, Roof(*map(float, roof)), 0) for roof in roofs)
    _print(Timing(1, 1, "avx2", first, tuple(others)), "demo", "a CPU", ["x"], None)
    found = re.findall("busy: its roof changed by a factor of (.*) between", capsys.readouterr().out)
    assert found == [factor] * bool(factor)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_table_for_each_length(command):
    code, printed, errors = command("bench", "demo", "--tokens", "8,1", "--repeat", 1, "--threads", 1)
    assert (code, errors) == (0, "")
    assert printed.count("\nthe roof: ") == 2 and "demo: 8 tokens, x, x_norm\n" in printed
    for stage in ("plan", "memory", "embed", "rope", "norm", "qkv", "attention", "down"):
        assert printed.count(f"\n{stage} ") == 2
    assert printed.count("\npack ") == 1  # one token is not packed
    assert "\nhead " not in printed and "times the median" in printed and "demo: 1 token, x" in printed
    assert len(re.findall(r"^page faults: \d+ \(in the first run \d+\)$", printed, re.MULTILINE)) == 2
    epilog = command("bench", "--help")[1].partition("Stages: ")[2]
    assert all(re.search(rf"\b{stage}\b", epilog) for stage in STAGES)


@pytest.mark.slow
def test_json(command):
    args = ["--tokens", 5, "--repeat", 2, "--points", "logits,pattern", "--layers", "0", "--json"]
    code, printed, errors = command("bench", "demo", *args)
    assert (code, errors) == (0, "")
    (one,) = json.loads(printed)
    assert one["points"] == ["logits", "pattern"] and one["layers"] == [0] and one["cpu"] == cpu_name()
    assert len(one["trials"]) == 2 and one["n_tokens"] == 5
    assert one["seconds"] == pytest.approx(np.mean([trial["seconds"] for trial in one["trials"]]))
    assert one["kernels"] in [kernel.name for kernel in lp.kernels() if kernel.in_use]
    median = one["median"]
    assert [stage["name"] for stage in median["stages"]] == STAGES
    assert sum(stage["seconds"] for stage in median["stages"]) <= median["seconds"]
    at_roof = sum(stage["at_roof"] for stage in median["stages"] if stage["flops"])
    assert median["of_roof"] == pytest.approx(at_roof / median["seconds"])


def test_a_plan_as_json_names_what_it_holds(command):
    args = ["--plan", "--tokens", "3,5", "--layers", "0", "--json"]
    code, out, errors = command("bench", "demo", *args)
    assert (code, errors) == (0, "")
    for one, n_tokens in zip(json.loads(out), (3, 5), strict=True):
        plan = lp.load("demo").plan(n_tokens, layers=0)
        assert one["n_tokens"] == n_tokens and one["plan"]["array_bytes"] == plan.array_bytes
        for step, expected in zip(one["plan"]["steps"], plan.steps, strict=True):
            values = [tuple(value.values()) for value in step.pop("values")]
            assert step.items() < expected._asdict().items() and values == list(expected.values)


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
    found, printed, errors = command("bench", "demo", *args)
    assert (found, printed) == (code, "") and message in errors


def test_no_such_model(command, tmp_path):
    code, printed, errors = command("bench", tmp_path / "nothing")
    assert (code, printed) == (1, "") and "nothing" in errors and errors.count("\n") == 1
