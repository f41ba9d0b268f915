"""How the next token is chosen: greedily, or by a `Sample` with the rule lp-sample-1, which
docs/generation.md defines to the bit. A draw depends only on the logits, the numbers of the Sample
and the position, so that batches, resumed runs and forced tokens do not change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..arguments import real, refusal, shown, whole
from ..errors import ArgumentError
from ..files.encode import check_unmasked
from ..messages import counted

_WORD = 1 << 64
_TEMPERATURE = "a finite float32 above 0"
_TOP_K = "an integer of at least 1, or None"


@dataclass(frozen=True)
class Sample:
    """Draw tokens at random by the rule lp-sample-1. Nothing is applied that is not set here.

    Raises ArgumentError for a number out of range.
    """

    temperature: float = 1.0
    """Divides the logits. Must be finite and above 0 as a float32."""
    top_k: int | None = None
    """Keep exactly the k largest logits, ties by smaller id. None: all."""
    top_p: float | None = None
    """Of what top_k keeps, the fewest largest whose share of the probability is at least this, in
    (0, 1]. None: all."""
    seed: int = 0
    """0 to 2^64 - 1."""
    number: int = 0
    """0 to 2^64 - 1: distinguishes several samples of a prompt with the same seed."""

    def __post_init__(self) -> None:
        with np.errstate(over="ignore", under="ignore"):
            temperature = np.float32(real("temperature", self.temperature, _TEMPERATURE))
        if temperature == 0:
            raise ArgumentError(
                f"temperature is {self.temperature!r}; it must be above 0; sample=None is greedy"
            )
        if not 0 < temperature < np.inf:
            raise ArgumentError(
                f"temperature is {self.temperature!r}; give a finite float32 above 0"
            )
        object.__setattr__(self, "temperature", float(self.temperature))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole("top_k", self.top_k, 1, 1 << 63, _TOP_K))
        if self.top_p is not None:
            top_p = real("top_p", self.top_p, "a number in (0, 1], or None")
            if not 0 < top_p <= 1:
                raise ArgumentError(f"top_p is {self.top_p!r}; give a number in (0, 1], or None")
            object.__setattr__(self, "top_p", top_p)
        for name in ("seed", "number"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0, _WORD))

    def choose(self, logits: NDArray[np.float32], position: int) -> int:
        """The token that `Model.generate` draws at `position`, given the logits [vocab_size] of the
        position before. ArgumentError for a NaN, +inf, no finite logit, or a position below 0."""
        position = whole("position", position, 0, _WORD)
        return draw(self, _row(logits), position)[0]


def draw(sample: Sample | None, logits: NDArray[np.float32], position: int) -> tuple[int, float]:
    """The token at `position` and its logprob; None: greedy."""
    if sample is None:
        return _core.sample(logits, position, 0.0, 0, 0.0, 0, 0)
    return _core.sample(
        logits,
        position,
        sample.temperature,
        sample.top_k or 0,
        sample.top_p or 0.0,
        sample.seed,
        sample.number,
    )


def samples_of(
    sample: "Sample | Sequence[Sample | None] | None", n_prompts: int, is_batch: bool
) -> list[Sample | None]:
    """The Sample of each prompt: `sample` itself for all, or one per prompt of a batch.
    ArgumentError."""
    if sample is None or isinstance(sample, Sample):
        return [sample] * n_prompts
    if not isinstance(sample, list | tuple) or not all(
        one is None or isinstance(one, Sample) for one in sample
    ):
        raise ArgumentError(
            f"sample is {shown(sample)}; give a llamaprobe.Sample, None for greedy, or"
            " a list of these, one for each prompt"
        )
    if not is_batch or len(sample) != n_prompts:
        of = counted(n_prompts, "prompt") if is_batch else "a prompt that is not in a list"
        raise ArgumentError(f"sample has {counted(len(sample), 'item')} for {of}")
    return list(sample)


def _row(logits: Any) -> NDArray[np.float32]:
    """One row of logits, checked. ArgumentError."""
    check_unmasked(logits)
    try:
        array = np.asarray(logits)
    except Exception:  # a ragged list
        array = np.zeros((), object)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise refusal("logits", logits, "one row of real numbers, such as run['logits'][-1]")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)
