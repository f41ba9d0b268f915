"""What `lens` and `attribute` share: the run that they look at, and tokens on the command line."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from .options import (
    MODEL_HELP,
    add_ignore,
    add_quiet,
    add_source_options,
    location,
    opening_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model import Model
    from ..run import Run


def add_looking_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=location, help=MODEL_HELP)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="text")
    parser.add_argument(
        "--ids",
        type=location,
        metavar="FILE",
        help="token ids from a file (integers, or .npy) instead of text",
    )
    parser.add_argument(
        "--run",
        dest="folder",
        type=location,
        metavar="DIR",
        help="a run of this model that `llamaprobe run --out DIR` saved, instead of a prompt",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)


def token(text: str) -> int | str:
    """A text that is one token, or id:N."""
    match = re.fullmatch("id:([0-9]{1,99})", text)
    return int(match[1]) if match else text


def position(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a position such as 5 or -1")
    return int(text)


def open_run(
    args: argparse.Namespace, points: "Callable[[Model], list[str]]"
) -> "tuple[Model, Run]":
    """The model, and the run that the options name; `points` are those that a prompt's run keeps."""
    from ..model import load
    from .run import read_ids

    given = [each for each in (args.prompt, args.ids, args.folder) if each is not None]
    if len(given) != 1:
        args.usage_error("give one of PROMPT, --ids FILE and --run DIR")
    model = load(args.model, **opening_of(args))
    if args.folder is not None:
        from ..saved_run import read_run

        return model, read_run(args.folder)
    prompt: Any = read_ids(args.ids) if args.ids else args.prompt
    return model, model.run(prompt, points=points(model))
