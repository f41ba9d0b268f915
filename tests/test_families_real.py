"""A real Gemma 3 (270M) against transformers: values within the bar of test_truth.py, and the same
greedy text. Needs torch, transformers and the model."""

from pathlib import Path

import family_truth
import numpy as np
import pytest
import truth

import llamaprobe as lp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing"),
]

POINTS = ("x", "x_norm", "logits")
TEXT = "The capital of France is"
LONG = "Windows hide what is far away. " * 80  # 640 tokens or so, the window has 512


@pytest.mark.parametrize("text", [TEXT, "Once upon a time,\n\n  3 * 4 = 12. " * 4])
def test_values_are_within_the_bar(gemma3: Path, text: str) -> None:
    model = lp.load(gemma3)
    run = model.run(text, points=POINTS)
    ids = run.token_ids.tolist()
    expected, own = (
        {p: family_truth.observe_family(gemma3, model.config, ids, is_exact)[p] for p in POINTS}
        for is_exact in (True, False)
    )
    found = truth.errors({p: run[p] for p in POINTS}, expected)
    assert list(found) == list(POINTS)
    assert truth.over_the_bar(found, truth.errors(own, expected)) == []


def test_greedy_text_is_that_of_transformers(gemma3: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gemma3)
    theirs = AutoModelForCausalLM.from_pretrained(gemma3, dtype=torch.float32).eval()
    model = lp.load(gemma3)
    for text, n in ((TEXT, 16), (LONG, 1)):
        ids = tokenizer(text).input_ids
        assert model.run(text, points="x", layers=0).token_ids.tolist() == ids
        with torch.inference_mode():
            made = theirs.generate(torch.tensor([ids]), max_new_tokens=n, do_sample=False)[0]
        ours = list(ids)
        for _ in range(n):
            ours.append(int(np.argmax(model.run(ours, points="logits")["logits"][-1])))
        assert ours == made.tolist()
        assert len(ids) < 20 or len(ids) > model.config.layers[0].window
