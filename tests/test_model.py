"""Model.run: requests, results, and which mistakes are named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import reference
from llamaprobe.config import read_config

ALL = tuple(point.name for point in lp.Model.points())


@pytest.fixture
def folder(random_checkpoint) -> Path:
    return random_checkpoint(attention_bias=True)


@pytest.fixture
def model(folder: Path) -> lp.Model:
    return lp.load(folder)


IDS = [5, 1, 96, 5, 40]


# ---- values ----


def test_every_point_has_its_shape_and_value(folder: Path, model: lp.Model):
    run = model.run(IDS, points=ALL)
    expected = reference.forward(read_config(folder), models.read_checkpoint(folder), IDS)
    assert run.points == ALL
    for name in ALL:
        assert run[name].dtype == np.float32
        assert run[name].shape == expected[name].shape, name
        seen = np.isfinite(expected[name])
        assert (np.isfinite(run[name]) == seen).all()
        error = np.linalg.norm(run[name][seen] - expected[name][seen])
        assert error <= 2e-6 * np.linalg.norm(expected[name][seen]), name


def test_the_default_is_x_and_x_norm_of_all_layers(model: lp.Model):
    run = model.run(IDS)
    assert run.points == ("x", "x_norm") and run.layers == (0, 1, 2)
    assert run["x"].shape == run["x_norm"].shape == (3, 5, 48)


def test_requested_points_do_not_change_a_value(model: lp.Model):
    whole = model.run(IDS, points=ALL)
    for name in ALL:
        assert np.array_equal(model.run(IDS, points=[name])[name], whole[name]), name


def test_layers_are_stacked_in_the_order_requested(model: lp.Model):
    whole, run = (
        model.run(IDS, points=("z", "logits")),
        model.run(IDS, points=("z",), layers=[2, 0]),
    )
    assert run.layers == (2, 0) and run["z"].shape == (2, 5, 4, 16)
    assert (run["z", 2] == whole["z", 2]).all() and (run["z"][0] == whole["z", 2]).all()
    assert (run["z"][1] == whole["z"][0]).all()
    assert model.run(IDS, layers=np.array([1]))["x"].shape == (1, 5, 48)


def test_a_point_that_is_not_per_layer_has_no_layer_axis(model: lp.Model):
    run = model.run(IDS, points=("logits", "final_rms"))
    assert run["logits"].shape == (5, 97) and run["final_rms"].shape == (5,)
    assert run.layers == () and run.layers_of("logits") == ()
    with pytest.raises(lp.PointError, match="computed once"):
        run["logits", 0]


def test_values_are_views_that_share_memory(model: lp.Model):
    run = model.run(IDS, points=("q",))
    assert np.shares_memory(run["q"], run["q", 1])
    run["q", 1][0, 0, 0] = 7
    assert run["q"][1, 0, 0, 0] == 7


# ---- names ----


def test_names_of_other_tools_are_understood(model: lp.Model):
    run = model.run(
        IDS, points=("hook_resid_pre", "model.layers.1.mlp.gate_proj", ("pattern", 2), "embed")
    )
    assert run.points == ("x", "gate", "pattern")
    assert run.layers_of("x") == (0, 1, 2) and run.layers_of("gate") == (1,)
    assert run["blocks.1.hook_resid_pre"].shape == (5, 48)
    assert (run["embed"] == run["x", 0]).all()
    assert run["pattern"].shape == (1, 4, 5, 5) and (run["attn", 2] == run["pattern"][0]).all()
    assert run.layers == (0, 1, 2)


def test_a_single_name_and_a_repeated_name(model: lp.Model):
    assert model.run(IDS, points="z").points == ("z",)
    assert model.run(IDS, points=("x", "hook_resid_pre", ("x", 1))).points == ("x",)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (("xnorm",), "x_norm"),
        (("x", "patern"), "pattern"),
        ((), "points is empty"),
        (None, "points is empty"),
        ((3,), "not the name"),
        (("blocks.3.attn.hook_z",), "no layer 3; the model has 0 to 2"),
        ((("x", -4),), "there is no layer -4; the model has 0 to 2"),
        (("hidden_states",), "final_norm"),
    ],
)
def test_unknown_points_name_near_matches(model: lp.Model, points: Any, message: str):
    with pytest.raises(lp.PointError, match=message):
        model.run(IDS, points=points)


@pytest.mark.parametrize("layers", [[3], [-4], [0, 0], [2, -1], [], [1.0], [True], "01", 3])
def test_bad_layers(model: lp.Model, layers: Any):
    with pytest.raises(lp.PointError, match="layer"):
        model.run(IDS, layers=layers)


def test_rejects_a_layer_not_requested(model: lp.Model):
    with pytest.raises(lp.PointError, match="names layer 1, which is not among the requested"):
        model.run(IDS, points=("z", "blocks.1.attn.hook_z"), layers=[0, 2])


def test_layers_of_a_run_and_of_load_differ(model: lp.Model):
    assert model.run(IDS, layers=2).layers == (2,)
    with pytest.raises(lp.ArgumentError, match=r"how many of the first layers.*which of them a run keeps"):
        lp.load(model.path, layers=[2])


def test_a_point_not_captured_and_an_unknown_point_have_different_errors(model: lp.Model):
    run = model.run(IDS, points=("x", "z"), layers=[0, 2])
    with pytest.raises(lp.PointError, match=r'x_norm was not captured.*points=\("x_norm"'):
        run["x_norm"]
    with pytest.raises(
        lp.PointError, match=r"x of layer 1 was not captured, only of 0, 2.*layers=\[1\]"
    ):
        run["x", 1]
    with pytest.raises(lp.PointError, match="^there is no layer 9; the model has 0 to 2$"):
        run["x", 9]
    assert (run["x", -1] == run["x", 2]).all() and ("x", -2) not in run and ("x", -9) not in run
    with pytest.raises(KeyError, match="there is no point"):
        run["nonsense"]
    assert "x" in run and "x_norm" not in run and ("x", 1) not in run and "nonsense" not in run


# ---- prompts ----


@pytest.mark.parametrize(
    "ids",
    [
        IDS,
        tuple(IDS),
        np.array(IDS),
        np.array(IDS, np.int32),
        np.array(IDS, np.uint8),
        np.array(IDS, ">i4"),
        np.array(IDS, ">u8"),
        np.array(IDS[::-1])[::-1],
        np.repeat(IDS, 3)[::3],
        [np.int64(i) for i in IDS],
    ],
)
def test_ids_of_any_integer_kind(model: lp.Model, ids: Any):
    run = model.run(ids)
    assert run.token_ids.dtype == np.int32 and run.token_ids.tolist() == IDS
    assert np.array_equal(run["x"], model.run(IDS)["x"])


def test_read_only_ids_are_copied(model: lp.Model):
    ids = np.array(IDS, np.int32)
    ids.flags.writeable = False
    run = model.run(ids)
    assert not np.shares_memory(run.token_ids, ids)
    assert run.position_ids.dtype == np.int32 and run.position_ids.tolist() == [0, 1, 2, 3, 4]


def test_the_longest_prompt_fits(model: lp.Model):
    assert model.run([3] * 256, layers=[0])["x"].shape == (1, 256, 48)


def test_a_folder_without_a_tokenizer_runs_ids_and_refuses_text(model: lp.Model):
    run = model.run(IDS)
    assert run.tokens is None and run.prompt is None and run.meta["tokens"] is None
    for prompt in ("text", [{"role": "user", "content": "hi"}]):
        with pytest.raises(lp.TokenizerError, match="tokenizer.json"):
            model.run(prompt)


# ---- batches ----


def test_a_batch_gives_the_same_bits_as_its_prompts_alone(model: lp.Model):
    prompts = [IDS, [7], np.arange(97), [9, 9]]
    runs = model.run(prompts, points=ALL, layers=[2, 1])
    assert [len(run) for run in runs] == [5, 1, 97, 2]
    for run, prompt in zip(runs, prompts, strict=True):
        alone = model.run(prompt, points=ALL, layers=[2, 1])
        assert run.token_ids.tolist() == list(prompt) and run.layers == (2, 1)
        assert run.position_ids.tolist() == list(range(len(prompt)))
        for name in ALL:
            assert run[name].shape == alone[name].shape
            assert np.array_equal(run[name], alone[name]), name


def test_many_short_prompts_whose_keys_fill_most_of_the_scratch(random_checkpoint):
    """Each prompt's keys begin a panel of their own: eight times the room for prompts of one token."""
    folder = random_checkpoint(
        num_attention_heads=8, num_key_value_heads=8, head_dim=16, hidden_size=64, intermediate_size=32
    )
    model = lp.load(folder)
    prompts = [list(range(i, i + (9 if i % 3 == 2 else 1))) for i in range(60)]
    runs = model.run(prompts, points=["scores", "pattern", "z", "x_out"])
    for run, prompt in zip(runs, prompts, strict=True):
        alone = model.run(prompt, points=["scores", "pattern", "z", "x_out"])
        for name in ("scores", "pattern", "z", "x_out"):
            assert np.array_equal(run[name], alone[name]), name


