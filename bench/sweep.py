"""A patch map of x against whole runs, and against the speed of a run of 128 tokens, alternately in one run.

    python bench/sweep.py MODEL [--prompt 32] [--first 0] [--threads 2] [--runs 5]

Two prompts of random ids that differ from token --first on, all layers and positions. Printed: the operations of the map;
the median and the minimum, over neighbours in time, of its time over that of as many operations in a run of 128 tokens
with logits, and of the time of one whole run for each cell over its own.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import llamaprobe as lp
from llamaprobe.perf.bench import random_ids


def timed(run: Callable[[], object], n: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(n):
        run()
    return (time.perf_counter() - start) / n


def show(name: str, ratios: list[float]) -> None:
    print(f"{name}: {statistics.median(ratios):.2f} (min {min(ratios):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    model = lp.load(args.model, threads=args.threads)
    ids = random_ids(model, 128 + 2 * args.prompt)
    wide, clean, other = ids[:128], ids[128 : 128 + args.prompt], ids[128 + args.prompt :]
    corrupted = [*clean[: args.first], *other[args.first :]]
    flops = sum(stage.flops for stage in model.profile(wide, points="logits").stages)
    metric = lp.logit_diff(1, 2)
    sweep = model.patch_map(clean, corrupted, metric=metric)
    print(f"{sweep}, {sweep.values.size} cells", flush=True)
    against_run, against_cells = [], []
    for _ in range(args.runs):
        seconds_a_flop = timed(lambda: model.run(wide, points="logits"), 3) / flops
        a_cell = timed(lambda: model.run(corrupted, points="logits"), 5)
        seconds = timed(lambda: model.patch_map(clean, corrupted, metric=metric))
        against_run.append(seconds / sweep.flops / seconds_a_flop)
        against_cells.append(sweep.values.size * a_cell / seconds)
    show("time over that of its operations at 128 tokens", against_run)
    show("whole runs over the map", against_cells)


if __name__ == "__main__":
    main()
