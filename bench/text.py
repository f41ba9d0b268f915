"""How fast numbers become text and text becomes numbers in memory, beside what people use instead.

    python bench/text.py [threads] [rounds]

In each round every way does the same job once, in turn, so a slow moment of the machine hits all of
them; medians of millions of values per second are shown. polars takes part where it is installed,
on as many threads. Writing files, hashes and disks are not in here.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from llamaprobe import _core

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


def show(title: str, result: dict[str, float]) -> None:
    ours, *others = result.items()
    print(f"{title}\n  {ours[0]:28} {ours[1]:9.1f} M/s")
    for name, rate in others:
        print(f"  {name:28} {rate:9.1f} M/s   {ours[1] / rate:6.1f} x")


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


def bench_words(values: np.ndarray, out: bytearray, threads: int, rounds: int) -> None:
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
    show(f"bf16 weights to the shortest text, {threads} threads", rates(ways, rounds))


def bench_floats(values: np.ndarray, out: bytearray, threads: int, rounds: int) -> None:
    n_cols = values.shape[1]

    def ours(digits: int) -> tuple[Job, int]:
        return (
            lambda: _core.format_floats(out, values, 0, n_cols, ",", digits, threads),
            values.size,
        )

    ways = {"float32": ours(-1), "np.savetxt %.9g": savetxt(values, "%.9g")}
    if find_spec("polars"):
        ways["polars write_csv"] = write_csv(values)
    show(f"float32 activations to the shortest text, {threads} threads", rates(ways, rounds))
    for digits in (8, 16):
        ways = {
            f"float32 %.{digits}e": ours(digits),
            f"np.savetxt %.{digits}e": savetxt(values, f"%.{digits}e"),
        }
        show(f"the same to %.{digits}e", rates(ways, rounds))


def bench_reading(values: np.ndarray, out: bytearray, threads: int, rounds: int) -> None:
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
        show(f"reading {spelling}, {threads} threads", rates(ways, rounds))
        assert np.array_equal(back, values)


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 9
    os.environ["POLARS_MAX_THREADS"] = str(threads)  # read when polars is imported
    values = np.random.default_rng(0).standard_normal((2048, 1024), dtype=np.float32)
    out = bytearray(_core.text_capacity(values.size))
    bench_words(values * np.float32(0.02), out, threads, rounds)
    bench_floats(values, out, threads, rounds)
    bench_reading(values, out, threads, rounds)


if __name__ == "__main__":
    main()
