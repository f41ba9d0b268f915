"""Real models in GGUF against transformers, which dequantises the same file: values within the bar of
test_truth.py, the same ids and the same greedy text.

LLAMAPROBE_GGUF_GEMMA3 and LLAMAPROBE_GGUF_SMOLLM2 are the paths of Gemma 3 270M (Q4_K_M) and
SmolLM2-135M-Instruct (Q4_1); docs/tests.md, Test data, says where they come from.
"""

import importlib.util
import os
from pathlib import Path

import family_truth
import numpy as np
import pytest
import truth

import llamaprobe as lp

FILES = {"gemma3": "LLAMAPROBE_GGUF_GEMMA3", "smollm2": "LLAMAPROBE_GGUF_SMOLLM2"}
KINDS = {
    "gemma3": {"f32": 109, "q5_0": 81, "q4_k": 27, "q8_0": 10, "q6_k": 9},
    "smollm2": {"q4_1": 210, "f32": 61, "q8_0": 1},
}
POINTS = ("x", "x_norm", "q", "pattern", "logits")
TEXT = "The capital of France is"
reads_gguf = pytest.mark.skipif(
    not truth.available() or importlib.util.find_spec("gguf") is None,
    reason="torch, transformers or gguf is missing",
)


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


@reads_gguf
@pytest.mark.slow
def test_values_are_within_the_bar(path: Path) -> None:
    model = lp.load(path)
    run = model.run(TEXT, points=POINTS)
    ids = run.token_ids.tolist()
    expected, own = (
        {p: family_truth.observe_family(path, model.config, ids, is_exact)[p] for p in POINTS}
        for is_exact in (True, False)
    )
    found = truth.errors({p: run[p] for p in POINTS}, expected)
    assert found.keys() == set(POINTS)
    assert truth.over_the_bar(found, truth.errors(own, expected)) == []


@reads_gguf
@pytest.mark.slow
def test_greedy_text_is_that_of_transformers(path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where).eval()
    ids = tokenizer(TEXT).input_ids
    model = lp.load(path)
    assert model.run(TEXT, points="x", layers=0).token_ids.tolist() == ids
    with torch.inference_mode():
        made = theirs.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0]
    ours = list(ids)
    while len(ours) < len(made):
        ours.append(int(np.argmax(model.run(ours, points="logits")["logits"][-1])))
    assert ours == made.tolist()
