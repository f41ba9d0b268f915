"""Bad inputs 97 and 98: numbers of threads, and too little memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import models

import llamaprobe as lp
from bad_inputs import BadInput, Refusal
from bad_inputs.child import less_memory
from bad_inputs.weights_file import FILE, entry, image
from llamaprobe import ArgumentError, OutOfMemory, _core

# ---- 97: how many threads ----


def model(box: Path) -> Path:
    config = models.make_config(max_position_embeddings=4096)
    return models.write_checkpoint(box, config, models.make_weights(config))


def run(**how: Any) -> Callable[[Path], tuple[int, ...]]:
    return lambda folder: lp.load(folder).run([1, 2], **how)["x"].shape


CASES = [
    BadInput("97", f"threads={threads!r}", model, run(threads=threads),
             Refusal(ArgumentError, "threads is .*; it must be an integer of at least 1"))
    for threads in (0, -1, "4", 1.0, True)
]
CASES.append(BadInput("97", "a million threads", model, run(threads=10**6), (3, 2, 48)))

# ---- 98: too little memory ----

MB = 1 << 20
SCORES = 3 * 4 * 4096 * 4096 * 4


def run_in(n_bytes: int) -> Callable[[Path], Any]:
    """The maps of 4,096 tokens; where they do not fit, the model still does a smaller run."""

    def use(folder: Path) -> Any:
        opened = lp.load(folder)
        opened.run([1], threads=1)
        with less_memory(n_bytes):
            try:
                return opened.run([1] * 4096, points=("x", "scores"), threads=1)["x"].shape
            finally:
                assert opened.run([1, 2], threads=1)["x"].shape == (3, 2, 48)

    return use


def sparse(header: dict[str, Any] | bytes, n_data: int) -> Callable[[Path], Path]:
    """A file with a hole for data: large to whoever reads it, small on the disk."""

    def make(box: Path) -> Path:
        with open(box / FILE, "wb") as file:
            file.write(image(header))
            file.truncate(file.tell() + n_data)
        return box / FILE

    return make


def spaces(box: Path) -> Path:
    return sparse(b"{" + b" " * (90 * MB), 0)(box)


def open_in(n_bytes: int, mmap: bool) -> Callable[[Path], Any]:
    def use(path: Path) -> list[str]:
        with less_memory(n_bytes):
            return [row[0] for row in _core.Safetensors(path, mmap=mmap).tensors()]

    return use


LARGE = sparse({"w": entry(0, 2 << 30)}, 2 << 30)
CASES += [
    BadInput("98", "maps of scores", model, run_in(256 * MB),
             Refusal(OutOfMemory, rf"the run needs \d+ bytes .*request fewer .*scores: {SCORES} bytes")),
    BadInput("98", "weights read into memory", LARGE, open_in(256 * MB, mmap=False),
             Refusal(OutOfMemory, r"has 21\d{8} bytes and \d+ are free; mapped", FILE)),
    BadInput("98", "weights mapped", LARGE, open_in(256 * MB, mmap=True),
             Refusal(OutOfMemory, "cannot map .*Cannot allocate memory", FILE)),
    BadInput("98", "a header of 90 MB", spaces, open_in(128 * MB, mmap=True),
             Refusal(OutOfMemory, r"no memory for its header of 94371841 bytes", FILE)),
]
