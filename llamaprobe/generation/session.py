"""A session: a text whose computed state is kept while it is extended, rewound and copied."""

import contextlib
import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import is_whole, shown
from ..cancel import Cancel, Stop
from ..edits.edits import Edits
from ..edits.places import within
from ..errors import ArgumentError, TokenizerError
from ..messages import counted, printable
from ..points import Name
from ..prompts.chat import ChatOptions
from ..prompts.prompt import Prompt, read_prompt
from ..run import Run
from .engine import AnyEdits, Context, Engine, Report
from .generate import Continuation, Ending, OnToken, callbacks, go_on, with_what_there_is
from .result import GeneratedRun
from .sample import Sample, samples_of
from .stops import check_count, read_stop


class Session:
    """A growing text, made by `Model.start`. Each token is computed once and kept.

    After every call its values equal `model.run(session.token_ids, edits=session.edits)` bit for
    bit. A session stays usable after a failed call: `extend`, `rewind` and `copy` leave it
    unchanged, `generate` keeps the finished tokens. Only one thread at a time may use it. Its
    memory is freed with the object.
    """

    def __init__(self, engine: Engine, context: Context, max_tokens: int | None) -> None:
        self._engine, self._context, self._max = engine, context, max_tokens
        self._lock = threading.Lock()
        self._busy_with = "another call", 0

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """int32 [T], a copy: all tokens so far."""
        return np.array(self._context.ids, np.int32)

    @property
    def n_prompt(self) -> int:
        """The number of tokens of the prompt that it was started with."""
        return self._context.n_prompt

    @property
    def edits(self) -> Edits:
        """The edits given to `Model.start`, with absolute positions and cut to the current tokens.
        n_changed counts all rows that were computed, including dropped ones."""
        found = self._context.edits or Edits()
        edits = Edits(within(found, self._engine.config, len(self._context.ids)))
        edits.session_prompt = found.session_prompt
        return edits._made()

    @property
    def run(self) -> Run:
        """A copy of the state: a `Run` of all tokens so far, with the points given to
        `Model.start`."""
        with self._busy("run"):
            context = self._context
            if self._engine.captures and context.n_fed < len(context.ids):
                self._engine.feed([context])
            prompt = Prompt(self.token_ids, None, None)
            values = context.captured.values(len(context.ids), keep=True)
            origin = self._engine.origin
            return Run(prompt, values, origin, context.rope_length, self.edits)

    def __getitem__(self, point: Name) -> NDArray[np.float32]:
        """session[name] or session[name, layer]: the value in `session.run`."""
        return self.run[point]

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self._context.ids)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Any:
        raise TypeError("a Session is not a sequence; see session.token_ids")

    def extend(
        self,
        more: str | Sequence[int] | NDArray[np.integer[Any]],
        *,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Add text or token ids, and compute their values.

        Text is encoded on its own, without the special tokens that begin a text, so that ids may
        differ from those of the whole text if a word is cut. Raises as `Model.run`; ArgumentError
        if there would be more tokens than the model or max_tokens allows.
        """
        with self._busy("extend"):
            stop = Stop(timeout, cancel)
            ids, context = self._read(more), self._context
            stop.check()
            self._check_room(len(ids))
            n_before = len(context.ids)
            with self._restored(n_before):
                context.ids += ids
                self._engine.feed([context], stop.then(None))

    def generate(
        self,
        n_tokens: int,
        *,
        sample: Sample | None = None,
        stop: str | Sequence[str] = ("eos",),
        on_token: OnToken | None = None,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> GeneratedRun:
        """Generate up to n_tokens tokens; arguments, result and errors as `Model.generate`. After
        an exception (Ctrl-C included), the finished tokens stay."""
        with self._busy("generate"):
            limits = Stop(timeout, cancel)
            n_tokens = check_count("n_tokens", n_tokens)
            self._check_room(n_tokens)
            (how,) = samples_of(sample, 1, False)
            (function,) = callbacks(on_token, 1, False)
            ending = Ending(self._engine, read_stop(stop), streamed=function is not None)
            one = Continuation(self._engine, self._context, n_tokens, how, ending, function)
            with with_what_there_is([one], False, keep=True):
                go_on(self._engine, [one], limits.check, limits.then(None), None)
                found = one.run(keep=True)
            assert found is not None
            return found

    def rewind(self, position: int) -> None:
        """Drop the tokens from this position on; negative positions count from the end. At least
        one token must stay. Raises ArgumentError."""
        with self._busy("rewind"):
            n = len(self._context.ids)
            at = operator.index(position) if is_whole(position) else 0
            at = at + n if at < 0 else at
            if not 1 <= at <= n:
                raise ArgumentError(
                    f"position is {shown(position)}; the session has {counted(n, 'token')}, of"
                    " which at least one must stay"
                )
            self._check_table(at)
            self._drop(at)

    def copy(self) -> "Session":
        """An independent session with the same tokens."""
        with self._busy("copy"):
            context = self._context
            self._engine.check_memory([(0, len(context.ids))])
            return Session(self._engine, context.copy(), self._max)

    def __copy__(self) -> "Session":
        return self.copy()

    def __reduce__(self) -> Any:
        raise ArgumentError("a Session works within its process; pickle session.run")

    def __repr__(self) -> str:
        n = len(self._context.ids)
        return (
            f"<Session of {printable(self._engine.origin.shown)}: {counted(n, 'token')},"
            f" {self.n_prompt} of them the prompt>"
        )

    @contextlib.contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        """Allow one call at a time. ArgumentError."""
        if not self._lock.acquire(blocking=False):
            busy, thread = self._busy_with
            if thread == threading.get_ident():
                raise ArgumentError(
                    f"session.{what} is called while session.{busy} is at work, by on_token or a"
                    f" function of an edit; call it when {busy} has ended"
                )
            raise ArgumentError(
                f"session.{what} is called while another thread is at work in session.{busy}; one"
                " thread at a time may use a session, and session.copy() makes one for another"
            )
        try:
            self._busy_with = what, threading.get_ident()
            yield
        finally:
            self._lock.release()

    def _read(self, more: Any) -> list[int]:
        engine = self._engine
        if isinstance(more, list | tuple) and more and isinstance(more[0], Mapping):
            raise ArgumentError(
                "a session is extended with text or token ids, not with chat messages; give the"
                " turn as text, with the special tokens around it"
            )
        if isinstance(more, str) and more:
            tokenizer = engine.tokenizer()
            if tokenizer is None:
                raise TokenizerError(
                    f"{engine.folder}: no tokenizer.json, so no text; token ids still work"
                )
            more = tokenizer.encode(more, add_special_tokens=False)
        first = len(self._context.ids)
        options = ChatOptions()
        prompt = read_prompt(more, engine.config, engine.tokenizers, options, first=first)
        return prompt.token_ids.tolist()

    def _check_room(self, n_more: int) -> None:
        """ArgumentError, OutOfMemory."""
        n_before = len(self._context.ids)
        n = n_before + n_more
        what = f"{counted(n_before, 'token')} and {n_more} more"
        if self._max is not None and n > self._max:
            raise ArgumentError(f"{what} exceed the session's max_tokens, {self._max}")
        self._engine.check_length(n, what)
        self._check_table(n)
        self._engine.check_memory([(n_more, 0 if self._context.has_room(n) else n)])

    def _check_table(self, n_tokens: int) -> None:
        """ArgumentError if the whole text would need the other table of LongRoPE."""
        original = self._engine.original_positions()
        n_now = len(self._context.ids)
        if original is not None and (n_tokens > original) != (n_now > original):
            raise ArgumentError(
                f"the session would go from {n_now} to {n_tokens} tokens: beyond"
                f" original_max_position_embeddings, {original}, this model uses another LongRoPE"
                " table, which changes the values of all tokens; start a session with the whole"
                " text, or use Model.generate, which chooses the table by prompt and n_tokens"
            )

    def _drop(self, n_tokens: int) -> None:
        """Keep only the first n_tokens."""
        context = self._context
        del context.ids[n_tokens:]
        if context.n_fed > n_tokens:
            context.n_fed, context.logits = n_tokens, None

    @contextlib.contextmanager
    def _restored(self, n_tokens: int) -> Iterator[None]:
        """After an exception, restore the session to its first n_tokens."""
        try:
            yield
        except BaseException:
            self._drop(n_tokens)
            raise


def started(
    engine: Engine, prompt: Prompt, edits: AnyEdits, max_tokens: int | None, report: Report
) -> Session:
    """A session whose prompt is computed. ArgumentError, OutOfMemory."""
    n = len(prompt.token_ids)
    if max_tokens is not None:
        max_tokens = check_count("max_tokens", max_tokens)
        if max_tokens < n:
            raise ArgumentError(f"max_tokens is {max_tokens}, but the prompt has {n} tokens")
        if max_tokens > engine.config.max_positions:
            raise ArgumentError(
                f"max_tokens is {max_tokens}, over the {engine.config.max_positions} positions of"
                " this model (max_position_embeddings)"
            )
    engine.check_memory([(n, max_tokens or n)])
    most = max_tokens or engine.config.max_positions
    (bound,) = engine.bind(edits, [n], False, most - n)
    context = engine.context(prompt, max_tokens or n, None, bound)
    context.is_session = True
    engine.feed([context], report)
    return Session(engine, context, max_tokens)
