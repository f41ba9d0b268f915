"""How the next token is chosen: greedily, or by `Sample` with the rule lp-sample-1, which
docs/generation.md defines to the bit. A draw depends on the logits, on the numbers of the Sample and
on the position alone, so neither the batch nor a resumed run nor forced tokens change it.
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
_TOP_K = "an integer from 1 up, or None"


@dataclass(frozen=True)
class Sample:
    """Draw tokens at random, by the rule lp-sample-1; every number counts, none has a hidden default.

    Raises ArgumentError for a number out of range.
    """

    temperature: float = 1.0
    """Divides the logits; as float32 it must be above 0 and finite."""
    top_k: int | None = None
    """Keep the k largest logits, exactly k: of equal ones those with smaller ids. None: all."""
    top_p: float | None = None
    """Of what top_k keeps, the fewest largest that have this part of the probability, in (0, 1].
    None: all."""
    seed: int = 0
    """0 to 2^64 - 1."""
    number: int = 0
    """Of the sample, 0 to 2^64 - 1: further samples of a prompt with the same seed."""

    def __post_init__(self) -> None:
        with np.errstate(over="ignore", under="ignore"):
            temperature = np.float32(real("temperature", self.temperature, _TEMPERATURE))
        if temperature == 0:
            raise ArgumentError(
                f"temperature is {self.temperature!r}; it is above 0, and sample=None is greedy"
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
        """The token at `position`, from the logits [vocab_size] of the position before: what
        `Model.generate` draws. ArgumentError: a NaN, +inf, no finite logit, a position below 0."""
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
    """The Sample of each prompt: `sample` is one for all, or one for each of a batch."""
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
    """ArgumentError for what is not a row of logits."""
    check_unmasked(logits)
    try:
        array = np.asarray(logits)
    except Exception:  # a ragged list
        array = np.zeros((), object)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise refusal("logits", logits, "one row of real numbers, such as run['logits'][-1]")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)
