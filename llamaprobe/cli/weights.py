"""llamaprobe weights: one file per tensor."""

import argparse
from typing import TYPE_CHECKING, Any

from ..messages import counted, printable
from .options import (
    MODEL_HELP,
    add_file_options,
    add_quiet,
    add_source_options,
    format_of,
    location,
    note_size,
    report_written,
    revision_of,
)

if TYPE_CHECKING:
    from ..saved.export import PlannedFile


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "weights",
        help="write the weights as text or npy, one file per tensor",
        description="Writes one file per tensor and a manifest.json, and prints their paths, one a "
        "line. Goes on where an earlier call was stopped.",
    )
    parser.add_argument(
        "model", metavar="MODEL", type=location, help=f"{MODEL_HELP}, or one .safetensors file"
    )
    parser.add_argument("--out", type=location, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--filter",
        action="append",
        metavar="F",
        help='names to write: a glob, or "re:" and a regular expression',
    )
    parser.add_argument(
        "--exclude", action="append", metavar="F", help="names to leave out, in the same forms"
    )
    parser.add_argument(
        "--list", action="store_true", help="show what would be written, and write nothing"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "raw"),
        default="float32",
        help="of npy and hex; raw: the words of 16-bit and 8-bit floats as they are",
    )
    parser.add_argument(
        "--part",
        choices=("values", "codes", "scales"),
        default="values",
        help="of quantised weights: the values as float32, or the stored integers, or what scales"
        " them: scales, zeros, offsets",
    )
    add_file_options(parser)
    add_source_options(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    from ..saved.export import plan_weights
    from ..source import find_source

    if not args.list and not args.out:
        args.usage_error("give --out DIR, or --list")
    names = ("filter", "exclude", "digits", "dtype", "part", "threads")
    choice: dict[str, Any] = {name: getattr(args, name) for name in names}
    choice |= {"format": format_of(args), "header": not args.no_header}
    source = find_source(args.model, revision=revision_of(args), file=args.file)
    plan = plan_weights(source, **choice)
    if args.list:
        return _list(plan.files)
    todo: list[PlannedFile] = []

    def on_start(files: "list[PlannedFile]") -> None:
        todo.extend(files)
        note_size(sum(p.n_bytes for p in todo), len(todo), all(p.exact for p in todo))

    paths = plan.write(args.out, force=args.force, on_start=on_start)
    for written in paths:
        print(written)
    n_kept = len(paths) - 1 - len(todo)
    was = "was" if n_kept == 1 else "were"
    report_written(paths, f"; {n_kept} of them {was} whole already" if n_kept else "")
    return 0


def _list(plan: "list[PlannedFile]") -> int:
    width = max(len(p.tensor.file) for p in plan)
    for p in plan:
        size = f"{p.n_bytes:,}" if p.exact else f"~{p.n_bytes:,}"
        shape = "x".join(map(str, p.tensor.shape)) or "scalar"
        renamed = (
            f"  {printable(p.tensor.name)}"
            if not p.tensor.file.startswith(p.tensor.name + ".")
            else ""
        )
        print(
            f"{p.tensor.file:<{width}}  {p.tensor.dtype:<5} {shape:>16} {size:>18} bytes{renamed}"
        )
    total = sum(p.n_bytes for p in plan)
    estimated = "" if all(p.exact for p in plan) else "estimated "
    print(f"{counted(len(plan), 'file')}, {estimated}{total:,} bytes")
    return 0
