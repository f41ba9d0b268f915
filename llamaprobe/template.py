"""Chat messages to text, by the template that came with the model.

Looked for in this order: chat_template.jinja, `chat_template` in tokenizer_config.json (a string,
or a list of named ones of which "default" is taken), chat_template.json. The special tokens by
name (bos_token, ...) come from tokenizer_config.json and special_tokens_map.json, as transformers
has it.

A template is a stranger's program. It runs in Jinja's immutable sandbox; one that is not known by
the sha256 of its text runs in a child process besides, with limits on time, memory and output. It
sees the messages, the special tokens and one date, which is pinned: 26 Jul 2024 unless the caller
says otherwise. Messages are plain data (what JSON can say), checked before the template sees
them.
"""

import datetime
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _child, log
from .errors import ArgumentError, TemplateError
from .json_file import decode
from .names import printable
from .side_file import is_text, read_bytes, read_json

DEFAULT_DATE = datetime.date(2024, 7, 26)  # what Llama 3's own templates fall back on
MAX_CHARS = 1 << 22  # of the messages, and of the text that a template makes of them

_LIMITS = _child.Limits(cpu_seconds=5, wall_seconds=30, memory=1 << 30, reply=16 * MAX_CHARS)
_MAX_FILE = 16 << 20
_MAX_TEMPLATE = 1 << 18
_MAX_DEPTH = 32
_DEMO = Path(__file__).parent / "demo"

# sha256 of the text of templates that were read and found harmless: these render in this process.
_KNOWN = {
    "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65": "Llama 3.1 Instruct",
    "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4": "Llama 3.2 Instruct",
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "SmolLM2 Instruct",
    "4f39e3a4b9e3d369b42fd00d93a78f171914bb4e58ec84fc420433d7a153288a": "Zephyr, TinyLlama Chat",
}

_TOKEN_NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class Template:
    """A chat template, where it was found, and the special tokens that it may name."""

    path: Path
    text: str
    tokens: dict[str, str]
    known: bool
    """True: rendered in this process. False: in a child with limits."""

    @classmethod
    def find(cls, folder: str | os.PathLike[str]) -> "Template":
        """The template of the model in `folder`. TemplateError (none, broken file), FileError."""
        folder = Path(folder)
        config_path = folder / "tokenizer_config.json"
        config = read_json(config_path, _MAX_FILE, TemplateError)
        path, text = _find_text(folder, config_path, config)
        if len(text) > _MAX_TEMPLATE:
            raise TemplateError(
                f"{path}: the template has {len(text)} characters; the limit is {_MAX_TEMPLATE}"
            )
        if not is_text(text):
            raise TemplateError(
                f"{path}: the template holds a lone surrogate, which is no character"
            )
        known = hashlib.sha256(text.encode()).hexdigest() in _KNOWN or _is_demo(folder)
        where = "in this process" if known else "in a child process"
        log.info("%s: the chat template; it runs %s", path, where)
        return cls(path, text, _special_tokens(folder, config), known)

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        date: str | datetime.date | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of `messages`, which `check_messages` has passed.

        `date` as in `pin_date`; a template without a clock that takes a `date_string` (Llama 3.1)
        gets one if the caller chose a date. Raises TemplateError: the template refuses, fails, or
        exceeds its limits.
        """
        variables: dict[str, Any] = dict(
            self.tokens, messages=[_as_templates_expect(m) for m in messages]
        )
        variables.update(
            tools=None, documents=None, add_generation_prompt=bool(add_generation_prompt)
        )
        day = pin_date(date)
        if date is not None:
            month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * day.month - 3 : 3 * day.month]
            variables["date_string"] = f"{day.day:02d} {month} {day.year:04d}"
        request = {
            "template": self.text,
            "variables": variables,
            "date": day.isoformat(),
            "max_chars": MAX_CHARS,
        }
        text = self._answer(request)
        if not isinstance(text, str) or not is_text(text):
            raise TemplateError(
                f"{self.path}: the template makes a lone surrogate, which is no character"
            )
        return text

    def _answer(self, request: dict[str, Any]) -> object:
        try:
            if self.known:
                from . import _render

                return _render.answer(request)
            return _child.call(
                "_render.py", request, packages=("jinja2", "markupsafe"), limits=_LIMITS
            )
        except (ValueError, _child.ChildError) as e:
            raise TemplateError(
                f"{self.path}: the chat template failed: {printable(str(e), 300)}"
            ) from None


def pin_date(date: str | datetime.date | None) -> datetime.date:
    """The day that a template is told: None is 26 Jul 2024, "today" the machine's own; else a
    date or its ISO spelling, "2025-01-31". ArgumentError.
    """
    if date is None:
        return DEFAULT_DATE
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    if date == "today":
        return datetime.date.today()
    try:
        return datetime.date.fromisoformat(date)
    except (ValueError, TypeError):
        raise ArgumentError(
            f'date {date!r:.80}: give "today", a datetime.date, or YYYY-MM-DD'
        ) from None


def check_messages(messages: object) -> list[dict[str, Any]]:
    """A copy of chat messages made of plain data only. ArgumentError.

    A list of dicts, each with a "role" (str) and a "content" (or "tool_calls"); values are what
    JSON can say. Entries that are None are dropped, as transformers does.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ArgumentError("chat messages: give a list of at least one dict with role and content")
    copier = _Copier(MAX_CHARS)
    copies = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ArgumentError(f"message {i}: give a dict with a role (text) and a content")
        copy = copier.copy(message, f"message {i}", _MAX_DEPTH)
        copy = {key: value for key, value in copy.items() if value is not None}
        if "content" not in copy and "tool_calls" not in copy:
            raise ArgumentError(
                f"message {i}: it has no content; its keys are {', '.join(copy)!r:.200}"
            )
        copies.append(copy)
    return copies


