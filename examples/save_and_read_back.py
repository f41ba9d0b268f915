"""The main job in a notebook: x and x_norm of every layer as arrays, as files, and read back.

python examples/save_and_read_back.py [MODEL] [FOLDER]
"""

import sys
import tempfile

import numpy as np

import llamaprobe as lp


def main(source: str = "demo", folder: str | None = None) -> None:
    run = lp.load(source).run("Once upon a time")
    print(run["x"].shape, run["x_norm", 0].shape, run.tokens)
    with tempfile.TemporaryDirectory() as temporary:
        paths = run.save(folder or f"{temporary}/x_all_layers")
        print(f"{len(paths)} files, the first is {paths[0].name}")
        one = lp.read(paths[0])  # float32 [1, n_tokens, d_model]
        back = lp.read_run(paths[0].parent)
    assert np.array_equal(one[0], run["x", 0]) and run.equals(back)
    print("read back, equal bit for bit")


if __name__ == "__main__":
    main(*sys.argv[1:])
