"""The order in which rows are read: a pure function of seed, epoch and place in the order.

Shards in random order form pools of a few shards, and the rows of a pool are permuted. So a batch
reads few files, and any place in the order is computed without the places before it.
"""

import numpy as np
from numpy.typing import NDArray

from .mixing import permutation


class Shuffle:
    def __init__(self, firsts: NDArray[np.int64], seed: int | None, epoch: int, pool: int) -> None:
        """firsts: the first row of each shard, then the number of rows. seed: None: in order."""
        self._seed, self._epoch = seed, epoch
        n_shards = len(firsts) - 1
        if seed is None:
            self._pools = [np.arange(n_shards)]
        else:
            order = permutation(n_shards, seed, epoch)
            self._pools = [order[at : at + pool] for at in range(0, n_shards, pool)]
        self._firsts = firsts
        sizes = [int(np.sum(firsts[pool + 1] - firsts[pool])) for pool in self._pools]
        self._ends = np.cumsum(sizes)
        self._cached: tuple[int, NDArray[np.int64]] = -1, np.zeros(0, np.int64)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows at places [start, stop) of the order."""
        if self._seed is None:
            return np.arange(start, stop)
        parts = []
        while start < stop:
            pool = int(np.searchsorted(self._ends, start, "right"))
            end = int(self._ends[pool])
            first = int(self._ends[pool - 1]) if pool else 0
            parts.append(self._pool(pool)[start - first : min(stop, end) - first])
            start = min(stop, end)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _pool(self, number: int) -> NDArray[np.int64]:
        """The rows of a pool in order; the last pool is cached."""
        if self._cached[0] != number:
            shards = sorted(self._pools[number].tolist())
            spans = [np.arange(self._firsts[s], self._firsts[s + 1]) for s in shards]
            rows = np.concatenate(spans)
            assert self._seed is not None
            rows = rows[permutation(len(rows), self._seed, self._epoch, number)]
            self._cached = number, rows
        return self._cached[1]
