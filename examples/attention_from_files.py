"""Attention of one layer again, from files alone, held against what the model computed.

    python examples/attention_from_files.py [MODEL] [LAYER]

Writes a run and the layer's weights as text into a temporary folder, then forgets the model and
does the maths on the files (llamaprobe/offline.py: every line of it can be ported to another
language).
"""

import sys
import tempfile

import numpy as np

import llamaprobe as lp
from llamaprobe import offline
from llamaprobe.saved.export import export_weights


def main(source: str = "demo", layer: str = "0") -> None:
    number = int(layer)
    model = lp.load(source)
    points = ["x_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z"]
    run = model.run("Once upon a time", points=points)
    with tempfile.TemporaryDirectory() as folder:
        run.save(f"{folder}/run", points=["x_norm"])
        names = f"model.layers.{number}.self_attn.*"
        export_weights(model, f"{folder}/weights", filter=names, progress=False)
        again = offline.attention(f"{folder}/run", f"{folder}/weights", number)
    for point, value in again.items():
        seen = np.isfinite(run[point, number])
        error = np.abs(value[seen] - run[point, number][seen]).max()
        print(f"{point:<8} {value.shape!s:<14} largest difference {error:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
