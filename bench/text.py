"""How fast numbers become text and text becomes numbers in memory, beside what people use instead.

    python bench/text.py [--threads 1] [--runs 9] [--csv FILE]

In each round every way does the same job once, in turn, so a slow moment of the machine hits all of
them; medians of millions of values per second are shown. polars takes part where it is installed,
on as many threads. Files, hashes and disks are bench/export.py's.
"""

import argparse
import csv
import io
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from llamaprobe import _core
from llamaprobe.perf.machine import cpu_name

Job = Callable[[], object]


def rates(ways: dict[str, tuple[Job, int]], rounds: int) -> dict[str, float]:
    """Millions of values per second of each way; a way is a job and how many values it takes."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (job, _) in ways.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return {name: n / statistics.median(seconds[name]) / 1e6 for name, (_, n) in ways.items()}


class Results:
    """What is shown, and kept as rows: CPU, threads, job, way, M values/s, how much faster we are."""

    def __init__(self, threads: int) -> None:
        self.threads, self.rows = threads, []

    def show(self, title: str, result: dict[str, float]) -> None:
        ours = next(iter(result.values()))
        print(f"{title}, {self.threads} threads")
        for name, rate in result.items():
            print(f"  {name:28} {rate:9.1f} M/s   {ours / rate:6.1f} x")
            row = [cpu_name(), self.threads, title, name, f"{rate:.4g}", f"{ours / rate:.4g}"]
            self.rows.append(row)


def part(values: np.ndarray) -> np.ndarray:
    """Enough rows for the slow ways."""
    return values[: max(1, 50_000 // values.shape[1])]


def savetxt(values: np.ndarray, fmt: str) -> tuple[Job, int]:
    return (
        lambda: np.savetxt(io.BytesIO(), part(values), fmt=fmt, delimiter=","),
        part(values).size,
    )


def write_csv(values: np.ndarray) -> tuple[Job, int]:
    import polars

    frame = polars.DataFrame(values)
    return lambda: frame.write_csv(io.BytesIO(), include_header=False), values.size


def bench_words(values: np.ndarray, out: bytearray, rounds: int, results: Results) -> None:
    threads = results.threads
    words = (values.view(np.uint32) >> 16).astype(np.uint16)
    table = _core.text_table(True, -1)
    n_cols = words.shape[1]
    ways = {
        "bf16 words": (
            lambda: _core.format_words(out, words, 0, n_cols, ",", table, threads),
            words.size,
        ),
        "np.savetxt %.9g": savetxt(values, "%.9g"),
        "np.savetxt %.16e": savetxt(values, "%.16e"),
    }
    if find_spec("polars"):
        ways["polars write_csv"] = write_csv((words.astype(np.uint32) << 16).view(np.float32))
    results.show("bf16 weights to the shortest text", rates(ways, rounds))


def bench_floats(values: np.ndarray, out: bytearray, rounds: int, results: Results) -> None:
    n_cols, threads = values.shape[1], results.threads

    def ours(digits: int) -> tuple[Job, int]:
        return (
            lambda: _core.format_floats(out, values, 0, n_cols, ",", digits, threads),
            values.size,
        )

    ways = {"float32": ours(-1), "np.savetxt %.9g": savetxt(values, "%.9g")}
    if find_spec("polars"):
        ways["polars write_csv"] = write_csv(values)
    results.show("float32 activations to the shortest text", rates(ways, rounds))
    for digits in (8, 16):
        ways = {
            f"float32 %.{digits}e": ours(digits),
            f"np.savetxt %.{digits}e": savetxt(values, f"%.{digits}e"),
        }
        results.show(f"float32 activations to %.{digits}e", rates(ways, rounds))


def bench_reading(values: np.ndarray, out: bytearray, rounds: int, results: Results) -> None:
    threads = results.threads
    for digits in (-1, 16):
        pieces = _core.format_floats(out, values, 0, values.shape[1], ",", digits, threads)
        text = b"".join(out[start:stop] for start, stop in pieces)
        back = np.empty_like(values)
        few = b"\n".join(text.split(b"\n", len(part(values)))[:-1])
        ways = {
            "float32": (lambda: _core.parse_floats(back, text, 0, ",", threads), values.size),
            "np.loadtxt": (
                lambda: np.loadtxt(io.BytesIO(few), delimiter=",", dtype=np.float32),
                part(values).size,
            ),
        }
        spelling = "the shortest text" if digits < 0 else "%.16e"
        results.show(f"reading {spelling}", rates(ways, rounds))
        assert np.array_equal(back, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = str(args.threads)  # read when polars is imported
    values = np.random.default_rng(0).standard_normal((8192, 1024), dtype=np.float32)
    out, results = bytearray(_core.text_capacity(values.size)), Results(args.threads)
    bench_words(values * np.float32(0.02), out, args.runs, results)
    bench_floats(values, out, args.runs, results)
    bench_reading(values, out, args.runs, results)
    if args.csv:
        with args.csv.open("a", newline="") as file:
            csv.writer(file).writerows(results.rows)


if __name__ == "__main__":
    main()
