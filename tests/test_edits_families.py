"""Edits at every point of every family: identity to the bit, the float64 specification, transformers with hooks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import edit_truth
import family_models
import models
import numpy as np
import pytest
import truth

import llamaprobe as lp
from llamaprobe.reference import forward

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

CASES = {case.name: case for case in family_models.family_cases()}
FEW = ("gemma2", "olmo2")  # the others are slow
CLOSE = 3e-5
PARAMETERS = [
    pytest.param(name, marks=[] if name in FEW else pytest.mark.slow, id=name) for name in CASES
]


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return {}


@pytest.fixture
def made(request, folders, tmp_path_factory) -> tuple[lp.Model, Path, list[int]]:
    case = CASES[request.param]
    if case.name not in folders:
        folders[case.name] = case.make(tmp_path_factory.mktemp(case.name))
    folder = folders[case.name]
    ids = np.random.default_rng(len(case.name)).integers(0, 97, case.n_tokens).tolist()
    return lp.load(folder), folder, ids


def edits_of(point: str, layer: int | None, row: int) -> lp.Edits:
    """What `edit_truth.changed` does."""
    e = lp.Edits()
    place = e[point] if layer is None else e[point, layer]
    index = (slice(None), row) if point in edit_truth.MAPS else (row,)
    place[index] *= 1.25
    place[index] += 0.125
    return e


def specified(point: str, layer: int | None, row: int) -> Callable[..., Any]:
    def edit(name: str, at: int | None, value: np.ndarray) -> np.ndarray:
        return edit_truth.changed(point, value, row) if (name, at) == (point, layer) else value

    return edit


def places(run: lp.Run) -> list[tuple[str, int | None]]:
    """One layer of each point."""
    rng = np.random.default_rng(len(run))
    return [
        (point, int(rng.choice(run.layers_of(point))) if run.layers_of(point) else None)
        for point in run.points
    ]


@pytest.mark.parametrize("made", PARAMETERS, indirect=True)
def test_writing_back_every_value_changes_no_bit(made):
    model, _, ids = made
    run = model.run([ids, ids[:5]], points="all")
    frozen = [lp.freeze(one, "all") for one in run]
    again = model.run([ids, ids[:5]], points="all", edits=frozen)
    assert all(a.equals(b) for a, b in zip(again, run, strict=True))
    assert not any(edit.n_changed for one in again for edit in one.edits)
    for point in ("logits", "x_out"):
        assert model.run(ids, points=point, edits=frozen[0][:5])[point].tobytes() == (
            run[0][point].tobytes()
        )


@pytest.mark.parametrize("made", PARAMETERS, indirect=True)
def test_an_edit_of_any_value_is_as_specified(made):
    """Everything after it too, and nothing before."""
    model, folder, ids = made
    weights, plain = models.read_checkpoint(folder), model.run(ids, points="all")
    for number, (point, layer) in enumerate(places(plain)):
        row = number % len(ids)
        run = model.run(ids, points="all", edits=edits_of(point, layer, row))
        assert run.edits[0].n_changed, point
        exact = forward(model.config, weights, ids, edit=specified(point, layer, row))
        for other in run.points:
            error = truth.norm_error(run[other], exact[other])
            assert error <= CLOSE, (point, layer, other)


@pytest.mark.parametrize("made", PARAMETERS, indirect=True)
def test_the_specification_is_what_transformers_computes_with_hooks(made):
    model, folder, ids = made
    weights, plain = models.read_checkpoint(folder), model.run(ids, points="all")
    transformers = edit_truth.Edited(folder, model.config)
    unedited = forward(model.config, weights, ids)
    for number, (point, layer) in enumerate(places(plain)):
        if point in ("scores_raw", "logits_raw"):
            continue
        row = 1 + (3 * number) % (len(ids) - 1)  # the first query sees one key, whatever it is
        exact = forward(model.config, weights, ids, edit=specified(point, layer, row))
        theirs = transformers.run(ids, point, layer or 0, row)
        assert not np.array_equal(exact["logits"], unedited["logits"]), point
        if point == "x" and layer:  # a layer's input; the output before it has another name there
            theirs["x_out"][layer - 1] = exact["x_out"][layer - 1]
        for kept in ("x_out", "logits"):
            assert truth.norm_error(theirs[kept], exact[kept]) <= 1e-9, (point, layer, kept)
