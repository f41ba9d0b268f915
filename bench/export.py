"""How fast weights become csv files on disk, beside what people use instead and what the disk can do.

    python bench/export.py MODEL [--threads 2] [--runs 5] [--folder DIR] [--csv FILE]
    python bench/export.py MODEL --process

Every way writes new files into DIR (default: the current folder), in turn; a sync before each keeps the pages that
one left behind out of the next one's time. llamaprobe hashes and fsyncs, and so does "same bytes", which writes as
many bytes as llamaprobe did, in files of the same sizes, out of memory: what the disk alone takes. np.savetxt and
polars (where it is installed) get float32 arrays, their time without hash and fsync, and of the model no more
tensors than they need to show their pace. With --process whole commands are timed, from the start of Python on.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from llamaprobe.perf.machine import cpu_name

Way = tuple[Callable[[Path], object], int]  # what writes into a new folder, and how many values

SAVETXT = """
import sys, numpy as np, llamaprobe as lp
for name, weight in lp.load(sys.argv[1]).weights.items():
    if name.startswith("model.layers.0."):
        rows = np.atleast_2d(np.asarray(weight))
        np.savetxt(f"{sys.argv[2]}/{name}.csv", rows, fmt="%.16e", delimiter=",")
"""
POLARS = """
import sys, numpy as np, polars, llamaprobe as lp
for name, weight in lp.load(sys.argv[1]).weights.items():
    frame = polars.DataFrame(np.atleast_2d(np.asarray(weight)))
    frame.write_csv(f"{sys.argv[2]}/{name}.csv", include_header=False)
"""


def export(model: str, threads: int) -> Callable[[Path], object]:
    from llamaprobe.saved.export import export_weights

    return lambda folder: export_weights(model, folder, threads=threads, progress=False)


def same_bytes(sizes: list[int], text: bytes) -> Callable[[Path], object]:
    """Writes and fsyncs files of these sizes, their bytes out of `text` over and over."""

    def write(folder: Path) -> None:
        for i, size in enumerate(sizes):
            with open(folder / f"{i}.csv", "wb", buffering=0) as file:
                left = size
                while left:
                    left -= file.write(memoryview(text)[:left])
                os.fsync(file.fileno())

    return write


def savetxt(arrays: list[np.ndarray]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        for i, rows in enumerate(arrays):
            np.savetxt(folder / f"{i}.csv", rows, fmt="%.16e", delimiter=",")

    return write


def write_csv(arrays: list[np.ndarray]) -> Callable[[Path], object]:
    import polars

    def write(folder: Path) -> None:
        for i, rows in enumerate(arrays):
            polars.DataFrame(rows).write_csv(folder / f"{i}.csv", include_header=False)

    return write


def command(*words: str) -> Callable[[Path], object]:
    return lambda folder: subprocess.run([*words, str(folder)], check=True, stdout=subprocess.DEVNULL)


def timed(write: Callable[[Path], object], folder: Path) -> float:
    """Seconds. What was written is removed after the clock has stopped."""
    folder.mkdir()
    os.sync()
    start = time.perf_counter()
    try:
        write(folder)
        return time.perf_counter() - start
    finally:
        shutil.rmtree(folder)


def in_process(model: str, weights: dict[str, np.ndarray], n_values: int, args: argparse.Namespace) -> dict[str, Way]:
    first = args.folder / "first"
    export(model, args.threads)(first)
    files = sorted(first.glob("*.csv"), key=lambda path: path.stat().st_size)
    sizes, text = [path.stat().st_size for path in files], files[-1].read_bytes()[: 16 << 20]
    shutil.rmtree(first)
    layer = [np.atleast_2d(rows) for name, rows in weights.items() if name.startswith("model.layers.0.")]
    n_layer = sum(rows.size for rows in layer)
    ways = {
        "llamaprobe": (export(model, args.threads), n_values),
        "same bytes": (same_bytes(sizes, text), n_values),
        "np.savetxt %.16e": (savetxt(layer), n_layer),
    }
    if find_spec("polars"):
        most = [np.atleast_2d(rows) for name, rows in weights.items() if ".mlp." in name]
        ways["polars write_csv"] = (write_csv(most), sum(rows.size for rows in most))
    return ways


def processes(model: str, weights: dict[str, np.ndarray], n_values: int, args: argparse.Namespace) -> dict[str, Way]:
    ours = ("-m", "llamaprobe", "weights", model, "--threads", str(args.threads), "--out")
    n_layer = sum(rows.size for name, rows in weights.items() if name.startswith("model.layers.0."))
    ways = {
        "llamaprobe weights": (command(sys.executable, *ours), n_values),
        "np.savetxt %.16e": (command(sys.executable, "-c", SAVETXT, model), n_layer),
    }
    if find_spec("polars"):
        ways["polars write_csv"] = (command(sys.executable, "-c", POLARS, model), n_values)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the files go, and are removed again")
    parser.add_argument("--process", action="store_true")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = str(args.threads)  # read when polars is imported

    import llamaprobe as lp

    weights = {name: np.asarray(weight) for name, weight in lp.load(args.model).weights.items()}
    n_values = sum(rows.size for rows in weights.values())
    args.folder = args.folder / f"bench-export-{os.getpid()}"
    args.folder.mkdir(parents=True)
    try:
        ways = (processes if args.process else in_process)(args.model, weights, n_values, args)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.runs):
            for way, (write, _) in ways.items():
                seconds[way].append(timed(write, args.folder / "out"))
    finally:
        shutil.rmtree(args.folder)

    rates = {way: n / statistics.median(seconds[way]) / 1e6 for way, (_, n) in ways.items()}
    ours, rows = next(iter(rates.values())), []
    for way, rate in rates.items():
        median, least = statistics.median(seconds[way]), min(seconds[way])
        print(f"{way:20} {median:7.2f} s (min {least:.2f})  {rate:7.1f} M values/s  {ours / rate:6.2f} x")
        kind = "process" if args.process else "in process"
        rows.append([cpu_name(), kind, args.threads, way, f"{median:.4g}", f"{least:.4g}", f"{rate:.4g}", f"{ours / rate:.4g}"])
    if args.csv:
        with args.csv.open("a", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
