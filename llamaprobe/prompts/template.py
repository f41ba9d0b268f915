"""Chat messages to text, with the model's own template.

Searched in this order: chat_template.jinja, `chat_template` in tokenizer_config.json (a string, or
a list of named ones, of which "default" is used, with tools "tool_use"), chat_template.json. The
special tokens by name (bos_token, ...) come from tokenizer_config.json and special_tokens_map.json,
as in transformers.

A template is an untrusted program. It runs in Jinja's immutable sandbox, and unless its sha256 is
known, in a child process with limits on time, memory and output. It sees the messages unchanged,
the caller's tools and variables, the special tokens and one date: 26 Jul 2024 unless the caller
gives another. The caller's inputs are checked, and plain data (JSON's types).
"""

import datetime
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import log
from ..errors import ArgumentError, TemplateError
from ..files.json_file import decode, describe_wrong_content, find_file, find_object, is_text
from ..messages import printable, shown_path
from . import sandbox
from .chat import MAX_CHARS, TOKEN_NAMES, ChatOptions, pin_date, texts

_LIMITS = sandbox.Limits(cpu_seconds=5, wall_seconds=30, memory=1 << 30, reply=16 * MAX_CHARS)
_MAX_FILE = 16 << 20
_MAX_TEMPLATE = 1 << 18
_DEMO = Path(__file__).parent.parent / "demo"

# sha256 of the text of templates that were read and found harmless: they render in this process.
_KNOWN = {
    "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65": "Llama 3.1 Instruct",
    "5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4": "Llama 3.2 Instruct",
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "SmolLM2 Instruct",
    "4f39e3a4b9e3d369b42fd00d93a78f171914bb4e58ec84fc420433d7a153288a": "Zephyr, TinyLlama Chat",
}

_REASONING = ("reasoning_content", "thinking", "reasoning")
_PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "  # transformers' own: templates see it


@dataclass(frozen=True)
class Rendered:
    """A rendered chat."""

    text: str
    origin: str | None
    """A letter for each character, as in `_origin`; None if not requested or not known."""


