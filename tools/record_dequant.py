"""Records what gguf-py makes of random blocks of each kind, so that tests need no gguf.

    pip install gguf==0.19.0
    python tools/record_dequant.py

Writes tests/data/dequant.npz: "<kind>.bytes" [n_rows, bytes of a row] and "<kind>.values" [n_rows, n_columns],
float32. A second run writes the same arrays.
"""

import sys
from pathlib import Path

import numpy as np
from gguf.quants import GGMLQuantizationType, dequantize

REPO = Path(__file__).parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from test_dequant_gguf import KINDS  # noqa: E402

ROWS, COLUMNS = 3, 256


def main() -> None:
    random = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    for kind, (_, columns, n_bytes) in KINDS.items():
        raw = random.integers(0, 256, (ROWS, COLUMNS // columns * n_bytes), np.uint8)
        with np.errstate(all="ignore"):
            values = dequantize(raw, GGMLQuantizationType[kind.upper()])
        arrays |= {f"{kind}.bytes": raw, f"{kind}.values": values}
    np.savez_compressed(REPO / "tests" / "data" / "dequant.npz", **arrays)


if __name__ == "__main__":
    main()
