"""Continues prompts token by token until each of them ends."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..arguments import refusal, shown
from ..errors import ArgumentError
from ..prompts.prompt import numbered
from .engine import Context, Engine, Report
from .result import INTERRUPTED, LENGTH, GeneratedRun
from .sample import Sample, draw
from .stops import EOS, end_ids
from .text import TextStream

OnToken = Callable[[int, int, str], object]


class Ending:
    """The stop conditions of one call."""

    def __init__(self, engine: Engine, stop: tuple[str, ...], *, streamed: bool) -> None:
        """streamed: whether an on_token needs the text. ArgumentError, ConfigError, TokenizerError,
        FileError."""
        self.stop = stop
        self.strings = tuple(one for one in stop if one != EOS)
        tokenizer = engine.tokenizer() if stop or streamed else None
        if self.strings and tokenizer is None:
            raise ArgumentError(
                f"stop is {shown(self.strings[0])}, but the model has no tokenizer;"
                ' give "eos" or nothing'
            )
        has_eos = EOS in stop
        self.ids = end_ids(engine.config, engine.folder, tokenizer) if has_eos else frozenset()
        self._tokenizer = tokenizer if self.strings or streamed else None

    def stream(self) -> TextStream:
        """A text stream for one prompt's tokens; it stays empty if nothing needs the text."""
        return TextStream(self._tokenizer, self.strings)


class Continuation:
    """The continuation of one sequence in one call."""

    def __init__(
        self,
        engine: Engine,
        context: Context,
        n_tokens: int,
        sample: Sample | None,
        ending: Ending,
        on_token: OnToken | None,
    ) -> None:
        self.context, self.sample = context, sample
        self.stopped_by: str | None = None
        self._engine, self._on_token = engine, on_token
        self._start = len(context.ids)
        self._end = self._start + n_tokens
        self._logprobs: list[float] = []
        self._ending, self._stream = ending, ending.stream()

    def step(self) -> None:
        """Choose the next token. ArgumentError for logits that choose none."""
        context = self.context
        assert context.logits is not None
        position = len(context.ids)
        with self._numbered():
            id, logprob = draw(self.sample, context.logits, position)
        text, string = self._stream.add(id)
        stopped_by = self._why(id, string, position)
        if stopped_by is not None and string is None:
            text += self._stream.end()
        self._logprobs.append(logprob)
        context.ids.append(id)  # from here on the token counts, even after Ctrl-C
        self.stopped_by = stopped_by
        if self._on_token is not None:
            self._on_token(position, id, text)

    def _numbered(self) -> contextlib.AbstractContextManager[None]:
        context = self.context
        if context.n_prompts is None:
            return contextlib.nullcontext()
        beginning = context.prompt.text or context.prompt.token_ids
        return numbered(context.number, context.n_prompts, beginning)

    def _why(self, id: int, string: str | None, position: int) -> str | None:
        if id in self._ending.ids:
            return EOS
        if string is not None:
            return f"stop:{string}"
        return LENGTH if position + 1 == self._end else None

    def run(self, *, keep: bool) -> GeneratedRun | None:
        """The run up to the last finished token; None if not even the prompt was computed. keep:
        whether the sequence is used afterwards."""
        context, captures = self.context, self._engine.captures
        n_done = context.n_fed if captures else len(context.ids)
        if n_done < self._start or not context.n_fed:
            return None
        return GeneratedRun(
            context.prompt,
            context.ids[:n_done],
            context.captured.values(n_done, keep=keep),
            self._engine.origin,
            context.rope_length,
            self._logprobs[: n_done - self._start],
            self.sample,
            self._ending.stop,
            self.stopped_by or INTERRUPTED if n_done == len(context.ids) else INTERRUPTED,
            context.edits,
            self._end - self._start,
        )

    def finished(self, *, keep: bool) -> GeneratedRun:
        """The run after its end. EditError if an edit's positions were not reached."""
        found = self.run(keep=keep)
        assert found is not None
        if self.context.bound is not None:
            n_computed = self.context.n_fed
            with self._numbered():
                self.context.bound.check_reached(len(found), found, n_computed=n_computed)
        return found


def go_on(
    engine: Engine,
    continuations: Sequence[Continuation],
    check: Callable[[], object],
    report: Report,
    bar: Report,
) -> None:
    """Generate until all have ended. A sequence that has ended leaves the batch, after its last
    token was fed if values are captured. check: called between tokens; report: within a step; bar:
    with numbers of tokens."""
    live = list(continuations)
    n_new, n_most = 0, sum(c._end - c._start for c in continuations)
    while live:
        check()
        engine.feed([c.context for c in live], report)
        live = [c for c in live if c.stopped_by is None]
        for c in live:
            c.step()
        n_new += len(live)
        if bar is not None and live:
            bar(n_new, n_most)
        if not engine.captures:
            live = [c for c in live if c.stopped_by is None]


@contextlib.contextmanager
def with_what_there_is(
    continuations: Sequence[Continuation], is_batch: bool, *, keep: bool
) -> Iterator[None]:
    """Set `run` on an exception (Ctrl-C included) to the finished part of the generation."""
    try:
        yield
    except BaseException as error:
        runs = [c.run(keep=keep) for c in continuations]
        with contextlib.suppress(AttributeError):
            error.run = (runs if is_batch else runs[0]) if runs else None  # type: ignore[attr-defined]
        raise


def callbacks(
    on_token: OnToken | Sequence[OnToken | None] | None, n_prompts: int, is_batch: bool
) -> list[OnToken | None]:
    """The `on_token` of each prompt. ArgumentError."""
    if on_token is None:
        return [None] * n_prompts
    if callable(on_token) and not is_batch:
        return [on_token]
    functions: Iterable[object] = () if callable(on_token) else on_token
    found = list(functions) if isinstance(functions, list | tuple) else []
    if is_batch and len(found) == n_prompts and all(f is None or callable(f) for f in found):
        return found
    want = f"a list of {n_prompts} functions, one for each prompt" if is_batch else "one function"
    raise refusal("on_token", on_token, want)
