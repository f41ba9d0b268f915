"""Reads a harvest: values by row, by document, and in shuffled batches.

Files are mapped, so that opening reads little, and rows that are read again come from the page
cache.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..arguments import shown, whole
from ..errors import FileError, FormatError, PointError, RowError
from ..messages import counted, printable, shown_path
from ..points import Name, resolve
from .layout import ROWS, shard_name
from .manifest import read_manifest
from .plan import INDEX, Plan
from .rounding import decode
from .shuffle import Shuffle

_WITH_LAYER = re.compile(r"([a-z_]+)[.:]([0-9]{1,5})")
_ROWS = "an integer, a slice, or integers in one dimension"
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
Index = int | slice | NDArray[Any] | range | list[int]


class Batch(NamedTuple):
    """One batch of `Harvest.batches`."""

    step: int
    """The number of the batch in its epoch, from 0."""
    rows: NDArray[np.int64]
    """int64 [size]: the numbers of its rows."""
    values: NDArray[np.float32]
    """float32 [size, ...]."""


class Rows:
    """The values of one point in one layer, [n_rows, ...]. `rows[3]`, `rows[5:9]` and
    `rows[[7, 2]]` are float32 copies. A shard is opened when one of its rows is first read."""

    def __init__(self, plan: Plan, target: str, tensor: str, dtype: str, shape: tuple[int, ...]):
        self._plan, self._target, self._tensor = plan, target, tensor
        self._stored = dtype
        self.shape = (plan.n_rows, *shape)
        """[n_rows, ...]."""
        self._firsts = plan.windows.row[plan.windows.shard]
        self._maps: list[NDArray[Any] | None] = [None] * len(plan)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Index) -> NDArray[Any]:
        """RowError for a row out of range; FileError for a missing shard, FormatError for a damaged
        one."""
        try:
            if isinstance(rows, slice):
                rows = range(*rows.indices(len(self)))
            span = rows if isinstance(rows, range) and rows.step == 1 else None
            if span is None or not 0 <= span.start <= span.stop <= len(self):
                span, array = None, np.asarray(rows)
        except (TypeError, ValueError, OverflowError):  # a slice of strings; a ragged list
            raise RowError(f"rows is {shown(rows)}; give {_ROWS}") from None
        if span is not None:
            return self._decoded(self._span(span))
        if array.ndim == 0:
            row = int(row_numbers(array[None], len(self))[0])
            return self._decoded(self._span(range(row, row + 1)))[0]
        return self._decoded(self._gather(row_numbers(array, len(self))))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the rows of a harvest are in files and can only be copied")
        found = self[:]
        return found if dtype is None else found.astype(dtype)

    def _decoded(self, stored: NDArray[Any]) -> NDArray[Any]:
        return decode(stored, self._stored) if self._stored in ("F32", "F16", "BF16") else stored

    def _span(self, rows: range) -> NDArray[Any]:
        """Consecutive rows."""
        found = np.empty((len(rows), *self.shape[1:]), _STORED[self._stored])
        at = rows.start
        while at < rows.stop:
            shard = int(np.searchsorted(self._firsts, at, "right")) - 1
            first, stop = int(self._firsts[shard]), min(int(self._firsts[shard + 1]), rows.stop)
            found[at - rows.start : stop - rows.start] = self._map(shard)[at - first : stop - first]
            at = stop
        return found

    def _gather(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        shards = np.searchsorted(self._firsts, numbers, "right") - 1
        if len(numbers) and np.all(shards == shards[0]):
            return self._map(int(shards[0]))[numbers - self._firsts[shards[0]]]
        found = np.empty((len(numbers), *self.shape[1:]), _STORED[self._stored])
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            found[places] = self._map(int(shard))[numbers[places] - self._firsts[shard]]
        return found

    def _map(self, shard: int) -> NDArray[Any]:
        """The values of a shard, in place."""
        found = self._maps[shard]
        if found is None:
            found = self._maps[shard] = self._open(shard)
        return found

    def _open(self, shard: int) -> NDArray[Any]:
        files, name = self._plan.files, shard_name(self._target, shard)
        sidecar = self._plan.sidecar(shard) if files.is_remote else None
        if files.is_remote and sidecar is None or not files.has(name):
            raise FileError(
                f"{files.shown(name)}: shard {shard} is missing; `llamaprobe harvest run --plan`"
                " or `refill` makes it"
            )
        path = files.local(name, sidecar["files"][name]["sha256"] if sidecar else None)
        shape = (len(self._plan.rows_of(shard)), *self.shape[1:])
        file = _core.Safetensors(path)
        found = {name: (dtype, shape) for name, dtype, shape, _, _ in file.tensors()}
        if found.get(self._tensor) != (self._stored, shape):
            raise FormatError(
                f"{shown_path(path)}: holds no {self._tensor} of type {self._stored} and shape"
                f" {list(shape)}"
            )
        return file.raw(self._tensor).view(_STORED[self._stored]).reshape(shape)


def row_numbers(rows: NDArray[Any], n_rows: int) -> NDArray[np.int64]:
    """Rows given as 1-D numbers, of which negative ones count from the end, or as a mask -> row
    numbers from 0. RowError."""
    if rows.dtype == bool and rows.shape == (n_rows,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise RowError(f"rows is {shown(rows)}; give {_ROWS}")
    numbers = rows.astype(np.int64)
    outside = (numbers < -n_rows) | (numbers >= n_rows)
    if np.any(outside):
        raise RowError(f"row {numbers[outside][0]} is out of range for {counted(n_rows, 'row')}")
    return np.where(numbers < 0, numbers + n_rows, numbers)


class Harvest:
    """A harvest, as `read_harvest` opens it.

    h["x", 10] gives the rows of a point in a layer, and h["x", 10][rows] their float32 values. Rows
    are in the order of the plan: by document, window and position.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        """The Plan."""
        manifest = read_manifest(plan)
        self.root: str | None = None if manifest is None else manifest["root"]
        """The sha256 over all files; None until the harvest is complete."""

    @property
    def points(self) -> tuple[str, ...]:
        """ "x.10", "logits", in the order requested."""
        return self.plan.targets

    @property
    def n_rows(self) -> int:
        """The number of rows of every point: the kept positions of all documents."""
        return self.plan.n_rows

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return (
            f"<Harvest {self.plan.files.shown()}: {counted(self.n_rows, 'row')} of"
            f" {', '.join(self.points)}, {counted(self.plan.n_documents, 'document')}>"
        )

    def __getitem__(self, point: Name) -> Rows:
        """h["x", 10], h["x.10"] or h["logits"]; names as for `Model.run`. PointError."""
        name = self.name_of(point)
        if name not in self._rows:
            plan = self.plan
            self._rows[name] = Rows(plan, name, name, plan.dtype, plan.shapes[name])
        return self._rows[name]

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        return {}

    def name_of(self, point: Name) -> str:
        """ "x.10" for ("x", 10), "x:10", "blocks.10.hook_resid_pre" and so on. PointError."""
        if isinstance(point, str):
            if point in self.points:
                return point
            if match := _WITH_LAYER.fullmatch(point):
                point = match[1], int(match[2])
        found, layer = resolve(point)
        name = found.name if layer is None else f"{found.name}.{layer}"
        if name not in self.points:
            raise PointError(f"{printable(name)} was not harvested, only {', '.join(self.points)}")
        return name

    @cached_property
    def rows(self) -> "RowIndex":
        """Where each row comes from: h.rows.document[5:9], .start, .position, .token_id."""
        return RowIndex(self.plan)

    def tokens(self, document: int) -> NDArray[np.int32]:
        """The token ids of a document. ArgumentError."""
        return self.plan.tokens.of(self._document(document))

    def place(self, document: int) -> tuple[int, int]:
        """The number of its source in the data, and its number in that source. ArgumentError."""
        return self.plan.tokens.place(self._document(document))

    def where(self, *, doc: int) -> range:
        """The rows of a document. ArgumentError."""
        windows = np.flatnonzero(self.plan.windows.document == self._document(doc))
        if not len(windows):
            return range(0)
        row = self.plan.windows.row
        return range(int(row[windows[0]]), int(row[windows[-1] + 1]))

    def batches(
        self,
        point: str,
        layer: int | None = None,
        *,
        size: int = 4096,
        shuffle: int | None = None,
        epoch: int = 0,
        start: int = 0,
        pool: int = 8,
    ) -> Iterator[Batch]:
        """Iterate over the rows of a point in batches, each row once. The batches are a pure
        function of the arguments, so that `start`, the number of the first batch, resumes an epoch.

        shuffle: a seed; None for the order of the plan. Shards are put in random order, and rows
        are shuffled within each `pool` of shards: a pool of all shards permutes all rows, a small
        pool reads few files at a time. The last batch may be smaller. ArgumentError, PointError.
        """
        size, pool = whole("size", size, 1), whole("pool", pool, 1)
        epoch, start = whole("epoch", epoch, 0), whole("start", start, 0)
        if shuffle is not None:
            shuffle = whole("shuffle", shuffle, -(1 << 64), 1 << 64, "an integer, or None")
        rows = self[(point, layer) if layer is not None else point]
        order = Shuffle(self.plan.windows.row[self.plan.windows.shard], shuffle, epoch, pool)
        return self._batches(rows, order, size, start)

    def _batches(self, rows: Rows, order: Shuffle, size: int, start: int) -> Iterator[Batch]:
        for step in range(start, -(-self.n_rows // size)):
            numbers = order.rows(step * size, min((step + 1) * size, self.n_rows))
            yield Batch(step, numbers, rows[numbers])

    def _document(self, document: int) -> int:
        n = self.plan.n_documents
        way_out = f"a number of the harvest, from 0 to {n - 1}"
        return whole("document", document, 0, n, way_out)


class RowIndex:
    """For each row, its `document`, the `start` of its window in the document, its `position` in
    the window, and its `token_id`. Each is indexed like `Rows`."""

    def __init__(self, plan: Plan) -> None:
        for name, dtype in INDEX:
            setattr(self, name, Rows(plan, ROWS, name, dtype, ()))

    document: Rows
    start: Rows
    position: Rows
    token_id: Rows


def read_harvest(
    folder: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None
) -> Harvest:
    """Open a harvest, even if shards are missing. folder: a folder, or a URL such as
    s3://bucket/out (needs the extra `remote`), from which each shard is fetched at its first read,
    into the folder `cache` or a temporary one. FileError, FormatError, ArgumentError."""
    return Harvest(Plan(folder, cache=cache))
