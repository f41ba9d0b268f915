"""`Model.generate` and `Model.start`, as a base class of `Model`."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .. import _core, stderr
from ..cancel import Cancel, Stop
from ..captures import captures_of
from ..config import Config
from ..edits.edits import Edits
from ..errors import ArgumentError
from ..origin import Origin
from ..points import Layers, Name
from ..prompts.chat import ChatOptions
from ..prompts.prompt import Prompt, TokenizerSource
from .engine import Engine
from .generate import Continuation, Ending, OnToken, callbacks, go_on, with_what_there_is
from .result import GeneratedRun
from .sample import Sample, samples_of
from .session import Session, started
from .stops import check_count, read_stop

OnePrompt = str | Sequence[int] | NDArray[np.integer[Any]] | Sequence[Mapping[str, Any]]
PromptList = Sequence[OnePrompt]


class GenerateOptions(TypedDict, total=False):
    """The arguments of `Model.generate` besides the prompt and n_tokens; see there."""

    sample: Sample | Sequence[Sample | None] | None
    stop: str | Sequence[str]
    points: str | Iterable[Name]
    layers: Layers
    edits: Edits | Sequence[Edits | None] | None
    threads: int | None
    on_token: OnToken | Sequence[OnToken | None] | None
    progress: bool
    date: str | datetime.date | None
    add_generation_prompt: bool | None
    template_vars: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    continue_final_message: bool | str
    timeout: float | None
    cancel: Cancel | None


class Generates:
    """The methods of `Model` that generate tokens."""

    config: Config
    path: Path
    origin: Origin
    _tokenizer: TokenizerSource

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: OnePrompt, n_tokens: int, **how: Unpack[GenerateOptions]
    ) -> GeneratedRun: ...
    @overload
    def generate(
        self, prompt: PromptList, n_tokens: int, **how: Unpack[GenerateOptions]
    ) -> list[GeneratedRun]: ...
    @overload
    def generate(
        self, prompt: object, n_tokens: int, **how: Unpack[GenerateOptions]
    ) -> GeneratedRun | list[GeneratedRun]: ...
    def generate(
        self,
        prompt: object,
        n_tokens: int,
        *,
        sample: Sample | Sequence[Sample | None] | None = None,
        stop: str | Sequence[str] = ("eos",),
        points: str | Iterable[Name] = (),
        layers: Layers = None,
        edits: Edits | Sequence[Edits | None] | None = None,
        threads: int | None = None,
        on_token: OnToken | Sequence[OnToken | None] | None = None,
        progress: bool = False,
        date: str | datetime.date | None = None,
        add_generation_prompt: bool | None = None,
        template_vars: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool | str = False,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> GeneratedRun | list[GeneratedRun]:
        """Continue a prompt: a Run of the prompt and up to n_tokens new tokens, with `new_ids`,
        `text`, `stopped_by` and `logprobs`; for a batch, a list of runs.

        prompt and the arguments not listed here: see `run`. Each prompt of a batch gets the same
            tokens as alone, and leaves the batch when it has ended.
        sample: a `Sample`, or for a batch a list with one per prompt. None is greedy: the token
            with the largest logit.
        stop: "eos" for the ids at which the model ends a text or a turn, and stop strings, which
            may begin and end within tokens. () continues up to n_tokens.
        points, layers: values to keep of prompt and new tokens: those of
            `model.run(run.token_ids, points=...)`, bit for bit. Default: none.
        edits: as for `run`. Positions count in the whole text, so that `[p:]` extends to new
            tokens; negative ones count from the end of the prompt.
        on_token: called with (position, id, text) after each token; for a batch, a list of such
            functions. text is the part that is now certain; joined, the texts are `run.text`.

        In a model with LongRoPE, the length of prompt plus n_tokens chooses the RoPE table, even if
        the text ends early; the values are those of `model.run(..., rope_length=run.rope_length)`.

        Ctrl-C, `timeout`, `cancel` and exceptions in on_token end the call. The exception has
        `run`: the run up to the last finished token (for a batch, a list), or None if there is
        none.

        Raises as `run`; ArgumentError for logits that choose no token (NaN, +inf), and if prompt
        and n_tokens exceed the positions of the model.
        """
        limits = Stop(timeout, cancel)
        engine = self._engine(points, layers, threads)
        n_tokens, stop = check_count("n_tokens", n_tokens), read_stop(stop)
        chat = ChatOptions(
            date, add_generation_prompt, template_vars, tools, continue_final_message
        )
        prompts, is_batch = self._read(prompt, chat, limits)
        samples = samples_of(sample, len(prompts), is_batch)
        functions = callbacks(on_token, len(prompts), is_batch)
        lengths = [len(one.token_ids) for one in prompts]
        engine.check_length(max(lengths) + n_tokens, f"the prompt and {n_tokens} more")
        engine.check_memory([(n, n + n_tokens) for n in lengths])
        streamed = any(function is not None for function in functions)
        ending = Ending(engine, stop, streamed=streamed)
        last_fed = bool(engine.captures)
        bounds = engine.bind(edits, lengths, is_batch, n_tokens, last_fed=last_fed)
        has_tables = engine.original_positions() is not None
        continuations = [
            Continuation(
                engine,
                engine.context(
                    one,
                    len(one.token_ids) + n_tokens,
                    len(one.token_ids) + n_tokens if has_tables else None,
                    bounds[i],
                    i,
                    len(prompts) if is_batch else None,
                ),
                n_tokens,
                samples[i],
                ending,
                functions[i],
            )
            for i, one in enumerate(prompts)
        ]
        with (
            with_what_there_is(continuations, is_batch, keep=False),
            stderr.bar(progress, "token") as bar,
        ):
            go_on(engine, continuations, limits.check, limits.then(None), bar)
            runs = [one.finished(keep=False) for one in continuations]
        return runs if is_batch else runs[0]

    def start(
        self,
        prompt: OnePrompt,
        *,
        points: str | Iterable[Name] = (),
        layers: Layers = None,
        edits: Edits | None = None,
        max_tokens: int | None = None,
        threads: int | None = None,
        date: str | datetime.date | None = None,
        add_generation_prompt: bool | None = None,
        template_vars: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool | str = False,
        timeout: float | None = None,
        cancel: Cancel | None = None,
    ) -> Session:
        """Compute one prompt and return a `Session`, which continues from it.

        Arguments and errors as for `generate`. max_tokens: the most tokens of the session, for
        which memory is allocated at once; None: memory grows, up to the positions of the model.
        """
        limits = Stop(timeout, cancel)
        engine = self._engine(points, layers, threads)
        chat = ChatOptions(
            date, add_generation_prompt, template_vars, tools, continue_final_message
        )
        prompts, is_batch = self._read(prompt, chat, limits)
        if is_batch:
            raise ArgumentError("a session has one prompt; start one for each")
        return started(engine, prompts[0], edits, max_tokens, limits.then(None))

    def _engine(self, points: str | Iterable[Name], layers: Layers, threads: int | None) -> Engine:
        none = isinstance(points, list | tuple) and not points
        return Engine(
            self._open(),
            self.config,
            self.origin,
            self.path,
            self._tokenizer,
            [] if none else captures_of(points, layers, self.config),
            self._n_threads(threads),
        )

    def _open(self) -> _core.Model:
        raise NotImplementedError

    def _n_threads(self, threads: int | None) -> int:
        raise NotImplementedError

    def _read(self, prompt: object, chat: ChatOptions, stop: Stop) -> tuple[list[Prompt], bool]:
        raise NotImplementedError
