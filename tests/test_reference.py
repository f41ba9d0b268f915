"""reference.py, the specification: against transformers in true float64, and against itself."""

import math
from pathlib import Path

import models
import numpy as np
import pytest
import stories260k
import truth

from llamaprobe.config import read_config
from llamaprobe.reference import forward

REFERENCE = Path(__file__).parent.parent / "llamaprobe" / "reference.py"
CLOSE = 1e-13  # norm-wise; both sides are float64 with sums of at most some hundred terms


def hold_to_truth(folder: Path, token_ids: list[int], bound: float = CLOSE) -> None:
    """Every point of the reference is what transformers computes in float64."""
    config = read_config(folder)
    values = forward(config, models.read_checkpoint(folder), token_ids)
    expected, _ = truth.observe(folder, token_ids)
    assert set(values) == set(expected) == {*truth.EXPOSED, *truth.DERIVED}
    assert np.array_equal(config.inv_freq, truth.inv_freq(folder))
    errors = {point: truth.norm_error(values[point], expected[point]) for point in values}
    assert {p: e for p, e in errors.items() if not e <= bound} == {}


needs_torch = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")


@needs_torch
@pytest.mark.parametrize("case", models.cases(), ids=lambda case: case.name)
def test_random_models(case: models.Case, tmp_path: Path) -> None:
    hold_to_truth(*case.make(tmp_path))


@needs_torch
def test_one_token(tmp_path: Path) -> None:
    folder, ids = models.cases()[0].make(tmp_path)
    hold_to_truth(folder, ids[:1])


@pytest.mark.slow
@needs_torch
def test_stories(stories: Path) -> None:
    hold_to_truth(stories, stories260k.STORY)


@pytest.mark.slow
@needs_torch
def test_smollm2(smollm2: Path) -> None:
    hold_to_truth(smollm2, models.CAPITAL_OF_FRANCE, 1e-12)


@pytest.mark.slow
@needs_torch
def test_demo(demo_folder: Path) -> None:
    hold_to_truth(demo_folder, models.make_token_ids(read_config(demo_folder).raw, 40), 1e-12)


@needs_torch
def test_a_head_in_the_file_wins_over_the_flag(tmp_path: Path) -> None:
    """As in transformers 5: what a checkpoint has twice, with different values, is not tied."""
    config = models.make_config()
    weights = models.make_weights(config)
    models.write_checkpoint(tmp_path, config | {"tie_word_embeddings": True}, weights)
    hold_to_truth(tmp_path, models.make_token_ids(config, 7))


def test_the_model_continues_its_story(stories: Path) -> None:
    """A trained model makes sense only if every convention is right."""
    logits = forward(read_config(stories), models.read_checkpoint(stories), stories260k.STORY[:-1])
    chosen = logits["logits"].argmax(axis=1).tolist()
    assert chosen == stories260k.STORY[1:]


def test_stories_as_llama2_c_writes_them(test_data: Path, stories: Path, tmp_path: Path) -> None:
    """A source without transposed matrices gives the same checkpoint; a damaged one is rejected."""
    source = test_data / "stories260k" / "source" / "stories260K.bin"
    data = source.read_bytes()
    values = np.frombuffer(data[28:], "<f4").copy()
    raw = read_config(stories).raw
    views, end = stories260k._weights(raw, values)
    weights = models.read_checkpoint(stories)
    for name, view in views.items():
        matrix = weights[name]
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # back to pairs side by side
            matrix = matrix.reshape(-1, 2, 4, 64).swapaxes(1, 2)
        view[...] = matrix.reshape(view.shape)
    (tmp_path / "stories260K.bin").write_bytes(data[:28] + values.tobytes())
    again = stories260k.make_folder(tmp_path, tmp_path / "again")
    for name, matrix in models.read_checkpoint(again).items():
        assert np.array_equal(matrix, weights[name]), name
    values[:end] = values[:end][::-1]
    (tmp_path / "stories260K.bin").write_bytes(data[:28] + values.tobytes())
    with pytest.raises(ValueError, match="does not continue its story"):
        stories260k.make_folder(tmp_path, tmp_path / "none")


def test_later_tokens_change_nothing(tmp_path: Path) -> None:
    folder, ids = models.cases()[0].make(tmp_path)
    config, weights = read_config(folder), models.read_checkpoint(folder)
    whole, start = forward(config, weights, ids), forward(config, weights, ids[:7])
    for point, value in start.items():
        same = whole[point][tuple(slice(size) for size in value.shape)]
        assert truth.norm_error(same, value) < CLOSE, point


