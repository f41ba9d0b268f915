"""Branches as Python sees them: what the core refuses, and that it keeps nothing."""

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.points import all_points

IDS = np.arange(3, 23, dtype=np.int32)
POINTS = {point.name: point.number for point in all_points()}


class Base:
    def __init__(self) -> None:
        self.model = lp.load("demo")
        self.core = self.model._open()
        self.cache = _core.Cache(self.core, len(IDS))
        (x,) = self.core.run(
            IDS, [0, len(IDS)], [(POINTS["x"], range(4))], n_threads=1, caches=[self.cache]
        )
        self.x = x.reshape(4, len(IDS), -1)

    def branch(self, rows: Any = (5, 9), layer: int = 1, **how: Any) -> list[np.ndarray]:
        """x_out of the last layer."""
        ids = np.concatenate([IDS[row:] for row in (5, 9)])
        x = np.concatenate([self.x[1, row:] for row in (5, 9)])
        how = {"branch": (self.cache, rows, layer, x), "n_threads": 1} | how
        points = how.pop("points", [(POINTS["x_out"], (3,))])
        return self.core.run(ids, [0, 15, 26], points, **how)


@pytest.fixture(scope="module")
def base() -> Base:
    return Base()


def test_a_branch_has_the_rows_of_its_base(base: Base):
    (found,) = base.branch()
    whole = base.model.run(IDS, points="x_out", layers=[3])["x_out", 3]
    assert found.reshape(26, -1).tobytes() == np.concatenate([whole[5:], whole[9:]]).tobytes()
    assert base.cache.n_tokens == len(IDS)
    base.core.plan(IDS[5:], [0, 15], [(POINTS["z"], (2,))], n_threads=1,
                   branch=(base.cache, [5], 2, base.x[2, 5:]))  # fmt: skip


@pytest.mark.parametrize(
    "how, error, message",
    [
        ({"rows": (5,)}, lp.ArgumentError, r"1 first rows and x \[26, \d+\] for 2 sequences of 26"),
        (
            {"rows": (6, 9)},
            lp.ArgumentError,
            "sequence 0 begins at row 6 and has 15 rows, but its base",
        ),
        ({"rows": (5, 2**64 - 2)}, lp.ArgumentError, "sequence 1 begins at row"),
        ({"rows": (5, -1)}, OverflowError, "."),
        ({"rows": "ab"}, (ValueError, TypeError), "."),
        ({"layer": 4}, lp.ArgumentError, "a branch from layer 4: there are 4"),
        ({"layer": -1}, lp.ArgumentError, "a branch from layer -1"),
        ({"points": [(POINTS["z"], (0, 2))]}, lp.ArgumentError, "layer 0 is requested or edited"),
        ({"branch": 7}, TypeError, "a branch is a tuple"),
        ({"branch": (7, [5], 1, np.zeros((1, 1)))}, TypeError, "Cache"),
        ({"caches": [None, None]}, lp.ArgumentError, "appends to none"),
    ],
)
def test_refusals(base: Base, how: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        base.branch(**how)
    test_a_branch_has_the_rows_of_its_base(base)


def test_the_base_must_be_of_the_model_and_free(base: Base):
    other = Base()
    with pytest.raises(lp.ArgumentError, match="the base belongs to another model"):
        base.branch(branch=(other.cache, (5, 9), 1, np.concatenate([base.x[1, 5:], base.x[1, 9:]])))
    inside, go_on, errors = threading.Event(), threading.Event(), []

    def wait(value: Any) -> None:
        inside.set()
        assert go_on.wait(60)

    index = [np.zeros(1, np.uint32)] * 3
    thread = threading.Thread(
        target=lambda: base.branch(edits=[(3, POINTS["z"], 2, 0, *index, wait)])
    )
    thread.start()
    assert inside.wait(60)
    try:
        base.branch()
    except lp.ArgumentError as error:
        errors.append(str(error))
    go_on.set()
    thread.join(60)
    assert "in use" in errors[0]
    test_a_branch_has_the_rows_of_its_base(base)


def test_nothing_is_kept(base: Base):
    x = np.concatenate([base.x[1, 5:], base.x[1, 9:]])
    gone = weakref.ref(x)
    base.branch(branch=(base.cache, (5, 9), 1, x))
    with pytest.raises(lp.ArgumentError):
        base.branch(branch=(base.cache, (5,), 1, x))
    del x
    gc.collect()
    assert gone() is None
