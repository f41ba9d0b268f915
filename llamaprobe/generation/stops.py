"""Stop conditions: the model's end-of-text ids, and stop strings."""

from pathlib import Path
from typing import Any

from ..arguments import shown, whole
from ..config import Config
from ..errors import ArgumentError, ConfigError
from ..files.json_file import find_object, is_text, show
from ..messages import shown_path
from ..prompts.tokenizer import Tokenizer

EOS = "eos"
_MAX_FILE = 1 << 20


def read_stop(stop: object) -> tuple[str, ...]:
    """`stop=` as a tuple: "eos" for the model's end ids, anything else is a stop string.
    ArgumentError."""
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, list | tuple) or not all(
        isinstance(s, str) and s and is_text(s) for s in stop
    ):
        raise ArgumentError(
            f'stop is {shown(stop)}; give "eos", texts (not empty, of whole characters), or () to'
            " continue up to n_tokens"
        )
    return tuple(dict.fromkeys(stop))


def end_ids(config: Config, folder: Path, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The ids that end a text of this model: eos_token_id in generation_config.json and
    config.json, and the tokenizer's eos_token, which ends a turn in chats. ConfigError, FileError.
    """
    path = folder / "generation_config.json"
    found = find_object(path, _MAX_FILE, ConfigError).get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    if any(one is not None and type(one) is not int for one in ids):
        raise ConfigError(
            f"{shown_path(path)}: eos_token_id is {show(found)}; it is an id, or a list of ids"
        )
    own = config.eos_token_id
    declared = own if isinstance(own, tuple) else (own,)
    named = None if tokenizer is None else tokenizer.eos_token_id
    return frozenset(
        id for id in (*ids, *declared, named) if id is not None and 0 <= id < config.vocab_size
    )


def check_count(name: str, value: Any) -> int:
    """A number of tokens, at least 1. ArgumentError."""
    return whole(name, value, 1, way_out="a number of tokens of at least 1")
