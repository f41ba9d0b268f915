"""What the manifest says of how the new tokens of a generated run came about."""

import math
from typing import Any, NamedTuple

RULE = "lp-sample-1"
_NUMBERS = ("temperature", "top_k", "top_p", "seed", "number")
_MOST = 1 << 63  # of an integer in our JSON; larger ones are texts


class Generated(NamedTuple):
    """The facts of a generated run besides its tokens and values."""

    n_prompt: int
    n_tokens: int
    """New tokens at most."""
    sample: dict[str, Any] | None
    """The numbers of a Sample; None: greedy."""
    stop: tuple[str, ...]
    stopped_by: str
    ids: tuple[int, ...]
    """Of the new tokens."""
    logprobs: tuple[float, ...]
    text: str | None
    """Of the new tokens; None without a tokenizer."""

    def entry(self) -> dict[str, Any]:
        sample = self.sample
        return {
            "prompt_tokens": self.n_prompt,
            "n_tokens": self.n_tokens,
            "rule": RULE,
            "sample": sample and {name: _shown(sample[name]) for name in _NUMBERS},
            "stop": list(self.stop),
            "stopped_by": self.stopped_by,
            "ids": list(self.ids),
            "logprobs": list(self.logprobs),
            "text": self.text,
        }


def read_generated(entry: Any, token_ids: list[int]) -> Generated:
    """The facts from their entry, which agree with the tokens. ValueError: what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError("generated is not an object")
    n_prompt, n_tokens, ids = (entry.get(key) for key in ("prompt_tokens", "n_tokens", "ids"))
    if type(n_prompt) is not int or not 0 < n_prompt <= len(token_ids):
        raise ValueError("generated: prompt_tokens is not a number of these tokens")
    if not isinstance(ids, list) or ids != token_ids[n_prompt:]:
        raise ValueError(_first_wrong(ids, token_ids, n_prompt))
    if type(n_tokens) is not int or not max(1, len(ids)) <= n_tokens < 1 << 31:
        raise ValueError("generated: n_tokens is not a number of new tokens")
    if entry.get("rule") != RULE:
        raise ValueError(f"generated: rule is not {RULE}")
    stop, stopped_by, logprobs = (entry.get(key) for key in ("stop", "stopped_by", "logprobs"))
    if not isinstance(stop, list) or not all(isinstance(one, str) and one for one in stop):
        raise ValueError("generated: stop is not a list of texts")
    if not isinstance(stopped_by, str):
        raise ValueError("generated: stopped_by is not a text")
    if not isinstance(logprobs, list) or len(logprobs) != len(ids):
        raise ValueError("generated: logprobs is not a number for each new token")
    for at, one in enumerate(logprobs):
        if type(one) is not float or not math.isfinite(one):
            raise ValueError(f"generated: the logprob at position {n_prompt + at} is not a number")
    text = entry.get("text")
    if not (text is None or isinstance(text, str)):
        raise ValueError("generated: text is not a text")
    return Generated(
        n_prompt,
        n_tokens,
        _sample(entry.get("sample")),
        tuple(stop),
        stopped_by,
        tuple(ids),
        tuple(logprobs),
        text,
    )


def _first_wrong(ids: Any, token_ids: list[int], n_prompt: int) -> str:
    new = token_ids[n_prompt:]
    if not isinstance(ids, list) or len(ids) != len(new):
        return f"generated: ids is not a list of the {len(new)} tokens after the prompt"
    at = next(i for i, (a, b) in enumerate(zip(ids, new, strict=True)) if a != b)
    return (
        f"generated: the id at position {n_prompt + at} is not the {new[at]} of token_ids in the"
        " meta_layer files"
    )


def _sample(found: Any) -> dict[str, Any] | None:
    """The numbers, of which a Sample checks what they may be."""
    if found is None:
        return None
    if not isinstance(found, dict) or set(found) != set(_NUMBERS):
        raise ValueError(f"generated: sample does not have exactly {', '.join(_NUMBERS)}")
    return {name: _read(found[name]) for name in _NUMBERS}


def _shown(number: Any) -> Any:
    return str(number) if type(number) is int and number >= _MOST else number


def _read(number: Any) -> Any:
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) <= 20:
        return int(number)
    return number
