"""Prints which lines of the C core were reached, over several builds of it: `make coverage` calls it.

    python tools/coverage_table.py BUILD_FOLDER...

A line counts when any build has code for it, and is reached when any test of any build ran it. The
lines that nothing reached are listed after each file.
"""

import argparse
import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path


def count_lines(folder: Path, counts: dict[str, dict[int, int]]) -> None:
    """Adds how often each line of csrc was run, as the .gcda files below the folder have it."""
    for data in sorted(folder.resolve().rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", data.name]
        done = subprocess.run(command, cwd=data.parent, capture_output=True, text=True, check=True)
        for document in done.stdout.splitlines():
            for file in json.loads(document)["files"]:
                name = os.path.normpath(file["file"])  # kernels/../half.h
                if name.startswith("csrc/"):
                    for line in file["lines"]:
                        counts[name][line["line_number"]] += line["count"]


def ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return " ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="where .gcda files lie")
    parser.add_argument("--least", type=float, default=0, help="fails below so many percent")
    options = parser.parse_args()
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for folder in options.folders:
        count_lines(folder, counts)
    n_lines = n_reached = 0
    for file, lines in sorted(counts.items()):
        missed = sorted(number for number, count in lines.items() if not count)
        n_lines += len(lines)
        n_reached += len(lines) - len(missed)
        percent = 100 * (len(lines) - len(missed)) / len(lines)
        print(f"{file:36}{percent:6.1f} % of {len(lines):4}  {ranges(missed)}".rstrip())
    percent = 100 * n_reached / max(n_lines, 1)
    print(f"{'csrc':36}{percent:6.1f} % of {n_lines:4}")
    if percent < options.least:
        raise SystemExit(f"less than {options.least:g} % of the lines of csrc were reached")


if __name__ == "__main__":
    main()
