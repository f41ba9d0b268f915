"""Quantised models beside the bf16 model that they were made of, alternately in one run.

    python bench/quantised.py MODEL OTHER... [--tokens 1,8,32,128,512] [--threads 2] [--runs 5]

MODEL is a folder in bf16, OTHER a .gguf or a folder. Printed for each: milliseconds to open; and for each number of
tokens the median of its time over that of MODEL's neighbour, in wall and in processor time, and the milliseconds. A run
keeps nothing but the logits of the last token.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import llamaprobe as lp
from llamaprobe.perf.bench import random_ids


def timed(model: lp.Model, ids: np.ndarray) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    model.generate(ids, 1, stop=())
    return time.perf_counter() - wall, time.process_time() - processor


def opened(source: str, threads: int) -> lp.Model:
    start = time.perf_counter()
    model = lp.load(source, threads=threads)
    print(f"{Path(source).name}: opened in {1000 * (time.perf_counter() - start):.1f} ms, {model.quantization or 'bf16'}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("others", nargs="+")
    parser.add_argument("--tokens", default="1,8,32,128,512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    models = [opened(source, args.threads) for source in (args.model, *args.others)]
    for n_tokens in map(int, args.tokens.split(",")):
        ids = np.asarray(random_ids(models[0], n_tokens))
        for model in models:
            timed(model, ids)
        turns = [[timed(model, ids) for model in models] for _ in range(args.runs)]
        for i, source in enumerate(args.others, 1):
            wall, processor = (
                statistics.median(turn[i][which] / turn[0][which] for turn in turns) for which in (0, 1)
            )
            ms = 1000 * statistics.median(turn[i][0] for turn in turns)
            print(f"T={n_tokens} {Path(source).name}: {wall:.2f}, processor {processor:.2f}, {ms:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
