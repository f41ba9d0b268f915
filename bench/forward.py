"""llamaprobe, transformers float32 and llama.cpp float32 on the same prompts, alternately in one run.

    python bench/forward.py MODEL [--tokens 8,32,128,512] [--threads 2] [--runs 5] [--gguf FILE] [--csv FILE]

MODEL is a folder of any family; tools/make_random_model.py makes some. llamaprobe and transformers capture x and x_norm
of all layers, transformers through hooks that copy them out; needs the `truth` extra. llama.cpp takes part with --gguf
where llama-cpp-python is installed: FILE is made from MODEL when it is not there (4 bytes for each weight). It captures
nothing and computes no logits, which ends its last layer after the attention, a little later than the others end
theirs. Its flash attention, off by 1e-3, is not used.

For each length and peer one line: medians and minima of seconds, how many times faster (the median and the minimum of
the ratios of neighbours in time), and the largest norm-wise difference: of the captured values, and for llama.cpp,
apart from the timed runs, of the last token's logits. With --process whole processes are timed instead: from the start
of Python to the arrays, for 16 tokens. --csv adds rows to a file.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

import llamaprobe as lp
from llamaprobe.perf.bench import random_ids
from llamaprobe.perf.machine import cpu_name

os.environ["HF_HUB_OFFLINE"] = "1"

REST = 0.3  # seconds: threads of OpenMP spin for up to 0.2 s after a run, and would take a core from the next
N_PROCESS_TOKENS = 16
MOST_DIFFERENCE = 1e-4  # norm-wise
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
COLUMNS = (
    "cpu,kernels,threads,model,tokens,runs,seconds,fastest,first,peer,peer_seconds,peer_fastest,"
    "times_faster,least_times_faster,difference"
).split(",")


class Peer(NamedTuple):
    name: str
    run: Callable[[np.ndarray], object]
    """Runs token ids; this is timed."""
    difference: Callable[[np.ndarray], float]
    """The largest norm-wise difference of its values from llamaprobe's."""


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours.astype(float) - theirs) / np.linalg.norm(theirs))


def transformers_peer(model: lp.Model, folder: str, threads: int) -> Peer:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, list[np.ndarray]] = {"x": []}
    for layer in theirs.model.layers:
        layer.register_forward_pre_hook(lambda m, a: seen["x"].append(a[0][0].numpy().copy()))
        if hasattr(layer, "input_layernorm"):  # OLMo 2 has none
            layer.input_layernorm.register_forward_hook(
                lambda m, a, out: seen.setdefault("x_norm", []).append(out[0].numpy().copy())
            )

    def run(ids: np.ndarray) -> None:
        for values in seen.values():
            values.clear()
        with torch.inference_mode():
            theirs.model(torch.tensor(ids[None], dtype=torch.long), use_cache=False)

    def difference(ids: np.ndarray) -> float:
        run(ids)
        ours = model.run(ids, threads=threads)
        return max(distance(ours[point], np.stack(seen[point])) for point in seen)

    return Peer("transformers", run, difference)


def llama_cpp_peer(model: lp.Model, file: Path, threads: int, most_tokens: int) -> Peer:
    from gguf_file import write_gguf
    from llama_cpp import llama_cpp as c

    if not file.exists():
        print(f"writing {file}", file=sys.stderr)
        write_gguf(model, file)
    quiet = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(quiet, None)
    loaded = c.llama_model_load_from_file(os.fsencode(file), c.llama_model_default_params())
    params = c.llama_context_default_params()
    params.flash_attn_type, params.type_k, params.type_v = 0, 0, 0  # off; float32
    params.n_ctx = params.n_batch = most_tokens
    params.n_ubatch = min(most_tokens, 512)  # its default: more is slower
    params.n_threads = params.n_threads_batch = threads
    context = c.llama_init_from_model(loaded, params)
    if not loaded or not context:
        sys.exit(f"llama.cpp cannot load {file}")
    batch = c.llama_batch_init(most_tokens, 0, 1)

    def run(ids: np.ndarray, outputs: int = 0) -> None:
        c.llama_memory_clear(c.llama_get_memory(context), False)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids.tolist()):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
            batch.logits[i] = i >= len(ids) - outputs
        if c.llama_decode(context, batch):
            sys.exit("llama.cpp failed")
        c.llama_synchronize(context)

    def difference(ids: np.ndarray) -> float:
        run(ids, outputs=1)
        theirs = c.llama_get_logits_ith(context, len(ids) - 1)
        theirs = np.ctypeslib.as_array(theirs, (model.config.vocab_size,))
        return distance(model.run(ids, points="logits", threads=threads)["logits"][-1], theirs)

    run.quiet = quiet  # llama.cpp holds no reference
    return Peer("llama.cpp", run, difference)


