"""llamaprobe verify: is a saved run what its model makes of its tokens?"""

import argparse

from .cli_options import MODEL_HELP, add_source_options


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the files of a run against the model's weights",
        description="Checks the sha256 of every file of a saved run, recomputes every value from "
        "the values before it and the weights, and runs the same tokens again. Exit 1 when "
        "something was altered.",
    )
    parser.add_argument("folder", metavar="DIR", help="what `llamaprobe run --out` wrote")
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    add_source_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .model import load
    from .verify import BAR, verify_run

    model = load(args.model, revision=args.revision, threads=args.threads)
    n_checks = n_faults = 0
    for check in verify_run(args.folder, model):
        if n_checks == 0:
            print(
                "largest error in units of float32 rounding: 1 is what it is expected to leave, "
                f"{BAR:.0f} is allowed, 0 is exact"
            )
        size = "" if check.roundings is None else f"{check.roundings:.3g}"
        print(f"{check.what:<24}{size:>10}  {check.fault or 'ok'}", flush=True)
        n_checks += 1
        n_faults += bool(check.fault)
    if n_faults:
        print(f"altered: {n_faults} of {n_checks} checks failed")
    return 1 if n_faults else 0
