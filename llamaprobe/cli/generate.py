"""llamaprobe generate: text goes on from a prompt, on the screen as it comes, and into files."""

import argparse
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

from .. import stderr
from ..messages import counted
from .chat import add_chat_options, check_chat_usage, read_chat
from .options import (
    MODEL_HELP,
    add_capture_options,
    add_edits,
    add_file_options,
    add_ignore,
    add_quiet,
    add_run_files_options,
    add_source_options,
    check_file_usage,
    check_out,
    count,
    edits_of,
    location,
    opening_of,
    report_edits,
    save,
)
from .run import read_ids

if TYPE_CHECKING:
    from ..generation.result import GeneratedRun
    from ..generation.sample import Sample
    from ..model import Model

_OF_SAMPLE = ("temperature", "top_k", "top_p", "seed", "number")


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "generate",
        help="go on from a prompt, token by token",
        description="Goes on from a prompt and prints the new text as it comes. Greedy unless one "
        "of --temperature, --top-k, --top-p, --seed, --number is given. With --out the values of "
        "prompt and new tokens become files. Ctrl-C ends the text, and what there is is written.",
    )
    parser.add_argument("model", metavar="MODEL", type=location, help=MODEL_HELP)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="text")
    parser.add_argument(
        "--ids",
        type=location,
        metavar="FILE",
        help="token ids from a file (integers, or .npy) instead of text",
    )
    add_chat_options(parser)
    parser.add_argument(
        "--tokens", type=count, default=100, metavar="N", help="new tokens at most (default 100)"
    )
    _add_sample_options(parser)
    parser.add_argument(
        "--stop",
        type=_stop,
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be repeated",
    )
    parser.add_argument(
        "--no-eos", action="store_true", help="go on where the model ends its text or turn"
    )
    add_edits(parser)
    parser.add_argument("--out", type=location, metavar="DIR", help="where the files go")
    add_capture_options(parser)
    add_run_files_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="one JSON object at the end instead of the text"
    )
    add_file_options(parser)
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature", type=_number, metavar="T", help="divides the logits (default 1)"
    )
    parser.add_argument("--top-k", type=_whole, metavar="K", help="keep the K largest logits")
    parser.add_argument(
        "--top-p", type=_number, metavar="P", help="keep the largest logits with this probability"
    )
    parser.add_argument(
        "--seed", type=_whole, metavar="S", help="of the random numbers (default 0)"
    )
    parser.add_argument(
        "--number", type=_whole, metavar="N", help="another sample with the same seed (default 0)"
    )


def run(args: argparse.Namespace) -> int:
    check_chat_usage(args)
    check_file_usage(args, "points", "layers")
    sample, how = _sample(args), _arguments(args)
    from ..model import load

    edits = edits_of(args)
    if args.out is not None:
        check_out(args)
    model = load(args.model, **opening_of(args))
    screen = _Screen(has_text=_has_tokenizer(model), shown=not args.json)
    prompt: Any = read_ids(args.ids) if args.ids else args.prompt
    if args.chat or args.messages:
        prompt, chat = read_chat(args)
        how |= chat
    try:
        result = model.generate(
            prompt, args.tokens, sample=sample, edits=edits, on_token=screen.add, **how
        )
    except KeyboardInterrupt as error:
        screen.end()
        if (found := getattr(error, "run", None)) is not None:
            _finish(model, found, args)
        raise
    screen.end()
    _finish(model, result, args)
    return 0


def _has_tokenizer(model: "Model") -> bool:
    import numpy as np

    return model.origin.tokenizer.pieces(np.zeros(0, np.int32)) is not None


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    stop = (*(() if args.no_eos else ("eos",)), *args.stop)
    points = () if args.out is None else args.points or ["x", "x_norm"]
    return {"stop": stop, "points": points, "layers": args.layers}


def _sample(args: argparse.Namespace) -> "Sample | None":
    """None unless a number of it is given. Wrong usage for one out of range."""
    given = {name: getattr(args, name) for name in _OF_SAMPLE}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    from ..errors import ArgumentError
    from ..generation.sample import Sample

    try:
        return Sample(**given)
    except ArgumentError as error:
        if given.get("temperature") == 0:
            args.usage_error(
                "--temperature is 0; it must be above 0; without it and the other options of sampling"
                " the text is greedy: the likeliest token each time"
            )
        args.usage_error(f"--{str(error).replace('_', '-', 1)}")
        raise


class _Screen:
    """The text on stdout as it comes; ids where the model has no tokenizer."""

    def __init__(self, *, has_text: bool, shown: bool) -> None:
        self._has_text, self._shown, self._last = has_text, shown, ""

    def add(self, position: int, id: int, text: str) -> None:
        if not self._has_text:
            text = f" {id}" if self._last else str(id)
        if self._shown and text:
            print(_harmless(text) if sys.stdout.isatty() else text, end="", flush=True)
            self._last = text

    def end(self) -> None:
        if self._shown and not self._last.endswith("\n"):
            print(flush=True)


def _harmless(text: str) -> str:
    """For a terminal: without characters that it would obey."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) != "Cc" else ascii(c)[1:-1] for c in text
    )


def _finish(model: "Model", result: "GeneratedRun", args: argparse.Namespace) -> None:
    """The files, and the facts."""
    paths = [] if args.out is None else save(result, args)
    if args.json:
        from .json import print_json

        print_json(_facts(model, result) | {"files": [str(path) for path in paths]})
    report_edits(result)
    n_new = counted(len(result.new_ids), "new token")
    stderr.say(f"llamaprobe: {n_new}, ended by {result.stopped_by}")


def _facts(model: "Model", result: "GeneratedRun") -> dict[str, Any]:
    """Plain data, ready for JSON."""
    sample = result.sample
    return {
        "model": str(model.path / (model.origin.file or "")),
        "prompt": result.prompt,
        "template_date": result.template_date,
        "token_ids": result.token_ids.tolist(),
        "n_prompt": result.n_prompt,
        "text": result.text,
        "stopped_by": result.stopped_by,
        "logprobs": result.logprobs.tolist(),
        "sample": None if sample is None else {name: getattr(sample, name) for name in _OF_SAMPLE},
        "edits": [repr(edit) for edit in result.edits],
    }


def _stop(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the text is empty; leave the option out for none")
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up")
    return int(text)
