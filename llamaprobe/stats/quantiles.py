"""Exact quantiles: the data runs two more times, since a forward pass can be repeated to the bit.

The histogram gives the bucket of a quantile, and its rank there. A bucket fixes the upper 13 bits
of the float; the second run counts the next 10 bits of the values in that bucket, the third the
last 9.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..arguments import fraction, listed
from ..errors import ArgumentError
from . import exact
from .channels import bucket_edges
from .chosen import Chosen
from .state import State, float_keys
from .target import Observed

_DIGITS = ((19, 10), (9, 9))
_NONE = 0xFFFFFFFF  # not the prefix of any finite value
_MOST = 16
_MOST_TOKENS = (1 << 32) - 1  # the core's counters of digits are uint32


def read_exact(given: Iterable[float], chosen: Chosen) -> list[float]:
    """The fractions in ascending order. ArgumentError."""
    found = set()
    for q in listed("exact", given, "a list of fractions, such as (0.5, 0.999)"):
        found.add(fraction("exact", q))
    if found and not chosen.histogram:
        raise ArgumentError("exact quantiles need the statistic histogram")
    if len(found) > _MOST:
        raise ArgumentError(f"{len(found)} exact quantiles; the most are {_MOST}")
    return sorted(found)


def check_tokens(n: int) -> None:
    """ArgumentError if so many tokens could overflow a counter."""
    if n > _MOST_TOKENS:
        raise ArgumentError(
            f"exact quantiles of {n:,} tokens; the most are {_MOST_TOKENS:,}: set limit_tokens, or "
            "leave out exact"
        )


def find(
    states: dict[str, State],
    wanted: list[float],
    add: Callable[[_core.Stats], Iterator[Any]],
    targets: list[Observed],
) -> None:
    """Add "quantile" [n_groups, n_channels, n] to the states."""
    n_groups = len(next(iter(states.values()))["count"])
    places = {name: _in_buckets(state, wanted) for name, state in states.items()}
    for high, n_bits in _DIGITS:
        core = _core.Stats(
            tuple(each.for_core() for each in targets),
            n_groups,
            n_prefixes=len(wanted),
            high=high,
            n_bits=n_bits,
        )
        for number, each in enumerate(targets):
            for group in range(n_groups):
                core.set_prefixes(number, group, places[each.name][0][group])
        for _ in add(core):
            pass
        for number, each in enumerate(targets):
            prefix, rank = places[each.name]
            for group in range(n_groups):
                digits = core.arrays(number, group)["digits"]
                _descend(prefix[group], rank[group], digits, 31 - high, n_bits)
    for name, (prefix, _) in places.items():
        values = np.where(prefix == _NONE, np.float32(np.nan), prefix.view(np.float32))
        states[name]["quantile"] = values.astype(np.float32)


def _in_buckets(state: State, wanted: list[float]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The bucket of each quantile and its rank in it, from 1: [n_groups, n_channels, n]."""
    shape = (*state["count"].shape[:2], len(wanted))
    prefix = np.full(shape, _NONE, np.uint32).reshape(-1, len(wanted))
    ranks = np.zeros_like(prefix, np.int64)
    first, counts = state["first"], state["count"][..., 0].reshape(-1)
    for row, n in enumerate(counts.tolist()):
        if not n:
            continue
        buckets = state["bucket"][first[row] : first[row + 1]]
        order = np.argsort(float_keys(bucket_edges(buckets)[:, 0]), kind="stable")
        sums = state["total"][first[row] : first[row + 1]][order].cumsum()
        for column, q in enumerate(wanted):
            rank = exact.rank(q, n)
            at = int(np.searchsorted(sums, rank))
            prefix[row, column] = buckets[order[at]]
            ranks[row, column] = rank - (int(sums[at - 1]) if at else 0)
    return prefix.reshape(shape), ranks.reshape(shape)


def _descend(
    prefix: NDArray[np.uint32],
    rank: NDArray[np.int64],
    digits: NDArray[np.uint32],
    sign_bit: int,
    n_bits: int,
) -> None:
    """Append to each prefix the digit that its rank falls into, and reduce the rank to that digit's
    values. For negative floats, larger bits mean a smaller value."""
    negative = (prefix >> np.uint32(sign_bit) & np.uint32(1)).astype(bool)
    counts = np.where(negative[..., None], digits[..., ::-1], digits).astype(np.int64)
    sums = counts.cumsum(-1)
    at = (sums < rank[..., None]).sum(-1)
    some = prefix != _NONE
    at = np.where(some, at, 0)
    before = np.where(
        at > 0, np.take_along_axis(sums, np.maximum(at - 1, 0)[..., None], -1)[..., 0], 0
    )
    digit = np.where(negative, (1 << n_bits) - 1 - at, at).astype(np.uint32)
    prefix[...] = np.where(some, prefix << np.uint32(n_bits) | digit, prefix)
    rank[...] = np.where(some, rank - before, rank)
