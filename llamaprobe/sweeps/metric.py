"""Metrics of a sweep: one number per cell, in float64, from one row of its logits.

A token is an id, or a text that the model's tokenizer encodes as one token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import is_whole, refusal, shown, whole
from ..errors import ArgumentError
from ..messages import counted, printable
from ..prompts.prompt import HasTokenizer
from ..run import Run
from ..views.methods import check_run

Row = NDArray[np.float32]
Measure = Callable[[Row], float]


@dataclass(frozen=True, eq=False)
class Metric:
    """A function of the logits at one position, for any model."""

    name: str
    tokens: tuple[int | str, ...] = ()
    position: int = -1
    run: Run | None = None

    def measure(self, tokenizer: HasTokenizer, vocab_size: int) -> Measure:
        """The measure for one model. ArgumentError (no such token, a run with another vocabulary);
        errors of its tokenizer."""
        position = whole("position", self.position)
        ids = [_token_id(token, tokenizer, vocab_size) for token in self.tokens]
        if self.run is not None:
            return _divergence(self.run, position, vocab_size)
        if len(ids) == 1:
            return lambda row: float(_logprobs(row)[ids[0]])
        return lambda row: float(row[ids[0]]) - float(row[ids[1]])

    def __repr__(self) -> str:
        what = [repr(token) for token in self.tokens] or [repr(self.run)]
        return f"{self.name}({', '.join(what)}, position={self.position})"


def logit_diff(a: int | str, b: int | str, position: int = -1) -> Metric:
    """The logit of token a minus that of b, at a position of the prompt."""
    return Metric("logit_diff", (a, b), position)


def logprob(a: int | str, position: int = -1) -> Metric:
    """The log probability (nats) of token a as the next token at a position."""
    return Metric("logprob", (a,), position)


def kl(run: Run, position: int = -1) -> Metric:
    """The Kullback-Leibler divergence from a run with logits to a cell, at a position: the sum of
    p (log p - log q) in nats, with p from the run and q from the cell."""
    check_run(run, "the run of lp.kl")
    return Metric("kl", (), position, run)


def measure_of(
    metric: Metric | Measure, tokenizer: HasTokenizer, vocab_size: int
) -> tuple[Measure, int]:
    """The function of a row of logits, and the position of that row. ArgumentError."""
    if isinstance(metric, Metric):
        return metric.measure(tokenizer, vocab_size), metric.position
    if not callable(metric):
        raise refusal(
            "metric",
            metric,
            "lp.logit_diff(a, b), lp.logprob(a), lp.kl(run), or a function of a row of logits",
        )
    return metric, -1


def _token_id(token: Any, tokenizer: HasTokenizer, vocab_size: int) -> int:
    if isinstance(token, str):
        return _id_of_text(token, tokenizer.get())
    if not is_whole(token):
        raise ArgumentError(f"a token is an id or a text, not {shown(token)}")
    number = int(token.__index__())
    if 0 <= number < vocab_size:
        return number
    raise ArgumentError(
        f"token id {shown(number)} is out of range: the vocabulary has {vocab_size}"
    )


def _id_of_text(text: str, tokenizer: Any) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) == 1:
        return int(ids[0])
    pieces = ", ".join(
        f"{printable(repr(piece), 40)} ({id})"
        for piece, id in zip(tokenizer.pieces(ids), ids.tolist(), strict=True)
    )
    raise ArgumentError(
        f"the text {printable(repr(text), 60)} is {len(ids)} tokens"
        f"{f', {pieces}' if pieces else ''}; a metric takes one: its text, or its id"
    )


def _logprobs(row: Row) -> NDArray[np.float64]:
    wide = row.astype(np.float64)
    with np.errstate(invalid="ignore"):  # an infinity gives NaN
        wide -= wide.max()
        wide -= np.log(np.exp(wide).sum())
    return wide


def _divergence(run: Run, position: int, vocab_size: int) -> Measure:
    logits = run["logits"]
    if logits.shape[1] != vocab_size:
        raise ArgumentError(
            f"the run of lp.kl has a vocabulary of {logits.shape[1]}, but the model has one of"
            f" {vocab_size}"
        )
    if not -len(logits) <= position < len(logits):
        raise ArgumentError(
            f"position {position} is out of range:"
            f" the run of lp.kl has {counted(len(logits), 'token')}"
        )
    wanted = _logprobs(logits[position])
    weights = np.exp(wanted)

    def measure(row: Row) -> float:
        found = _logprobs(row)
        with np.errstate(invalid="ignore"):  # 0 * (-inf - -inf)
            return float(np.where(weights > 0, weights * (wanted - found), 0).sum())

    return measure
