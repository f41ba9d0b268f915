"""Records what transformers computes in true float64, so that tests need no torch.

    pip install torch==2.13.0 transformers==5.24.0
    python tools/record_vectors.py

Writes tests/data/vectors.npz, the values rounded to float32 under "<model>.<point>", and
tests/data/vectors.json: the versions, and for every model and point how far transformers in float32
is from those values (norm-wise, worst layer). The random models are made again from their seed by
tests/models.py; of stories260K, which is only where test data lies, few points are kept.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

REPO = Path(__file__).parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import models  # noqa: E402
import stories260k  # noqa: E402
import truth  # noqa: E402

DATA = REPO / "tests" / "data"
STORY_POINTS = ("x", "x_norm", "logits")


def main() -> None:
    source = os.environ.get("LLAMAPROBE_TEST_DATA") or REPO.parent / "shared" / "models"
    arrays: dict[str, np.ndarray] = {}
    own: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in models.recorded_cases():
            folder, token_ids = case.make(Path(scratch) / case.name)
            own[case.name] = record(arrays, case.name, folder, token_ids, truth.EXPOSED)
        folder = stories260k.make_folder(
            Path(source) / "stories260k" / "source", Path(scratch) / "stories"
        )
        ids = stories260k.STORY[:12]
        own["stories260k"] = record(arrays, "stories260k", folder, ids, STORY_POINTS)
    versions = {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")}
    DATA.mkdir(exist_ok=True)
    np.savez_compressed(DATA / "vectors.npz", **arrays)
    text = json.dumps({"made_with": versions, "transformers_errors": own}, indent=1)
    (DATA / "vectors.json").write_text(text + "\n")


def record(
    arrays: dict[str, np.ndarray],
    model: str,
    folder: Path,
    token_ids: list[int],
    points: tuple[str, ...],
) -> dict[str, float]:
    """Adds a model's values to `arrays`; the errors of transformers in float32."""
    values, float32 = truth.observe(folder, token_ids)
    kept = {point: values[point].astype(np.float32) for point in points}
    arrays.update({f"{model}.{point}": value for point, value in kept.items()})
    return {point: float(f"{e:.3g}") for point, e in truth.errors(float32, kept).items()}


if __name__ == "__main__":
    main()