@dataclass(frozen=True)
class Template:
    """A chat template, its file, and the special tokens that it may use."""

    path: Path
    text: str
    tokens: dict[str, str]
    known: bool
    """True: rendered in this process. False: in a child with limits."""

    @classmethod
    def find(
        cls,
        folder: str | os.PathLike[str],
        *,
        tools: bool = False,
        tokens: dict[str, str] | None = None,
    ) -> "Template":
        """The template of the model in `folder`; with `tools` the one for them, if there is one.

        tokens: the special tokens by name; None: those that the files in the folder name.
        TemplateError (missing, broken file), FileError.
        """
        folder = Path(folder)
        config_path = folder / "tokenizer_config.json"
        config = find_object(config_path, _MAX_FILE, TemplateError)
        path, text = _find_text(folder, config_path, config, tools)
        if tokens is None:
            tokens = _special_tokens(folder, config)
        return cls.of(path, text, tokens, known=_is_demo(folder))

    @classmethod
    def of(
        cls, path: Path, text: str, tokens: dict[str, str], *, known: bool = False
    ) -> "Template":
        """A template that stands in the file `path`. TemplateError."""
        if len(text) > _MAX_TEMPLATE:
            raise TemplateError(
                f"{shown_path(path)}:"
                f" the template has {len(text)} characters; the limit is {_MAX_TEMPLATE}"
            )
        if not is_text(text):
            raise TemplateError(
                f"{shown_path(path)}: the template holds a lone surrogate, which is not a character"
            )
        if fact := describe_wrong_content(text.encode()):
            raise TemplateError(f"{shown_path(path)}: {fact}")
        known = known or hashlib.sha256(text.encode()).hexdigest() in _KNOWN
        where = "in this process" if known else "in a child process"
        log.info("%s: the chat template; it runs %s", path, where)
        return cls(path, text, tokens, known)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether the files in `folder` have a template. TemplateError, FileError."""
        if any(
            os.path.exists(folder / name) for name in ("chat_template.jinja", "chat_template.json")
        ):
            return True
        config = find_object(folder / "tokenizer_config.json", _MAX_FILE, TemplateError)
        return config.get("chat_template") is not None

    def render(
        self,
        messages: list[dict[str, Any]],
        options: ChatOptions | None = None,
        *,
        traced: bool = False,
        spelled: Sequence[str] = (),
        call: Callable[..., object] | None = None,
    ) -> Rendered:
        """The text of `messages`, the result of `check_messages`.

        The caller's date is also given as `date_string`, for templates without a clock (Llama 3.1).
        `traced`: with the origin of each character; `spelled` are then the special tokens that
        occur in the caller's inputs. `call`: of a `Workers`. Raises TemplateError: the template
        refuses, fails, or exceeds its limits; ArgumentError as `ChatOptions.check`.
        """
        options = (options or ChatOptions()).check()
        messages = [_as_templates_expect(m) for m in messages]
        own: dict[str, Any] = dict(self.tokens)
        if isinstance(options.date, datetime.date):
            own["date_string"] = _date_string(options.date)
        given = {
            "documents": None,
            **(options.template_vars or {}),
            "tools": options.tools,
            "add_generation_prompt": options.add_generation_prompt,
        }
        continued = None
        if options.continue_final_message:
            field = options.continue_final_message
            continued = self._mark_end(messages, "content" if field is True else str(field))
        request = {
            "messages": messages,
            "own": own,
            "given": given,
            "date": pin_date(options.date).isoformat(),
            "max_chars": MAX_CHARS,
            "traced": traced,
            "spelled": list(spelled),
            "marks": "",
        }
        if spelled:
            used = set(self.text).union(*texts([messages, own, given]))
            request["marks"] = "".join(itertools.islice(private_characters(used), 2))
        rendered = self._answer(request, call or sandbox.call)
        return rendered if continued is None else self._up_to_mark(rendered, continued)

    def _answer(self, request: dict[str, Any], call: Callable[..., object]) -> Rendered:
        try:
            if self.known:
                from . import _render

                answer: Any = _render.answer(self._compiled, request)
            else:
                answer = call(
                    "_render.py",
                    {"template": self.text, "traced": request["traced"]},
                    request,
                    packages=("jinja2", "markupsafe"),
                    limits=_LIMITS,
                )
        except (ValueError, sandbox.ChildError) as e:
            raise TemplateError(
                f"{shown_path(self.path)}: the chat template failed: {printable(str(e), 300)}"
            ) from None
        pair: Any = answer if isinstance(answer, list | tuple) and len(answer) == 2 else (0, 0)
        text, origin = pair
        if not isinstance(text, str) or not is_text(text):
            raise TemplateError(
                f"{shown_path(self.path)}:"
                " the template makes a lone surrogate, which is not a character"
            )
        fits = isinstance(origin, str) and len(origin) == len(text)
        return Rendered(text, origin if fits else None)

    @functools.cached_property
    def _compiled(self) -> Any:
        """For rendering in this process; two threads may each compile it."""
        from . import _render

        return _render.prepare({"template": self.text, "traced": False})

    def _mark_end(self, messages: list[dict[str, Any]], field: str) -> str:
        """Put a mark after the text that is to be continued; returns that text."""
        last = messages[-1] = dict(messages[-1])
        value = last.get(field)
        if value is None:
            raise ArgumentError(
                f"continue_final_message: the last message has no {printable(repr(field), 60)}"
            )
        fields = [field]
        if field in _REASONING:  # every copy, as the template may read any
            fields = [name for name in _REASONING if last.get(name) == value]
        if not any(name in self.text for name in fields):
            raise TemplateError(
                f"{shown_path(self.path)}: continue_final_message: the template does not use"
                f" {printable(repr(field), 60)}"
            )
        if isinstance(value, list):
            parts = [i for i, part in enumerate(value) if isinstance(part, dict) and "text" in part]
            if parts and isinstance(value[parts[-1]]["text"], str):
                text: str = value[parts[-1]]["text"]
                last[field] = list(value)
                last[field][parts[-1]] = value[parts[-1]] | {"text": text + _CONTINUED}
                return text
        elif isinstance(value, str):
            last.update({name: value + _CONTINUED for name in fields})
            return value
        raise ArgumentError(
            f"continue_final_message: {printable(repr(field), 60)} of the last message holds no"
            " text to continue"
        )

    def _up_to_mark(self, rendered: Rendered, continued: str) -> Rendered:
        """The text before the mark; without trailing white space if the template stripped it."""
        text = rendered.text
        at = text.rfind(_CONTINUED.strip())
        if at < 0 or continued.strip() not in text:
            raise TemplateError(
                f"{shown_path(self.path)}:"
                " continue_final_message: the last message does not appear as it is in"
                " what the template makes of the chat"
            )
        stripped = not text.startswith(_CONTINUED, at)
        text = text[:at].rstrip() if stripped else text[:at]
        return Rendered(text, rendered.origin and rendered.origin[: len(text)])


def private_characters(used: Set[str]) -> Iterator[str]:
    """Characters for private use that are not in `used`."""
    return (c for c in map(chr, _PRIVATE) if c not in used)


def _date_string(day: datetime.date) -> str:
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * day.month - 3 : 3 * day.month]
    return f"{day.day:02d} {month} {day.year:04d}"


def _as_templates_expect(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under each name that templates use, as in transformers."""
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _find_text(
    folder: Path, config_path: Path, config: dict[str, Any], tools: bool
) -> tuple[Path, str]:
    paths = [folder / "chat_template.jinja"]
    if tools:
        paths.insert(0, folder / "additional_chat_templates" / "tool_use.jinja")
    for path in paths:
        data = find_file(path, _MAX_TEMPLATE, TemplateError)
        if data is None:
            continue
        try:
            return path, decode(data).replace("\r\n", "\n").replace("\r", "\n")
        except ValueError as e:
            raise TemplateError(f"{shown_path(path)}: {e}") from None
    if config.get("chat_template") is not None:
        return config_path, choose(config["chat_template"], config_path, tools)
    path = folder / "chat_template.json"
    found = find_object(path, _MAX_FILE, TemplateError).get("chat_template")
    if found is None:
        raise no_template(folder)
    return path, choose(found, path, tools)


