"""llamaprobe sweep: a corrupted prompt with one value after the other from a clean one, as a file or
on the screen."""

import argparse
from typing import TYPE_CHECKING, Any

from .. import stderr
from ..messages import printable
from .options import (
    MODEL_HELP,
    add_file_options,
    add_ignore,
    add_quiet,
    add_source_options,
    check_file_usage,
    kept_layers,
    location,
    opening_of,
)
from .run import read_ids

if TYPE_CHECKING:
    from ..model import Model
    from ..sweeps.metric import Metric
    from ..sweeps.result import Sweep

_SHOWN = 10


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "sweep",
        help="patch values of one prompt into another, one by one",
        description="Runs the corrupted prompt with one value after the other from the clean one: "
        "every layer and position, with --heads every head. Shows the cells that move the metric "
        "most; with --out the whole map becomes a file.",
    )
    parser.add_argument("model", metavar="MODEL", type=location, help=MODEL_HELP)
    parser.add_argument(
        "--clean", required=True, metavar="TEXT", help="the prompt that values come from"
    )
    parser.add_argument(
        "--corrupted", required=True, metavar="TEXT", help="the prompt that gets them; as long"
    )
    parser.add_argument(
        "--ids",
        action="store_true",
        help="--clean and --corrupted name files of token ids (integers, or .npy), and --answer and"
        " --wrong are ids",
    )
    parser.add_argument(
        "--patch", default="x", metavar="POINT", help="of each layer: x (default), z, mlp_out..."
    )
    parser.add_argument("--heads", action="store_true", help="one head at a time")
    parser.add_argument(
        "--layers", type=kept_layers, metavar="0,3,5-7", help="default: all; -1 is the last"
    )
    parser.add_argument(
        "--positions", type=_positions, metavar="0,3,5-7", help="default: all; -1 is the last"
    )
    _add_metric_options(parser)
    parser.add_argument("--out", type=location, metavar="FILE", help="where the map goes")
    parser.add_argument("--progress", action="store_true", help="show a bar on stderr")
    parser.add_argument("--json", action="store_true", help="the whole map as one JSON object")
    add_file_options(parser)
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(
        run=run, usage_error=parser.error, no_masks=False, hash_weights=False, points=None
    )


def _add_metric_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        choices=("logit-diff", "logprob", "kl"),
        help="logit of --answer less that of --wrong (default with both), log probability of "
        "--answer (default without --wrong), or divergence from the clean prompt (default without "
        "--answer)",
    )
    parser.add_argument(
        "--answer", metavar="TOKEN", help="text that is one token, such as ' Paris'"
    )
    parser.add_argument("--wrong", metavar="TOKEN", help="the same")
    parser.add_argument(
        "--position", type=_position, default=-1, metavar="N", help="of the metric (default -1)"
    )


def run(args: argparse.Namespace) -> int:
    if args.out is not None:
        from ..files.array import format_of_path
        from ..files.new_file import check_new_file

        path = check_new_file(args.out, args.force)
        args.format = args.format or format_of_path(path)
    kind = _check_usage(args)
    from ..model import load

    model = load(args.model, **opening_of(args))
    clean, corrupted = (
        read_ids(each) if args.ids else each for each in (args.clean, args.corrupted)
    )
    result = model.patch_map(
        clean,
        corrupted,
        metric=_metric(model, kind, clean, args),
        point=args.patch,
        heads=args.heads,
        layers=args.layers,
        positions=args.positions,
        progress=args.progress,
    )
    if args.out is not None:
        _write(result, args)
    if args.json:
        _print_json(model, result, args)
    elif args.out is None:
        _show(result)
    n_cells = result.values.size
    stderr.say(f"llamaprobe: {n_cells} cells, {result.n_skipped} of them like the corrupted prompt")
    return 0


def _check_usage(args: argparse.Namespace) -> str:
    """The metric. No option is dropped silently."""
    check_file_usage(args)
    given = ("answer",) * (args.answer is not None) + ("wrong",) * (args.wrong is not None)
    needs = {"logit-diff": ("answer", "wrong"), "logprob": ("answer",), "kl": ()}
    kind = args.metric or next((name for name, of in needs.items() if of == given), "logit-diff")
    if needs[kind] != given:
        what = " and ".join(f"--{name}" for name in needs[kind]) or "neither --answer nor --wrong"
        args.usage_error(f"the metric {kind} takes {what}")
    return str(kind)


def _metric(model: "Model", kind: str, clean: Any, args: argparse.Namespace) -> "Metric":
    from ..sweeps.metric import kl, logit_diff, logprob

    if kind == "kl":
        return kl(model.run(clean, points="logits"), args.position)
    answer, wrong = (
        _id(each, args) if args.ids and each is not None else each
        for each in (args.answer, args.wrong)
    )
    if kind == "logprob":
        return logprob(answer, args.position)
    return logit_diff(answer, wrong, args.position)


def _id(text: str, args: argparse.Namespace) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        args.usage_error(f"with --ids a token is an id, not {text!r}")
    return int(text)


def _position(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a position")
    return int(text)


def _positions(text: str) -> list[int]:
    try:
        return kept_layers(text)
    except argparse.ArgumentTypeError as error:
        wrong = "no position; leave the option out for all of them"
        fact = str(error).replace("list of layers", "list of positions")
        raise argparse.ArgumentTypeError(fact if text.strip() else wrong) from None


# ---- results ----


def _write(result: "Sweep", args: argparse.Namespace) -> None:
    from ..files.array import write
    from ..files.new_file import new_file

    how = {"digits": args.digits, "format": args.format, "header": not args.no_header}
    write(new_file(args.out, args.force), result.values, **how)
    if not args.json:
        print(args.out)


def _cells(result: "Sweep") -> list[tuple[float, tuple[int, ...]]]:
    """The change and the place of each cell, the largest first."""
    import numpy as np

    changes = result._changes
    order = np.argsort(-np.abs(changes), axis=None, kind="stable")
    places = [tuple(map(int, np.unravel_index(i, changes.shape))) for i in order]
    return [(float(changes[place]), place) for place in places]


def _show(result: "Sweep") -> None:
    print(f"corrupted {result.base:.6g}, clean {result.clean:.6g}")
    head = "  head" if result.values.ndim == 3 else ""
    print(f"layer  position{head}      metric      change  token")
    for change, place in _cells(result)[:_SHOWN]:
        token = "" if result.tokens is None else printable(repr(result.tokens[place[1]]), 40)
        line = f"{result.layers[place[0]]:>5}  {result.positions[place[1]]:>8}"
        line += f"  {place[2]:>4}" if head else ""
        print(f"{line}  {result.values[place]:>10.6g}  {change:>+10.6g}  {token}".rstrip())


def _print_json(model: "Model", result: "Sweep", args: argparse.Namespace) -> None:
    from .json import print_json

    print_json(
        {
            "model": str(model.path / (model.origin.file or "")),
            "patch": args.patch,
            "layers": list(result.layers),
            "positions": list(result.positions),
            "tokens": result.tokens,
            "values": result.values.tolist(),
            "corrupted": result.base,
            "clean": result.clean,
            "n_skipped": result.n_skipped,
            "flops": result.flops,
            "files": [] if args.out is None else [args.out],
        }
    )
