"""`Model.sweep` and `Model.patch_map`, as a base class of `Model`."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .. import _core, stderr
from ..arguments import flag, is_whole, listed, real, refusal, shown, whole
from ..cancel import Stop
from ..captures import Capture
from ..config import Config
from ..edits.edit import Edit
from ..edits.edits import Edits
from ..edits.resolve import bind
from ..errors import ArgumentError, EditError, PointError
from ..messages import counted
from ..origin import Origin
from ..points import Layers, Name, Point, check_layers, resolve, shape
from ..prompts.chat import ChatOptions
from ..prompts.prompt import Prompt, TokenizerSource
from .cells import Shapes, Values, cell_of, check_whole, kept_places
from .engine import Engine
from .metric import Measure, Metric, measure_of
from .result import Sweep

_POSITIONS = "a position, several, a range or a slice; None for all"
Positions = SupportsIndex | Iterable[SupportsIndex] | slice | None


class Sweeps:
    """The methods of `Model` for many edits of one prompt."""

    config: Config
    path: Path
    origin: Origin
    _tokenizer: TokenizerSource

    def sweep(
        self,
        prompt: object,
        edits: Iterable[Edits],
        metric: Metric | Measure,
        *,
        threads: int | None = None,
        progress: bool = False,
    ) -> Sweep:
        """The metric of one prompt under many edits: `values` has one number per `Edits`.

        prompt: a single prompt, as for `run`.
        edits: one `Edits` per cell. Each cell has the bits of `model.run(prompt, edits=cell)`.
        metric: `lp.logit_diff(a, b)`, `lp.logprob(a)`, `lp.kl(run)`, or a function of the last
            token's logits, float32 [vocab_size].
        progress: show a bar on stderr.

        Cells share with the run without edits the rows before the first one that an edit changes,
        and the layers below it. Ctrl-C stops the sweep.

        Raises as `run`. An edit that cannot be made is an EditError, which names the cell, before
        anything is computed.
        """
        if isinstance(edits, Edits):
            raise ArgumentError("edits is one Edits; give a list with an Edits for each cell")
        cells = listed("edits", edits, "a list with an Edits for each cell")
        engine, ids, tokens = self._engine_for(prompt, threads)
        measure, shapes = self._measured(metric, tokens)
        with stderr.bar(progress, "cell") as report:
            values, base, n_skipped = _swept(engine, ids, shapes, cells, measure, report)
        return Sweep(values, base, n_skipped, engine.flops)

    def patch_map(
        self,
        clean: object,
        corrupted: object,
        *,
        metric: Metric | Measure,
        point: Name = "x",
        heads: bool = False,
        layers: Layers = None,
        positions: Positions = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> Sweep:
        """Activation patching: the metric of the corrupted prompt with one value at a time replaced
        by the clean prompt's. `values` is [layers, positions], with `heads` [layers, positions,
        heads].

        clean, corrupted: prompts with the same number of tokens.
        point: a point that every layer has; for a map, the rows of queries are patched.
        heads: patch one head at a time, of a point that has heads.
        layers, positions: numbers, a range or a slice; negative ones count from the end. None: all.

        Bits, cost and errors are as for `sweep`; PointError for an unknown point or layer, or with
        `heads` for a point without heads.
        """
        heads = flag("heads", heads)
        found, chosen = self._patched(point, heads, layers)
        engine, ids, tokens = self._engine_for(corrupted, threads)
        _, clean_ids, clean_tokens = self._engine_for(clean, threads)
        if len(ids) != len(clean_ids):
            raise ArgumentError(
                f"the clean prompt has {counted(len(clean_ids), 'token')} and the corrupted one"
                f" {len(ids)}; a patch map needs the same number"
            )
        measure, shapes = self._measured(metric, tokens)
        rows = _positions(positions, len(ids))
        with stderr.bar(progress, "cell") as report:
            source = engine.base(clean_ids, shapes, {found: chosen})
            cells = list(_patches(found, heads, chosen, rows, source.values, shapes))
            values, base, n_skipped = _swept(engine, ids, shapes, cells, measure, report)
        axes = (len(chosen), len(rows), *(_n_heads(found, self.config) if heads else ()))
        return Sweep(
            values.reshape(axes),
            base,
            n_skipped,
            engine.flops,
            _number(measure(source.row)),
            chosen,
            tuple(rows),
            _pieces(self.origin, ids, rows),
        )

    def _engine_for(self, prompt: object, threads: int | None) -> tuple[Engine, Any, int]:
        engine = Engine(self._open(), self.config, self.path, self._n_threads(threads))
        prompts, is_batch = self._read(prompt, ChatOptions(), Stop())
        if is_batch:
            raise ArgumentError("a sweep takes one prompt, and this is a batch")
        ids = prompts[0].token_ids
        return engine, ids, len(ids)

    def _measured(self, metric: Metric | Measure, n_tokens: int) -> tuple[Measure, Shapes]:
        measure, position = measure_of(metric, self._tokenizer, self.config.vocab_size)
        row = _row("position", position, n_tokens)
        return measure, Shapes(self.config, n_tokens, row + 1)

    def _patched(self, point: Name, heads: bool, layers: Layers) -> tuple[Point, tuple[int, ...]]:
        found, layer = resolve(point, self.config)
        if not found.per_layer or layer is not None:
            raise PointError(f"a patch map takes a point that every layer has, not {point!r}")
        if heads and not _n_heads(found, self.config):
            raise PointError(f"{found.name} is {found.shape}: it has no heads to patch one by one")
        return found, check_layers(layers, self.config.n_layers)

    def _open(self) -> _core.Model:
        raise NotImplementedError

    def _n_threads(self, threads: int | None) -> int:
        raise NotImplementedError

    def _read(self, prompt: object, chat: ChatOptions, stop: Stop) -> tuple[list[Prompt], bool]:
        raise NotImplementedError


def _swept(
    engine: Engine,
    ids: NDArray[np.int32],
    shapes: Shapes,
    edits: Sequence[Edits],
    measure: Measure,
    report: Any,
) -> tuple[NDArray[np.float64], float, int]:
    """The metric of each cell and of the base, and how many cells equal the base."""
    wanted = Capture(resolve("logits", shapes.config)[0], ())
    bounds = []
    for number, each in enumerate(edits):
        try:
            if not isinstance(each, Edits):
                raise EditError(f"it is {shown(each)}; give an lp.Edits")
            check_whole(each, shapes)
            bounds.append(bind(each, shapes.config, shapes.n_tokens, [wanted]))
        except ArgumentError as error:
            error.reword(f"cell {number}: {error}")
            raise
    base = engine.base(ids, shapes, kept_places(bounds, shapes))
    number_of_base = _number(measure(base.row))
    values = np.full(len(bounds), number_of_base)
    found = [cell_of(i, bound, shapes, base.values) for i, bound in enumerate(bounds)]
    living = [cell for cell in found if cell is not None]
    n_skipped = len(values)
    for number, value in engine.cells(ids, shapes, base, living, measure, report):
        values[number] = _number(value)
        n_skipped -= 1
    return values, number_of_base, n_skipped


def _patches(
    point: Point,
    heads: bool,
    layers: Sequence[int],
    rows: Sequence[int],
    values: Values,
    shapes: Shapes,
) -> Iterator[Edits]:
    """The edits of each cell, empty for rows that the metric does not depend on."""
    n_heads = _n_heads(point, shapes.config)[0] if heads else 1
    for layer, row, head in itertools.product(layers, rows, range(n_heads)):
        if row >= shapes.n_rows:
            yield Edits()
            continue
        index: Any = (head,) if heads else ()
        if point.width == "map":
            index = (*(index or (slice(None),)), row, slice(0, shapes.n_rows))
        else:
            index = (row, *index)
        yield Edits([Edit(point.name, layer, index, "=", values[point.name, layer][index])])


def _n_heads(point: Point, config: Config) -> tuple[int, ...]:
    """The length of its axis of heads, as a tuple; () if it has none."""
    if point.width == "map":
        return (config.n_heads,)
    has_heads = point.width in ("heads", "kv", "q_norms", "k_norms")
    return shape(point, config, 1)[1:2] if has_heads else ()


def _number(value: Any) -> float:
    try:
        return real("metric", value, finite=False)
    except ArgumentError:
        raise ArgumentError(
            f"the metric returned {shown(value)}, a {type(value).__name__}; it must be a number"
        ) from None


def _row(name: str, position: SupportsIndex, n_tokens: int) -> int:
    number = whole(name, position)
    row = number + n_tokens if number < 0 else number
    if 0 <= row < n_tokens:
        return row
    raise ArgumentError(
        f"{name} {number} is out of range: the prompt has {counted(n_tokens, 'token')}"
    )


def _positions(positions: Positions, n_tokens: int) -> list[int]:
    if positions is None:
        return list(range(n_tokens))
    if isinstance(positions, slice):
        try:
            found = list(range(n_tokens))[positions]
        except (TypeError, ValueError):
            raise refusal("positions", positions, _POSITIONS) from None
    else:
        one: Any = positions
        each = [one] if is_whole(one) else listed("positions", one, _POSITIONS)
        found = [_row("position", position, n_tokens) for position in each]
    if not found:
        raise ArgumentError(f"positions selects none of {counted(n_tokens, 'token')}")
    for row in found:
        if found.count(row) > 1:
            raise ArgumentError(f"position {row} is listed twice")
    return found


def _pieces(origin: Origin, ids: NDArray[np.int32], rows: Sequence[int]) -> list[str] | None:
    return origin.tokenizer.pieces(ids[list(rows)])
