"""What a harvest costs beside the bare forward pass, transformers with hooks, np.memmap and datasets.

    python bench/harvest.py MODEL [--layer 15] [--tokens 8192] [--lengths 8-64] [--pairs 5]
    python bench/harvest.py MODEL --read [--rows 65536] [--pairs 9]

MODEL is a folder. All of it is processor time of one thread, so that it can be measured on a machine
that does other work too; the ways take turns, and ratios are of neighbours in time. Documents are
random ids, their lengths evenly spread. transformers (the `truth` extra) gets batches of the same
documents, padded, and stops before the layer whose input it copies. With --read, 4096 random rows at
a time are read from warm files; datasets, where it is installed, reads a row per token.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import llamaprobe as lp
from llamaprobe.data.batches import Forward, ids_of


def documents(model: lp.Model, n_tokens: int, lengths: tuple[int, int]) -> list[list[int]]:
    rng = np.random.default_rng(1)
    found: list[list[int]] = []
    while n_tokens > 0:
        n = int(rng.integers(lengths[0], lengths[1] + 1))
        found.append(rng.integers(0, model.config.vocab_size, n).tolist())
        n_tokens -= n
    return found


def bare(plan: Any, model: lp.Model) -> Callable[[], object]:
    """The batches of a harvest through the core alone."""
    forward = Forward(plan, model, threads=1, batch_tokens=2048)

    def run() -> None:
        for batch in batches(plan, forward):
            ids = [ids_of(plan, window) for window in batch]
            starts = [0, *np.cumsum([len(one) for one in ids]).tolist()]
            model._open().run(np.concatenate(ids), starts, forward._captures, n_threads=1)

    return run


def batches(plan: Any, forward: Forward) -> list[range]:
    found, at = [], 0
    while at < plan.n_windows:
        found.append(forward._next(at, plan.n_windows))
        at = found[-1].stop
    return found


def harvest(plan: Any, model: lp.Model) -> Callable[[], object]:
    def run() -> None:
        shutil.rmtree(plan.folder / "done", ignore_errors=True)
        for shard in range(len(plan)):
            lp.harvest_shard(plan, shard, model=model, threads=1)

    return run


def transformers(plan: Any, path: str, layer: int, model: lp.Model) -> Callable[[], object]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    peer = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    kept: list[Any] = []
    padded = []
    for batch in batches(plan, Forward(plan, model, threads=1, batch_tokens=2048)):
        rows = [torch.from_numpy(ids_of(plan, window).astype(np.int64)) for window in batch]
        mask = [torch.ones(len(row), dtype=torch.int64) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        padded.append((pad(rows, batch_first=True), pad(mask, batch_first=True)))

    class Stop(Exception):
        pass

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        kept.append((args[0] if args else kwargs["hidden_states"]).clone())
        raise Stop

    peer.model.layers[layer].register_forward_pre_hook(keep, with_kwargs=True)

    def run() -> list[np.ndarray]:
        kept.clear()
        with torch.inference_mode():
            for ids, mask in padded:
                try:
                    peer(input_ids=ids, attention_mask=mask)
                except Stop:
                    pass
        pairs = zip(kept, padded, strict=True)
        return [values[mask.bool()].numpy() for values, (_, mask) in pairs]

    return run


def in_turn(ways: dict[str, Callable[[], object]], n: int) -> dict[str, list[float]]:
    """Processor seconds of each, the first round apart."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(n + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def show(seconds: dict[str, list[float]], n: int, unit: str) -> None:
    first = next(iter(seconds))
    for name, each in seconds.items():
        speed = n / statistics.median(each)
        ratios = [mine / ours for mine, ours in zip(each, seconds[first], strict=True)]
        least, middle, most = min(ratios), statistics.median(ratios), max(ratios)
        spread = f"{middle:.3f} ({least:.3f} to {most:.3f})"
        print(f"{name:<14}{speed:>12.1f} {unit}/s   {spread} times the seconds of {first}")


def forward(args: argparse.Namespace, folder: str) -> None:
    model = lp.load(args.model, threads=1)
    low, high = map(int, args.lengths.split("-"))
    texts = documents(model, args.tokens, (low, high))
    plan = lp.plan_harvest(model, texts, f"{folder}/out", points=[("x", args.layer)])
    ways = {"harvest": harvest(plan, model), "bare forward": bare(plan, model)}
    if find_spec("transformers"):
        ways["transformers"] = transformers(plan, args.model, args.layer, model)
    show(in_turn(ways, args.pairs), plan.n_tokens, "tokens")
    if "transformers" in ways:
        theirs: Any = np.concatenate(ways["transformers"]())  # type: ignore[arg-type]
        ours = lp.read_harvest(plan.folder)["x", args.layer][:]
        print(f"largest difference {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e} of x")
    began = time.process_time()
    lp.harvest(model, texts, plan.folder, points=[("x", args.layer)])
    print(f"the command again, with nothing to do: {time.process_time() - began:.2f} s")


def read(args: argparse.Namespace, folder: str) -> None:
    model = lp.load(args.model, threads=1)
    texts = documents(model, args.rows, (512, 512))
    h = lp.harvest(model, texts, f"{folder}/out", points=[("x", 0)])
    path = h.plan.folder / "x.0" / "shard-00000.safetensors"
    with open(path, "rb") as file:
        n = int.from_bytes(file.read(8), "little")
        shape = json.loads(file.read(n))["x.0"]["shape"]
    mapped = np.memmap(path, "<f4", "r", offset=8 + n, shape=tuple(shape))
    x = h["x", 0]

    def rows_of(table: Callable[[Any], object]) -> Callable[[], object]:
        """Other rows at each call, the same ones for every table."""
        rng = np.random.default_rng(2)
        return lambda: table(rng.integers(0, len(mapped), 4096))

    ways = {
        "harvest": rows_of(lambda rows: x[rows]),
        "np.memmap": rows_of(lambda rows: np.asarray(mapped[rows])),
    }
    if find_spec("datasets"):
        import datasets

        rows = datasets.Dataset.from_dict({"x": list(x[: len(mapped)])})
        rows.save_to_disk(f"{folder}/set")
        table = datasets.load_from_disk(f"{folder}/set").with_format("numpy")
        ways["datasets"] = rows_of(lambda rows: table[rows]["x"])
    show(in_turn(ways, args.pairs), 4096, "rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--lengths", default="8-64")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--rows", type=int, default=65536)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        (read if args.read else forward)(args, folder)


if __name__ == "__main__":
    main()
