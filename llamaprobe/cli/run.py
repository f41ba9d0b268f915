"""llamaprobe run: a prompt through a model, its values into files, or a summary on the screen."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from .. import stderr
from ..messages import printable
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
from .plots import add_plots, check_plots, draw_plots, points_for_plots, requested
from .prompts import add_prompts_options, check_prompts_usage, run_prompts_file

if TYPE_CHECKING:
    import numpy as np

    from ..model import Model
    from ..run import Run


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "run",
        help="run a prompt and write the values of every layer",
        description="Runs a prompt. With --out the values become files, whose paths are printed, "
        "one a line, the manifest last; else a summary is shown.",
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
    add_prompts_options(parser)
    parser.add_argument("--out", type=location, metavar="DIR", help="where the files go")
    add_capture_options(parser)
    parser.add_argument(
        "--rope-length",
        type=count,
        metavar="N",
        help="of a model with LongRoPE: the number of tokens that chooses its table, such as that of"
        " a prompt and its answer (default: the prompt's own)",
    )
    add_edits(parser)
    add_run_files_options(parser)
    parser.add_argument("--progress", action="store_true", help="show a bar on stderr")
    add_plots(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="the summary as one JSON object, with the paths of the files that were written",
    )
    add_file_options(parser)
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    _check_usage(args)
    from ..model import load
    from ..points import DEFAULT_POINTS

    if args.out is not None and args.prompts is None:
        check_out(args)
    model = load(args.model, **opening_of(args))
    if args.prompts is not None:
        return run_prompts_file(model, args)
    if args.out is None:
        return _show(model, args)
    result = _run(model, args, args.points or [*DEFAULT_POINTS])
    return _save(model, result, args)


def _check_usage(args: argparse.Namespace) -> None:
    """No option is dropped silently."""
    check_prompts_usage(args)
    check_plots(args)
    if args.prompts is None:
        check_chat_usage(args)
    check_file_usage(args)


def _run(model: "Model", args: argparse.Namespace, points: list[str]) -> "Run":
    prompt: Any = read_ids(args.ids) if args.ids else args.prompt
    how: dict[str, Any] = {}
    if args.chat or args.messages:
        prompt, how = read_chat(args)
    points, layers = points_for_plots(args, points)
    how |= {"edits": edits_of(args), "rope_length": args.rope_length}
    how["progress"] = args.progress
    result = model.run(prompt, points=points, layers=layers, **how)
    report_edits(result)
    return result


def _show(model: "Model", args: argparse.Namespace) -> int:
    """A summary instead of files."""
    from ..points import DEFAULT_POINTS
    from .json import print_json
    from .summary import print_summary, summary

    points = args.points or [*DEFAULT_POINTS, "logits"]
    result = _run(model, args, points)
    shown = [point for point in requested(args, result, points) if args.points or point != "logits"]
    data = summary(model, result, shown)
    if args.json:
        print_json(data | {"files": []})
    else:
        print_summary(data)
    draw_plots(model, result, args)
    stderr.say("nothing was written; --out DIR writes these values as files")
    return 0


def _save(model: "Model", result: "Run", args: argparse.Namespace) -> int:
    from ..points import DEFAULT_POINTS

    part: dict[str, Any] = {}
    if args.plot:  # files of what was requested, without what only pictures need
        part = {"points": requested(args, result, args.points or [*DEFAULT_POINTS])}
        part["layers"] = args.layers
    paths = save(result, args, **part)
    draw_plots(model, result, args)
    if args.json:
        from .json import print_json
        from .summary import summary

        data = summary(model, result, list(result.points))
        print_json(data | {"files": [str(path) for path in paths]})
    else:
        for path in paths:
            print(path)
    return 0


def read_ids(path: str) -> "np.ndarray":
    """Token ids from .npy, or from text: integers with spaces, commas, brackets or lines between, #
    comments."""
    import numpy as np

    from ..errors import FormatError
    from ..files.array import read
    from ..files.atomic import file_error
    from ..files.paths import checked_path
    from ..messages import shown_path

    if path.endswith(".npy"):
        return read(path).reshape(-1)
    try:
        with open(checked_path(path), encoding="utf-8-sig", errors="backslashreplace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise file_error(error, path) from error
    ids = []
    for number, line in enumerate(lines, start=1):
        for word in re.split(r"[\s,\[\]]+", line.partition("#")[0].strip()):
            if word and not re.fullmatch(r"[0-9]{1,10}", word):
                raise FormatError(
                    f"{shown_path(path)}: line {number}: {printable(word, 40)!r} is not a token id"
                )
            ids += [int(word)] if word else []
    return np.array(ids, np.int64)
