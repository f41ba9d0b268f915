"""The computation of a sweep: one base run, then all cells layer by layer, in chunks.

The base run keeps x of every layer, and keys and values of every token. A cell enters at the layer
and row where it departs from the base. The rows of all active cells go through a layer together, so
that its weights are read once for hundreds of rows.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..checkpoint.folder import named
from ..config import Config
from ..edits.resolve import FAILED
from ..errors import EditError
from ..points import Point, resolve, shape
from .cells import Cell, Place, Shapes
from .metric import Measure

_ROWS = 1024
"""Rows per chunk: with more, weights are not read any faster."""
_BYTES = 128 << 20
"""Bytes per chunk at most: rows, keys and values of one layer, logits."""

Report = Callable[[int, int], object] | None


@dataclass(frozen=True, eq=False)
class Base:
    """The run without edits, up to the row that the metric reads."""

    cache: _core.Cache
    values: Mapping[Place, NDArray[np.float32]]
    """The requested values, [rows, ...]."""
    row: NDArray[np.float32]
    """float32 [vocab_size]: the row that the metric reads."""


@dataclass(eq=False)
class Engine:
    core: _core.Model
    config: Config
    folder: Path
    n_threads: int
    flops: float = 0.0

    @property
    def _logits(self) -> Point:
        return resolve("logits", self.config)[0]

    def base(
        self, ids: NDArray[np.int32], shapes: Shapes, kept: Mapping[Point, Sequence[int]]
    ) -> Base:
        """The base run, with the values of these points and layers. OutOfMemory."""
        cache = _core.Cache(self.core, shapes.n_rows, n_threads=self.n_threads)
        numbers = [(point.number, list(layers)) for point, layers in kept.items()]
        *arrays, logits = self._run(
            ids[: shapes.n_rows],
            [0, shapes.n_rows],
            [*numbers, (self._logits.number, (0,))],
            rope_length=shapes.n_tokens,
            caches=[cache],
            last_rows=True,
        )
        values = {}
        for (point, layers), array in zip(kept.items(), arrays, strict=True):
            each = array.reshape(len(array), *shape(point, self.config, shapes.n_rows))
            values.update({(point.name, i): value for i, value in zip(layers, each, strict=True)})
        return Base(cache, values, logits[0])

    def cells(
        self,
        ids: NDArray[np.int32],
        shapes: Shapes,
        base: Base,
        cells: Sequence[Cell],
        measure: Measure,
        report: Report = None,
    ) -> Iterator[tuple[int, float]]:
        """(number, metric) of each cell that differs from the base."""
        cells = sorted(cells, key=lambda cell: (cell.layer, cell.row))
        n_layers = self.config.n_layers
        progress = _Progress(
            report, sum((n_layers - c.layer) * (shapes.n_rows - c.row) for c in cells), len(cells)
        )
        for chunk in self._chunks(cells, shapes):
            yield from _Chunk(self, ids, shapes, base, chunk, progress).run(measure)

    def _chunks(self, cells: Sequence[Cell], shapes: Shapes) -> Iterator[list[Cell]]:
        c, available = self.config, _core.memory()
        most = _BYTES if available is None else min(_BYTES, available // 4)
        a_cell = 4 * (2 * shapes.n_rows * c.n_kv_heads * c.head_dim + c.vocab_size)
        a_row = 4 * (6 * c.d_model + 3 * c.d_ff + 4 * c.n_heads * c.head_dim)
        chunk: list[Cell] = []
        n_rows = n_bytes = 0
        for cell in cells:
            rows = shapes.n_rows - cell.row
            if chunk and (n_rows + rows > _ROWS or n_bytes + a_cell + rows * a_row > most):
                yield chunk
                chunk, n_rows, n_bytes = [], 0, 0
            chunk.append(cell)
            n_rows, n_bytes = n_rows + rows, n_bytes + a_cell + rows * a_row
        if chunk:
            yield chunk

    def _run(
        self, ids: NDArray[np.int32], starts: Sequence[int], points: Any, **how: Any
    ) -> list[NDArray[np.float32]]:
        with named(self.folder):
            arrays, stages = self.core.profile(ids, starts, points, n_threads=self.n_threads, **how)
        self.flops += sum(stage[3] for stage in stages)
        return arrays


@contextlib.contextmanager
def _named(changed: NDArray[np.int64], owners: Sequence[tuple[Cell, int]]) -> Iterator[None]:
    """Prefix an edit's error with its cell and the edit."""
    try:
        yield
    except EditError as error:
        for number in np.flatnonzero(changed == FAILED).tolist():
            cell, edit = owners[number]
            error.reword(f"cell {cell.number}: {cell.edits[edit]!r}: {error}")
        raise


