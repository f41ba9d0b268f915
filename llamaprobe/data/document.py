"""One document of a dataset as read: a text, token ids, a chat, or a Fault that says why it is
none of these.

A record (a JSON object, a row of a table) holds its document in one column: the given `Column`, or
else the first of `DEFAULT_COLUMNS` that the record has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError
from ..messages import printable

DEFAULT_COLUMNS = ("text", "input_ids", "messages", "prompt")
_KINDS = {"text": "text", "ids": "token ids", "chat": "chat messages"}


@dataclass(frozen=True)
class Fault:
    """Why a record is not a document."""

    reason: str


@dataclass(frozen=True)
class Document:
    where: str
    """For messages: "pile.jsonl: line 3"."""
    value: object
    """A str, token ids (a sequence or an array), chat messages (a list of dicts), or a Fault."""


@dataclass(frozen=True)
class Column:
    """The column of a record that holds the document, and its kind: "text", "ids" or "chat"."""

    name: str
    kind: str

    def of(self, record: Mapping[str, object]) -> object:
        """The document of a record, or a Fault."""
        if self.name not in record:
            return _missing(self.name, record)
        value = record[self.name]
        if kind_of(value) != self.kind:
            shown = printable(repr(value), 60)
            return Fault(f"{printable(self.name)} is {shown}, not {_KINDS[self.kind]}")
        return value if self.kind != "ids" else _unpadded(value, record)


def choose_column(text: str | None, ids: str | None, chat: str | None) -> Column | None:
    """The column given by the user; at most one of the three. ArgumentError."""
    given = [
        Column(name, kind)
        for name, kind in ((text, "text"), (ids, "ids"), (chat, "chat"))
        if name is not None
    ]
    if len(given) > 1:
        names = ", ".join(printable(column.name) for column in given)
        raise ArgumentError(f"a document is in one column, not in several: {names}")
    if given and (not isinstance(given[0].name, str) or not given[0].name):
        raise ArgumentError("the name of a column must be a nonempty str")
    return given[0] if given else None


def document_of(record: Mapping[str, object], column: Column | None) -> object:
    """The document of a record, or a Fault."""
    if column is not None:
        return column.of(record)
    for name in DEFAULT_COLUMNS:
        if name in record:
            kind = kind_of(record[name])
            if kind is None:
                shown = printable(repr(record[name]), 60)
                return Fault(f"{name} is {shown}, not text, token ids or chat messages")
            return Column(name, kind).of(record)
    return _missing(None, record)


def kind_of(value: object) -> str | None:
    """ "text", "ids", "chat", or None for anything else."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, np.ndarray):
        return "ids"
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray, memoryview)):
        return None
    return "chat" if value and isinstance(value[0], Mapping) else "ids"


def _unpadded(ids: object, record: Mapping[str, object]) -> object:
    """The ids, or a Fault if an attention mask marks some of them as padding."""
    mask = record.get("attention_mask")
    if isinstance(mask, Sequence) and not isinstance(mask, str) and not all(mask):
        return Fault("the attention_mask has zeros, so the ids are padded; encode without padding")
    return ids


def _missing(name: str | None, record: Mapping[str, object]) -> Fault:
    found = ", ".join(printable(str(key), 40) for key in list(record)[:8]) or "none"
    wanted = printable(name) if name else " or ".join(DEFAULT_COLUMNS)
    return Fault(f"has no {wanted}; its columns: {found}")
