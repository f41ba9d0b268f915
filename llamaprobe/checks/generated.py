"""The new tokens of a saved run: each is what the rule draws from the logits of one pass over the
whole text, and the last one is where the text ends.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..generation.engine import Engine
from ..generation.generate import Ending
from ..generation.result import INTERRUPTED, LENGTH
from ..generation.sample import draw
from ..generation.stops import EOS
from ..generation.text import text_of
from ..messages import printable
from ..saved.generated import RULE, Generated
from ..saved.read import Saved
from ..saved_run import sample_of

_TOLERANCE = 1e-9  # of a logprob: its sum of exp is not defined to the bit


class Wrong(NamedTuple):
    """A new token that the rule does not draw."""

    position: int
    id: int
    drawn: int


def wrong_tokens(saved: Saved, ids: Sequence[int], logits: NDArray[np.float32]) -> list[Wrong]:
    """ids, logits: of the whole text. ArgumentError: logits that choose no token."""
    drawn = ((position, _draw(saved, logits, position)[0]) for position in _positions(saved))
    return [Wrong(p, ids[p], one) for p, one in drawn if ids[p] != one]


def token_faults(
    saved: Saved, logits: NDArray[np.float32], again: Callable[[list[int]], NDArray[np.float32]]
) -> Iterator[str]:
    """The first wrong token, and, with that put right, the first wrong logprob. logits: of the whole
    text, which `again` computes for other ids. ArgumentError as `wrong_tokens`."""
    facts, ids = saved.generated, saved.token_ids.tolist()
    assert facts is not None
    wrong = wrong_tokens(saved, ids, logits)
    if wrong:
        position, id, drawn = wrong[0]
        ids[position] = drawn
        logits = again(ids)
        others = wrong_tokens(saved, ids, logits)
        how = "the largest logit is" if facts.sample is None else f"{RULE} draws"
        more = "after it all others are drawn"
        if others:
            more = f"after it {len(others)} more differ, the first at position {others[0].position}"
        yield f"position {position} is token {id}, and {how} {drawn}; {more}"
    for position in _positions(saved):
        drawn, logprob = _draw(saved, logits, position)
        stated = facts.logprobs[position - facts.n_prompt]
        if drawn == ids[position] and not abs(logprob - stated) <= _TOLERANCE:
            yield f"position {position}: logprob is {stated!r} and should be {logprob!r}"
            return


def _positions(saved: Saved) -> range:
    """Of the new tokens."""
    assert saved.generated is not None
    return range(saved.generated.n_prompt, len(saved.token_ids))


def _draw(saved: Saved, logits: NDArray[np.float32], position: int) -> tuple[int, float]:
    return draw(sample_of(saved), logits[position - 1], position)


def end_faults(facts: Generated, engine: Engine) -> Iterator[str]:
    """Why the text ended, and its text."""
    ending = Ending(engine, facts.stop, streamed=True)
    stream, n_new, by = ending.stream(), len(facts.ids), None
    for i, id in enumerate(facts.ids):
        _, string = stream.add(id)
        by = EOS if id in ending.ids else None if string is None else f"stop:{string}"
        if by is not None and i < n_new - 1:
            yield f"the text ends at position {facts.n_prompt + i} by {printable(by)!r}, and goes on"
            return
    by = by or (LENGTH if n_new == facts.n_tokens else INTERRUPTED)
    if facts.stopped_by != by:
        yield f"stopped_by is {printable(facts.stopped_by)!r} and should be {printable(by)!r}"
    tokenizer = engine.tokenizer()
    if tokenizer is not None and facts.text != text_of(tokenizer, facts.ids, ending.strings):
        yield f"text is {printable(repr(facts.text), 60)}, which is not that of the new tokens"
