"""For test_allocation: opens, runs and looks while one allocation of Python's after the other fails.

Arguments: the folder of a checkpoint, a GGUF file. Every failure must be a MemoryError that leaves nothing
behind, and what follows it must work. Prints how many calls failed.
"""

import _testcapi
import os
import sys

import numpy as np

import llamaprobe
from llamaprobe import _core
from llamaprobe.families.core import core_arguments
from llamaprobe.families.points import absent

MOST = 2000  # allocations of one call; far more than any needs

folder = sys.argv[1]
path = os.path.join(folder, "model.safetensors")
config = llamaprobe.load(folder).config
arguments = core_arguments(config)
ids = np.array([1, 2, 3], np.int32)
points = [
    (i, tuple(range(config.n_layers if per_layer else 1)))
    for i, (name, _, per_layer) in enumerate(_core.points())
    if name not in absent(config)
]


def open_file():
    return _core.Safetensors(path)


def open_model(files=(_core.Safetensors(path),)):
    return _core.Model(files, **arguments)


def run(model=open_model()):
    return model.run(ids, [0, 3], points, n_threads=1)


def plan(model=open_model()):
    return model.plan(ids, [0, 3], points, n_threads=1)


def look(file=open_file()):
    name = file.tensors()[0][0]
    return file.tensors(), file.metadata, file.raw(name), file.read(name), file.n_bytes


def open_gguf():
    return _core.Gguf(sys.argv[2])


def look_gguf(file=open_gguf()):
    arrays = [file.array(key) for key, _, n_items in file.keys() if n_items is not None]
    return arrays, file.metadata(), file.tensors(), file.read("a"), file.raw("b"), file.alignment


def ask():
    lists = _core.points(), _core.reads(), _core.widths(), _core.config()
    return *lists, _core.kernels(), _core.kernel_in_use(), _core.cores()


def refuse(model=open_model()):
    try:
        model.run(ids, [0, 3], [(0, (99,))], n_threads=1)
    except llamaprobe.ArgumentError:
        return


def fail_each(call):
    """Lets the n-th allocation of the call fail, for each n until it ends well twenty times."""
    call()
    n_failed = n_well = 0
    n_open = len(os.listdir("/dev/fd"))
    for n in range(MOST):
        _testcapi.set_nomemory(n, n + 1)
        try:
            call()
            n_well += 1
        except MemoryError:
            n_failed += 1
            n_well = 0
        finally:
            _testcapi.remove_mem_hooks()
        still_open = len(os.listdir("/dev/fd")) - n_open
        assert not still_open, f"{call.__name__}, allocation {n}: a file is left open"
        if n_well == 20:
            break
    assert n_well == 20 and n_failed, (call.__name__, n_well, n_failed)
    return n_failed


expected = [array.tobytes() for array in run()]
calls = (open_file, open_model, run, plan, look, open_gguf, look_gguf, ask, refuse)
print(*(f"{call.__name__}={fail_each(call)}" for call in calls))
assert [array.tobytes() for array in run()] == expected
