"""Greedy text is that of transformers, with its own cache, in float32."""

from pathlib import Path
from typing import Any

import pytest
import truth

import llamaprobe as lp

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

STORIES = [
    "Once upon a time there was a miller named Hopoa who lived behind the hills. Hopoa had a heavy"
    " bell. A friend named Torsa owned a wooden clock. One night the heavy bell was gone. They looked"
    " under the bridge and on the roof. At last an owl found the heavy bell in the tall grass. So the"
    " heavy bell came back to",
    "One evening a sailor",
    "A friend",
]


def theirs(folder: Path, prompts: list[list[int]], n_tokens: int) -> list[list[int]]:
    """The new ids of each prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for ids in prompts:
        with torch.no_grad():
            out = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=n_tokens,
                do_sample=False,
            )
        found.append(out[0, len(ids) :].tolist())
    return found


def test_the_demo(demo_folder: Path):
    model = lp.load(demo_folder)
    chat: Any = [{"role": "user", "content": "Tell me a story about Hopoa."}]
    runs = model.generate([*STORIES, chat], 60)
    prompts = [run.token_ids[: run.n_prompt].tolist() for run in runs]
    assert [run.new_ids.tolist() for run in runs] == theirs(demo_folder, prompts, 60)
    assert {run.stopped_by for run in runs} == {"eos", "length"}


@pytest.mark.slow
def test_smollm2(smollm2: Path):
    model = lp.load(smollm2)
    questions = ["What is the capital of France?", "Name three colours.", "Why is the sky blue?"]
    chats: list[Any] = [[{"role": "user", "content": question}] for question in questions]
    runs = model.generate([*chats, "The quick brown fox"], 48)
    assert runs[0].text == "The capital of France is Paris." and runs[0].stopped_by == "eos"
    prompts = [run.token_ids[: run.n_prompt].tolist() for run in runs]
    assert [run.new_ids.tolist() for run in runs] == theirs(smollm2, prompts, 48)
    kept = model.generate(chats[:2], 8, points="all")
    for run, before in zip(kept, runs, strict=False):
        assert run.new_ids.tolist() == before.new_ids[:8].tolist()
        assert run.equals(model.run(run.token_ids, points="all"))
