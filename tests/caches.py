"""Runs with caches against runs of all tokens, bit for bit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import llamaprobe as lp
from llamaprobe import _core
from llamaprobe.points import resolve_all

Values = dict[str, NDArray[np.uint32]]


class Runner:
    """The core of a model: runs of every point that give bits by name."""

    def __init__(
        self, model: lp.Model, points: str | list[str] = "all", n_threads: int = 2
    ) -> None:
        self.core, self.folder = model._open(), model.path
        self.n_threads = n_threads
        self.config = model.config
        self._points = list({p.name: p for _, p, _ in resolve_all(points, model.config)}.values())
        every = tuple(range(model.config.n_layers))
        self._captures = [(p.number, every if p.per_layer else (0,)) for p in self._points]

    def cache(self, capacity: int = 0) -> _core.Cache:
        return _core.Cache(self.core, capacity)

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        caches: Sequence[_core.Cache | None] | None = None,
        **how: Any,
    ) -> list[Values]:
        """Of each prompt its values: [layers, tokens, floats], maps [layers, heads, tokens, keys]."""
        starts = [0, *np.cumsum([len(ids) for ids in prompts]).tolist()]
        joined = np.array([i for ids in prompts for i in ids], np.int32)
        pasts = [cache.n_tokens if cache else 0 for cache in caches or [None] * len(prompts)]
        how = {"n_threads": self.n_threads} | how
        arrays = self.core.run(joined, starts, self._captures, caches=caches, **how)
        results: list[Values] = [{} for _ in prompts]
        for point, array in zip(self._points, arrays, strict=True):
            bits, at, n_layers = array.view(np.uint32), 0, len(array)
            for i, (ids, past) in enumerate(zip(prompts, pasts, strict=True)):
                if point.width == "map":
                    shape = (n_layers, self.config.n_heads, len(ids), past + len(ids))
                    n = int(np.prod(shape[1:]))
                    part = bits[:, at : at + n].reshape(shape)
                    at += n
                elif how.get("last_rows") and not point.per_layer:
                    part = bits.reshape(1, len(prompts), -1)[:, i : i + 1]
                else:
                    rows = bits.reshape(n_layers, len(joined), -1)
                    part = rows[:, starts[i] : starts[i + 1]]
                results[i][point.name] = part
        return results


def check_rows(got: Values, whole: Values, past: int) -> None:
    """The rows of a run with `past` tokens in its cache are those of the run of all tokens."""
    for name, bits in got.items():
        all_rows = whole[name]
        n = past + bits.shape[-2]
        expected = all_rows[..., past:n, :]
        if bits.ndim == 4:
            expected = expected[..., :n]
        assert bits.size and np.array_equal(bits, expected), name


def check_chunks(
    runner: Runner, ids: Sequence[int], sizes: Sequence[int], whole: Values, **how: Any
) -> _core.Cache:
    """`ids` in runs of `sizes` tokens, the last one of what is left."""
    cache, past = runner.cache(), 0
    for size in [*sizes, len(ids)]:
        part = ids[past : past + size]
        if not part:
            break
        (got,) = runner.run([part], [cache], **how)
        check_rows(got, whole, past)
        past += len(part)
        assert cache.n_tokens == past
    return cache
