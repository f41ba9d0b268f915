"""Where the time of a run went, stage by stage, and how that compares with the machine's roof."""

from typing import NamedTuple

from .machine import Roof


class Stage(NamedTuple):
    """One stage of a run, of all layers together; csrc/sys/profile.h says what belongs to which."""

    name: str
    seconds: float
    n_laps: int
    """How often it came."""
    flops: float
    """Of products that were really done: a multiply-add is two, what causal attention skips none."""
    weight_bytes: float
    """Read from the files, each weight once per product."""
    value_bytes: float
    """Of activations, read and written once by each step; caches may hold them."""

    def at_roof(self, roof: Roof) -> float:
        """Seconds that it needs at least: products at the peak or their weights out of memory,
        whichever is longer. Values may stay in caches and count nothing."""
        return max(self.flops / roof.flops, self.weight_bytes / roof.bytes)


class Profile(NamedTuple):
    """One run by the clock."""

    seconds: float
    """Of the whole call."""
    stages: tuple[Stage, ...]
    """In order of computation; together they are the call, but for microseconds."""

    def at_roof(self, roof: Roof) -> float:
        """Seconds that the products of the run need at least."""
        return sum(stage.at_roof(roof) for stage in self.stages if stage.flops)

    @property
    def share_without_products(self) -> float:
        """0 to 1: the part of the call in which no product was computed."""
        return 1 - sum(stage.seconds for stage in self.stages if stage.flops) / self.seconds
