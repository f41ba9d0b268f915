"""Trains the demo's weights: three phases, seeded, resumable.

The first two show rows of random spans that repeat. Whoever predicts them must look back to the last time that this
token came and copy what followed: induction heads form within two minutes, if the spans are short at first (spans of
up to 42 tokens in rows of 128 stayed near 5.4 nats for ten minutes). Stories alone never made them. The third phase
shows stories and chats, packed into rows of 256 or 512 tokens (a few of 2,048, so that every position that the config
allows has been trained), with a repeated row now and then.

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
from transformers import LlamaConfig, LlamaForCausalLM

SHORT_SPAN_STEPS, LONG_SPAN_STEPS, STORY_STEPS = 650, 250, 2100
_STEPS = SHORT_SPAN_STEPS + LONG_SPAN_STEPS + STORY_STEPS
TOKENS_PER_STEP = 2048
_SHORT, _LONG = (64, 16), (256, 60)  # tokens in a row of spans, and in its span at most
_LENGTHS = ((256, 512, 2048), (0.58, 0.38, 0.04))
_SPAN_SHARE = 0.3  # of the steps with rows of 256: one row is a repeated span
_PEAKS, _WARMUP, _DECAY = (1e-2, 5e-3), 30, 0.45  # matrices, the rest
_SAVE_EVERY, _SHOW_EVERY = 50, 20
_IGNORED = -100  # torch's label for "no loss here"


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
        ids, labels = make_rows(step)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
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
    facts = {"seed": seed, "steps": step, "tokens": step * TOKENS_PER_STEP, "seconds": round(seconds)}
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
    return min(1.0, (step + 1) / _WARMUP, max(0.02, (_STEPS - step) / (_DECAY * _STEPS)))


# ---- rows ----


def _rows_of(tokenizer: Tokenizer, seed: int) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """The function from a step to its ids and labels: int64 [n_rows, length]."""
    vocab_size = tokenizer.get_vocab_size()
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)

    def make_rows(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = random.Random(f"{seed} {step}")
        if step < SHORT_SPAN_STEPS + LONG_SPAN_STEPS:
            length, longest = _SHORT if step < SHORT_SPAN_STEPS else _LONG
            rows = [
                _span_row(rng, length, longest, bos, vocab_size)
                for _ in range(TOKENS_PER_STEP // length)
            ]
        else:
            length = rng.choices(*_LENGTHS)[0]
            rows = [
                _packed_row(rng, length, tokenizer, eos) for _ in range(TOKENS_PER_STEP // length)
            ]
            if length == _LONG[0] and rng.random() < _SPAN_SHARE:
                rows[0] = _span_row(rng, *_LONG, bos, vocab_size)
        return torch.tensor([ids for ids, _ in rows]), torch.tensor([labels for _, labels in rows])

    return make_rows


def _span_row(
    rng: random.Random, length: int, longest: int, bos: int, vocab_size: int
) -> tuple[list[int], list[int]]:
    """BOS, then one random span again and again; no loss where it is new and cannot be known."""
    span = [rng.randrange(vocab_size) for _ in range(rng.randint(4, longest))]
    ids = [bos, *(span * (length // len(span) + 1))][:length]
    n_new = len(span) + 1
    return ids, [_IGNORED] * n_new + ids[n_new:]


def _packed_row(
    rng: random.Random, length: int, tokenizer: Tokenizer, eos: int
) -> tuple[list[int], list[int]]:
    """Stories (each ended by EOS) and chats, one after the other, the last one cut."""
    ids: list[int] = []
    while len(ids) < length:
        if rng.random() < 0.5:
            ids += [*tokenizer.encode(make_story(rng).text).ids, eos]
        else:
            ids += tokenizer.encode(make_chat(rng), add_special_tokens=False).ids
    return ids[:length], ids[:length]


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