def timed(run: Callable[[], object]) -> float:
    time.sleep(REST)
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result  # what it takes to let go of the values is not counted, on either side
    return seconds


def report(shown: str, row: dict[str, object], ours: list[float], theirs: list[float], rest: str = "") -> None:
    """Prints a line and fills in the row; the first of `ours` and `theirs` is the first run."""
    ratios = [b / a for a, b in zip(ours[1:], theirs[1:], strict=True)]
    row |= {
        "seconds": statistics.median(ours[1:]),
        "fastest": min(ours[1:]),
        "first": ours[0],
        "peer_seconds": statistics.median(theirs[1:]),
        "peer_fastest": min(theirs[1:]),
        "times_faster": statistics.median(ratios),
        "least_times_faster": min(ratios),
    }
    print(
        f"{shown}: llamaprobe {row['seconds']:.3f} s (min {row['fastest']:.3f}, first {row['first']:.3f}),"
        f" {row['peer']} {row['peer_seconds']:.3f} s (min {row['peer_fastest']:.3f}):"
        f" {row['times_faster']:.2f} times faster (min {row['least_times_faster']:.2f}){rest}",
        flush=True,
    )


def compare_runs(args: argparse.Namespace, about: dict[str, object]) -> list[dict[str, object]]:
    model = lp.load(args.model, threads=args.threads)
    peers = [transformers_peer(model, args.model, args.threads)]
    if args.gguf and find_spec("llama_cpp"):
        peers.append(llama_cpp_peer(model, args.gguf, args.threads, max(args.tokens)))
    rows = []
    for n_tokens in args.tokens:
        ids = random_ids(model, n_tokens)
        seconds: dict[str, list[float]] = {"llamaprobe": []} | {peer.name: [] for peer in peers}
        for _ in range(args.runs + 1):
            seconds["llamaprobe"].append(timed(lambda ids=ids: model.run(ids)))
            for peer in peers:
                seconds[peer.name].append(timed(lambda peer=peer, ids=ids: peer.run(ids)))
        for peer in peers:
            off = peer.difference(ids)
            if not off <= MOST_DIFFERENCE:
                sys.exit(f"{n_tokens} tokens: {peer.name} and llamaprobe differ by {off:.1e}")
            rows.append(about | {"tokens": n_tokens, "peer": peer.name, "difference": off})
            shown, rest = f"T={n_tokens}", f", values within {off:.1e}"
            report(shown, rows[-1], seconds["llamaprobe"], seconds[peer.name], rest)
    return rows


def compare_processes(args: argparse.Namespace, about: dict[str, object]) -> list[dict[str, object]]:
    seconds: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for _ in range(args.runs + 1):
        for name, code in PROCESSES.items():
            command = [sys.executable, "-c", code, args.model]
            run = lambda command=command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
            seconds[name].append(timed(run))
    row = about | {"tokens": N_PROCESS_TOKENS, "peer": "transformers, whole process"}
    report("process", row, *seconds.values())
    return [row]


def add_rows(path: Path, rows: list[dict[str, object]]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=lambda text: [int(n) for n in text.split(",")], default=[8, 32, 128, 512])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--process", action="store_true")
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    args = parser.parse_args()
    about = {
        "cpu": cpu_name(),
        "kernels": next(row.name for row in lp.kernels() if row.in_use),
        "threads": args.threads,
        "model": Path(args.model).resolve().name,
        "runs": args.runs,
    }
    print(f"{about['cpu']}, {about['kernels']}, {args.threads} threads, {args.runs} runs after the first")
    rows = (compare_processes if args.process else compare_runs)(args, about)
    if args.csv:
        add_rows(args.csv, rows)


if __name__ == "__main__":
    main()
