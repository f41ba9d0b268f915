"""When a text ends: the model's end-of-text ids, and stop strings."""

import operator
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import ArgumentError, ConfigError
from ..files.json_file import find_object, show
from ..messages import printable, shown_path
from ..prompts.tokenizer import Tokenizer

EOS = "eos"
_MAX_FILE = 1 << 20


def read_stop(stop: object) -> tuple[str, ...]:
    """`stop=` as a tuple: "eos" for the model's own ends, anything else is a stop string."""
    if isinstance(stop, str):
        stop = (stop,)
    if not isinstance(stop, list | tuple) or not all(isinstance(s, str) and s for s in stop):
        raise ArgumentError(
            f'stop is {printable(repr(stop), 60)}; give "eos", texts, or () to go on to n_tokens'
        )
    return tuple(dict.fromkeys(stop))


def end_ids(config: Config, folder: Path, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The ids at which a text of this model ends: eos_token_id of generation_config.json and of
    config.json, and the tokenizer's eos_token, which ends a turn of a chat. ConfigError, FileError.
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
    """A number of tokens from 1 up. ArgumentError."""
    if not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:
            pass
        else:
            if number >= 1:
                return number
    raise ArgumentError(
        f"{name} is {printable(repr(value), 60)}; give a number of tokens from 1 up"
    )