def no_template(path: Path) -> TemplateError:
    return TemplateError(
        f"{shown_path(path)}:"
        " this model has no chat template; give the prompt as text or as token ids"
    )


def choose(found: object, path: Path, tools: bool) -> str:
    """The template in `chat_template`, which is text or named texts. TemplateError."""
    if isinstance(found, list):
        if not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in found):
            raise TemplateError(
                f"{shown_path(path)}:"
                " chat_template is a list, but not of objects with name and template"
            )
        found = {t["name"]: t.get("template") for t in found}
    if isinstance(found, dict):
        if tools and "tool_use" in found:
            found = {"default": found["tool_use"]}
        if "default" not in found:
            raise TemplateError(
                f"{shown_path(path)}:"
                f" no chat template named default, only {', '.join(sorted(found))!r:.200}"
            )
        found = found["default"]
    if not isinstance(found, str):
        raise TemplateError(
            f"{shown_path(path)}: chat_template is a {type(found).__name__}, not text"
        )
    return found


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """bos_token and the like as text. The older special_tokens_map.json wins unless the config
    lists its added tokens itself.
    """
    found = {name: config.get(name) for name in TOKEN_NAMES}
    path = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in config:
        older = find_object(path, _MAX_FILE, TemplateError)
        found.update({name: older[name] for name in TOKEN_NAMES if name in older})
    tokens = {}
    for name, value in found.items():
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str) and is_text(value):
            tokens[name] = value
        elif value is not None:
            raise TemplateError(
                f"{shown_path(folder)}: {name} is {value!r:.80}, not a token's text"
            )
    return tokens


def _is_demo(folder: Path) -> bool:
    """Whether it is the demo's folder: its template is part of this package."""
    try:
        return os.path.isdir(_DEMO) and os.path.samefile(folder, _DEMO)
    except OSError:
        return False
