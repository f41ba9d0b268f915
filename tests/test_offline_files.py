"""The maths from files that lack their first lines, or whose numbers were damaged."""

import json

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.checks.verify import verify_run
from llamaprobe.saved.export import export_weights

IDS = [1, 40, 7, 96, 3, 55, 2, 81]


@pytest.mark.parametrize("format", ["csv", "hex"])
def test_files_without_a_first_line_have_the_shape_of_the_manifest(
    random_checkpoint, tmp_path, format
):
    model = lp.load(random_checkpoint())
    run = model.run(IDS, points=["x_norm", "z"])
    how = {"format": format, "header": False}
    run.save(tmp_path / "run", **how)
    export_weights(model, tmp_path / "w", progress=False, **how)
    z = offline.attention(tmp_path / "run", tmp_path / "w", 1)["z"]
    assert np.abs(z - run["z", 1]).max() < 1e-5
    weight = offline.load(tmp_path / "w", "model.norm.weight")
    assert np.array_equal(weight, np.asarray(model.weights["model.norm.weight"]))
    assert not [check for check in verify_run(tmp_path / "run", model) if check.fault]
    (tmp_path / "w/manifest.json").unlink()
    with pytest.raises(lp.FormatError, match="give shape="):
        offline.load(tmp_path / "w", "model.norm.weight")


DAMAGED = [..., None, "x", [], [None], {}, -1, 0, 7, [[1]], [1], True, 10**15]


@pytest.mark.parametrize(
    "key",
    ["d_model", "num_heads", "num_kv_heads", "head_dim", "inv_freq", "position_ids"]
    + ["attention_scale", "attention_bias"],
)
def test_a_damaged_meta_is_a_format_error(random_checkpoint, tmp_path, key):
    model = lp.load(random_checkpoint())
    model.run(IDS).save(tmp_path / "run")
    export_weights(model, tmp_path / "w", filter="*layers.0.self_attn*", progress=False)
    path = tmp_path / "run/meta_layer0.json"
    meta = json.loads(path.read_text())
    n_refused = 0
    for value in DAMAGED:
        changed = (
            {**meta, key: value} if value is not ... else {k: meta[k] for k in meta if k != key}
        )
        path.write_text(json.dumps(changed))
        try:
            offline.attention(tmp_path / "run", tmp_path / "w", 0)
        except lp.Error as error:
            assert str(error).isprintable()
            n_refused += 1
    assert n_refused >= len(DAMAGED) - 5  # some scales are numbers that mean something
    path.write_text("[")
    with pytest.raises(lp.FormatError, match="meta_layer0.json: not valid JSON"):
        offline.attention(tmp_path / "run", tmp_path / "w", 0)
