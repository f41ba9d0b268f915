"""Attention of one layer redone from files alone, and compared with what the model computed.

    python examples/attention_from_files.py [MODEL] [LAYER]

Writes a run and the weights of the layer as text into a temporary folder, then forgets the model and does the maths on
the files. Every line of `lp.offline.attention` can be ported to another language.
"""

import sys
import tempfile

import numpy as np

import llamaprobe as lp

POINTS = ["x_norm", "q", "k", "v", "q_rope", "k_rope", "scores", "pattern", "z"]


def main(source: str = "demo", layer: str = "0") -> None:
    number = int(layer)
    model = lp.load(source)
    run = model.run("Once upon a time", points=POINTS)
    with tempfile.TemporaryDirectory() as folder:
        run.save(f"{folder}/run", points=["x_norm"])
        names = f"model.layers.{number}.self_attn.*"
        lp.export_weights(model, f"{folder}/weights", filter=names, progress=False)
        redone = lp.offline.attention(f"{folder}/run", f"{folder}/weights", number)
    for point, value in redone.items():
        seen = np.isfinite(run[point, number])
        expected = run[point, number][seen]
        error = np.abs(value[seen] - expected).max() / np.abs(expected).max()
        print(f"{point:<8} {value.shape!s:<14} largest difference {error:.1e} of the largest value")
        assert error < 1e-4


if __name__ == "__main__":
    main(*sys.argv[1:])
