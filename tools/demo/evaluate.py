"""Measures the committed demo: weights rounded to bf16, arithmetic in float32, stories that were never trained.

"Copied" means: greedy decoding of the story up to the name at its end gives every token of the name, and then
a mark, not more of a word. Names of one token are left out. Greedy decoding takes the right name exactly if,
with the right name so far before it, the right token is the likeliest each time: one forward pass tells.
"""

import datetime
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from chats import BOS, render
from stories import Story, make_story
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

N_PROMPTS = 400
DATE = datetime.date(2024, 7, 26)


@dataclass(frozen=True)
class Prompt:
    """Ids up to the name, the name's ids, and where the name stood before (positions of its tokens)."""

    story: Story
    before: list[int]
    name: list[int]
    after: list[int]

    def earlier(self, name: list[int]) -> list[int]:
        """Start of each earlier occurrence of `name` in `before`."""
        n = len(name)
        return [i for i in range(len(self.before) - n + 1) if self.before[i : i + n] == name]


class Demo:
    """The model of a folder, as whoever loads it gets it, in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model = LlamaForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def encode(self, text: str, bos: bool = False) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=bos).ids

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> torch.Tensor:
        """[n_tokens, vocab_size]"""
        return self.model(torch.tensor([ids]), use_cache=False).logits[0]

    @torch.inference_mode()
    def patterns(self, ids: list[int]) -> np.ndarray:
        """[n_layers, n_heads, n_tokens, n_tokens], query before key"""
        maps = self.model(torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
        return torch.cat(maps).numpy()

    @torch.inference_mode()
    def generate(self, ids: list[int], n_tokens: int) -> list[int]:
        """The `n_tokens` (or fewer, up to the end mark) ids that greedy decoding adds."""
        out = self.model.generate(torch.tensor([ids]), max_new_tokens=n_tokens, do_sample=False)
        return out[0, len(ids) :].tolist()

    def is_copied(self, before: list[int], name: list[int]) -> bool:
        best = self.logits([*before, *name])[len(before) - 1 :].argmax(-1).tolist()
        goes_on = self.tokenizer.decode(best[len(name) :], skip_special_tokens=True)[:1].isalpha()
        return best[: len(name)] == name and not goes_on


def make_prompts(demo: Demo, seed: str, n: int = N_PROMPTS, **story: object) -> list[Prompt]:
    """`n` stories with held-out pairs whose name has two tokens or more."""
    rng, prompts = random.Random(seed), []
    while len(prompts) < n:
        story_ = make_story(rng, held_out=True, **story)
        name = demo.encode(f" {story_.name}")
        if len(name) > 1:
            before, after = demo.encode(story_.opening, bos=True), demo.encode(story_.closing)
            prompts.append(Prompt(story_, before, name, after))
    return prompts


def share_copied(demo: Demo, prompts: Iterable[Prompt]) -> float:
    """Part of the prompts whose name is copied whole."""
    return float(np.mean([demo.is_copied(p.before, p.name) for p in prompts]))


def share_answered(demo: Demo, prompts: Iterable[Prompt]) -> float:
    """Part of the stories of which the chat model can say whose the lost thing was."""
    right = []
    for prompt in prompts:
        story = prompt.story
        question = f"{story.text}\n\nWhose {story.object} was it?"
        chat = render([{"role": "user", "content": question}], DATE, add_generation_prompt=True)
        before = demo.encode(f"{chat}The {story.object} belonged to")
        right.append(demo.is_copied(before, prompt.name))
    return float(np.mean(right))


def held_out_loss(demo: Demo, prompts: Iterable[Prompt]) -> tuple[float, float]:
    """Nats per token over whole stories, and over the name at the end alone."""
    all_losses, name_losses = [], []
    for p in prompts:
        ids = [*p.before, *p.name, *p.after]
        losses = torch.nn.functional.cross_entropy(
            demo.logits(ids)[:-1], torch.tensor(ids[1:]), reduction="none"
        ).tolist()
        all_losses += losses
        name_losses += losses[len(p.before) - 1 : len(p.before) - 1 + len(p.name)]
    return float(np.mean(all_losses)), float(np.mean(name_losses))


def span_loss(demo: Demo, n_rows: int = 20) -> float:
    """Nats per token in the second half of 1 + 2 x 100 random tokens, the same 100 twice."""
    rng, bos = random.Random("spans"), demo.tokenizer.token_to_id(BOS)
    losses = []
    for _ in range(n_rows):
        span = [rng.randrange(demo.tokenizer.get_vocab_size()) for _ in range(100)]
        logits = demo.logits([bos, *span, *span])[101:-1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(span[1:])).item())
    return float(np.mean(losses))


def attention_to_names(
    demo: Demo, prompts: Iterable[Prompt]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean attention [n_layers, n_heads] from the copy position (the last token before the name) to all tokens of
    the hero's name; from there to those of the friend's, where there is one; and from the name's tokens but
    the last to the token that followed the same token earlier (induction)."""
    owner, other, induction = [], [], []
    for p in prompts:
        patterns = demo.patterns([*p.before, *p.name])
        copy, n = len(p.before) - 1, len(p.name)
        starts = p.earlier(p.name)
        keys = [i + j for i in starts for j in range(n)]
        owner.append(patterns[:, :, copy, keys].sum(-1))
        for name in (demo.encode(f" {name}") for name, _ in p.story.owners if name != p.story.name):
            keys = [i + j for i in p.earlier(name) for j in range(len(name))]
            other.append(patterns[:, :, copy, keys].sum(-1))
        for j in range(n - 1):
            keys = [i + j + 1 for i in starts]
            induction.append(patterns[:, :, copy + 1 + j, keys].sum(-1))
    return tuple(np.mean(maps, axis=0) for maps in (owner, other, induction))


def strongest(share: np.ndarray, n: int = 3) -> list[tuple[int, int, float]]:
    """(layer, head, share) of the `n` largest."""
    order = np.argsort(share, axis=None)[::-1][:n]
    return [(*map(int, np.unravel_index(i, share.shape)), float(share.flat[i])) for i in order]
