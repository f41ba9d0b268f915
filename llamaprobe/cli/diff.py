"""llamaprobe diff: where two saved runs differ."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from .. import stderr
from .options import location

if TYPE_CHECKING:
    from ..comparison import Diff


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "diff",
        help="where two saved runs differ",
        description="Compares two saved runs bit for bit: the first value in the order of "
        "computation that differs, and for each point and layer how many numbers differ, in which "
        "rows, and by how much.",
        epilog="Exit 0: the same tokens and values; 1: something differs; 2: the runs cannot be "
        "compared, or wrong usage; 130: Ctrl-C.",
    )
    for name in ("a", "b"):
        what = "the folder of a saved run" if name == "a" else "of another"
        parser.add_argument(name, metavar=name.upper(), type=location, help=what)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no output, the exit code alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..comparison import diff
    from ..errors import Error

    try:
        found = diff(args.a, args.b)
    except Error as error:  # as diff(1): 1 is for runs that differ
        stderr.fail(f"llamaprobe: {stderr.one_line(str(error))}")
        return 2
    if args.json:
        from .json import print_json

        print_json(_facts(found))
    elif not args.quiet:
        print(repr(found))
    return 1 if found else 0


def _facts(found: "Diff") -> dict[str, Any]:
    """Plain data, ready for JSON: a number that is not finite is text."""
    first = found.first
    return {
        "same": not found,
        "tokens": found.tokens.tolist(),
        "first": None
        if first is None
        else {
            "point": first.point,
            "layer": first.layer,
            "index": list(first.index),
            "a": _number(first.a),
            "b": _number(first.b),
        },
        "values": [
            {
                "point": one.point,
                "layer": one.layer,
                "n_different": one.n_different,
                "n_values": one.n_values,
                "rows": one.rows.tolist(),
                "largest": _number(one.largest),
                "relative": _number(one.relative),
            }
            for one in found.values
        ],
        "only_a": found.only_a,
        "only_b": found.only_b,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
