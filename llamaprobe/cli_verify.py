"""llamaprobe verify: is a saved run what its model makes of its tokens?"""

import argparse
import sys
from typing import TYPE_CHECKING

from .cli_options import MODEL_HELP, add_source_options

if TYPE_CHECKING:
    from .model import Model
    from .verify import Check


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the files of a run against the model's weights",
        description="Checks the sha256 of every file of a saved run, recomputes every value from "
        "the values before it and the weights, and runs the same tokens again. Exit 1 when "
        "something was altered or is missing.",
    )
    parser.add_argument("folder", metavar="DIR", help="what `llamaprobe run --out` wrote")
    parser.add_argument(
        "--model",
        help=f"{MODEL_HELP}; default: the one that the run names, if it is still here, else what "
        "needs no weights is checked",
    )
    add_source_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .model import load
    from .verify import BAR, verify_run

    if args.model is None:
        model = _recorded_model(args)
    else:
        model = load(args.model, revision=args.revision, threads=args.threads)
    checks = []
    for check in verify_run(args.folder, model):
        if not checks:
            print(
                "largest error in units of float32 rounding: 1 is what it is expected to leave, "
                f"{BAR:.0f} is allowed, 0 is exact"
            )
        print(_line(check), flush=True)
        checks.append(check)
    n_faults, n_left = sum(bool(c.fault) for c in checks), sum(bool(c.note) for c in checks)
    if n_faults:
        print(f"altered or missing: {n_faults} of {len(checks)} checks failed")
    if n_left:
        print(f"left out, at least in part: {n_left} of {len(checks)} checks")
    return 1 if n_faults else 0


def _line(check: "Check") -> str:
    size = "" if check.roundings is None else f"{check.roundings:.3g}"
    result = "; ".join(filter(None, (check.fault, check.note))) or "ok"
    return f"{check.what:<24}{size:>10}  {result}"


def _recorded_model(args: argparse.Namespace) -> "Model | None":
    """The model that the run names, when it opens without the network."""
    from .errors import Error
    from .model import load
    from .names import printable
    from .verify import recorded_model

    named, model, why = recorded_model(args.folder), None, "the run names none"
    if named is not None:
        name, revision = named
        try:
            model = load(name, revision=revision, local_files_only=True, threads=args.threads)
        except Error as error:
            why = str(error)
    if model is None:
        told = f"no model, so only what needs no weights is checked; give --model ({why})"
    else:
        told = f"the model is the one that the run names, {printable(name)}"
    print(f"llamaprobe: {told}", file=sys.stderr)
    return model
