"""The steps of a run, known before it begins: `Model.plan` and `llamaprobe bench --plan`."""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Value(NamedTuple):
    """One value that a step computes."""

    point: str
    """Its name."""
    where: str
    """"array": the caller's; "scratch": until its last reader is done; "": in registers only,
    inside a fused operation."""
    n_bytes: int
    """0 for a value that is not stored."""

    def __str__(self) -> str:
        return f"{self.point} {self.where} {self.n_bytes:,}" if self.where else self.point


class Step(NamedTuple):
    """One operation; a fused one computes several values."""

    layer: int | None
    """None outside of the layers."""
    stage: str
    """As in `Model.profile`."""
    values: tuple[Value, ...]
    weight_bytes: int
    """Read from the files."""

    def __str__(self) -> str:
        layer = "" if self.layer is None else str(self.layer)
        values = ", ".join(map(str, self.values)) or "cos, sin"
        return f"{layer:>5}  {self.stage:<9} {self.weight_bytes:>15,}  {values}"


class Plan(NamedTuple):
    """Every step of a run in order, and its memory. `print(plan)` gives a line for each step."""

    steps: tuple[Step, ...]
    """In the order of computation."""
    value_bytes: int
    """Of scratch for values that later steps read: reused after the last reader."""
    scratch_bytes: int
    """Of all scratch: values, and what the kernels and threads of this machine need."""

    @property
    def array_bytes(self) -> int:
        """Of the arrays that the run returns."""
        return sum(v.n_bytes for step in self.steps for v in step.values if v.where == "array")

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        steps = [
            step._asdict() | {"values": [value._asdict() for value in step.values]}
            for step in self.steps
        ]
        return {"array_bytes": self.array_bytes} | self._asdict() | {"steps": steps}

    def __str__(self) -> str:
        lines = [f"{'step':>4} {'layer':>5}  {'stage':<9} {'weights':>15}  values and their places"]
        lines += [f"{number:>4} {step}" for number, step in enumerate(self.steps, 1)]
        lines.append(
            f"{len(self.steps)} steps; bytes: arrays {self.array_bytes:,}, values in scratch"
            f" {self.value_bytes:,}, all scratch {self.scratch_bytes:,}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<Plan of {len(self.steps)} steps: {self.array_bytes:,} bytes of arrays,"
            f" {self.scratch_bytes:,} of scratch>"
        )

    def _repr_html_(self) -> str:
        from .views.model import plan_html

        return plan_html(self)


def plan_of(steps: Iterable[Any], value_bytes: int, scratch_bytes: int) -> Plan:
    """From what the core returns, where the layer of a step outside of the layers is -1."""
    found = (
        Step(None if layer < 0 else layer, stage, tuple(Value(*v) for v in values), n_bytes)
        for layer, stage, values, n_bytes in steps
    )
    return Plan(tuple(found), value_bytes, scratch_bytes)
