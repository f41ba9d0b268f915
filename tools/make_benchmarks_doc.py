"""Copies the CSV files of docs/benchmarks into the tables of docs/benchmarks.md. Run it after a change to one of them:

    python tools/make_benchmarks_doc.py

A table stands below its marker, `<!-- table: zen4-products.csv -->`.
"""

import csv
import re
from pathlib import Path

DOC = Path(__file__).parent.parent / "docs" / "benchmarks.md"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n\n)(?:\|.*\n)*\n?")


def text() -> str:
    """The whole page, its tables made anew."""
    folder = DOC.with_suffix("")
    return TABLE.sub(lambda found: f"{found[1]}{_table(folder / found[2])}\n", DOC.read_text())


def _table(path: Path) -> str:
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    DOC.write_text(text())
