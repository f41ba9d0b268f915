"""llamaprobe harvest: a dataset through a model, values of every token into files, exactly once."""

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from .. import stderr
from ..messages import counted, printable, show_bytes, shown_path
from .options import (
    MODEL_HELP,
    add_document_options,
    add_ignore,
    add_quiet,
    add_source_options,
    count,
    location,
    names,
    opening_of,
)

if TYPE_CHECKING:
    from ..checks.verify import Check
    from ..data.plan import Plan
    from ..model import Model

_DATA_HELP = (
    "files (.jsonl, .txt, .csv, .tsv, .npy, .safetensors; .parquet, .arrow), a folder with a"
    " Hugging Face dataset, or - for stdin"
)


_EXPORTS = ("parquet", "arrow", "npy")


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "harvest",
        help="keep values of every token of a dataset",
        description="Runs a dataset through a model and keeps values of every token. The plan "
        "decides every byte first; any number of processes then make its shards, in any order.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_run(actions)
    _add_plan(actions)
    _add_merge(actions)
    _add_drop(actions)
    _add_refill(actions)
    _add_export(actions)


def _add_run(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "run",
        help="plan and make all shards, or go on",
        description="MODEL DATA --out DIR plans a harvest and makes it; the same command goes on "
        "after a kill. --plan FILE makes the shards of a plan, or a part of them. Prints the root, "
        "the sha256 over all files, and the path of the manifest once nothing is missing.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", type=location, help=MODEL_HELP)
    parser.add_argument("data", metavar="DATA", nargs="*", type=location, help=_DATA_HELP)
    parser.add_argument(
        "--plan",
        type=location,
        metavar="FILE",
        help="a plan.json, or its folder, instead of MODEL DATA --out; MODEL alone may say where the"
        " model is",
    )
    _add_plan_options(parser)
    parser.add_argument(
        "--part", type=_part, metavar="I/N", help="only part I of N of the shards, I from 0 on"
    )
    _add_shards(parser, "only these shards")
    parser.add_argument(
        "--format",
        choices=("safetensors", *_EXPORTS),
        default="safetensors",
        help="the others: also export the complete harvest to DIR/F, as `harvest export` does",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tokenise, run a few batches, show sizes and hours"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    _add_run_options(parser)
    parser.set_defaults(run=_run, usage_error=parser.error)


def _add_plan(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "plan",
        help="decide every row and shard",
        description="Tokenises the data and writes a plan. Prints the path of plan.json.",
    )
    parser.add_argument("model", metavar="MODEL", type=location, help=MODEL_HELP)
    parser.add_argument("data", metavar="DATA", nargs="+", type=location, help=_DATA_HELP)
    _add_plan_options(parser)
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(run=_plan, usage_error=parser.error)


def _add_merge(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "merge",
        help="put shards of several folders together",
        description="Copies the shards that DIR lacks from folders with the same plan, and writes "
        "its manifest.",
    )
    parser.add_argument("folder", metavar="DIR", type=location)
    parser.add_argument("others", metavar="OTHER", nargs="*", type=location)
    add_quiet(parser)
    parser.set_defaults(run=_merge, usage_error=parser.error)


def _add_drop(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "drop",
        help="remove the values and keep what proves them",
        description="Removes the values of a complete harvest. The plan, the tokens and the "
        "manifest stay, and refill makes the same bytes again.",
    )
    parser.add_argument("folder", metavar="DIR", type=location)
    _add_shards(parser, "only those of these shards")
    add_quiet(parser)
    parser.set_defaults(run=_drop, usage_error=parser.error)


def _add_refill(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "refill",
        help="make dropped or damaged shards again",
        description="Makes shards that are missing, or those named, and compares their sha256 with "
        "the manifest.",
    )
    parser.add_argument("folder", metavar="DIR", type=location)
    parser.add_argument("--model", type=location, help=f"{MODEL_HELP}; default: where it was")
    _add_shards(parser, "make these again in any case")
    _add_run_options(parser)
    parser.set_defaults(run=_refill, usage_error=parser.error)


def _add_export(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "export",
        help="Parquet, Arrow or .npy files of a complete harvest",
        description="Writes a file for each shard, with the index of rows and the values as lists "
        "(parquet, arrow; needs pyarrow), or an array of all rows for each point (npy). Prints the "
        "paths.",
    )
    parser.add_argument("folder", metavar="DIR", type=location)
    parser.add_argument("--out", type=location, metavar="DIR", required=True)
    parser.add_argument("--format", choices=_EXPORTS, default="parquet")
    parser.add_argument(
        "--points", type=names, action="extend", metavar="P,P", help="as x.10,logits (default all)"
    )
    parser.add_argument("--no-values", action="store_true", help="the index of rows alone")
    add_quiet(parser)
    parser.set_defaults(run=_export, usage_error=parser.error)


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=location, metavar="DIR", help="where the harvest goes")
    parser.add_argument(
        "--points", type=names, action="extend", metavar="P,P", help="as x:10,hidden:4-6,logits"
    )
    add_document_options(parser)
    parser.add_argument(
        "--stride", type=_number, metavar="N", help="tokens repeated as context when split"
    )
    parser.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        help="special tokens around a text (default auto); always: BOS before every window",
    )
    parser.add_argument(
        "--on-bad", choices=("stop", "skip"), help="documents that cannot be read (default stop)"
    )
    parser.add_argument(
        "--positions",
        metavar="P",
        help="all (default), last, skip:N, A-B, or hash:F for a fraction F of the tokens",
    )
    parser.add_argument("--dtype", choices=("float32", "bf16", "f16"), help="default float32")
    parser.add_argument("--order", metavar="O", help="data (default) or permuted:SEED")
    parser.add_argument("--shard-rows", type=_number, metavar="N", help="rows of a shard at most")
    parser.add_argument(
        "--new-plan",
        action="store_const",
        const=True,
        help="replace a plan of another arithmetic version",
    )
    parser.add_argument(
        "--limit-tokens", type=_number, metavar="N", help="stop after so many tokens, as 1e8"
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-tokens", type=count, metavar="N", default=2048, help="default 2048"
    )
    parser.add_argument("--no-progress", action="store_true", help="no bar on stderr")
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)


