"""The law of quantised checkpoints: a run has the bits of the same model in float32."""

import json
import warnings
from pathlib import Path

import models
import pytest
import quantised_checkpoints as made

import llamaprobe as lp
from llamaprobe import _core

_SOME = ("ct-fp8-block", "ct-int8-zeros", "ct-pack4-order", "gptq4-v1-zeros", "awq")


def opened(folder: Path, **options: object) -> lp.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # activations that are not quantised
        return lp.load(folder, **options)


def pair(tmp_path: Path, name: str, family: str, n_shards: int = 1, **keys: object):
    """The folder of a quantised model, and the model in float32."""
    config = made.config_of(family) | keys
    weights = made.FORMATS[name].make(tmp_path / "packed", config, n_shards)
    return tmp_path / "packed", lp.load(
        models.write_checkpoint(tmp_path / "plain", config, weights, "F32")
    )


def check_same(packed: lp.Model, plain: lp.Model, lengths=(1, 3, 8, 40), threads=(1, 2, 3)) -> None:
    """Every point has the same bits."""
    for n_tokens in lengths:
        ids = models.make_token_ids(plain.config.raw, n_tokens)
        wanted = plain.run(ids, points="all", threads=2)
        for n_threads in threads:
            assert packed.run(ids, points="all", threads=n_threads).equals(wanted), n_tokens


@pytest.mark.parametrize("name", made.FORMATS)
def test_a_run_has_the_bits_of_the_dequantised_model(tmp_path: Path, name: str):
    folder, plain = pair(tmp_path, name, "llama")
    check_same(opened(folder), plain)


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
@pytest.mark.parametrize("name", _SOME)
def test_a_run_of_another_family(tmp_path: Path, name: str, family: str):
    folder, plain = pair(tmp_path, name, family)
    check_same(opened(folder), plain, threads=(2,))


