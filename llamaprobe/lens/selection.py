"""Checks arguments that select tokens and positions of a run, and that the run holds its values."""

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ..arguments import is_whole, listed, refusal, shown
from ..errors import ArgumentError, PointError
from ..messages import printable
from ..views.methods import check_run

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

Token = str | SupportsIndex
_POSITIONS = "a number, numbers, a slice, or None for all"
Positions = SupportsIndex | Sequence[SupportsIndex] | slice | None


def token_id(model: "Model", token: Token) -> int:
    """The id of a token, given by id or by text. ArgumentError for a text of several tokens, with
    its pieces."""
    if isinstance(token, str):
        ids = model.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            pieces = " | ".join(model.tokenizer.pieces(ids))
            raise ArgumentError(
                f"{printable(repr(token), 60)} is {len(ids)} tokens, not one"
                f"{': ' + printable(pieces, 120) if pieces else ''}; name one of them, or give an id"
            )
        return int(ids[0])
    if not is_whole(token):
        raise ArgumentError(f"a token is an id or text, not {shown(token)}")
    number = operator.index(token)
    if not 0 <= number < model.config.vocab_size:
        raise ArgumentError(
            f"token id {shown(number)} is out of range: the vocabulary has"
            f" {model.config.vocab_size}"
        )
    return number


def token_text(model: "Model", id: int) -> str | None:
    """The text of one token; None without a tokenizer."""
    pieces = model.origin.tokenizer.pieces(np.array([id]))
    return None if pieces is None else pieces[0]


def positions_of(position: Positions, n_tokens: int) -> tuple[int, ...]:
    """Positions from 0, given as a number, numbers, a slice, or None for all; negative ones count
    from the end. ArgumentError for a position out of range."""
    if position is None or isinstance(position, slice):
        try:
            found = tuple(range(n_tokens)[slice(None) if position is None else position])
        except (TypeError, ValueError):  # slice("a"), a step of 0
            raise refusal("position", position, _POSITIONS) from None
    else:
        one: Any = position
        each = [one] if is_whole(one) else listed("position", one, _POSITIONS)
        found = tuple(_position(number, n_tokens) for number in each)
    if not found:
        raise ArgumentError(f"position {shown(position)} selects none of {n_tokens} positions")
    return found


def one_position(position: SupportsIndex, n_tokens: int) -> int:
    """The same for one number."""
    return _position(position, n_tokens)


def _position(position: SupportsIndex, n_tokens: int) -> int:
    if not is_whole(position):
        raise ArgumentError(f"a position is a number, not {shown(position)}")
    number = operator.index(position)
    if not -n_tokens <= number < n_tokens:
        raise ArgumentError(f"there is no position {shown(number)}: the run has {n_tokens} tokens")
    return number % n_tokens


def check_model(model: "Model", run: "Run") -> None:
    """ArgumentError for a value that is not a run, or a run that cannot be the model's."""
    check_run(run)
    ours, its = model.config, run.config
    for name in ("d_model", "vocab_size", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff"):
        if getattr(ours, name) != getattr(its, name):
            raise ArgumentError(
                f"the run is from a model whose {name} is {getattr(its, name)}, but it is"
                f" {getattr(ours, name)} in this model: give the model that made the run"
            )


def check_held(run: "Run", needs: Iterable[tuple[str, int | None]], what: str) -> None:
    """PointError for values that the run lacks; the message has the call that keeps them."""
    needed = list(needs)
    missing = [(p, i) for p, i in needed if not (p in run.points and _has_layer(run, p, i))]
    if not missing:
        return
    point, layer = missing[0]
    of_layer = "" if layer is None else f" of layer {layer}"
    names = ", ".join(f'"{name}"' for name in dict.fromkeys(name for name, _ in needed))
    comma = "" if ", " in names else ","
    raise PointError(
        f"{what} needs {point}{of_layer}, which the run lacks; keep it with"
        f" model.run(prompt, points=({names}{comma}))"
    )


def _has_layer(run: "Run", point: str, layer: int | None) -> bool:
    return layer is None or layer in run.layers_of(point)
