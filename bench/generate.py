"""Greedy generation by llamaprobe, and by transformers in float32 with its own cache, alternately in one run.

    python bench/generate.py MODEL [--prompt 32] [--tokens 32] [--batch 8] [--threads 2] [--runs 5] [--no-transformers]

MODEL is a folder; transformers needs the `truth` extra. A run goes on from a prompt of random ids to exactly --tokens new
ones; nothing is captured. Printed: medians and minima of new tokens per second (the prompt's time counts), the median
and the minimum of the ratios of neighbours in time, and whether the tokens are the same. Then --batch prompts at once
against one, and a run of one token without a cache, which reads the same weights.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

import llamaprobe as lp
from llamaprobe.perf.bench import random_ids

os.environ["HF_HUB_OFFLINE"] = "1"

REST = 0.3  # seconds: threads of OpenMP spin for up to 0.2 s after a run


def transformers_peer(
    folder: str, threads: int, n_tokens: int
) -> Callable[[np.ndarray], list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def run(ids: np.ndarray) -> list[int]:
        given = torch.tensor(ids[None], dtype=torch.long)
        lengths = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens}
        with torch.inference_mode():
            out = model.generate(
                given, attention_mask=torch.ones_like(given), do_sample=False, **lengths
            )
        return out[0, len(ids) :].tolist()

    return run


def timed(run: Callable[[], object]) -> tuple[float, object]:
    time.sleep(REST)
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def show(name: str, seconds: list[float], n_tokens: int) -> None:
    rates = sorted(n_tokens / s for s in seconds[1:])
    print(f"{name}: {statistics.median(rates):.2f} tokens/s (most {rates[-1]:.2f})", flush=True)


def show_ratio(name: str, a: list[float], b: list[float]) -> None:
    ratios = [y / x for x, y in zip(a[1:], b[1:], strict=True)]
    print(f"{name}: {statistics.median(ratios):.2f} (min {min(ratios):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-transformers", action="store_true")
    args = parser.parse_args()
    model = lp.load(args.model, threads=args.threads)
    ids = random_ids(model, args.prompt)
    prompts = [np.roll(ids, shift) for shift in range(args.batch)]
    peer = None
    if not args.no_transformers and find_spec("transformers"):
        peer = transformers_peer(args.model, args.threads, args.tokens)
    names = ("one", "batch", "token", "peer")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    ours = theirs = None
    for _ in range(args.runs + 1):
        spent, ours = timed(lambda: model.generate(ids, args.tokens, stop=()).new_ids.tolist())
        seconds["one"].append(spent)
        if peer is not None:
            spent, theirs = timed(lambda: peer(ids))
            seconds["peer"].append(spent)
        seconds["batch"].append(timed(lambda: model.generate(prompts, args.tokens, stop=()))[0])
        seconds["token"].append(timed(lambda: model.run(ids[:1], points="logits"))[0])
    show(f"one prompt of {args.prompt}", seconds["one"], args.tokens)
    show(f"{args.batch} prompts at once", seconds["batch"], args.tokens * args.batch)
    show("T = 1 without a cache", seconds["token"], 1)
    show_ratio(
        f"{args.batch} prompts at once, times the tokens of one",
        [s / args.batch for s in seconds["batch"]],
        seconds["one"],
    )
    if peer is not None:
        show("transformers", seconds["peer"], args.tokens)
        show_ratio("times transformers", seconds["one"], seconds["peer"])
        print("the same tokens" if ours == theirs else "other tokens", flush=True)


if __name__ == "__main__":
    sys.exit(main())