@pytest.mark.slow
@pytest.mark.parametrize("name", made.FORMATS)
def test_each_variant_of_the_kernels(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    folder, plain = pair(tmp_path, name, "llama")
    packed = opened(folder)
    for variant, can_run in _core.kernels():
        if can_run:
            monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
            check_same(packed, plain, lengths=(1, 19), threads=(2,))


@pytest.mark.parametrize(
    "name", ["ct-fp8-block", "ct-int8-zeros", "ct-pack4", "gptq8-whole", "awq"]
)
def test_sums_longer_than_a_block(tmp_path: Path, name: str):
    """256 columns, and a rest that fills neither a block nor a vector."""
    sizes = {"hidden_size": 328, "intermediate_size": 536, "num_hidden_layers": 1}
    folder, plain = pair(tmp_path, name, "llama", **sizes)
    check_same(opened(folder), plain, threads=(1, 3))


@pytest.mark.parametrize("name", ["ct-int8-embedding", "gptq4-head", "awq"])
def test_what_is_built_on_runs(tmp_path: Path, name: str):
    """Generation, lenses and edits see the same weights."""
    folder, plain = pair(tmp_path, name, "llama")
    packed, ids = opened(folder), models.make_token_ids(plain.config.raw, 7)
    found = []
    for model in (packed, plain):
        run = model.run(ids, points="all")
        text = model.generate(ids, 12, stop=())
        lens = model.lens(run, position=None, tokens=[5, 0, 96])
        parts = [model.attribute(run, 5, by=by).parts for by in ("layer", "neuron")]
        found.append(
            (text.token_ids, lens.logits, *(each for part in parts for each in part.values()))
        )
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", ["ct-fp8-channel", "gptq4-order", "awq"])
@pytest.mark.parametrize("mmap", [True, False])
def test_shards_may_split_a_module(tmp_path: Path, name: str, mmap: bool):
    folder, plain = pair(tmp_path, name, "llama", n_shards=3)
    check_same(opened(folder, mmap=mmap), plain, lengths=(5,), threads=(2,))


@pytest.mark.parametrize("name", ["fp8-block", "gptq4-v1", "awq"])
def test_a_tied_head_stays_float(tmp_path: Path, name: str):
    folder, plain = pair(tmp_path, name, "llama", tie_word_embeddings=True)
    packed = opened(folder)
    assert packed.config.tied_head
    check_same(packed, plain, lengths=(5,), threads=(2,))


def test_a_quantised_head_is_used_whatever_the_config_says(tmp_path: Path):
    folder, plain = pair(tmp_path, "gptq4-head", "llama")
    made.change_config(folder, {"tie_word_embeddings": True})
    check_same(opened(folder), plain, lengths=(5,), threads=(2,))


def test_the_first_layers_of_a_quantised_model(tmp_path: Path):
    folder, _ = pair(tmp_path, "gptq4-v1", "llama", n_shards=2)
    plain = lp.load(tmp_path / "plain", layers=1)
    check_same(opened(folder, layers=1), plain, lengths=(5,), threads=(2,))


@pytest.mark.parametrize("name", ["ct-fp8-channel", "ct-int8-zeros", "ct-pack4", "gptq4-v1", "awq"])
def test_weights_as_bf16_are_those_of_a_bf16_folder(tmp_path: Path, name: str):
    config = made.config_of()
    weights = made.FORMATS[name].make(tmp_path / "packed", config)
    plain = lp.load(models.write_checkpoint(tmp_path / "plain", config, weights, "BF16"))
    packed = opened(tmp_path / "packed", weights_as="bf16")
    check_same(packed, plain, threads=(2,))
    ids = models.make_token_ids(config, 5)
    assert (
        not opened(tmp_path / "packed").run(ids, points="all").equals(plain.run(ids, points="all"))
    )


@pytest.mark.parametrize("name", made.FORMATS)
def test_each_weight_has_its_value(tmp_path: Path, name: str):
    config = made.config_of()
    weights = made.FORMATS[name].make(tmp_path, config)
    packed = opened(tmp_path)._checkpoint.packed
    assert set(packed) == set(made.FORMATS[name].names(config))
    for weight, info in packed.items():
        assert info.core.read().tobytes() == weights[weight].tobytes(), weight
        n_bytes = sum(part.n_bytes for part in info.parts.values())
        assert info.bits_per_weight == 8 * n_bytes / weights[weight].size


def test_other_weights_do_not_depend_on_weights_as(tmp_path: Path):
    config = made.config_of()
    folder = models.write_checkpoint(tmp_path, config, models.make_weights(config), "F32")
    model = lp.load(folder, weights_as="bf16")
    ids = models.make_token_ids(config, 5)
    assert model.run(ids, points="all").equals(lp.load(folder).run(ids, points="all"))
    with pytest.raises(lp.ArgumentError, match="weights_as is 'f16'; give one of"):
        lp.load(folder, weights_as="f16")


def test_declared_activations_are_named_once(tmp_path: Path):
    made.FORMATS["fp8-tensor"].make(tmp_path, made.config_of())
    with pytest.warns(
        UserWarning, match="activation_scheme static, which are not applied"
    ) as warned:
        model = lp.load(tmp_path)
    assert len(warned) == 1 and model.unused == ()


def test_a_pickled_model_keeps_weights_as(tmp_path: Path):
    import pickle

    made.FORMATS["gptq4-v1"].make(tmp_path, made.config_of())
    model = opened(tmp_path, weights_as="bf16")
    again = pickle.loads(pickle.dumps(model))
    ids = models.make_token_ids(made.config_of(), 5)
    assert again.run(ids, points="all").equals(model.run(ids, points="all"))
    assert json.loads((tmp_path / "config.json").read_text()) == again.config.raw


def test_zeros_that_contradict_the_version_are_noted(tmp_path: Path):
    made.FORMATS["gptq4-v2-says-v1"].make(tmp_path, made.config_of())
    with pytest.warns(UserWarning, match="zeros are 8 as those of gptq_v2, and are read so"):
        lp.load(tmp_path)
