"""Resident memory stays flat over loads, runs and everything that fails on the way.

LLAMAPROBE_LEAK_ROUNDS sets how many rounds; the figures of 1,000 are in docs/reliability.md.
"""

import contextlib
import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf_files
import models
import pytest
from alarm import interrupted_after
from bad_inputs import Refusal, config, index, prompt, weights_file

import llamaprobe as lp
from llamaprobe import _core

ROUNDS = int(os.environ.get("LLAMAPROBE_LEAK_ROUNDS", "100"))
ROOM = 4 << 20

pytestmark = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory"
)


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def growth(once: Callable[[], object], rounds: int = ROUNDS) -> int:
    """Bytes by which this process has grown over so many rounds, after some to warm up."""
    for _ in range(max(20, rounds // 5)):
        once()
    before = resident()
    for _ in range(rounds):
        once()
    grown = resident() - before
    print(f"{grown / 1024:.0f} kB in {rounds} rounds")  # pytest -s shows it
    return grown


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.parametrize("mmap", [True, False], ids=["mapped", "read"])
def test_loads_and_runs(random_checkpoint, mmap: bool):
    folder = random_checkpoint(n_shards=3)

    def once() -> None:
        with lp.load(folder, mmap=mmap) as model:
            model.run([[1, 2, 3], [4]], points=("x", "pattern", "logits"), threads=2)
            model.weights["model.norm.weight"].raw.sum()

    assert growth(once) < ROOM


@pytest.mark.linux
@pytest.mark.slow
def test_saves_and_exports(random_checkpoint, tmp_path: Path):
    folder = random_checkpoint(num_hidden_layers=1)

    def once() -> None:
        lp.load(folder).run([1, 2, 3]).save(tmp_path / "run", force=True)
        lp.read_run(tmp_path / "run")["x"].sum()
        lp.export_weights(folder, tmp_path / "weights", filter="*norm*", force=True, progress=False)

    assert growth(once, ROUNDS // 5) < ROOM  # a round waits for the disk


@pytest.mark.linux
@pytest.mark.slow
def test_interrupted_runs(random_checkpoint):
    model = lp.load(random_checkpoint(max_position_embeddings=4096))

    def run() -> None:
        model.run([1] * 500, points=("x", "scores"), threads=2)

    n_interrupted = 0

    def once() -> None:
        nonlocal n_interrupted
        n_interrupted += interrupted_after(0.002, run)

    assert growth(once) < ROOM and n_interrupted > ROUNDS // 10


CHEAP = [
    case
    for family in (weights_file, index, config, prompt)
    for case in family.CASES
    if isinstance(case.outcome, Refusal) and case.number not in ("42", "66") and "MB" not in case.name
]


@pytest.mark.linux
@pytest.mark.slow
def test_every_refusal(tmp_path: Path):
    """Each round tries another tenth of the bad inputs."""
    made = []
    for i, case in enumerate(CHEAP):
        (box := tmp_path / str(i)).mkdir()
        made.append((case, case.make(box)))
    n = 0

    def once() -> None:
        nonlocal n
        n += 1
        for case, thing in made[n % 10 :: 10]:
            with contextlib.suppress(lp.Error):
                case.use(thing)

    assert growth(once) < ROOM


@pytest.mark.linux
@pytest.mark.slow
def test_gguf_files(tmp_path: Path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_files.WHOLE)
    broken = tmp_path / "n.gguf"
    broken.write_bytes(gguf_files.WHOLE[:-1])

    def once() -> None:
        for mmap in (True, False):
            file = _core.Gguf(path, mmap=mmap)
            file.metadata(), file.array("tokens"), file.tensors(), file.read("a"), file.raw("b")
            for wrong in (lambda: file.array("u8"), lambda: _core.Gguf(broken, mmap=mmap)):
                with contextlib.suppress(lp.Error):
                    wrong()

    assert growth(once, 10 * ROUNDS) < ROOM


@pytest.mark.linux
@pytest.mark.slow
def test_broken_weights_of_a_sound_config(random_checkpoint):
    """The files are open and half of the model is made when it is refused."""
    folder = random_checkpoint()
    weights = models.read_checkpoint(folder)
    del weights["model.layers.2.mlp.down_proj.weight"]
    (folder / "model.safetensors").write_bytes(models.safetensors_bytes(weights, "BF16"))

    def once() -> None:
        with pytest.raises(lp.FormatError):
            lp.load(folder)

    assert growth(once) < ROOM


RUNS_AND_MODELS = """
import gc, resource
import llamaprobe as lp

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def run(model):
    return model.run([[1] * 200] * 16, points=("x", "pattern"), threads=2)

with lp.load("demo") as model:
    run(model)
    kept = resident()
before = resident()
model = lp.load("demo")
later = run(model)
model.close()
held = resident()
del later
print(kept - before, held - before, resident() - before)
"""


@pytest.mark.linux
def test_cached_memory_is_freed_with_the_last_model():
    command = [sys.executable, "-c", RUNS_AND_MODELS]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kept, held, left = map(int, output.split())
    assert kept > ROOM and held > ROOM
    assert left < ROOM
