"""llamaprobe verify: is a saved run what its model makes of its tokens?"""

import argparse
from typing import TYPE_CHECKING

from . import stderr
from .cli_options import (
    MODEL_HELP,
    add_ignore,
    add_quiet,
    add_source_options,
    location,
    revision_of,
)
from .names import counted, printable

if TYPE_CHECKING:
    from .model import Model
    from .verify import Check

_NO_MODEL = 3  # the exit code when nothing is wrong, but not all could be checked


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the files of a run against the model's weights",
        description="Checks the sha256 of every file of a saved run, recomputes every value from "
        "the values before it and the weights, and runs the same tokens again.",
        epilog="Exit 0: all is as it should be; 1: something was altered, is missing or cannot be "
        "read; 3: nothing is wrong, but the model was not found, so what needs its weights was not "
        "checked; 2: wrong usage; 130: Ctrl-C.",
    )
    parser.add_argument(
        "folder", metavar="DIR", type=location, help="what `llamaprobe run --out` wrote"
    )
    parser.add_argument(
        "--model",
        type=location,
        help=f"{MODEL_HELP}; default: the one that the run names, if it is still here, else what "
        "needs no weights is checked",
    )
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from .verify import BAR, verify_run

    model, others = _model(args)
    if model is not None and model.ignore:
        globs = ", ".join(map(printable, model.ignore))
        _tell(f"passed over, as --ignore or the run says: tensors that match {globs}")
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
        why = "altered, missing or of another model" if others else "altered or missing"
        print(f"{why}: {n_faults} of {counted(len(checks), 'check')} failed")
    if n_left:
        print(f"left out, at least in part: {n_left} of {counted(len(checks), 'check')}")
    return 1 if n_faults else _NO_MODEL if model is None else 0


def _line(check: "Check") -> str:
    size = "" if check.roundings is None else f"{check.roundings:.3g}"
    result = "; ".join(filter(None, (check.fault, check.note))) or "ok"
    return f"{check.what:<24}{size:>10}  {result}"


def _model(args: argparse.Namespace) -> "tuple[Model | None, list[str]]":
    """The model to check with, and its weight files that are not the run's."""
    from .provenance import open_for, other_weights
    from .saved import Saved

    if args.model is None:
        if args.revision is not None:
            args.usage_error("--revision is for --model")
        return _recorded_model(args), []
    saved = Saved(args.folder)
    options = {"revision": revision_of(args), "threads": args.threads, "ignore": args.ignore}
    model = open_for(saved, args.model, **options)
    others = other_weights(saved, model)
    if others:
        _tell(f"this is not the model that the run was made with, or it has changed: {_of(others)}")
    return model, others


def _recorded_model(args: argparse.Namespace) -> "Model | None":
    """The model that the run names, when it opens without the network and is still the same."""
    from .errors import Error
    from .provenance import open_for, other_weights, recorded_models
    from .saved import Saved

    saved, why = Saved(args.folder), []
    for name, revision in recorded_models(saved):
        try:
            where = {"revision": revision, "local_files_only": True, "ignore": args.ignore}
            model = open_for(saved, name, threads=args.threads, **where)
            others = other_weights(saved, model)
        except Error as error:
            why.append(str(error))
            continue
        if not others:
            _tell(f"the model is the one that the run names, {printable(name)}")
            return model
        why.append(f"{printable(name)} is another model now, or has changed: {_of(others)}")
    told = "; ".join(why) or "the run names none"
    _tell(f"no model, so only what needs no weights is checked; give --model ({told})")
    return None


def _of(files: list[str]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{printable(files[0])}{more}"


def _tell(line: str) -> None:
    stderr.say(f"llamaprobe: {line}")
