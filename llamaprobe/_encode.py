"""Text to token ids: the only file that touches the `tokenizers` library.

Runs on its own: imports nothing of llamaprobe, so that `_child` can load it by path; a
tokenizer.json with nothing in it that could blow up is used in the caller's process. Whatever the
library does (its panics are no `Exception`) becomes a ValueError in one line.

What a file may ask for and does not get: truncation, padding, dropout. They change what the model
sees.
"""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    """Every failure of the library as ValueError; interrupts and lack of memory pass."""
    try:
        yield
    except (ValueError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as e:  # a panic in Rust derives from BaseException
        raise ValueError(str(e) or type(e).__name__) from None


def load(data: bytes, added: list[dict], prefix: str | None):
    """A `tokenizers.Tokenizer` from the bytes of tokenizer.json. Raises ValueError.

    `added` is the file's list of added tokens: the library numbers them itself, so the ids are
    compared. With `prefix` ("first", "always", "never") text is prepared as transformers' class
    LlamaTokenizer does.
    """
    with _guard():
        from tokenizers import Tokenizer, pre_tokenizers

        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None
        if prefix is not None:
            tokenizer.normalizer = None
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                replacement="▁", prepend_scheme=prefix, split=False
            )
        for token in added:
            got = tokenizer.token_to_id(token["content"])
            if got != token["id"]:
                raise ValueError(
                    f"added token {token['content']!r} has id {token['id']} but would get {got}"
                )
    return tokenizer


def encode(tokenizer, text: str, around: bool) -> list[int]:
    """Ids of `text`; special tokens spelled out in it are read as such. `around`: also those that
    the tokenizer puts around a text.
    """
    with _guard():
        return tokenizer.encode(text, add_special_tokens=around).ids


def encode_marked(
    tokenizer, text: str, added: list[dict], marks: dict[str, str], spelled: list[str]
) -> list[int]:
    """Ids of `text`, in which a special token counts only where its mark stands in its place.

    `marks`: special token -> one private character that occurs nowhere else; `spelled`: the
    special tokens that the text spells out and that must not count. A twin of the tokenizer, made
    over the same model, knows the marks as its special tokens; what is spelled out is plain text
    to it. So all text is cut and merged in its surroundings, and only the ids of the marks are
    translated.
    """
    with _guard():
        from tokenizers import Tokenizer

        twin = Tokenizer(tokenizer.model)
        twin.normalizer = tokenizer.normalizer
        twin.pre_tokenizer = tokenizer.pre_tokenizer
        true = {}  # id in the twin -> id in the file
        for token in added:
            if token["content"] in marks or not token["special"]:
                true[_add(twin, token, marks)] = token["id"]
        ids = twin.encode(text, add_special_tokens=False).ids
    found = set(ids).difference(true)
    for token in added:
        if token["content"] in spelled and token["id"] in found:
            raise ValueError(f"{token['content']!r} in a message looks like the special token")
    return [true.get(id, id) for id in ids]


def _add(twin, token: dict, marks: dict[str, str]) -> int:
    """Teach the twin an added token, by its mark if it has one; its id there."""
    from tokenizers import AddedToken

    name = marks.get(token["content"], token["content"])
    flags = {key: token[key] for key in token if key not in ("content", "id")}
    twin.add_tokens([AddedToken(name, **flags)])
    id = twin.token_to_id(name)
    if twin.model.id_to_token(id) not in (None, name):
        raise ValueError("special tokens in messages need a vocabulary without holes")
    return id


def answer(request: dict) -> list[int]:
    """One encoding from scratch, for `_child`. Raises ValueError."""
    with open(request["path"], "rb") as file:
        tokenizer = load(file.read(), request["added"], request["prefix"])
    if request["marks"] is None:
        return encode(tokenizer, request["text"], request["around"])
    return encode_marked(
        tokenizer, request["text"], request["added"], request["marks"], request["spelled"]
    )
