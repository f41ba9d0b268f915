"""The options of a chat: its messages, and the other inputs of the template."""

import argparse
import sys
from typing import Any

from ..messages import printable
from .options import location

_MAX_FILE = 64 << 20
_OF_CHATS = (
    *("date", "system", "template_var", "tools"),
    *("continue_final_message", "no_generation_prompt"),
)


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chat", action="store_true", help="the prompt is a user's message: use the chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message before it")
    parser.add_argument(
        "--messages",
        type=location,
        metavar="FILE",
        help="a chat from a file instead of text: a JSON list of messages with role and content, or"
        " an object with messages and tools; - for standard input",
    )
    parser.add_argument(
        "--tools",
        type=location,
        metavar="FILE",
        help="what the chat's model may call: a JSON list of JSON schemas; - for standard input",
    )
    parser.add_argument(
        "--template-var",
        type=variable,
        action="append",
        metavar="NAME=VALUE",
        help="a variable of the chat template, as enable_thinking=false; a value that is JSON"
        " (a number, true, false, null, quoted, a list, an object) is read as such, any other is text",
    )
    parser.add_argument(
        "--continue-final-message",
        action="store_true",
        help="go on with the chat's last message instead of beginning an answer",
    )
    parser.add_argument(
        "--no-generation-prompt", action="store_true", help="end with the chat's last message"
    )
    parser.add_argument(
        "--date",
        help="the date that the chat template sees: YYYY-MM-DD or today (default 2024-07-26)",
    )


def check_chat_usage(args: argparse.Namespace) -> None:
    """Exactly one prompt, and no option without effect."""
    if [args.prompt, args.ids, args.messages].count(None) != 2:
        args.usage_error("give a PROMPT, --ids FILE or --messages FILE, one of the three")
    if args.ids is not None and args.chat:
        args.usage_error("--chat is for text")
    if args.messages is None and not args.chat:
        for name in _OF_CHATS:
            if getattr(args, name) not in (None, False):
                args.usage_error(f"--{name.replace('_', '-')} is for --chat or --messages FILE")
    if args.messages is not None and args.system is not None:
        args.usage_error("--system is for a PROMPT; with --messages it is the file's first message")
    if args.messages == "-" and args.tools == "-":
        args.usage_error("--messages and --tools cannot both be standard input")
    names = [name for name, _ in args.template_var or ()]
    for name in names:
        if names.count(name) > 1:
            args.usage_error(f"--template-var {name} is given twice")


def read_chat(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """The messages, and the arguments of `Model.run` for them. FileError, FormatError,
    ArgumentError."""
    from ..errors import ArgumentError, FormatError
    from ..prompts.chat import check_messages

    tools = None if args.tools is None else _read_json(args.tools)
    if args.messages is None:
        messages = [] if args.system is None else [{"role": "system", "content": args.system}]
        messages.append({"role": "user", "content": args.prompt})
    else:
        messages = _read_json(args.messages)
        if isinstance(messages, dict):
            others = messages.keys() - {"messages", "tools"}
            if others or "messages" not in messages:
                what = f"holds {min(others)!r:.60}" if others else "has no messages"
                raise FormatError(
                    f"{_shown(args.messages)}: {what}; it is a list of messages, or an object"
                    " with messages and tools"
                )
            if tools is not None and messages.get("tools") is not None:
                raise ArgumentError(f"--tools: {_shown(args.messages)} has tools as well")
            tools = messages.get("tools") if tools is None else tools
            messages = messages["messages"]
        try:
            check_messages(messages)
        except ArgumentError as error:
            raise ArgumentError(f"{_shown(args.messages)}: {error}") from None
    return messages, {
        "date": args.date,
        "tools": tools,
        "template_vars": dict(args.template_var) if args.template_var else None,
        "continue_final_message": args.continue_final_message,
        "add_generation_prompt": False if args.no_generation_prompt else None,
    }


def variable(text: str) -> tuple[str, Any]:
    """ "a=true" -> ("a", True), "a=b" -> ("a", "b")."""
    from ..errors import FormatError
    from ..files.json_file import parse_value

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, parse_value(value.encode("utf-8", "surrogateescape"), name, FormatError)
    except FormatError:
        return name, value


def _shown(path: str) -> str:
    return "standard input" if path == "-" else printable(path)


def _read_json(path: str) -> Any:
    """The JSON of a file or of standard input; a leading byte order mark, as editors on Windows
    write it, is skipped. FileError, FormatError."""
    from ..errors import FormatError
    from ..files.atomic import file_error
    from ..files.json_file import describe_wrong_content, parse_value

    shown = _shown(path)
    try:
        if path != "-":
            with open(path, "rb") as file:
                data = file.read(_MAX_FILE + 1)
        elif sys.stdin is None:
            raise FormatError(f"{shown}: it is closed")
        else:
            data = sys.stdin.buffer.read(_MAX_FILE + 1)
    except OSError as error:
        raise file_error(error, path) from error
    if len(data) > _MAX_FILE:
        raise FormatError(f"{shown}: over {_MAX_FILE} bytes, more than a chat can have")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise FormatError(f"{shown}: is empty; it must hold JSON")
    if fact := describe_wrong_content(data):
        raise FormatError(f"{shown}: {fact}")
    return parse_value(data, shown, FormatError)
