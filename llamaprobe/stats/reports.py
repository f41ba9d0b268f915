"""Attention sinks, massive activations and outlier features, by the definitions of their papers."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..arguments import fraction, real, shown
from ..errors import ArgumentError

if TYPE_CHECKING:
    from .channels import Channels
    from .stats import Stats


@dataclass(frozen=True)
class Sink:
    layer: int
    head: int
    key: int
    attention: float
    """The mean over all queries that see the key."""


@dataclass(frozen=True)
class Massive:
    target: str
    channel: tuple[int, ...]
    group: str
    """The group of the tokens where it occurs."""
    absmax: float
    median: tuple[float, float]
    """Bounds of the median of |x| over all channels and tokens of the target."""


def sinks(stats: "Stats", threshold: float, seen: float) -> list[Sink]:
    """`Stats.sinks`. A key that few queries see can have a large mean without being a sink: the
    last key is seen only by its own token. "Few" is relative to the key that most queries see,
    since with a sliding window no key is seen by all. ArgumentError."""
    found = []
    threshold, seen = fraction("threshold", threshold), fraction("seen", seen)
    for name, layer in _targets_of(stats, "pattern"):
        channels = stats.channels(name, "all")
        attention, n = channels.mean, channels.count
        heads, keys = np.nonzero(
            (attention > threshold) & (n >= seen * n.max(axis=1, keepdims=True))
        )
        found += [
            Sink(layer, head, key, float(attention[head, key]))
            for head, key in zip(heads.tolist(), keys.tolist(), strict=True)
        ]
    return sorted(found, key=lambda sink: (sink.layer, sink.head, sink.key))


def massive(stats: "Stats", above: float, times: float) -> list[Massive]:
    """`Stats.massive`. The median's upper bound counts. The group of a result is the one that holds
    the channel's largest |x|. ArgumentError."""
    found = []
    above, times = real("above", above), real("times", times)
    for name in stats.targets:
        if stats.facts["targets"][name].get("keys"):
            continue
        whole = stats.channels(name, "all")
        median = whole.median_abs()
        largest = whole.absmax
        with np.errstate(over="ignore"):  # it is compared as a float32
            limit = np.float32(max(above, times * median[1]))
        if math.isnan(limit):
            continue
        for channel in map(tuple, np.argwhere(largest > limit).tolist()):
            group = _group_with(stats, whole, channel)
            found.append(Massive(name, channel, group, float(largest[channel]), median))
    return sorted(found, key=lambda each: -each.absmax)


def _group_with(stats: "Stats", whole: "Channels", channel: tuple[int, ...]) -> str:
    sizes = {group: float(whole.of(group).absmax[channel]) for group in stats.groups}
    return max(sizes, key=lambda group: sizes[group])


def outliers(
    stats: "Stats", point: str, above: float, layers: float, tokens: float
) -> NDArray[np.int64]:
    """`Stats.outliers`: flat channel indices in ascending order. ArgumentError."""
    votes, n_layers = None, 0
    layers, tokens = fraction("layers", layers), fraction("tokens", tokens)
    for name, _ in _targets_of(stats, point):
        channels = stats.channels(name, "all")
        count = channels.count_from(above).reshape(-1)
        is_large = count >= tokens * np.maximum(channels.count.reshape(-1), 1)
        votes = is_large.astype(np.int64) if votes is None else votes + is_large
        n_layers += 1
    assert votes is not None
    return np.flatnonzero(votes >= max(1, layers * n_layers))


def _targets_of(stats: "Stats", point: str) -> list[tuple[str, int]]:
    """(target, layer). ArgumentError."""
    found = [
        (name, entry["layer"] or 0)
        for name, entry in stats.facts["targets"].items()
        if isinstance(point, str) and entry["point"] == point
    ]
    if not found:
        raise ArgumentError(
            f"{shown(point)} was not collected; collect it with points=({shown(point)}, ...)"
        )
    return found