@dataclass
class _Progress:
    """Progress in rows times layers, reported in cells."""

    report: Report
    n_work: int
    n_cells: int
    done: int = 0

    def add(self, work: int) -> None:
        self.done += work
        if self.report is not None:
            self.report(self.n_cells * self.done // max(self.n_work, 1), self.n_cells)


@dataclass(eq=False)
class _Chunk:
    """Cells that go through the layers together."""

    engine: Engine
    ids: NDArray[np.int32]
    shapes: Shapes
    base: Base
    entering: list[Cell]
    """By layer."""
    progress: _Progress
    living: list[Cell] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)
    """The numbers of cells where an edit changed a bit."""

    def run(self, measure: Measure) -> Iterator[tuple[int, float]]:
        config = self.engine.config
        x = np.empty((0, config.d_model), np.float32)
        for layer in range(self.entering[0].layer, config.n_layers):
            x = self._enter(layer, x)
            if self.living:
                x = self._layer(layer, x)
        for cell, row in zip(self.living, x, strict=True):  # the logits
            yield cell.number, measure(row)

    def _enter(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows of x at the layer's input, with those of cells that begin here."""
        joining = list(itertools.takewhile(lambda c: c.layer == layer, self.entering))
        if not joining:
            return x
        del self.entering[: len(joining)]
        self.living += joining
        whole = self.base.values["x", layer]
        return np.concatenate([x, *(whole[cell.row :] for cell in joining)])

    def _layer(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x at the layer's input -> x of the next layer, or one row of logits per cell."""
        cells, shapes, config = self.living, self.shapes, self.engine.config
        is_last = layer == config.n_layers - 1
        point = self.engine._logits if is_last else resolve("x_out", config)[0]
        starts = [0, *itertools.accumulate(shapes.n_rows - cell.row for cell in cells)]
        edits, owners = [], []
        for sequence, cell in enumerate(cells):
            for edit, (op, number, of_layer, _, *rest) in cell.items.get(layer, ()):
                edits.append((op, number, of_layer, sequence, *rest))
                owners.append((cell, edit))
        changed = np.zeros(len(edits), np.int64)
        with _named(changed, owners):
            found = self.engine._run(
                np.concatenate([self.ids[cell.row : shapes.n_rows] for cell in cells]),
                starts,
                [(point.number, (0 if is_last else layer,))],
                rope_length=shapes.n_tokens,
                edits=edits,
                changed=changed,
                last_rows=is_last,
                branch=(self.base.cache, [cell.row for cell in cells], layer, x),
            )[0].reshape(len(cells) if is_last else len(x), -1)
        self.changed.update(cell.number for (cell, _), n in zip(owners, changed, strict=True) if n)
        self.progress.add(len(x))
        return self._without_unchanged(layer, found, starts, is_last)

    def _without_unchanged(
        self, layer: int, x: NDArray[np.float32], starts: list[int], is_last: bool
    ) -> NDArray[np.float32]:
        """Drop the cells whose edits are all done and changed nothing."""
        keep = [cell.last_layer > layer or cell.number in self.changed for cell in self.living]
        if all(keep):
            return x
        self.living = [cell for cell, kept in zip(self.living, keep, strict=True) if kept]
        return x[np.repeat(keep, 1 if is_last else np.diff(starts))]
