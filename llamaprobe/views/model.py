"""A model, its points, and the plan of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..messages import printable, show_bytes
from . import html, text

if TYPE_CHECKING:
    from ..model import Model
    from ..plan import Plan
    from ..points import Point

_NUMBERS = (
    *("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size"),
    "max_positions",
)
_STEPS = 150  # of a plan, at most


class PointList(list[Any]):
    """`model.points()`: a list of points that shows as a table."""

    def __repr__(self) -> str:
        rows = [(p.name, p.shape if p.per_layer else f"{p.shape}, once", p.formula) for p in self]
        return text.columns(rows, indent="") if rows else "[]"

    def _repr_html_(self) -> str:
        return points_html(self)


def model_html(model: "Model", closed: bool) -> str:
    c = model.config
    rows = [(f"<code>{name}</code>", f"{getattr(c, name):,}") for name in _NUMBERS]
    if model.quantization is not None:
        rows.append(("<code>quantization</code>", html.escape(repr(model.quantization)[1:-1])))
    weights = sum(n_bytes for _, n_bytes, _ in model.origin.weight_files)
    facts = f"{html.escape(c.family)}, {model.n_params:,} parameters, {show_bytes(weights)}"
    state = "; closed" if closed else ""
    return html.block(
        f"<div><b>Model {html.escape(model.origin.shown)}</b>: {facts}{state}</div>",
        html.table((), rows, numbers=[1]),
        '<div class="d">try <code>model.run(&quot;Once upon a time&quot;)</code> or'
        " <code>model.points()</code></div>",
    )


def points_html(points: "Sequence[Point]") -> str:
    rows = [
        (
            f"<code>{html.escape(p.name)}</code>",
            html.escape(p.shape if p.per_layer else f"{p.shape}, once"),
            html.escape(p.formula),
        )
        for p in points
    ]
    return html.block(html.table(("point", "shape", "value"), rows))


def plan_html(plan: "Plan") -> str:
    steps = list(enumerate(plan.steps, 1))
    rows = [
        (
            str(number),
            "" if step.layer is None else str(step.layer),
            html.escape(step.stage),
            f"{step.weight_bytes:,}",
            html.escape(", ".join(map(str, step.values)) or "cos, sin"),
        )
        for number, step in steps[:_STEPS]
    ]
    more = f", {len(steps) - _STEPS} more steps not shown" if len(steps) > _STEPS else ""
    sizes = (
        f"arrays {show_bytes(plan.array_bytes)}, values in scratch {show_bytes(plan.value_bytes)},"
        f" all scratch {show_bytes(plan.scratch_bytes)}"
    )
    heads = ("step", "layer", "stage", "bytes of weights", "values and their places")
    return html.block(
        f"<div><b>Plan of {len(steps)} steps</b>: {printable(sizes)}{more}</div>",
        html.table(heads, rows, numbers=[0, 1, 3]),
    )