def _add_shards(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--shards", type=_shards, metavar="0,3,5-7", help=text)


# ---- running ----


def _run(args: argparse.Namespace) -> int:
    from ..data.harvest import run_plan
    from ..data.plan import Plan

    _check_usage(args)
    model: Model | None = None
    if args.plan is None:
        model = _load(args)
        if args.dry_run:
            return _dry_run(args, model)
        plan = _make_plan(args, model)
    else:
        plan = Plan(args.plan)
        if args.model is not None:
            model = _load(args, plan.facts["model"].get("n_layers"))
        if args.dry_run:
            return _estimate(args, plan, model)
    is_complete = run_plan(plan, model, part=args.part, shards=args.shards, **_how(args))
    if is_complete:
        if args.format != "safetensors":
            _export_beside(plan, args)
        _print_root(plan, args.json)
        return 0
    missing = len(plan.missing())
    stderr.say(f"llamaprobe: {counted(missing, 'shard')} of {len(plan)} still missing")
    if args.json:
        from .json import print_json

        print_json({"root": None, "missing": missing})
    return 0


def _export_beside(plan: "Plan", args: argparse.Namespace) -> None:
    from ..data.export import export_harvest

    if plan.files.is_remote:
        args.usage_error(f"--format {args.format} needs a folder; `harvest export` reads a URL")
    export_harvest(plan.folder, plan.folder / args.format, format=args.format)


def _check_usage(args: argparse.Namespace) -> None:
    given = [name for name in _PLAN_OPTIONS if getattr(args, name) is not None]
    if args.plan is not None:
        if args.data or given or args.out is not None:
            args.usage_error("--plan has data and options already; give --part and the like alone")
    elif args.model is None or not args.data or args.out is None or args.points is None:
        args.usage_error("give MODEL DATA --out DIR --points P,P, or --plan FILE")
    if args.part is not None and args.shards is not None:
        args.usage_error("--part and --shards both choose shards; give one")


_PLAN_OPTIONS = (
    *("points", "field", "ids", "chat", "max_tokens", "long", "stride", "bos", "on_bad"),
    *("positions", "dtype", "order", "shard_rows", "limit_tokens", "new_plan"),
)


def _load(args: argparse.Namespace, layers: int | None = None) -> "Model":
    from ..model import load

    return load(
        args.model,
        layers=layers,
        **opening_of(args),
    )


def _how(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "threads": args.threads,
        "batch_tokens": args.batch_tokens,
        "progress": not (args.no_progress or args.quiet),
        "on_shard": None,
    }


def _make_plan(args: argparse.Namespace, model: "Model", folder: str | None = None) -> "Plan":
    from pathlib import Path

    from ..data.planning import plan_harvest, skipped_of

    given = {name: getattr(args, name) for name in _PLAN_OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    if args.out is None or args.points is None:
        args.usage_error("give --out DIR and --points P,P")
    progress = not (args.quiet or getattr(args, "no_progress", False))
    data = [Path(name) for name in args.data]
    plan = plan_harvest(model, data, folder or args.out, progress=progress, **options)
    stderr.say(f"llamaprobe: {_about(plan)}")
    if skipped := skipped_of(plan):
        stderr.say(f"llamaprobe: documents left out: {skipped}; skipped.jsonl lists them")
    return plan


def _about(plan: "Plan") -> str:
    return (
        f"{counted(plan.n_documents, 'document')}, {counted(plan.n_rows, 'row')} of"
        f" {', '.join(plan.targets)}, {counted(len(plan), 'shard')}, {show_bytes(plan.n_bytes)}"
    )


def _dry_run(args: argparse.Namespace, model: "Model") -> int:
    """Plan in a temporary folder."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="llamaprobe-") as folder:
        plan = _make_plan(args, model, os.path.join(folder, "plan"))
        return _estimate(args, plan, model)


def _estimate(args: argparse.Namespace, plan: "Plan", model: "Model | None") -> int:
    from ..data.estimate import estimate, lines_of
    from ..data.shard import opened_model

    opened = opened_model(plan, model)
    found = estimate(plan, opened, threads=args.threads, batch_tokens=args.batch_tokens)
    if args.json:
        from .json import print_json

        print_json(found)
    else:
        print("\n".join(lines_of(found, plan)))
    return 0


def _plan(args: argparse.Namespace) -> int:
    from ..data.layout import PLAN

    print(_make_plan(args, _load(args)).files.shown(PLAN))
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..data.copies import merge
    from ..data.plan import Plan

    merge(args.folder, args.others)
    _print_root(Plan(args.folder), False)
    return 0


def _drop(args: argparse.Namespace) -> int:
    from ..data.copies import drop

    freed = drop(args.folder, args.shards)
    stderr.say(f"llamaprobe: {show_bytes(freed)} are free; `llamaprobe harvest refill` makes them")
    return 0


def _refill(args: argparse.Namespace) -> int:
    from ..data.copies import refill
    from ..data.plan import Plan

    plan = Plan(args.folder)
    model = None
    if args.model is not None:
        model = _load(args, plan.facts["model"].get("n_layers"))
    refill(args.folder, args.shards, model=model, **_how(args))
    _print_root(plan, False)
    return 0


def _export(args: argparse.Namespace) -> int:
    from ..data.export import export_harvest

    if args.no_values and args.points:
        args.usage_error("--no-values leaves out all points; give one of the two")
    points = () if args.no_values else args.points
    for path in export_harvest(args.folder, args.out, format=args.format, points=points):
        print(shown_path(path))
    return 0


def check_harvest_by(args: argparse.Namespace) -> "list[Check]":
    """For `llamaprobe verify DIR`: every check, and with --recompute the shards made again."""
    from ..data.check import check_harvest, recompute
    from ..data.plan import Plan

    found = list(check_harvest(args.folder))
    if args.recompute is not None and not any(each.fault for each in found):
        model = None
        if args.model is not None:
            model = _load(args, Plan(args.folder).facts["model"].get("n_layers"))
        found += recompute(args.folder, args.recompute, model=model, threads=args.threads)
    return found


def _print_root(plan: "Plan", as_json: bool) -> None:
    """Of a harvest that is complete."""
    from ..data.layout import MANIFEST
    from ..data.reading import Harvest

    root, path = Harvest(plan).root, plan.files.at(MANIFEST)
    if as_json:
        from .json import print_json

        print_json({"root": root, "manifest": path, "rows": plan.n_rows, "missing": 0})
    else:
        print(f"{root}  {plan.files.shown(MANIFEST)}")


# ---- words of options ----


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, as 3/8")
    return int(match[1]), int(match[2])


def _shards(text: str) -> list[int]:
    """ "0,3,5-7" -> [0, 3, 5, 6, 7]."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of shards such as 0,3,5-7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _number(text: str) -> int:
    """ "1000000" or "1e6"."""
    if not re.fullmatch(r"[0-9]{1,18}|[0-9]+(\.[0-9]+)?e[0-9]{1,2}", text):
        raise argparse.ArgumentTypeError(f"{printable(text, 40)!r} is not a number such as 1e6")
    value = float(text) if "e" in text else int(text)
    if value != int(value) or value >= 1 << 62:
        raise argparse.ArgumentTypeError(f"{printable(text, 40)!r} is not a whole number")
    return int(value)
