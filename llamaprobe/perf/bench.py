"""Measures runs of a model against the machine's roof, for `llamaprobe bench`."""

import resource
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .machine import Roof, kernels, roof, thread_count
from .profile import Profile

if TYPE_CHECKING:
    from ..model import Model
    from ..points import Name

_SEED = 0
BUSY = 1.2  # roofs that differ by more are those of a busy machine


class Trial(NamedTuple):
    """One run, and the machine's roof at that time."""

    profile: Profile
    roof: Roof
    """The better of one measurement just before the run and one just after."""
    faults: int
    """Page faults of the run."""

    @property
    def seconds(self) -> float:
        return self.profile.seconds

    @property
    def of_roof(self) -> float:
        """Time at the roof / time: 1 is as fast as it can be. More is possible where the weights
        fit into a cache, or the machine was faster during the run than before and after."""
        return self.profile.at_roof(self.roof) / self.seconds


class Timing(NamedTuple):
    """Runs of one length."""

    n_tokens: int
    n_threads: int
    kernels: str
    first: Trial
    """The run before the others: the first of the process for the first length."""
    trials: tuple[Trial, ...]
    """The others, the fastest first."""

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(trial.seconds for trial in self.trials)

    @property
    def median(self) -> Trial:
        """The run in the middle, whose stages are shown; the faster of two."""
        return self.trials[(len(self.trials) - 1) // 2]

    @property
    def roof_spread(self) -> float:
        """The highest of the measured roofs / the lowest, of products or of reading. An idle
        machine stays below BUSY."""
        roofs = [trial.roof for trial in (self.first, *self.trials)]
        return max(max(speeds) / min(speeds) for speeds in zip(*roofs, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data; "seconds" is the median, "median" the run in the middle."""
        median = self.median
        return {
            "n_tokens": self.n_tokens,
            "n_threads": self.n_threads,
            "kernels": self.kernels,
            "seconds": self.seconds,
            "first": _trial_dict(self.first),
            "trials": [_trial_dict(trial) for trial in self.trials],
            "median": _trial_dict(median)
            | {
                "stages": [
                    stage._asdict() | {"at_roof": stage.at_roof(median.roof)}
                    for stage in median.profile.stages
                ]
            },
        }


def _trial_dict(trial: Trial) -> dict[str, Any]:
    return {
        "seconds": trial.seconds,
        "at_roof": trial.profile.at_roof(trial.roof),
        "of_roof": trial.of_roof,
        "share_without_products": trial.profile.share_without_products,
        "faults": trial.faults,
        "roof": trial.roof._asdict(),
    }


def measure(
    model: "Model",
    n_tokens: int,
    *,
    points: "str | Sequence[Name]" = ("x", "x_norm"),
    layers: Iterable[int] | None = None,
    threads: int | None = None,
    repeat: int = 5,
) -> Timing:
    """Run `n_tokens` random token ids, always the same, 1 + `repeat` times.

    The roof is measured between the runs, which also evicts the weights from the caches.
    Raises what `Model.run` raises, and OutOfMemory where the roof cannot be measured.
    """
    ids = random_ids(model, n_tokens)
    layers = None if layers is None else tuple(layers)
    trials, before = [], roof(threads)
    for _ in range(1 + repeat):
        faults = _page_faults()
        profile = model.profile(ids, points=points, layers=layers, threads=threads)
        faults = _page_faults() - faults
        after = roof(threads)
        trials.append(Trial(profile, Roof(*map(max, before, after)), faults))
        before = after
    return Timing(
        n_tokens=n_tokens,
        n_threads=thread_count(threads),
        kernels=next(one.name for one in kernels() if one.in_use),
        first=trials[0],
        trials=tuple(sorted(trials[1:], key=lambda trial: trial.seconds)),
    )


def random_ids(model: "Model", n_tokens: int) -> np.ndarray:
    """int32 [n_tokens], the same for the same vocabulary."""
    rng = np.random.default_rng(_SEED)
    return rng.integers(model.config.vocab_size, size=n_tokens, dtype=np.int32)


def _page_faults() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt
