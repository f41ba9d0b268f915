"""How far from float64 every point is, beside transformers in float32, at the widths of real models.

    pip install -e '.[truth]'
    python tools/measure_accuracy.py [--widths 512,1024,2048,4096] [--tokens 1,2,8,60,300] [--seeds 1]

For each width a random model of two layers whose weights keep the size of values (about 1 / sqrt(K)). An error is
norm-wise, of the worst layer (tests/truth.py). Prints the ratios of our error to that of transformers: their median at
each number of tokens, the largest median of a point, and the largest single ratio. A point at which transformers is
nearer to float64 than FLOOR says nothing about sums, and is left out. docs/arithmetic.md has the tables.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

REPO = Path(__file__).parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import models  # noqa: E402
import truth  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", default="512,576,1024,2048,3072,4096")
    parser.add_argument("--tokens", default="1,2,8,60,300")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    widths, lengths = ([int(n) for n in text.split(",")] for text in (args.widths, args.tokens))
    ratios: dict[int, dict[str, list[float]]] = {n: defaultdict(list) for n in lengths}
    for width in widths:
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                config = truth.wide_config(width, 2)
                models.write_checkpoint(Path(folder), config, models.make_weights(config, seed))
                for n in lengths:
                    found = truth.ratios(Path(folder), models.make_token_ids(config, n, seed))
                    for point, ratio in found.items():
                        ratios[n][point].append(ratio)
            print(f"d_model {width} seed {seed} done", file=sys.stderr)
    show(ratios)


def show(ratios: dict[int, dict[str, list[float]]]) -> None:
    print("| T | ratios | median | largest median of a point | largest |")
    print("|---|---|---|---|---|")
    for n, of_point in ratios.items():
        medians = {point: statistics.median(found) for point, found in of_point.items()}
        every = [ratio for found in of_point.values() for ratio in found]
        worst, largest = max(medians, key=medians.__getitem__), max(every)
        where = next(point for point, found in of_point.items() if largest in found)
        print(
            f"| {n} | {len(every)} | {statistics.median(every):.2f}"
            f" | {medians[worst]:.2f} ({worst}) | {largest:.2f} ({where}) |"
        )
    print()
    print("| point | " + " | ".join(f"T = {n}" for n in ratios) + " |")
    print("|---|" + "---|" * len(ratios))
    for point in truth.EXPOSED:
        cells = [
            f"{statistics.median(of_point[point]):.2f}" if of_point.get(point) else ""
            for of_point in ratios.values()
        ]
        print(f"| {point} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
