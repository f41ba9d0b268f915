"""Documents in text files: lines of text, lines of JSON, rows of CSV.

Lines are limited to MAX_LINE bytes. A line that is not a document is a Fault, and reading
continues; a file that cannot be read further (an unclosed CSV quote, a line over the limit) is a
FormatError.
"""

import csv
import itertools
import json
from collections.abc import Iterator
from typing import NoReturn, Protocol

from ..errors import FormatError
from ..messages import printable
from .document import Column, Document, Fault, document_of

MAX_LINE = 64 << 20  # bytes


class Lines(Protocol):
    """A binary file, or the rest of one."""

    def readline(self, limit: int = -1, /) -> bytes: ...


def read_txt(file: Lines, name: str) -> Iterator[Document]:
    """One text per line. FormatError."""
    for number, line in _lines(file, name):
        text = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
        yield Document(f"{name}: line {number}", _utf8(text))


def read_jsonl(file: Lines, name: str, column: Column | None) -> Iterator[Document]:
    """One document per line: a JSON object, a string, or a list of ids or messages. Empty lines are
    skipped. FormatError."""
    for number, line in _lines(file, name):
        if line.strip():
            yield Document(f"{name}: line {number}", _from_json(line, column))


def read_lines(file: Lines, name: str, column: Column | None) -> Iterator[Document]:
    """For stdin, which has no suffix: JSON lines if the first line is a JSON object, else text."""
    first = file.readline(MAX_LINE + 1)
    joined = _Rest(first, file)
    try:
        is_json = isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        is_json = False
    yield from read_jsonl(joined, name, column) if is_json else read_txt(joined, name)


def read_csv(
    file: Lines, name: str, column: Column | None, delimiter: str = ","
) -> Iterator[Document]:
    """One record per row below the header. FormatError."""
    lines = (line.decode("utf-8", "surrogateescape") for _, line in _lines(file, name))
    limit = csv.field_size_limit(MAX_LINE)
    try:
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        header = next(reader, None)
        if not header:
            raise FormatError(f"{name}: has no header; its first line names the columns")
        if len(set(header)) < len(header):
            raise FormatError(f"{name}: line 1: two columns have the same name")
        for row in reader:
            yield Document(f"{name}: line {reader.line_num}", _from_row(header, row, column))
    except csv.Error as error:
        raise FormatError(f"{name}: line {reader.line_num}: {printable(str(error))}") from None
    finally:
        csv.field_size_limit(limit)


class _Rest:
    """A binary file whose first line has been read."""

    def __init__(self, first: bytes, file: Lines) -> None:
        self._first, self._file = first, file

    def readline(self, limit: int = -1, /) -> bytes:
        first, self._first = self._first, b""
        return first or self._file.readline(limit)


def _lines(file: Lines, name: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line with its newline). FormatError for a line over MAX_LINE."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise FormatError(f"{name}: line {number}: over {MAX_LINE} bytes")
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _utf8(text: str) -> str | Fault:
    """The text, or a Fault if it holds bytes that were not UTF-8."""
    if text.isascii():
        return text
    for at, char in enumerate(text):
        if "\udc80" <= char <= "\udcff":
            return Fault(f"is not UTF-8: character {at} is the byte 0x{ord(char) - 0xDC00:02x}")
    return text


def _from_json(line: bytes, column: Column | None) -> object:
    try:
        value = json.loads(line.decode("utf-8").rstrip(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        return Fault(f"is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}")
    except json.JSONDecodeError as error:
        return Fault(f"is not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:  # NaN, an integer of thousands of digits
        return Fault(f"is not JSON: {printable(str(error), 100)}")
    except RecursionError:
        return Fault("is nested too deeply")
    if isinstance(value, dict):
        return document_of(value, column)
    if column is None and isinstance(value, (str, list)):
        return value
    return Fault(f"is {printable(repr(value), 40)}, not a JSON object")


def _from_row(header: list[str], row: list[str], column: Column | None) -> object:
    if len(row) != len(header):
        return "" if not row else Fault(f"has {len(row)} columns, the header has {len(header)}")
    value = document_of(dict(zip(header, row, strict=True)), column)
    return _utf8(value) if isinstance(value, str) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")
