"""The time of a run by stage, against the machine's roof."""

from typing import NamedTuple

from ..arguments import instance
from .machine import Roof


class Stage(NamedTuple):
    """One stage of a run, of all layers together; csrc/sys/profile.h says what belongs to which."""

    name: str
    """As in `Model.plan`: embed, norm, qkv, attention, ..."""
    seconds: float
    """By the clock, of all its laps."""
    n_laps: int
    """How often it ran."""
    flops: float
    """Of computed products, without those that causal attention skips; a multiply-add is two."""
    weight_bytes: float
    """Read from the files, each weight once per product."""
    value_bytes: float
    """Of activations, read and written once per step, possibly from caches."""

    def at_roof(self, roof: Roof) -> float:
        """The least seconds it needs: products at the peak, or their weights from memory, whichever
        is longer. Values may stay in caches and do not count. ArgumentError."""
        instance("roof", roof, Roof, "the speeds of `perf.machine.roof`")
        return max(self.flops / roof.flops, self.weight_bytes / roof.bytes)


class Profile(NamedTuple):
    """One run by the clock."""

    seconds: float
    """Of the whole call."""
    stages: tuple[Stage, ...]
    """In order of computation; they add up to the call, but for microseconds."""

    def __repr__(self) -> str:
        parts = (f"{stage.name} {stage.seconds:.6f}" for stage in self.stages if stage.n_laps)
        return f"<Profile of {self.seconds:.6f} s: {', '.join(parts)}>"

    def at_roof(self, roof: Roof) -> float:
        """The least seconds that the products of the run need."""
        return sum(stage.at_roof(roof) for stage in self.stages if stage.flops)

    @property
    def share_without_products(self) -> float:
        """0 to 1: the part of the call outside of products."""
        return 1 - sum(stage.seconds for stage in self.stages if stage.flops) / self.seconds
