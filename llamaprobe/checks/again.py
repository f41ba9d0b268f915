"""The tokens of a saved run, run again in one pass."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..edits.resolve import Bound
from ..generation.engine import Engine
from ..points import resolve
from ..prompts.prompt import Prompt
from ..run import Run
from ..saved.read import Saved

if TYPE_CHECKING:
    from ..model import Model


def run_again(
    saved: Saved, model: "Model", edits: Bound | None, ids: NDArray[np.int32] | None = None
) -> Run:
    """The run with all points and layers that were saved, and the logits of a generated one. `edits`
    counts what changed. `ids`: other ones. Error as from `Model.run`."""
    points: list[Any] = [(p, i) for p, layers in saved.points.items() for i in layers]
    points += [p for p, layers in saved.points.items() if not layers]
    facts = saved.generated
    if edits is None and facts is None:
        return model.run(saved.token_ids, points=points, rope_length=saved.rope_length)
    has_new = facts is not None and bool(facts.ids)
    of_head = any(not resolve(edit.name)[0].per_layer for edit in saved.edits)
    if "logits" not in points and (has_new or of_head):
        points.append("logits")
    ids = saved.token_ids if ids is None else ids
    if has_new and not saved.points:
        ids = ids[:-1]  # without points the last token is chosen and not run
    engine, n_tokens = engine_of(model, points), len(ids)
    engine.check_memory([(n_tokens, n_tokens)])
    context = engine.context(Prompt(ids, None, None), n_tokens, saved.rope_length, edits)
    engine.feed([context])
    values = context.captured.values(n_tokens, keep=False)
    return Run(context.prompt, values, model.origin, saved.rope_length)


def engine_of(model: "Model", points: list[Any] | None = None) -> Engine:
    return model._engine(points or [], None, None)
