"""The model as generation uses it: growing sequences, and the logits of their last tokens.

All tokens that are not fed yet go through the model at once, for any number of sequences; each
sequence gets the same bits as alone.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..captures import Capture
from ..checkpoint.folder import named
from ..config import Config
from ..edits.edits import Edits
from ..edits.resolve import Bound, Call, bind_all
from ..errors import ArgumentError, OutOfMemory
from ..origin import Origin
from ..points import resolve
from ..prompts.prompt import Prompt, TokenizerSource
from ..prompts.tokenizer import Tokenizer
from .captured import Captured, n_bytes, n_floats

AnyEdits = Edits | Sequence[Edits | None] | None
Report = Callable[[int, int], object] | None


@dataclass(eq=False)
class Context:
    """One sequence: its tokens, and what has been computed for them."""

    prompt: Prompt
    number: int
    """The number of the prompt in the batch."""
    n_prompts: int | None
    """The number of prompts in the batch; None if there is no batch."""
    ids: list[int]
    """All tokens; those from n_fed on have not been computed."""
    captured: Captured
    cache: _core.Cache
    bound: Bound | None
    """Its edits."""
    rope_length: int | None
    """For a model with LongRoPE, the length that chooses its table; else None."""
    is_session: bool = False
    n_fed: int = 0
    logits: NDArray[np.float32] | None = field(default=None, repr=False)
    """[vocab_size], after token n_fed - 1; None if not known."""

    @property
    def n_prompt(self) -> int:
        return len(self.prompt.token_ids)

    @property
    def edits(self) -> Edits | None:
        """The edits as in `Run.edits`."""
        if self.bound is None:
            return None
        edits = self.bound.applied(self.n_fed)
        edits.session_prompt = self.n_prompt if self.is_session else None
        return edits

    def has_room(self, n_tokens: int) -> bool:
        """Whether n_tokens fit without allocating memory."""
        return n_tokens <= min(self.cache.capacity, self.captured.capacity)

    def copy(self) -> "Context":
        """An independent copy, with what has been computed."""
        bound = None if self.bound is None else self.bound.copy()
        captured, cache = self.captured.copy(self.n_fed), self.cache.copy()
        return dataclasses.replace(
            self, ids=list(self.ids), captured=captured, cache=cache, bound=bound
        )


@dataclass(frozen=True, eq=False)
class Engine:
    """An open model, and what a call requests from it."""

    core: _core.Model
    config: Config
    origin: Origin
    folder: Path
    tokenizers: TokenizerSource
    captures: Sequence[Capture]
    n_threads: int

    @property
    def last_rows(self) -> bool:
        """Whether only the last row of points that are computed once (the head) is needed."""
        return all(capture.point.per_layer for capture in self.captures)

    @property
    def logits(self) -> Capture:
        """The capture that tokens are chosen from."""
        return Capture(resolve("logits", self.config)[0], ())

    def bind(
        self,
        edits: AnyEdits,
        lengths: list[int],
        is_batch: bool,
        n_new: int,
        *,
        last_fed: bool = True,
    ) -> list[Bound | None]:
        """The edits of each prompt, which gets up to n_new tokens; last_fed: whether the last one
        is computed. EditError, PointError."""
        return bind_all(
            edits,
            self.config,
            lengths,
            is_batch,
            [*self.captures, self.logits],
            n_new=n_new,
            cached=True,
            last_fed=last_fed,
        )

    def context(
        self,
        prompt: Prompt,
        capacity: int,
        rope_length: int | None,
        bound: Bound | None,
        number: int = 0,
        n_prompts: int | None = None,
    ) -> Context:
        """A sequence with nothing computed, and room for this many tokens."""
        captured = Captured(self.captures, self.config, capacity)
        ids = prompt.token_ids.tolist()
        cache = _core.Cache(self.core, capacity, n_threads=self.n_threads)
        return Context(prompt, number, n_prompts, ids, captured, cache, bound, rope_length)

    def feed(self, contexts: Sequence[Context], report: Report = None) -> None:
        """Compute the rows of all tokens that are not fed yet, and the logits of the last ones."""
        for context in contexts:
            if context.n_fed == len(context.ids) and context.logits is None:
                context.n_fed -= 1  # after a rewind: recompute the logits of the last row
        contexts = [c for c in contexts if c.n_fed < len(c.ids)]
        for group in self._groups(contexts):
            self._feed(group, report)

    def check_memory(self, lengths: Sequence[tuple[int, int]]) -> None:
        """OutOfMemory unless sequences of (tokens fed at once, tokens to allocate for) fit."""
        c, available = self.config, _core.memory()
        a_token = 2 * c.n_layers * c.n_kv_heads * c.head_dim * 4
        caches = sum(last * a_token for _, last in lengths)
        kept = sum(n_bytes(self.captures, c, last) for _, last in lengths)
        first = sum(n_bytes(self.captures, c, n) for n, _ in lengths)
        if available is not None and caches + kept + first > available:
            raise OutOfMemory(
                f"{sum(max(both) for both in lengths)} tokens need {caches + kept + first} bytes and"
                f" {available} are free; request fewer points, layers or tokens (captured values:"
                f" {kept} bytes, their rows of the prompts: {first} bytes, caches: {caches} bytes)"
            )

    def check_length(self, n_tokens: int, what: str) -> None:
        """ArgumentError if the model has fewer positions."""
        if n_tokens > self.config.max_positions:
            raise ArgumentError(
                f"{what} make {n_tokens} tokens, over the {self.config.max_positions} positions of"
                " this model (max_position_embeddings)"
            )

    def original_positions(self) -> int | None:
        """For a model with LongRoPE, the longest text that uses the short table; else None."""
        ropes = (self.config.layer(i).rope for i in range(self.config.n_layers))
        return next(
            (r.original_positions for r in ropes if r and r.long_inv_freq is not None), None
        )

    def tokenizer(self) -> Tokenizer | None:
        """None for a model without one. TokenizerError, FileError."""
        return self.tokenizers.get() if self.tokenizers.has_tokenizer else None

    def _groups(self, contexts: Sequence[Context]) -> Iterator[list[Context]]:
        """Sequences grouped by RoPE table, since one call of the core has one rope length."""
        original = self.original_positions()
        long = [c for c in contexts if original and (c.rope_length or 0) > original]
        short = [c for c in contexts if not any(c is other for other in long)]
        return (group for group in (short, long) if group)

    def _feed(self, contexts: list[Context], report: Report) -> None:
        """Compute the rows, then count them as fed, so that Ctrl-C never leaves a sequence
        halfway."""
        logits = self.logits
        captures = [*self.captures, *([] if logits in self.captures else [logits])]
        for context in contexts:
            context.logits = None
        arrays = self._run(contexts, captures, report)
        last: list[NDArray[np.float32]] = []
        for number, (capture, array) in enumerate(zip(captures, arrays, strict=True)):
            at = 0
            for context in contexts:
                n_past, n = context.n_fed, len(context.ids)
                n_rows = 1 if self.last_rows and capture == logits else n - n_past
                end = at + n_floats(capture, self.config, n_past, n_rows)
                if number < len(self.captures):
                    context.captured.write(number, n_past, n, array[:, at:end])
                if capture == logits:
                    row = array[0, end - self.config.vocab_size : end]
                    last.append(row if self.last_rows else row.copy())
                at = end
        for context, row in zip(contexts, last, strict=True):
            context.n_fed = len(context.ids)
            context.logits = row

    def _run(
        self, contexts: list[Context], captures: Sequence[Capture], report: Report
    ) -> list[NDArray[np.float32]]:
        """[layers, floats of all new rows] for each capture; only the last rows of logits that are
        not kept."""
        first = contexts[0]
        new = [c.ids[c.n_fed :] for c in contexts]
        n_rows = [len(ids) for ids in new]
        call = Call(
            [c.bound for c in contexts],
            [c.n_fed for c in contexts],
            n_rows,
            step=max(0, first.n_fed - first.n_prompt + 1) if first.n_fed else 0,
            prompts=[c.number for c in contexts],
            last_rows=self.last_rows,
            n_prompts=first.n_prompts,
        )
        for context in contexts:
            context.cache.rewind(context.n_fed)
        with named(self.folder), call.named():
            arrays = self.core.run(
                np.array([id for ids in new for id in ids], np.int32),
                [0, *itertools.accumulate(n_rows)],
                [capture.numbers for capture in captures],
                n_threads=self.n_threads,
                progress=report,
                rope_length=first.rope_length or 0,
                edits=call.items,
                changed=call.changed,
                caches=[c.cache for c in contexts],
                last_rows=self.last_rows,
            )
        call.count()
        return arrays
