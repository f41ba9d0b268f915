"""Attention of every family redone from files alone, the weights of the model gone."""

import json
import shutil
from pathlib import Path

import family_models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.families.meta import has_more
from llamaprobe.saved.export import export_weights

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

CASES = {case.name: case for case in family_models.family_cases()}
REDONE = ("q", "k", "v", "q_norm", "k_norm", "q_rope", "k_rope", "scores_raw", "scores")
REDONE += ("pattern", "z")
CLOSE = 1e-5


def saved(model: lp.Model, n_tokens: int, out: Path, **how: int) -> lp.Run:
    """A run and its files, and the weights of its attention as files."""
    ids = np.random.default_rng(n_tokens).integers(0, 97, n_tokens)
    run = model.run(ids, points="all", **how)
    run.save(out / "run", points=["x_norm" if "x_norm" in run.points else "x"], format="npy")
    export_weights(model, out / "weights", filter="*self_attn*", format="npy", progress=False)
    return run


def hold(run: lp.Run, out: Path) -> None:
    for layer in range(run.config.n_layers):
        again = offline.attention(out / "run", out / "weights", layer)
        assert list(again) == [point for point in REDONE if point in run.points]
        for point, value in again.items():
            assert value.dtype == np.float32, point
            assert truth.norm_error(value, run[point, layer]) <= CLOSE, (point, layer)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_from_files_alone(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = lp.load(case.make(tmp_path / "model"))
    run = saved(model, case.n_tokens, tmp_path)
    shutil.rmtree(model.path)
    hold(run, tmp_path)
    assert has_more(run.config) == ("family" in run.meta)


def test_rope_length_chooses_the_table(tmp_path: Path) -> None:
    model = lp.load(CASES["phi3-long"].make(tmp_path / "model"))
    for n_tokens, rope_length in ((9, 17), (20, 16)):
        out = tmp_path / str(n_tokens)
        hold(saved(model, n_tokens, out, rope_length=rope_length), out)


def test_damaged_numbers_are_format_errors(tmp_path: Path) -> None:
    model = lp.load(CASES["gemma3"].make(tmp_path / "model"))
    run = saved(model, 9, tmp_path)
    path = tmp_path / "run/meta_layer1.json"
    meta = json.loads(path.read_text())
    keys = ["prefix", "linears", "norms", "gain_offset", "qk_norm_whole", "score_cap"]
    keys += ["rope_interleaved", "rope_tables", "rope_table_of_layer", "window_of_layer"]
    keys += ["d_model", "num_heads", "head_dim", "position_ids", "rms_norm_eps", "attention_scale"]
    for key in keys:
        for value in (..., "x", [], {}, -1, 7, [7], 10**15):
            damaged = {k: v for k, v in meta.items() if k != key}
            if value is ... and meta[key] is None:
                continue
            path.write_text(json.dumps(damaged if value is ... else damaged | {key: value}))
            with pytest.raises(lp.FormatError):
                offline.attention(tmp_path / "run", tmp_path / "weights", 1)
    path.write_text(json.dumps(meta))
    weight = tmp_path / "weights/model.layers.1.self_attn.k_norm.weight.npy"
    np.save(weight, np.ones(3, np.float32))
    with pytest.raises(lp.FormatError, match=r"k_norm.weight is \[3\], .* need \[16\]"):
        offline.attention(tmp_path / "run", tmp_path / "weights", 1)
    shutil.copy(path, tmp_path / "run/meta_layer9.json")
    with pytest.raises(lp.FormatError, match="the number of layer 9 does not fit"):
        offline.attention(tmp_path / "run", tmp_path / "weights", 9)
    weight.unlink()
    with pytest.raises(lp.FileError, match="has no model.layers.1.self_attn.k_norm.weight"):
        offline.attention(tmp_path / "run", tmp_path / "weights", 1)
    assert run.config.family == "gemma3_text"