def test_pattern_and_scores_are_causal(tmp_path: Path) -> None:
    folder, ids = models.cases()[0].make(tmp_path)
    values = forward(read_config(folder), models.read_checkpoint(folder), ids)
    later = np.triu(np.ones((len(ids), len(ids)), bool), 1)
    assert np.all(np.isneginf(values["scores"]) == later)
    assert np.all((values["pattern"] == 0) == later)
    assert np.allclose(values["pattern"].sum(-1), 1, rtol=0, atol=1e-14)


def test_one_token_by_hand(tmp_path: Path) -> None:
    """A model of one layer and one head, in scalars: at position 0 nothing is turned, and the only
    key gets all of the attention."""
    config = models.make_config(
        hidden_size=2,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        vocab_size=2,
        rms_norm_eps=0.5,
    )
    w = {name: np.zeros(shape) for name, shape in models.weight_shapes(config).items()}
    w["model.embed_tokens.weight"][1] = [1, 2]
    w["model.layers.0.input_layernorm.weight"][:] = [3, 4]
    w["model.layers.0.self_attn.v_proj.weight"][:] = [[1, 0], [0, 1]]
    w["model.layers.0.self_attn.o_proj.weight"][:] = [[0, 1], [1, 0]]
    w["model.layers.0.post_attention_layernorm.weight"][:] = 1
    w["model.layers.0.mlp.gate_proj.weight"][:] = [[1, 0]]
    w["model.layers.0.mlp.up_proj.weight"][:] = [[0, 1]]
    w["model.layers.0.mlp.down_proj.weight"][:] = [[1], [-1]]
    w["model.norm.weight"][:] = [2, 2]
    w["lm_head.weight"][:] = [[1, 0], [0, 1]]
    models.write_checkpoint(tmp_path, config, w, "F32")
    got = forward(read_config(tmp_path), w, [1])

    rms = math.sqrt((1 + 4) / 2 + 0.5)
    x_norm = [3 * 1 / rms, 4 * 2 / rms]
    x_mid = [1 + x_norm[1], 2 + x_norm[0]]
    mid_rms = math.sqrt((x_mid[0] ** 2 + x_mid[1] ** 2) / 2 + 0.5)
    gate, up = x_mid[0] / mid_rms, x_mid[1] / mid_rms
    hidden = gate / (1 + math.exp(-gate)) * up
    x_out = [x_mid[0] + hidden, x_mid[1] - hidden]
    final_rms = math.sqrt((x_out[0] ** 2 + x_out[1] ** 2) / 2 + 0.5)
    assert np.allclose(got["x_rms"], [[rms]], rtol=1e-15, atol=0)
    assert np.allclose(got["x_norm"], [[x_norm]], rtol=1e-15, atol=0)
    assert got["scores"].tolist() == [[[[0.0]]]] and got["pattern"].tolist() == [[[[1.0]]]]
    assert np.allclose(got["x_mid"], [[x_mid]], rtol=1e-15, atol=0)
    assert np.allclose(got["hidden"], [[[hidden]]], rtol=1e-14, atol=0)
    assert np.allclose(got["x_out"], [[x_out]], rtol=1e-14, atol=0)
    assert np.allclose(got["logits"], [[2 * x / final_rms for x in x_out]], rtol=1e-14, atol=0)


def test_query_heads_share_kv_heads_in_groups(tmp_path: Path) -> None:
    """Copying each kv head for its group of query heads changes nothing."""
    config = models.make_config()
    weights = models.make_weights(config)
    models.write_checkpoint(tmp_path, config, weights)
    grouped = forward(read_config(tmp_path), weights, range(9))
    for name in [n for n in weights if n.endswith(("k_proj.weight", "v_proj.weight"))]:
        weights[name] = np.repeat(weights[name].reshape(2, 16, -1), 2, axis=0).reshape(64, -1)
    models.write_checkpoint(tmp_path, config | {"num_key_value_heads": 4}, weights)
    single = forward(read_config(tmp_path), weights, range(9))
    assert truth.norm_error(single["logits"], grouped["logits"]) < CLOSE


def test_huge_and_tiny_gates() -> None:
    from llamaprobe.maths import silu

    got = silu(np.array([-1e300, -1e4, -800.0, 0.0, 800.0, 1e300]))
    assert got.tolist() == [0.0, 0.0, 0.0, 0.0, 800.0, 1e300]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder, ids = models.cases()[0].make(tmp_path)
    weights = models.read_checkpoint(folder)
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(KeyError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        forward(read_config(folder), weights, ids)


def test_it_is_short_enough_to_read() -> None:
    assert len(REFERENCE.read_text().splitlines()) <= 200
