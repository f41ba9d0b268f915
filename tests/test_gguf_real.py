"""Real models in GGUF against transformers with the same weights, dequantised by gguf-py: values within the
bar of test_truth.py, and the same greedy text.

LLAMAPROBE_GGUF_GEMMA3 and LLAMAPROBE_GGUF_SMOLLM2 are the paths of Gemma 3 270M (Q4_K_M) and
SmolLM2-135M-Instruct (Q4_1); docs/tests.md, Test data, says where they come from. transformers'
own way to read a GGUF takes minutes, so its classes are given the weights here.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import family_truth
import gguf_maker
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe import _core

FILES = {"gemma3": "LLAMAPROBE_GGUF_GEMMA3", "smollm2": "LLAMAPROBE_GGUF_SMOLLM2"}
KINDS = {
    "gemma3": {"f32": 109, "q5_0": 81, "q4_k": 27, "q8_0": 10, "q6_k": 9},
    "smollm2": {"q4_1": 210, "f32": 61, "q8_0": 1},
}
POINTS = ("x", "x_norm", "q", "pattern", "logits")
TEXT = "The capital of France is"


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(name: str) -> Path:
    found = os.environ.get(FILES[name])
    if not found or not Path(found).is_file():
        pytest.skip(f"{FILES[name]} is not the path of a GGUF; see docs/tests.md, Test data")
    return Path(found)


def test_opens(name: str, path: Path) -> None:
    model = lp.load(path)
    assert model.quantization is not None and model.quantization.kinds == KINDS[name]
    assert model.unused == () and model.config.tied_head
    assert model.config.rms_norm_eps == (1e-6 if name == "gemma3" else 1e-5)
    assert model.config.gain_offset == 0 and model.config.notes == ()


def of_transformers(path: Path, keys: dict[str, Any]) -> Any:
    """The class of transformers with the weights of a GGUF in float32; `keys` of config.json."""
    import torch
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = keys["gguf"]["architecture"]
    given = {key: value for key, value in keys.items() if key not in ("gguf", "model_type")}
    config = AutoConfig.for_model(keys["model_type"], **given)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    file = _core.Gguf(path)
    places = {each[0]: each for each in file.tensors()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stored, kind, shape, *_ = places[gguf_maker.stored_name(name, architecture)]
            data = np.array(file.raw(stored)).reshape(shape[0] if len(shape) > 1 else 1, -1)
            values = dequantize(data, GGMLQuantizationType[kind]).reshape(shape)
            if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                values = gguf_maker.turn_back(values, keys["head_dim"])
            if architecture == "gemma3" and name.endswith("norm.weight"):
                values = values - np.float32(1)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return model


@pytest.mark.slow
@pytest.mark.skipif(
    not truth.available() or importlib.util.find_spec("gguf") is None,
    reason="torch, transformers or gguf is missing",
)
def test_values_and_greedy_text(path: Path) -> None:
    import torch

    model = lp.load(path)
    run = model.run(TEXT, points=POINTS)
    ids = run.token_ids.tolist()
    theirs = of_transformers(path, model.config.raw)
    with torch.inference_mode():
        made = theirs.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0].tolist()
    own, expected = (
        family_truth.observe_family(theirs, model.config, ids, is_exact)
        for is_exact in (False, True)
    )
    found = truth.errors({p: run[p] for p in POINTS}, {p: expected[p] for p in POINTS})
    assert found.keys() == set(POINTS)
    assert truth.over_the_bar(found, truth.errors(own, expected)) == []
    ours = list(ids)
    while len(ours) < len(made):
        ours.append(int(np.argmax(model.run(ours, points="logits")["logits"][-1])))
    assert ours == made
