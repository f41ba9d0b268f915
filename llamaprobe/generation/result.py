"""The result of `Model.generate`: a run of the prompt and the new tokens."""

import contextlib
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..edits.edits import Edits
from ..errors import Error
from ..origin import Origin
from ..prompts.prompt import Prompt, TokenizerSource
from ..run import Run
from ..saved.generated import Generated
from .captured import Values
from .sample import Sample
from .stops import EOS
from .text import text_of

LENGTH = "length"
INTERRUPTED = "interrupted"


class GeneratedRun(Run):
    """A `Run` of a prompt and its continuation by the model.

    With the same points it equals `model.run(run.token_ids, ...)` bit for bit; for a model with
    LongRoPE, pass rope_length=run.rope_length. `run.prompt` is the text of the prompt alone.
    """

    def __init__(
        self,
        prompt: Prompt,
        token_ids: list[int],
        values: Values,
        origin: Origin,
        rope_length: int | None,
        logprobs: list[float],
        sample: Sample | None,
        stop: tuple[str, ...],
        stopped_by: str,
        edits: Edits | None,
        n_tokens: int,
        text: str | None = None,
    ) -> None:
        """The last `len(logprobs)` of token_ids are new; n_tokens were requested."""
        whole = dataclasses.replace(prompt, token_ids=np.array(token_ids, np.int32))
        super().__init__(whole, values, origin, rope_length, edits)
        self.logprobs: NDArray[np.float64] = np.array(logprobs, np.float64)
        """float64 [n_new]: the log probability (nats) of each new token, before temperature, top_k
        and top_p: its logit minus log(sum of exp of all logits)."""
        self.sample = sample
        """How the tokens were chosen; None: greedy."""
        self.stop = stop
        """As given to `Model.generate`."""
        self.stopped_by = stopped_by
        """ "eos", "stop:" with the stop string, "length", or "interrupted"."""
        self.n_tokens = n_tokens
        """The most new tokens, as given to `Model.generate`."""
        self._n_of_text = len(prompt.token_ids)
        self._text = text

    @property
    def n_prompt(self) -> int:
        """The number of tokens before the new ones."""
        return len(self.token_ids) - len(self.logprobs)

    @property
    def new_ids(self) -> NDArray[np.int32]:
        """int32 [n_new], including the token that ended the text."""
        return self.token_ids[self.n_prompt :]

    @property
    def text(self) -> str | None:
        """The new text up to the stop string, without special tokens; None without a tokenizer.
        Invalid UTF-8 becomes U+FFFD. TokenizerError, FileError."""
        source = self.origin.tokenizer
        if self._text is None and isinstance(source, TokenizerSource) and source.has_tokenizer:
            stops = tuple(one for one in self.stop if one != EOS)
            self._text = text_of(source.get(), self.new_ids.tolist(), stops)
        return self._text

    @property
    def generated(self) -> Generated:
        """How the new tokens were chosen, for `save`."""
        return Generated(
            self.n_prompt,
            self.n_tokens,
            None if self.sample is None else dataclasses.asdict(self.sample),
            self.stop,
            self.stopped_by,
            tuple(self.new_ids.tolist()),
            tuple(self.logprobs.tolist()),
            self.text,
        )

    @property
    def meta(self) -> dict[str, Any]:
        """As for `Run`, but without the prompt's text if a session was continued: that text does
        not give all tokens before the new ones."""
        if self._n_of_text == self.n_prompt:
            return super().meta
        whole = super().meta | {"prompt": None, "template_date": None}
        return {key: value for key, value in whole.items() if key not in self.template_inputs}

    def __getstate__(self) -> dict[str, Any]:
        with contextlib.suppress(Error):
            self.text  # noqa: B018 - caches _text, as is done for the tokens
        return super().__getstate__()

    def _length(self) -> str:
        return f"{super()._length()}, {len(self.logprobs)} of them new ({self.stopped_by})"
