"""Text to token ids and back: the only file that uses the `tokenizers` library.

Imports nothing of llamaprobe, so that `sandbox` can load it without the package; a tokenizer.json
known to be harmless is used in the caller's process. Every failure of the library, also a panic,
which is not an `Exception`, becomes a ValueError in one line.

Truncation, padding and dropout are disabled, whatever the file says: they change what the model
sees.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple


class State(NamedTuple):
    """A loaded tokenizer, for any number of encodings."""

    tokenizer: object
    added: list[dict]
    """Its added tokens, with their ids."""


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """Every failure of the library as ValueError, but for interrupts and lack of memory."""
    try:
        yield
    except (ValueError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as e:  # a panic in Rust derives from BaseException
        raise ValueError(str(e) or type(e).__name__) from None


def patched(spec: dict, parts: dict | None) -> dict:
    """tokenizer.json with its parts replaced by `parts`, but for vocabulary and merges."""
    if parts is None:
        return spec
    kept = {"vocab": spec["model"]["vocab"], "merges": spec["model"].get("merges") or []}
    return {**spec, **parts, "model": {**parts["model"], **kept}}


def load(data: bytes, setup: dict) -> State:
    """The tokenizer of tokenizer.json, whose bytes are `data`. Raises ValueError.

    setup: `parts` for `patched`, or None; `tokens` to add, in order; `added`, all added tokens
    after that, whose ids are compared, as the library numbers them itself; `split_special`, True if
    special tokens spelled out in a text are plain text.
    """
    with _guard():
        from tokenizers import AddedToken, Tokenizer

        if setup["parts"] is not None:  # `data` was read strictly when the tokenizer was opened
            data = json.dumps(patched(json.loads(data), setup["parts"])).encode("ascii")
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None
        if setup["tokens"]:  # even an empty list costs 10 us per existing token
            tokenizer.add_tokens([AddedToken(**token) for token in setup["tokens"]])
        tokenizer.encode_special_tokens = setup["split_special"]
        for token in setup["added"]:
            got = tokenizer.token_to_id(token["content"])
            if got != token["id"]:
                raise ValueError(
                    f"added token {token['content']!r} has id {token['id']} but would get {got}"
                )
    return State(tokenizer, setup["added"])


def encode(tokenizer, text: str, around: bool) -> list[int]:
    """Ids of `text`, in which special tokens may be spelled out; with `around`, the tokenizer also
    adds its own before and after.
    """
    with _guard():
        return tokenizer.encode(text, add_special_tokens=around).ids


def decode(tokenizer, ids: list[int], skip_special: bool) -> str:
    """The text of `ids`."""
    with _guard():
        return tokenizer.decode(ids, skip_special_tokens=skip_special)


def encode_marked(
    tokenizer, text: str, added: list[dict], marks: dict[str, str], spelled: list[str]
) -> list[int]:
    """Ids of `text`, in which special tokens are written as marks and anything else is plain text.

    `marks`: special token -> one private character that occurs nowhere else; `spelled`: the special
    tokens that the text spells out and that must not count. A second tokenizer over the same model
    has the marks as its special tokens, so that all text is split and merged in context; only the
    ids of the marks are translated. It numbers added tokens from the size of the vocabulary on.
    Where the vocabulary has unused ids, these are ids of other tokens too, which differ by their
    text.
    """
    with _guard():
        from tokenizers import AddedToken, Tokenizer

        second = Tokenizer(tokenizer.model)
        second.normalizer = tokenizer.normalizer
        second.pre_tokenizer = tokenizer.pre_tokenizer
        kept = {
            marks.get(token["content"], token["content"]): token
            for token in added
            if token["content"] in marks or not token["special"]
        }
        flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
        second.add_tokens(  # one call: each costs time per existing token
            [AddedToken(name, **{f: token[f] for f in flags}) for name, token in kept.items()]
        )
        true = {second.token_to_id(name): token["id"] for name, token in kept.items()}
        others = {id: second.model.id_to_token(id) for id, own in true.items() if id != own}
        encoded = second.encode(text, add_special_tokens=False)
    ids, found = [], set()
    for id, piece in zip(encoded.ids, encoded.tokens, strict=True):
        if id in true and piece != others.get(id):
            ids.append(true[id])
        else:
            ids.append(id)
            found.add(id)
    for token in added:
        if token["content"] in spelled and token["id"] in found:
            raise ValueError(f"{token['content']!r} in a message looks like the special token")
    return ids


def prepare(request: dict) -> State:
    """The tokenizer of `request`: `setup` of `load`, and the `text` of a tokenizer.json, or its
    `path` and the `state` that the file must have. Raises ValueError, OSError.
    """
    if "text" in request:
        return load(request["text"].encode(), request["setup"])
    with open(request["path"], "rb") as file:
        s = os.fstat(file.fileno())
        if request["state"] != [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns]:
            raise ValueError("the file was changed since it was opened")
        return load(file.read(), request["setup"])


def answer(state: State, request: dict) -> list[int] | str:
    """The ids of `text` (with `around`, `marks`, `spelled`), or the text of `ids` (with
    `skip_special`). Raises ValueError.
    """
    if "ids" in request:
        return decode(state.tokenizer, request["ids"], request["skip_special"])
    if request["marks"] is None:
        return encode(state.tokenizer, request["text"], request["around"])
    return encode_marked(
        state.tokenizer, request["text"], state.added, request["marks"], request["spelled"]
    )
