"""The logit lens: the last norm and the head, applied to the residual stream of any layer."""

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arguments import is_whole, listed, shown, whole
from ..errors import ArgumentError, PointError
from ..origin import TokenTexts
from ..points import Layers, check_layers, resolve
from .selection import (
    Positions,
    Token,
    check_held,
    check_model,
    positions_of,
    token_id,
)

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

STREAMS = ("x", "x_mid", "x_out")
BEHIND = ("final_rms", "final_unit", "final_norm", "logits_raw", "logits")
"""Points between x_out of the last layer and the logits."""


class Guess(NamedTuple):
    """One of the likeliest tokens of a row."""

    id: int
    text: str | None
    logit: float
    logprob: float | None
    """None in a lens with `tokens`, since the softmax is over the whole vocabulary."""


class Lens:
    """The result of `Model.lens`: logits for layers and positions of one run.

    The axes are rows (the layers, then the output), positions and, for `logits`, tokens.
    """

    def __init__(
        self,
        logits: NDArray[np.float32],
        *,
        point: str,
        rows: Sequence[tuple[str, int]],
        positions: Sequence[int],
        run: "Run",
        texts: TokenTexts,
        token_ids: NDArray[np.int32] | None,
        top: int,
    ) -> None:
        self.logits = logits
        """float32 [rows, positions, vocab_size], or [rows, positions, len(tokens)]."""
        self.point = point
        """The point of all rows but the last."""
        self.rows: tuple[tuple[str, int], ...] = tuple(rows)
        """(point, layer) of each row; the last is x_out of the last layer, which gives the model's
        own logits."""
        self.positions: tuple[int, ...] = tuple(positions)
        self.token_ids = token_ids
        """The ids of `tokens`; None for the whole vocabulary."""
        self.n_top = top
        """The default number of tokens of `top`."""
        self._run, self._texts = run, texts

    @property
    def labels(self) -> list[str]:
        """A name for each row: "x 3", and "output" for the model's own logits."""
        last = ("x_out", self._run.config.n_layers - 1)
        return ["output" if row == last else f"{row[0]} {row[1]}" for row in self.rows]

    @property
    def tokens(self) -> list[str]:
        """The text of the run's token at each position, or its id without a tokenizer."""
        every = self._run.tokens
        ids = self._run.token_ids
        return [str(ids[i]) if every is None else every[i] for i in self.positions]

    @functools.cached_property
    def logprobs(self) -> NDArray[np.float64]:
        """float64 [rows, positions, vocab_size]: (l - max) - log(sum of exp(l - max)).

        ArgumentError with `tokens`, since the sum is over the whole vocabulary.
        """
        self._check_whole("logprobs")
        return _logprobs(self.logits)

    @functools.cached_property
    def ranks(self) -> NDArray[np.int32]:
        """int32 [rows, positions, vocab_size]: 1 for the largest logit; ties by id.

        ArgumentError with `tokens`, as `logprobs`.
        """
        self._check_whole("ranks")
        order = np.argsort(-self.logits, axis=-1, kind="stable")
        ranks = np.empty(order.shape, np.int32)
        one = np.arange(1, order.shape[-1] + 1, dtype=np.int32)
        np.put_along_axis(ranks, order, np.broadcast_to(one, order.shape), axis=-1)
        return ranks

    def top(self, row: int = -1, position: int = -1, n: int | None = None) -> list[Guess]:
        """The likeliest tokens of one row; `row` and `position` are indices of the axes.
        ArgumentError."""
        places = (
            _place("row", row, len(self.rows)),
            _place("position", position, len(self.positions)),
        )
        logits = self.logits[places]
        best = largest(logits, self.n_top if n is None else whole("n", n, 1))
        ids = best if self.token_ids is None else self.token_ids[best]
        logprobs: list[Any] = [None] * len(ids)
        if self.token_ids is None:
            logprobs = _logprobs(logits)[best].tolist()
        texts: list[Any] = self._texts.pieces(ids) or [None] * len(ids)
        rows = zip(ids.tolist(), texts, logits[best].tolist(), logprobs, strict=True)
        return [Guess(*each) for each in rows]

    def table(self, n: int | None = None) -> list[list[list[Guess]]]:
        """`top` for every row and position."""
        return [
            [self.top(row, position, n) for position in range(len(self.positions))]
            for row in range(len(self.rows))
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with one line per row, position and listed token. Needs pandas."""
        from ..views.tables import lens_frame

        return lens_frame(self)

    def to_xarray(self) -> Any:
        """The logits as a DataArray. Needs xarray."""
        from ..views.tables import lens_array

        return lens_array(self)

    def _check_whole(self, what: str) -> None:
        if self.token_ids is not None:
            raise ArgumentError(
                f"{what} need the logits of the whole vocabulary; call lens without tokens="
            )

    def __repr__(self) -> str:
        from ..views.lens import lens_text

        return lens_text(self)

    def _repr_html_(self) -> str:
        from ..views.lens import lens_html

        return lens_html(self)


def _logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The log softmax over the last axis, in float64; NaN where a logit is +inf."""
    with np.errstate(invalid="ignore"):
        below = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
        return below - np.log(np.exp(below).sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]


def lens(
    model: "Model",
    run: "Run",
    *,
    point: str = "x",
    layers: Layers = None,
    position: Positions = -1,
    top: int = 5,
    tokens: Iterable[Token] | None = None,
    threads: int | None = None,
) -> Lens:
    """`Model.lens`."""
    rows, positions = _chosen(model, run, point, layers, position)
    ids = None if tokens is None else _ids(model, tokens)
    top = whole("top", top, 1, model.config.vocab_size + 1)
    streams = _streams(run, rows, positions)
    flat = model._head(streams.reshape(-1, streams.shape[-1]), ids, threads=threads)
    logits = flat.reshape(*streams.shape[:2], -1)
    output = ("x_out", model.config.n_layers - 1)
    if _is_edited_behind(run) and output in rows:
        own = run["logits"][list(positions)]
        logits[rows.index(output)] = own if ids is None else own[:, ids]
    return Lens(
        logits,
        point=point,
        rows=rows,
        positions=positions,
        run=run,
        texts=model.origin.tokenizer,  # a run read from files knows only its own tokens
        token_ids=ids,
        top=top,
    )


def _ids(model: "Model", tokens: Any) -> NDArray[np.int32]:
    """ArgumentError."""
    is_one = isinstance(tokens, str) or is_whole(tokens)
    each = [tokens] if is_one else listed("tokens", tokens, "ids, or texts that are one token")
    if not each:
        raise ArgumentError("tokens is empty; leave it out for the whole vocabulary")
    return np.array([token_id(model, token) for token in each], np.int32)


def _place(name: str, number: Any, n: int) -> int:
    """An index of an axis, from 0. ArgumentError."""
    return whole(name, number, -n, n)


def _is_edited_behind(run: "Run") -> bool:
    """Whether something between x_out of the last layer and the logits was edited, so that the
    run's logits do not follow from its x_out."""
    return any(resolve(edit.name, run.config)[0].name in BEHIND for edit in run.edits)


def largest(logits: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """The indices of the n largest logits; ties in order; NaN counts as smaller than any number."""
    n = min(n, len(logits))
    if np.isnan(logits).any():
        return np.argsort(-logits, kind="stable")[:n]
    found = np.flatnonzero(logits >= np.partition(logits, len(logits) - n)[len(logits) - n])
    return found[np.argsort(-logits[found], kind="stable")][:n]


def _chosen(
    model: "Model", run: "Run", point: str, layers: Layers, position: Positions
) -> tuple[list[tuple[str, int]], tuple[int, ...]]:
    """The (point, layer) of each row and the positions, checked."""
    check_model(model, run)
    found, layer = resolve(point, model.config)
    name = found.name
    if layer is not None:
        raise PointError(f"{shown(point)} names a layer; give point={name!r}, layers={layer}")
    if name.startswith("final_"):
        raise PointError(f"{name} has been normed already; a lens norms x, x_mid or x_out itself")
    if name not in STREAMS:
        raise PointError(
            f"{name} is not the residual stream, so a lens on it means nothing; use x, x_mid or"
            " x_out, or model.attribute for the share of a part"
        )
    n_layers = model.config.n_layers
    output = ("x_out", n_layers - 1)
    if layers is None:
        held = run.layers_of(name) if name in run.points else range(n_layers)
        rows = [(name, layer) for layer in held]
        rows += [] if output in rows else [output]
    else:
        rows = [(name, layer) for layer in check_layers(layers, n_layers)]
    edited = output in rows and _is_edited_behind(run)
    needs = [*rows, *([("logits", None)] if edited else [])]
    check_held(run, needs, f"a lens on {name}{', of a run with edited logits,' if edited else ''}")
    return rows, positions_of(position, len(run))


def _streams(
    run: "Run", rows: Sequence[tuple[str, int]], positions: Sequence[int]
) -> NDArray[np.float32]:
    """[rows, positions, d_model]."""
    return np.stack([run[row][list(positions)] for row in rows])
