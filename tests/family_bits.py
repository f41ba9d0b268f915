"""That the bits of a run depend on nothing but the model and the prompt."""

from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core


def check_same_bits(model: lp.Model, ids: Any, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point of `ids`, on each variant of the kernels, for 1 to 3 threads, in a batch with
    `other`, and requested alone."""
    whole = model.run(ids, points="all", threads=1)
    for variant, can_run in _core.kernels():
        if can_run:
            monkeypatch.setenv("LLAMAPROBE_KERNELS", variant)
            assert model.run(ids, points="all", threads=2).equals(whole), variant
    monkeypatch.delenv("LLAMAPROBE_KERNELS")
    assert model.run(ids, points="all", threads=3).equals(whole)
    for prompts, number in (([other, ids], 1), ([ids, [5], other], 0)):
        assert model.run(prompts, points="all", threads=2)[number].equals(whole)
    for point in whole.points:  # fused with what it was not before
        alone = model.run(ids, points=[point])[point]
        assert np.array_equal(alone.view(np.uint32), whole[point].view(np.uint32)), point