MEMORY = """
import ctypes, sys
import llamaprobe as lp

def resident():
    ctypes.CDLL(None).malloc_trim(0)  # small objects of Python and NumPy, which malloc may keep
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10

def closed(work):
    model = lp.load(sys.argv[1])
    result = work(model)
    model.close()  # which gives the memory back that the next run would use
    return result

prompts = [[1 + (i + j) % 90 for j in range(n)] for i, n in enumerate(eval(sys.argv[2]))]
at = len(prompts) // 2
alone = closed(lambda model: model.run(prompts[at], points="all"))
before = resident()
runs = closed(lambda model: model.run(prompts, points="all"))
full = resident() - before
kept = runs[at]["hidden", 1] if sys.argv[3] == "value" else runs[at]
if sys.argv[3] == "one by one":
    while runs:
        runs.pop()
del runs
left = resident() - before
same = (kept == alone["hidden", 1]).all() if sys.argv[3] == "value" else kept.equals(alone)
print(full, left, sum(alone[name].nbytes for name in alone.points), same)
"""


@pytest.mark.linux
@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory"
)
@pytest.mark.parametrize("how", ["run", "value", "one by one"])
@pytest.mark.parametrize(
    ("lengths", "share"),
    [pytest.param("[15] * 2000", 0.06, marks=pytest.mark.slow), ("[200, 256] * 6", 0.25)],
)
def test_a_run_of_a_batch_keeps_no_other_alive(folder: Path, how: str, lengths: str, share: float):
    script = [sys.executable, "-c", MEMORY, str(folder), lengths, how]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    full, left, own, same = done.stdout.split()
    assert same == "True"
    assert int(left) <= 2 * int(own) + share * int(full), (full, left, own)


