"""splitmix64 as a hash of integers: samples and orders that are the same on every machine and with
every version of NumPy."""

import numpy as np
from numpy.typing import NDArray

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 64-bit hash of each value."""
    z = values + np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key_of(*numbers: int) -> np.uint64:
    """One key from several numbers."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = mix(key ^ np.array([number & _MASK], np.uint64))
    return key[0]


def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """The numbers below n, in an order that depends only on `key`."""
    marks = mix(np.arange(n, dtype=np.uint64) ^ key_of(*key))
    return np.argsort(marks, kind="stable")
