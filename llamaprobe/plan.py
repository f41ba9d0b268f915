"""What a run does, known before it begins: made by `Model.plan`, shown by `llamaprobe bench --plan`.
"""

from typing import NamedTuple


class Value(NamedTuple):
    """One value that a step computes."""

    point: str
    where: str
    """"array": of the caller; "scratch": until its last reader has it; "": nowhere, the fused
    operation hands it on in registers."""
    n_bytes: int
    """Of its place; 0 for one that has none."""

    def __str__(self) -> str:
        return f"{self.point} {self.where} {self.n_bytes:,}" if self.where else self.point


class Step(NamedTuple):
    """One operation; with more than one value it is a fused one."""

    layer: int | None
    """None for what is not of a layer."""
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
    array_bytes: int
    """Of the arrays that the run returns."""
    value_bytes: int
    """Of scratch for values that later steps read: room is used again after the last reader."""
    scratch_bytes: int
    """Of all scratch: values, and what the kernels and threads of this machine need."""

    def __str__(self) -> str:
        lines = [f"{'step':>4} {'layer':>5}  {'stage':<9} {'weights':>15}  values and their places"]
        lines += [f"{number:>4} {step}" for number, step in enumerate(self.steps, 1)]
        lines.append(
            f"{len(self.steps)} steps; bytes: arrays {self.array_bytes:,}, values in scratch"
            f" {self.value_bytes:,}, all scratch {self.scratch_bytes:,}"
        )
        return "\n".join(lines)
