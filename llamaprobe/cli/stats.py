"""llamaprobe stats: statistics of a model's values over a dataset, without keeping the values."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from .. import stderr
from ..messages import counted, printable, shown_path
from .options import (
    MODEL_HELP,
    add_document_options,
    add_ignore,
    add_quiet,
    add_source_options,
    count,
    kept_layers,
    location,
    names,
    opening_of,
)

if TYPE_CHECKING:
    from ..stats.stats import Stats


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "stats",
        help="statistics of values over a dataset",
        description="MODEL DATA runs a dataset and adds up exact statistics of values, which are not "
        "kept. --from FILE reads statistics, several parts of one dataset are added up. Prints a "
        "line for each target, and the sha256 of the statistics, which depends on nothing but the "
        "model, the data and the options.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", type=location, help=MODEL_HELP)
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="*",
        type=location,
        help="files (.jsonl, .txt, .csv, .tsv, .npy, .safetensors; .parquet, .arrow), a folder with"
        " a Hugging Face dataset, or - for stdin",
    )
    parser.add_argument(
        "--from",
        dest="files",
        nargs="+",
        type=location,
        metavar="FILE",
        help="instead of MODEL DATA",
    )
    _add_statistics(parser)
    _add_data_options(parser)
    _add_outputs(parser)
    parser.add_argument(
        "--batch-tokens", type=count, metavar="N", default=2048, help="default 2048"
    )
    parser.add_argument("--no-progress", action="store_true", help="no bar on stderr")
    add_source_options(parser)
    add_ignore(parser)
    add_quiet(parser)
    parser.set_defaults(run=_run, usage_error=parser.error)


def _add_statistics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stats",
        type=names,
        action="extend",
        metavar="S,S",
        help="range, moments, histogram (these three by default), gram, top:K, firing:THETA",
    )
    parser.add_argument(
        "--points",
        type=names,
        action="extend",
        metavar="P,P",
        help="as x:10,hidden:4-6,pattern (default: x_norm,z,x_mid_norm,hidden)",
    )
    parser.add_argument(
        "--layers", type=kept_layers, metavar="0,3,5-7", help="only these layers of the points"
    )
    parser.add_argument(
        "--by",
        metavar="G",
        help="groups of tokens: first (position 0 apart, the default), none, position, token, or"
        " token ids such as 11,13",
    )
    parser.add_argument(
        "--exact",
        type=_fractions,
        metavar="Q,Q",
        help="quantiles to find exactly, such as 0.5,0.999, in two more runs",
    )
    parser.add_argument(
        "--mask",
        choices=("assistant",),
        help="only the assistant's turns of chats count, with the token that ends each",
    )
    parser.add_argument(
        "--keys", type=count, metavar="N", help="first keys of attention maps (default 64)"
    )
    parser.add_argument(
        "--part", type=_part, metavar="I/N", help="only part I of N of the data, I from 0 on"
    )


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add_document_options(parser)
    parser.add_argument("--stride", type=count, metavar="N", help="tokens repeated when split")
    parser.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        help="special tokens around a text (default auto); always: also BOS before each later window",
    )
    parser.add_argument(
        "--on-bad", choices=("stop", "skip"), help="documents that cannot be read (default stop)"
    )
    parser.add_argument(
        "--positions", metavar="P", help="all (default), last, skip:N, A-B, or hash:F"
    )
    parser.add_argument("--order", metavar="O", help="data (default) or permuted:SEED")
    parser.add_argument("--limit-tokens", type=count, metavar="N", help="stop after so many tokens")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=location, metavar="FILE", help="where the statistics go")
    parser.add_argument(
        "--imatrix",
        type=location,
        metavar="FILE",
        help="llama.cpp's importance matrix (needs gguf)",
    )
    parser.add_argument(
        "--act-scales", type=location, metavar="FILE", help="SmoothQuant's scales, as safetensors"
    )
    parser.add_argument("--npz", type=location, metavar="FILE", help="floats for NumPy")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


_PLAN_OPTIONS = (
    *("field", "ids", "chat", "max_tokens", "long", "stride", "bos", "on_bad"),
    *("positions", "order", "limit_tokens"),
)
_OUTPUTS = ("out", "imatrix", "act_scales", "npz")
_STATISTICS = ("stats", "points", "layers", "mask", "by", "exact", "keys", "part")


def _run(args: argparse.Namespace) -> int:
    from ..stats.file import read_stats
    from ..stats.stats import merge_stats

    _check_outputs(args)
    given = [name for name in (*_PLAN_OPTIONS, *_STATISTICS) if getattr(args, name) is not None]
    if args.files is not None:
        if args.model is not None or given:
            args.usage_error(
                "--from reads statistics that are there; leave out MODEL, DATA and options"
            )
        stats = merge_stats([read_stats(path) for path in args.files])
    elif args.model is None or not args.data:
        args.usage_error("give MODEL DATA, or --from FILE")
    else:
        stats = _collect(args, given)
    if args.out is not None:
        stats.save(args.out, force=args.force)
    if args.imatrix is not None:
        stats.write_imatrix(args.imatrix, force=args.force)
    if args.act_scales is not None:
        stats.write_act_scales(args.act_scales, force=args.force)
    if args.npz is not None:
        stats.write_npz(args.npz, force=args.force)
    _print(stats, args)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """What cannot be written is refused before minutes of work. FileError."""
    from ..files.new_file import check_new_file

    paths = [getattr(args, name) for name in _OUTPUTS]
    places = [check_new_file(path, args.force).absolute() for path in paths if path is not None]
    if len(set(places)) < len(places):
        args.usage_error(f"{', '.join(_OUTPUTS)} of one name: each needs a file of its own")
    if args.force and not places:
        args.usage_error("--force is for the files of --out, --imatrix, --act-scales and --npz")


def _collect(args: argparse.Namespace, given: list[str]) -> "Stats":
    from pathlib import Path

    from ..model import load
    from ..stats.collect import collect

    options = {name: getattr(args, name) for name in given}
    if "by" in options and re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", options["by"]):
        options["by"] = [int(token) for token in options["by"].split(",")]
    model = load(args.model, **opening_of(args))
    return collect(
        model,
        [Path(name) for name in args.data],
        threads=args.threads,
        batch_tokens=args.batch_tokens,
        progress=not (args.no_progress or args.quiet),
        **options,
    )


# ---- the table ----


def _print(stats: "Stats", args: argparse.Namespace) -> None:
    rows = [_row(stats, target) for target in stats.targets]
    if args.json:
        from .json import print_json

        print_json(
            {
                "sha256": stats.sha256,
                "complete": stats.is_complete,
                "tokens": stats.tokens,
                "targets": dict(zip(stats.targets, rows, strict=True)),
            }
        )
        return
    columns = list(rows[0])
    cells = [["target", *columns]]
    cells += [
        [name, *map(_cell, row.values())] for name, row in zip(stats.targets, rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *others = (cell.rjust(n) for cell, n in zip(line, widths, strict=True))
        print("  ".join([line[0].ljust(len(first)), *others]).rstrip())
    tokens = ", ".join(f"{n} {group}" for group, n in list(stats.tokens.items())[:4])
    stderr.say(f"llamaprobe: {counted(sum(stats.tokens.values()), 'token')}: {tokens}")
    if not stats.is_complete:
        stderr.say("llamaprobe: a part of the data; --from FILE FILE adds parts up")
    print(f"{stats.sha256}  {shown_path(args.out)}" if args.out else stats.sha256)


def _row(stats: "Stats", target: str) -> dict[str, Any]:
    """Of the tokens that `stats[target]` has."""
    import numpy as np

    channels, chosen = stats[target], stats.chosen
    found: dict[str, Any] = {"values": int(channels.count.sum())}
    if bad := int(channels.nan.sum() + channels.inf.sum()):
        found["not_finite"] = bad
    if chosen.range:
        found["min"], found["max"] = float(channels.min.min()), float(channels.max.max())
    if chosen.moments:
        found["rms"] = float(np.sqrt(channels.mean_square.mean()))
        kurtosis = channels.kurtosis()
        known = kurtosis[~np.isnan(kurtosis)]
        found["most_kurtosis"] = float(known.max()) if known.size else None
    if chosen.histogram:
        found["median_abs"] = channels.median_abs()[1]
    for theta in chosen.thetas:
        found[f"fires_{theta:g}"] = int(channels.fires(theta).sum())
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in found.items()
    }


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.6g}"


# ---- words of options ----


def _fractions(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        shown = printable(text, 40)
        raise argparse.ArgumentTypeError(f"{shown!r} is not a list such as 0.5,0.999") from None


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, as 3/8")
    return int(match[1]), int(match[2])