def test_the_runs_of_a_batch_are_written_apart(model: lp.Model):
    one, other = model.run([IDS, IDS], points="all")
    for name in one.points:
        assert not np.shares_memory(one[name], other[name])
        one[name][...] = 7
    assert other.equals(model.run(IDS, points="all"))
    del one
    assert other.equals(model.run(IDS, points="all"))


def test_a_batch_of_one_is_a_list(model: lp.Model):
    assert isinstance(model.run([IDS]), list) and isinstance(model.run([np.array(IDS)]), list)


# ---- text and chat ----


@pytest.fixture
def talker(folder: Path, demo_folder: Path) -> lp.Model:
    """The demo model, which has a tokenizer and a chat template."""
    return lp.load("demo")


def test_text(talker: lp.Model):
    run = talker.run("Once upon a time")
    assert isinstance(run, lp.Run) and run.prompt == "Once upon a time"
    assert len(run.tokens) == len(run.token_ids) == run["x"].shape[1]
    assert "".join(run.tokens).endswith("Once upon a time")
    assert run.template_date is None


def test_a_batch_of_texts_and_ids(talker: lp.Model):
    text, ids = talker.run(["Once upon a time", [1, 2, 3]])
    assert text.prompt and ids.prompt is None
    assert np.array_equal(text["x"], talker.run("Once upon a time")["x"])


def test_chat(talker: lp.Model):
    chat = [{"role": "user", "content": "Who has the key?"}]
    run, dated = talker.run(chat), talker.run(chat, date="2025-01-02")
    assert "Who has the key?" in run.prompt and run.template_date == "2024-07-26"
    assert dated.meta["template_date"] == "2025-01-02"
    short = talker.run(chat, add_generation_prompt=False)
    assert len(short) < len(run)
    batch = talker.run([chat, "text"])
    assert [one.template_date for one in batch] == ["2024-07-26", None]


# ---- what a run reports ----


def test_meta_is_plain_data(folder: Path, model: lp.Model):
    meta = model.run(IDS).meta
    assert json.loads(json.dumps(meta, allow_nan=False)) == meta
    assert meta["model"] == str(folder) and meta["revision"] is None
    assert meta["token_ids"] == IDS and meta["position_ids"] == [0, 1, 2, 3, 4]
    assert meta["rms_norm_eps"] == meta["rmsnorm_eps"] == 1e-5
    assert np.array_equal(np.array(meta["inv_freq"], np.float32), model.config.inv_freq)
    assert meta["attention_scale"] == 0.25 and meta["attention_bias"] is True
    assert meta["qk_norm"] is False and meta["rope_scaling"] is None
    names = {"d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff", "rope_theta", "prompt"}
    assert names <= meta.keys() and meta["llamaprobe_version"] == lp.__version__


def test_reprs_are_short(model: lp.Model):
    run = model.run(IDS)
    weight = model.weights["model.norm.weight"]
    for thing in (model, weight, model.weights):
        assert "\n" not in repr(thing) and len(repr(thing)) < 400
    first, *lines = repr(run).splitlines()
    assert "5 tokens" in first and "layers 0-2" in first and len(lines) == 4
    assert bool(run) and len(run) == 5
    with pytest.raises(TypeError, match="not a sequence"):
        iter(run)


# ---- progress ----

def test_progress_is_shown_on_stderr(model: lp.Model, capsys: pytest.CaptureFixture[str]):
    run = model.run(IDS, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "step" in err
    assert np.array_equal(run["x"], model.run(IDS)["x"])
