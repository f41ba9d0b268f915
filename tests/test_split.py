"""_core.split: the array of a batch cut into arrays that own their parts of its memory."""

import gc
import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core

ROW = 3 * 48  # floats of x for three tokens


@pytest.fixture
def model(random_checkpoint: Any) -> lp.Model:
    return lp.load(random_checkpoint(), threads=1)


@pytest.fixture
def array(model: lp.Model) -> np.ndarray:
    ids = np.array([1, 2, 3], np.int32)
    (array,) = model._core.run(ids, [0, 3], [(0, (2, 0))], n_threads=1)
    assert array.shape == (2, ROW)
    return array


def test_the_parts_are_the_columns(array: np.ndarray):
    copy, count = array.copy(), sys.getrefcount(array)
    parts = _core.split(array, [48, 0, 96])
    for part, columns in zip(parts, (slice(0, 48), slice(48, 48), slice(48, ROW)), strict=True):
        assert part.dtype == np.float32 and np.array_equal(part, copy[:, columns])
        assert part.flags.writeable and part.flags.aligned
    assert np.shares_memory(parts[0], array) and not np.shares_memory(parts[0], parts[2])
    view = parts[2][1].reshape(2, 48)
    del parts
    gc.collect()
    assert np.array_equal(view, copy[1, 48:].reshape(2, 48))
    del view, part
    assert sys.getrefcount(array) == count, "the parts let go of the array"


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ([], lp.ArgumentError),
        ([ROW - 1], lp.ArgumentError),
        ([ROW + 1], lp.ArgumentError),
        ([ROW, 1], lp.ArgumentError),
        ([sys.maxsize, 1], lp.ArgumentError),
        ([ROW - 1, -1], OverflowError),
        ([2**70], OverflowError),
        (["a"], TypeError),
        (5, TypeError),
    ],
)
def test_bad_sizes(array: np.ndarray, sizes: Any, error: type[Exception]):
    copy, count = array.copy(), sys.getrefcount(array)
    with pytest.raises(error):
        _core.split(array, sizes)
    assert np.array_equal(array, copy) and sys.getrefcount(array) == count


def test_only_whole_arrays_of_a_run(array: np.ndarray):
    for other in (array.copy(), array[0], array[:, ::2], array.T, np.zeros((2, 2), np.float32)):
        with pytest.raises(lp.ArgumentError, match=r"only an array of Model.run"):
            _core.split(other, [other.shape[-1]])
    with pytest.raises(TypeError):
        _core.split([1.0], [1])  # type: ignore[arg-type]


def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10


@pytest.mark.linux
@pytest.mark.slow
def test_runs_dropped_in_any_order_in_any_thread(model: lp.Model):
    """The values that stay are right, and memory does not grow."""
    prompts = [[1 + i] * n for i, n in enumerate((1, 30, 2, 7, 100, 3))]
    alone = [model.run(prompt, points=("x", "pattern", "x_rms")) for prompt in prompts]
    faults: list[int] = []

    def work(seed: int) -> None:
        order = random.Random(seed)
        for _ in range(40):
            runs = model.run(prompts, points=("x", "pattern", "x_rms"))
            numbers = list(range(len(runs)))
            order.shuffle(numbers)
            held = dict(zip(numbers, (runs[n] for n in numbers), strict=True))
            del runs
            while held:
                held.pop(next(iter(held)))
                faults.extend(n for n, run in held.items() if not run.equals(alone[n]))

    def all_at_once() -> None:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_at_once()
    gc.collect()
    before = resident()
    for _ in range(2):
        all_at_once()
    gc.collect()
    assert not faults and resident() - before < 32 << 20


@pytest.mark.linux
def test_a_dropped_list_of_runs_leaves_its_block_to_the_next_run(demo_folder: Path):
    """What a batch leaves is kept by the core; pages that went back would have to be made again."""
    model = lp.load("demo", threads=1)
    prompts = [[1 + i % 90] * 60 for i in range(40)]

    def faults() -> int:
        with open("/proc/self/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[7])

    for _ in range(3):
        model.run(prompts)
    before = faults()
    for _ in range(3):
        model.run(prompts)
    values = 3 * 2 * 4 * 40 * 60 * 128 * 4
    assert faults() - before < values // 4096 // 2
