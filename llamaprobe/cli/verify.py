"""llamaprobe verify: is a saved run, or a harvest, what its model computes for its tokens?"""

import argparse
import os
from typing import TYPE_CHECKING

from .. import stderr
from ..messages import counted, printable
from .harvest import check_harvest_by
from .options import (
    MODEL_HELP,
    add_ignore,
    add_quiet,
    add_source_options,
    count,
    location,
    revision_of,
)

if TYPE_CHECKING:
    from ..checks.verify import Check
    from ..model import Model
    from ..saved.read import Saved

_NOT_ALL = 3  # exit code: nothing is wrong, but not everything could be compared
_VERDICTS = {
    0: ("ok", "all that can be checked is as it should be"),
    1: ("altered", "something was altered, is missing or cannot be read"),
    _NOT_ALL: ("not all compared", "nothing is wrong, but something was not compared"),
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the files of a run against the model's weights",
        description="Checks the sha256 of every file of a saved run, writes anew and compares what "
        "follows from its tokens and its model, recomputes every value from the values before it "
        "and the weights, and runs the same tokens again.",
        epilog="Exit 0: all is as it should be; 1: something was altered, is missing or cannot be "
        "read; 3: nothing is wrong, but something was not compared: the model was not found, or "
        "the run has another format or arithmetic version; 2: wrong usage; 130: Ctrl-C.",
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        type=location,
        help="what `llamaprobe run --out` or `harvest` wrote",
    )
    parser.add_argument(
        "--model",
        type=location,
        help=f"{MODEL_HELP}; default: the one that the run names, if it is still here, else what "
        "needs no weights is checked",
    )
    parser.add_argument(
        "--recompute",
        type=count,
        metavar="N",
        help="of a harvest: compute N shards, chosen at random, again",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from ..data.check import is_harvest
    from ..errors import Error

    if is_harvest(args.folder):
        return _verify_harvest(args)
    if args.recompute is not None:
        args.usage_error("--recompute is for a harvest; every value of a run is recomputed anyway")
    checks: list[Check] = []
    try:
        others = _check(args, checks)
    except Error as error:
        if args.json:
            _print_json(args.folder, checks, {"verdict": "error", "error": str(error)}, 1)
        raise
    n_faults, n_left = sum(bool(c.fault) for c in checks), sum(bool(c.note) for c in checks)
    code = 1 if n_faults else _NOT_ALL if n_left else 0
    if args.json:
        _print_json(args.folder, checks, {"verdict": _VERDICTS[code][0]}, code)
        return code
    if unchecked := _unchecked(checks):
        print(f"cannot be checked here: {', '.join(unchecked)}")
    if not code:
        print(f"all {counted(len(checks), 'check')} passed")
    if n_faults:
        why = "altered, missing or of another model" if others else "altered or missing"
        print(f"{why}: {n_faults} of {counted(len(checks), 'check')} failed")
    if n_left:
        print(f"left out, at least in part: {n_left} of {counted(len(checks), 'check')}")
    return code


def _verify_harvest(args: argparse.Namespace) -> int:
    """Prints what is wrong or could not be checked, and how much was."""
    checks = check_harvest_by(args)
    shown = [check for check in checks if check.fault or check.note]
    n_faults = sum(bool(check.fault) for check in checks)
    code = 1 if n_faults else _NOT_ALL if shown else 0
    if args.json:
        _print_json(args.folder, shown, {"verdict": _VERDICTS[code][0]}, code)
        return code
    for check in shown:
        print(_line(check))
    n_notes = len(shown) - n_faults
    print(f"{counted(len(checks), 'check')}: {n_faults} failed, {n_notes} left out")
    return code


def _check(args: argparse.Namespace, checks: "list[Check]") -> list[str]:
    """Append each check to `checks` and print it; returns weight files that are not the run's."""
    from ..checks.verify import verify_run
    from ..formulas import BAR

    model, others = _model(args)
    if model is not None and model.ignore:
        globs = ", ".join(map(printable, model.ignore))
        _tell(f"ignored, as --ignore or the run says: tensors that match {globs}")
    for check in verify_run(args.folder, model):
        if not checks and not args.json:
            print(
                "largest error in standard deviations of float32 rounding: about 1 is normal, up "
                f"to {BAR:.0f} passes, 0 is exact"
            )
        checks.append(check)
        if not args.json:
            print(_line(check), flush=True)
    return others


def _unchecked(checks: "list[Check]") -> list[str]:
    return [fact for check in checks for fact in check.unchecked]


def _print_json(folder: str, checks: "list[Check]", verdict: dict[str, str], code: int) -> None:
    from .json import print_json

    shown = {
        "folder": folder,
        "checks": [
            {"what": c.what, "fault": c.fault, "roundings": c.roundings, "note": c.note}
            for c in checks
        ],
        **verdict,
        "unchecked": _unchecked(checks),
        "exit": {"code": code, "means": _VERDICTS[code][1]},
    }
    print_json(shown)


def _line(check: "Check") -> str:
    size = "" if check.roundings is None else f"{check.roundings:.3g}"
    result = "; ".join(filter(None, (check.fault, check.note))) or "ok"
    return f"{check.what:<30}{size:>9}  {result}"


def _model(args: argparse.Namespace) -> "tuple[Model | None, list[str]]":
    """The model to check with, and its weight files that are not the run's."""
    from ..checks.provenance import open_for, other_weights
    from ..errors import NewerFormatError
    from ..saved.read import Saved

    if args.model is None and args.revision is not None:
        args.usage_error("--revision is for --model")
    try:
        saved = Saved(args.folder)
    except NewerFormatError:  # nothing of it is compared
        return None, []
    if args.model is None:
        return _recorded_model(args, saved), []
    options = {"revision": revision_of(args), "threads": args.threads, "ignore": args.ignore}
    options |= {"file": args.file, "weights_as": args.weights_as}
    model = open_for(saved, args.model, **options)
    others = other_weights(saved, model)
    if others:
        _tell(f"this is not the model that the run was made with, or it has changed: {_of(others)}")
    return model, others


def _recorded_model(args: argparse.Namespace, saved: "Saved") -> "Model | None":
    """The model that the run names, if it opens without the network and is unchanged."""
    from ..checks.provenance import open_for, other_weights, recorded_file, recorded_models
    from ..errors import Error

    why = []
    for name, revision in recorded_models(saved):
        try:
            where = {"revision": revision, "local_files_only": True, "ignore": args.ignore}
            where["file"] = args.file or recorded_file(saved)
            where["weights_as"] = args.weights_as
            model = open_for(saved, name, threads=args.threads, **where)
            others = other_weights(saved, model)
        except Error as error:
            why.append(str(error))
            continue
        if not others:
            file = model.origin.file
            place = os.path.join(model.path, file) if file else name
            _tell(f"the model is the one that the run names, {printable(place)}")
            return model
        why.append(f"{printable(name)} is another model now, or has changed: {_of(others)}")
    reasons = "; ".join(why) or "the run names none"
    _tell(f"no model, so only what needs no weights is checked; give --model ({reasons})")
    return None


def _of(files: list[str]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{printable(files[0])}{more}"


def _tell(line: str) -> None:
    stderr.say(f"llamaprobe: {line}")
