"""Trains the demo's weights: two phases, seeded, resumable.

Phase one shows rows of short random spans that repeat: whoever predicts them must look back, so heads learn early
to copy what they attend to (spans of up to 42 tokens in rows of 128 stayed near 5.4 nats for ten minutes). Phase two
shows stories and chats, packed into rows of 256 or 512 tokens (a few of 2,048, so that every position that the config
allows has been trained), with a repeated span now and then. The name at a story's end weighs more than other tokens:
it is three tokens of a hundred, and what the model is for.

A step's rows depend on the seed and the step alone. The state is saved every few minutes; a run that was
stopped goes on from there and sees the same rows. Thread count and CPU can still change the last bits.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from chats import BOS, EOS, make_chat
from safetensors.torch import save_file
from stories import make_story
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

SPAN_STEPS, STORY_STEPS = 300, 3300
_STEPS = SPAN_STEPS + STORY_STEPS
TOKENS_PER_STEP = 2048
_SHORT, _LONG = (64, 8), (256, 100)  # tokens in a row of spans, and in its span at most
_LENGTHS = ((256, 512, 2048), (0.64, 0.32, 0.04))
_SPAN_SHARE = 0.25  # of the steps with rows of 256: one row is a repeated span
_NAME_WEIGHT = 4.0
_PEAKS, _WARMUP, _DECAY = (7e-3, 3e-3), 30, 0.6  # matrices, the rest
_SAVE_EVERY, _SHOW_EVERY = 100, 50


def train(folder: Path, state_path: Path, seed: int) -> None:
    """Train the model of `folder`/config.json, write model.safetensors (bf16; how it was made is in its metadata)."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = LlamaForCausalLM._from_config(
        LlamaConfig.from_pretrained(folder), dtype=torch.float32, attn_implementation="sdpa"
    )
    optimizers = _optimizers(model)
    step, seconds = _resume(state_path, model, optimizers)
    make_rows = _rows_of(tokenizer, seed)
    while step < _STEPS:
        start = time.perf_counter()
        ids, weights = make_rows(step)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, _PEAKS, strict=True):
            optimizer.param_groups[0]["lr"] = peak * _rate(step)
            optimizer.step()
        step += 1
        seconds += time.perf_counter() - start
        if step % _SHOW_EVERY == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}  {seconds:6.0f} s", flush=True)
        if step % _SAVE_EVERY == 0:
            _save_state(state_path, model, optimizers, step, seconds)
    facts = {
        "seed": seed,
        "steps": step,
        "tokens": step * TOKENS_PER_STEP,
        "seconds": round(seconds),
    }
    facts["threads"] = torch.get_num_threads()
    _save_weights(model, folder / "model.safetensors", facts)


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms; each at its own rate."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=_PEAKS[0], weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=_PEAKS[1], betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int) -> float:
    """Up in a line, level, then down in a line."""
    return min(1.0, (step + 1) / _WARMUP, (_STEPS - step) / (_DECAY * _STEPS))


# ---- rows ----


def _rows_of(tokenizer: Tokenizer, seed: int) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """The function from a step to its ids and the weight of each id's loss: [n_rows, length] both."""
    vocab_size = tokenizer.get_vocab_size()
    bos = tokenizer.token_to_id(BOS)

    def make_rows(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = random.Random(f"{seed} {step}")
        if step < SPAN_STEPS:
            n_rows = TOKENS_PER_STEP // _SHORT[0]
            rows = [_span_row(rng, *_SHORT, bos, vocab_size) for _ in range(n_rows)]
        else:
            length = rng.choices(*_LENGTHS)[0]
            n_rows = TOKENS_PER_STEP // length
            rows = [_packed_row(rng, length, tokenizer) for _ in range(n_rows)]
            if length == _LONG[0] and rng.random() < _SPAN_SHARE:
                rows[0] = _span_row(rng, *_LONG, bos, vocab_size)
        ids, weights = zip(*rows, strict=True)
        return torch.tensor(ids), torch.tensor(weights)

    return make_rows


def _span_row(
    rng: random.Random, length: int, longest: int, bos: int, vocab_size: int
) -> tuple[list[int], list[float]]:
    """BOS, then one random span again and again; no loss where it is new and cannot be known."""
    span = [rng.randrange(vocab_size) for _ in range(rng.randint(2, longest))]
    ids = [bos, *(span * (length // len(span) + 1))][:length]
    n_new = len(span) + 1
    return ids, [0.0] * n_new + [1.0] * (length - n_new)


def _packed_row(
    rng: random.Random, length: int, tokenizer: Tokenizer
) -> tuple[list[int], list[float]]:
    """Stories (each ended by EOS) and chats, one after the other, the last one cut."""
    ids: list[int] = []
    weights: list[float] = []

    def add(text: str, weight: float = 1.0, bos: bool = False) -> None:
        new = tokenizer.encode(text, add_special_tokens=bos).ids
        ids.extend(new)
        weights.extend([weight] * len(new))

    while len(ids) < length:
        if rng.random() < 0.5:
            story = make_story(rng)
            add(story.opening, bos=True)
            add(f" {story.name}", _NAME_WEIGHT)
            add(f"{story.closing}{EOS}")
        else:
            add(make_chat(rng))
    return ids[:length], weights[:length]


# ---- files ----


def _resume(
    path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Steps done and seconds spent, of a run that was stopped; (0, 0.0) for a new one."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def _save_state(
    path: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    temporary = path.with_suffix(".new")
    torch.save({**state, "step": step, "seconds": seconds}, temporary)
    temporary.replace(path)


def _save_weights(model: LlamaForCausalLM, path: Path, facts: dict[str, int]) -> None:
    """bf16, under the names of Hugging Face; the head is the embedding and is not stored again."""
    tensors = {name: p.detach().to(torch.bfloat16) for name, p in model.named_parameters()}
    save_file(tensors, path, metadata={"format": "pt"} | {k: str(v) for k, v in facts.items()})
