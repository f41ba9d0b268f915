"""How often the demo still copies the name when one head is zeroed: z of the head is 0 at every position."""

import random
from collections.abc import Sequence

import numpy as np
from stories import make_story

import llamaprobe as lp

N_STORIES = 60
Story = tuple[list[int], list[int]]


def held_out_stories(model: lp.Model, n: int = N_STORIES) -> list[Story]:
    """Ids up to the name, and those of the name, of held-out pairs whose name has two tokens or more."""
    rng, found = random.Random("ablation"), []
    while len(found) < n:
        story = make_story(rng, held_out=True)
        before = model.tokenizer.encode(story.opening).tolist()
        ids = model.tokenizer.encode(f"{story.opening} {story.name}").tolist()
        if ids[: len(before)] == before and len(ids) > len(before) + 1:
            found.append((before, ids[len(before) :]))
    return found


def without_head(layer: int, head: int) -> lp.Edits:
    e = lp.Edits()
    e["z", layer][:, head] = 0
    return e


def copied_share(model: lp.Model, stories: Sequence[Story], edits: lp.Edits | None) -> float:
    """Part of the stories whose name is copied whole."""
    runs = model.run([before + name for before, name in stories], points="logits", edits=edits)
    copied = []
    for (before, name), run in zip(stories, runs, strict=True):
        best = run["logits"][len(before) - 1 :].argmax(axis=-1).tolist()
        goes_on = model.tokenizer.decode(best[len(name) :])[:1].isalpha()
        copied.append(best[: len(name)] == name and not goes_on)
    return float(np.mean(copied))


def ablation_table(model: lp.Model, stories: Sequence[Story]) -> np.ndarray:
    """[n_layers, n_heads]: the part without each head."""
    return np.array(
        [
            [copied_share(model, stories, without_head(i, j)) for j in range(model.config.n_heads)]
            for i in range(model.config.n_layers)
        ]
    )
