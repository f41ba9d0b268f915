"""llamaprobe and transformers float32 on the same prompts, alternately in one run: seconds, ratio, and that they agree.

    python bench/forward.py MODEL [--tokens 8,32,128] [--threads 2] [--runs 5] [--csv FILE]

Both capture x and x_norm of all layers; transformers through hooks that copy them out. MODEL is a folder. Needs the
`truth` extra. One line per length: medians, minima, the ratio of the medians, and the largest norm-wise difference.
With --process, whole processes are timed instead: from the start of Python to the arrays, for 16 tokens.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"

PROCESSES = {
    "llamaprobe": "import sys, llamaprobe as lp; r = lp.load(sys.argv[1]).run(list(range(100, 116))); r['x'], r['x_norm']",
    "transformers": """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
seen = []
for layer in model.model.layers:
    layer.register_forward_pre_hook(lambda m, args: seen.append(args[0][0].numpy().copy()))
    layer.input_layernorm.register_forward_hook(lambda m, args, out: seen.append(out[0].numpy().copy()))
with torch.inference_mode():
    model.model(torch.tensor([list(range(100, 116))]))
""",
}


def transformers_run(folder: str, threads: int) -> Callable[[list[int]], dict[str, np.ndarray]]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, list[np.ndarray]] = {"x": [], "x_norm": []}
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda m, a: seen["x"].append(a[0][0].numpy().copy()))
        layer.input_layernorm.register_forward_hook(
            lambda m, a, out: seen["x_norm"].append(out[0].numpy().copy())
        )

    def run(ids: list[int]) -> dict[str, np.ndarray]:
        for values in seen.values():
            values.clear()
        with torch.inference_mode():
            model.model(torch.tensor([ids]), use_cache=False)
        return {name: np.stack(values) for name, values in seen.items()}

    return run


def timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def difference(ours: object, theirs: dict[str, np.ndarray]) -> float:
    return max(
        float(np.linalg.norm(ours[p].astype(float) - theirs[p]) / np.linalg.norm(theirs[p]))
        for p in ("x", "x_norm")
    )


def report(name: str, ours: list[float], theirs: list[float], extra: str, rows: list[list[object]]) -> None:
    a, b = statistics.median(ours), statistics.median(theirs)
    print(
        f"{name}: llamaprobe {a:.3f} s (min {min(ours):.3f}), transformers {b:.3f} s (min {min(theirs):.3f}),"
        f" {b / a:.2f} times faster{extra}",
        flush=True,
    )
    rows.append([platform.processor() or platform.machine(), name, a, min(ours), b, min(theirs), b / a])


def compare_runs(args: argparse.Namespace, rows: list[list[object]]) -> None:
    import llamaprobe as lp

    model = lp.load(args.model, threads=args.threads)
    theirs_run = transformers_run(args.model, args.threads)
    for n_tokens in (int(n) for n in args.tokens.split(",")):
        ids = [(17 * i + 5) % (model.config.vocab_size - 1) + 1 for i in range(n_tokens)]
        ours, theirs = [], []
        for _ in range(args.runs + 1):
            seconds, run = timed(lambda ids=ids: model.run(ids))
            ours.append(seconds)
            seconds, values = timed(lambda ids=ids: theirs_run(ids))
            theirs.append(seconds)
        off = difference(run, values)
        if off > 1e-4:
            sys.exit(f"the values differ by {off:.1e}")
        report(f"T={n_tokens}", ours[1:], theirs[1:], f", first run {ours[0]:.3f} s, values within {off:.1e}", rows)


def compare_processes(args: argparse.Namespace, rows: list[list[object]]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(args.runs + 1):
        for name, code in PROCESSES.items():
            command = [sys.executable, "-c", code, args.model]
            spent, _ = timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))
            seconds[name].append(spent)
    report("process", seconds["llamaprobe"][1:], seconds["transformers"][1:], "", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", default="8,32,128")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--process", action="store_true")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    rows: list[list[object]] = []
    (compare_processes if args.process else compare_runs)(args, rows)
    if args.csv:
        with args.csv.open("a", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
