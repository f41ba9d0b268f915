"""llamaprobe bench: where the time of a run goes, against the machine's roof."""

import argparse
from typing import TYPE_CHECKING, Any

from ..messages import counted, printable
from .json import print_json
from .options import (
    MODEL_HELP,
    add_capture_options,
    add_ignore,
    add_source_options,
    count,
    counts,
    location,
    opening_of,
)

if TYPE_CHECKING:
    from ..model import Model
    from ..perf.bench import Timing, Trial


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="time runs stage by stage, against the machine's roof",
        description="Runs random token ids and shows the seconds of each stage, and the fraction of"
        " the roof: the time in which this machine could multiply as much, or read as many weights,"
        " at most. Both speeds are measured between the runs.",
        epilog="Stages: plan (what is to be computed, and where it goes), memory (room for the"
        " values), embed (the tokens' rows of the embedding), rope (sines and cosines), norm"
        " (RMSNorm), pack (a product's input laid out for the kernels), qkv, attention, o_proj,"
        " gate_up (with SwiGLU), down, copy (values that are kept in two places), head (logits)."
        " Those without a roof, which multiply no matrix, together are the time without products.",
    )
    parser.add_argument("model", metavar="MODEL", type=location, help=MODEL_HELP)
    parser.add_argument(
        "--tokens",
        type=counts,
        action="extend",
        metavar="N,N",
        help="how many tokens; each number is a measurement (default 128)",
    )
    parser.add_argument(
        "--repeat", type=count, default=5, metavar="K", help="runs after the first (default 5)"
    )
    add_capture_options(parser)
    parser.add_argument(
        "--plan",
        action="store_true",
        help="measure nothing; show each step of such a run: the bytes of weights that it reads,"
        " its values and their places",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_source_options(parser)
    add_ignore(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from ..model import load
    from ..points import DEFAULT_POINTS

    model = load(args.model, **opening_of(args))
    points = args.points or [*DEFAULT_POINTS]
    one = _plan if args.plan else _measure
    results = [one(model, n_tokens, points, args) for n_tokens in args.tokens or [128]]
    if args.json:
        print_json(results)
    return 0


def _plan(
    model: "Model", n_tokens: int, points: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    plan = model.plan(n_tokens, points=points, layers=args.layers)
    if not args.json:
        print(f"{printable(args.model)}: {counted(n_tokens, 'token')}\n{plan}")
    return {"n_tokens": n_tokens, "plan": plan.to_dict()}


def _measure(
    model: "Model", n_tokens: int, points: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    from ..perf.bench import measure
    from ..perf.machine import cpu_name

    timing = measure(
        model,
        n_tokens,
        points=points,
        layers=args.layers,
        threads=args.threads,
        repeat=args.repeat,
    )
    about = {
        "model": model.origin.shown,
        "cpu": cpu_name(),
        "points": points,
        "layers": args.layers,
    }
    if not args.json:
        _print(timing, **about)
    return about | timing.to_dict()


def _print(t: "Timing", model: str, cpu: str, points: list[str], layers: list[int] | None) -> None:
    from ..perf.bench import BUSY

    where = "" if layers is None else f" of {counted(len(layers), 'layer')}"
    shown = ", ".join(map(printable, points))
    print(f"{printable(model)}: {counted(t.n_tokens, 'token')}, {shown}{where}")
    print(f"{printable(cpu)}, {t.kernels}, {counted(t.n_threads, 'thread')}")
    _print_stages(t.median)
    fractions = [trial.of_roof for trial in t.trials]
    print(
        f"a run: {t.seconds:.6f} s, the median of {len(t.trials)}; fastest"
        f" {t.trials[0].seconds:.6f}; first {t.first.seconds:.6f},"
        f" {t.first.seconds / t.seconds:.2f} times the median"
    )
    print(
        f"of the roof: {t.median.of_roof:.1%}, all runs {min(fractions):.1%} to"
        f" {max(fractions):.1%}; without products {t.median.profile.share_without_products:.1%}"
    )
    print(f"page faults: {t.median.faults} (in the first run {t.first.faults})", flush=True)
    if t.roof_spread > BUSY:
        print(
            f"the machine was busy: its roof changed by a factor of {t.roof_spread:.1f} between the"
            " runs (hence any figure over 100%); measure again",
            flush=True,
        )


def _print_stages(trial: "Trial") -> None:
    """A line for each stage; the roof is that of the products or of reading their weights."""
    roof = trial.roof
    print(f"the roof: {roof.flops / 1e9:.1f} GFLOP/s, {roof.bytes / 1e9:.1f} GB/s")
    print("stage         seconds   share  GFLOP/s     GB/s  of the roof")
    for stage in trial.profile.stages:
        if not stage.n_laps:
            continue
        line = f"{stage.name:<10} {stage.seconds:10.6f} {stage.seconds / trial.seconds:7.1%}"
        moved = stage.weight_bytes + stage.value_bytes
        if stage.seconds > 0 and moved:
            rate = f"{stage.flops / stage.seconds / 1e9:9.1f}" if stage.flops else " " * 9
            line += f"{rate} {moved / stage.seconds / 1e9:8.1f}"
            line += f" {stage.at_roof(roof) / stage.seconds:12.1%}" if stage.flops else ""
        print(line)
