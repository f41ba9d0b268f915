"""The JSON files of a harvest, written whole or not at all."""

import json
from pathlib import Path
from typing import Any

from ..files.atomic import atomic_open


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write ASCII with keys in insertion order: equal values give equal bytes. FileError."""
    with atomic_open(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode("ascii"))