class _Copier:
    """Rebuilds values from JSON's own types, down to a depth and up to a number of characters."""

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
        raise ArgumentError(f"{where}: {shown} is nothing that JSON can say")

    def _key(self, key: Any, where: str) -> str:
        if not isinstance(key, str):
            raise ArgumentError(f"{where}: the key {key!r:.80} is no text")
        return self._text(key, where)

    def _text(self, text: str, where: str) -> str:
        self.room -= len(text)
        if self.room < 0:
            raise ArgumentError(f"{where}: the messages have over {MAX_CHARS} characters")
        if not is_text(text):
            raise ArgumentError(f"{where}: the text holds a lone surrogate, which is no character")
        return str.__str__(text)


def _as_templates_expect(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under each name that templates look for, as transformers passes it."""
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _find_text(folder: Path, config_path: Path, config: dict[str, Any]) -> tuple[Path, str]:
    path = folder / "chat_template.jinja"
    data = read_bytes(path, _MAX_TEMPLATE, TemplateError)
    if data is not None:
        try:
            return path, decode(data).replace("\r\n", "\n").replace("\r", "\n")
        except ValueError as e:
            raise TemplateError(f"{path}: {e}") from None
    if config.get("chat_template") is not None:
        return config_path, _default(config["chat_template"], config_path)
    path = folder / "chat_template.json"
    found = read_json(path, _MAX_FILE, TemplateError).get("chat_template")
    if found is None:
        raise TemplateError(
            f"{folder}: this model has no chat template; give the prompt as text or as token ids"
        )
    return path, _default(found, path)


def _default(found: object, path: Path) -> str:
    """The template out of what `chat_template` may be: text, or named texts."""
    if isinstance(found, list):
        if not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in found):
            raise TemplateError(
                f"{path}: chat_template is a list of other things than name and template"
            )
        found = {t["name"]: t.get("template") for t in found}
    if isinstance(found, dict):
        if "default" not in found:
            raise TemplateError(
                f"{path}: no chat template named default, only {', '.join(sorted(found))!r:.200}"
            )
        found = found["default"]
    if not isinstance(found, str):
        raise TemplateError(f"{path}: chat_template is a {type(found).__name__}, not text")
    return found


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """bos_token and its kind, as text. The older special_tokens_map.json wins unless the config
    lists its added tokens itself (then it is the newer of the two).
    """
    found = {name: config.get(name) for name in _TOKEN_NAMES}
    path = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in config:
        older = read_json(path, _MAX_FILE, TemplateError)
        found.update({name: older[name] for name in _TOKEN_NAMES if name in older})
    tokens = {}
    for name, value in found.items():
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str) and is_text(value):
            tokens[name] = value
        elif value is not None:
            raise TemplateError(f"{folder}: {name} is {value!r:.80}, not a token's text")
    return tokens


def _is_demo(folder: Path) -> bool:
    """The demo is a part of this package: its template is as much ours as this file."""
    try:
        return os.path.isdir(_DEMO) and os.path.samefile(folder, _DEMO)
    except OSError:
        return False
