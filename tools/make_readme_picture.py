"""Draws docs/pattern.svg, the picture of README.md, by examples/attention_heat_map.py:

python tools/make_readme_picture.py [FILE]
"""

import runpy
import sys
from pathlib import Path

REPO = Path(__file__).parent.parent


def draw(path: Path = REPO / "docs" / "pattern.svg") -> None:
    """Writes the picture. Its numbers are the same on every machine."""
    example = runpy.run_path(str(REPO / "examples" / "attention_heat_map.py"))
    example["main"](path=str(path))


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
