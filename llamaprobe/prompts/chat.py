"""The inputs of a chat template, checked: messages, tools, variables, the date.

They are copied and become plain data (JSON's types) before a template sees them.
"""

import copy
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arguments import flag, refusal, shown
from ..errors import ArgumentError
from ..files.json_file import is_text
from ..messages import printable

DEFAULT_DATE = datetime.date(2024, 7, 26)  # what Llama 3's own templates fall back on
MAX_CHARS = 1 << 22  # of the messages, and of the text that a template makes of them
TOKEN_NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
TEMPLATE_INPUTS = ("template_vars", "tools", "continue_final_message")

_MAX_DEPTH = 32
_TAKEN = {
    **dict.fromkeys(TOKEN_NAMES, "is the model's own"),
    **dict.fromkeys(("messages", "tools", "add_generation_prompt"), "is an argument here"),
    "continue_final_message": "is an argument here",
    **dict.fromkeys(("strftime_now", "raise_exception"), "is a function of templates"),
}


@dataclass(frozen=True)
class ChatOptions:
    """How a chat is rendered: arguments of transformers' `apply_chat_template`, and the date."""

    date: str | datetime.date | None = None
    """The date that the template sees, as in `pin_date`."""
    add_generation_prompt: bool | None = None
    """None: True unless the final message is continued."""
    template_vars: Mapping[str, Any] | None = None
    """Further variables of the template by name, such as enable_thinking."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """JSON schemas of functions."""
    continue_final_message: bool | str = False
    """True: the text ends with the last message's content; a str: with that field of it."""

    def check(self) -> "ChatOptions":
        """A copy that holds plain data only. ArgumentError: other values, names that are taken, a
        generation prompt after a message that is to be continued."""
        how = self.continue_final_message
        if not isinstance(how, bool | str) or how == "":
            raise ArgumentError(
                f"continue_final_message is {shown(how)}; give True, False or the"
                " name of a field of the last message"
            )
        prompt = self.add_generation_prompt
        if prompt is not None:
            prompt = flag("add_generation_prompt", prompt)
        if how and prompt:
            raise ArgumentError(
                "continue_final_message goes on with the last message and add_generation_prompt"
                " begins a new one: give one of the two"
            )
        prompt = not how if prompt is None else prompt
        return ChatOptions(
            None if self.date is None else pin_date(self.date),
            prompt,
            _check_variables(self.template_vars, self.date),
            _check_tools(self.tools),
            how,
        )

    @property
    def inputs(self) -> dict[str, Any]:
        """What a run records of them besides the date: template_vars, tools and
        continue_final_message, where they are given. Of a checked one."""
        values = (copy.deepcopy(getattr(self, name)) for name in TEMPLATE_INPUTS)
        return {
            name: value
            for name, value in zip(TEMPLATE_INPUTS, values, strict=True)
            if value is not None and value is not False
        }


def pin_date(date: str | datetime.date | None) -> datetime.date:
    """The date that a template sees: 26 Jul 2024 for None, the machine's for "today", else a date
    or its ISO spelling, "2025-01-31". ArgumentError.
    """
    if date is None:
        return DEFAULT_DATE
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    if isinstance(date, str) and date == "today":
        return datetime.date.today()
    try:
        return datetime.date.fromisoformat(date)
    except (ValueError, TypeError):
        raise refusal("date", date, '"today", a datetime.date, or YYYY-MM-DD') from None


def check_messages(messages: object) -> list[dict[str, Any]]:
    """A copy of chat messages as plain data. ArgumentError.

    A list of dicts, each with a "role" (str) and a "content" (or "tool_calls"), and values of
    JSON's types. Entries that are None are dropped, as in transformers.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ArgumentError("chat messages: give a list of at least one dict with role and content")
    copier = _Copier(MAX_CHARS)
    copies = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ArgumentError(f"message {i}: give a dict with a role (text) and a content")
        plain = copier.copy(message, f"message {i}", _MAX_DEPTH)
        plain = {key: value for key, value in plain.items() if value is not None}
        if "content" not in plain and "tool_calls" not in plain:
            raise ArgumentError(
                f"message {i}: it has no content; its keys are {', '.join(plain)!r:.200}"
            )
        copies.append(plain)
    return copies


def _check_variables(variables: object, date: object) -> dict[str, Any] | None:
    """A copy of template_vars as plain data."""
    if variables is None:
        return None
    if not isinstance(variables, Mapping):
        raise ArgumentError(
            "template_vars is a dict of names and values, not"
            f" {printable(type(variables).__name__)}"
        )
    for name in variables:
        if not isinstance(name, str) or not name.isidentifier():
            raise ArgumentError(
                f"template_vars: {printable(repr(name), 60)} is not a name that a template can use"
            )
        taken = _TAKEN.get(name)
        if name == "date_string" and date is not None:
            taken = "is set by date"
        if taken:
            raise ArgumentError(f"template_vars: {name} {taken}; leave it out")
    copier = _Copier(MAX_CHARS)
    return {
        name: copier.copy(value, f"template_vars {name}", _MAX_DEPTH)
        for name, value in variables.items()
    }


def _check_tools(tools: object) -> list[dict[str, Any]] | None:
    """A copy of tools as plain data."""
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise ArgumentError(
            f"tools is a list of JSON schemas, not {printable(type(tools).__name__)}"
        )
    copier = _Copier(MAX_CHARS)
    copies = []
    for i, tool in enumerate(tools):
        if callable(tool):
            raise ArgumentError(
                f"tool {i}: a Python function; give its JSON schema as a dict, such as"
                " transformers.utils.get_json_schema makes"
            )
        if not isinstance(tool, dict):
            raise ArgumentError(
                f"tool {i}: a {printable(type(tool).__name__)}; give its JSON schema as a dict"
            )
        copies.append(copier.copy(tool, f"tool {i}", _MAX_DEPTH))
    return copies


class _Copier:
    """Copies values of JSON's types, down to a depth and up to a number of characters."""

    def __init__(self, room: int) -> None:
        self.room = room

    def copy(self, value: Any, where: str, depth: int) -> Any:
        self.room -= 8
        if depth == 0:
            raise ArgumentError(f"{where}: nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict):
            return {self._key(k, where): self.copy(v, where, depth - 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(v, where, depth - 1) for v in value]
        if isinstance(value, str):
            return self._text(value, where)
        if value is None or type(value) is bool:
            return value
        if type(value) is int and -(2**63) <= value < 2**63:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        shown = "an integer over 64 bits" if type(value) is int else f"a {type(value).__name__}"
        raise ArgumentError(f"{where}: {shown} is not a JSON value")

    def _key(self, key: Any, where: str) -> str:
        if not isinstance(key, str):
            raise ArgumentError(f"{where}: the key {key!r:.80} is not text")
        return self._text(key, where)

    def _text(self, text: str, where: str) -> str:
        self.room -= len(text)
        if self.room < 0:
            raise ArgumentError(f"{where}: over {MAX_CHARS} characters in all")
        if not is_text(text):
            raise ArgumentError(f"{where}: the text has a lone surrogate, not a character")
        return str.__str__(text)


def texts(value: object) -> Iterator[str]:
    """Every text in plain data, also keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
