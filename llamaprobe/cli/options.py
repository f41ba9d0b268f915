"""Options that several commands share, and how their text becomes values or wrong usage, exit 2."""

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from .. import stderr
from ..messages import counted, printable

if TYPE_CHECKING:
    from pathlib import Path

    from ..edits.edits import Edits
    from ..run import Run

MODEL_HELP = 'a folder, a .gguf file, a repo id such as meta-llama/Llama-3.2-1B-Instruct, or "demo"'
_LARGE = 100_000_000  # bytes: written only after a note


def add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=file_format,
        metavar="F",
        help="csv (default), txt, npy, hex (words for Verilog's $readmemh), or q<m>.<n> (the same "
        "for fixed point of m + n bits)",
    )
    parser.add_argument(
        "--digits",
        type=digits,
        metavar="N",
        help='of csv and txt: "shortest" (default: the shortest decimal that reads back to the '
        "same bits), or 0 to 25 for %%.Ne",
    )
    parser.add_argument(
        "--no-header",
        action="store_true",
        help="of csv, txt and hex: leave out the first line, # shape=[..]; manifest.json has the"
        " shapes",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def add_run_files_options(parser: argparse.ArgumentParser) -> None:
    """What only the folder of a run has."""
    parser.add_argument(
        "--no-masks", action="store_true", help="leave out attention_mask and position_ids"
    )
    parser.add_argument(
        "--hash-weights", action="store_true", help="read the weights for their sha256"
    )


def add_edits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--edit",
        action="append",
        metavar="EDIT",
        help="change values while the model runs, 'z[3][-1, 5] = 0' or 'x[10][7:] += 4 * v.npy'; may"
        " be repeated (docs/edits.md)",
    )


def edits_of(args: argparse.Namespace) -> "Edits | None":
    """--edit. EditError, FileError, FormatError."""
    from ..edits.edits import Edits

    return Edits.parse(args.edit) if args.edit else None


def report_edits(result: "Run") -> None:
    """A line on stderr for each edit that was made."""
    for edit in result.edits:
        stderr.say(f"{edit.written}  # {counted(edit.n_changed or 0, 'element')} changed")


def check_file_usage(args: argparse.Namespace, *others: str) -> None:
    """Options of files are for --out, and so are `others`."""
    of_files = ("format", "digits", "force", "no_masks", "no_header", "hash_weights", *others)
    given = [
        name for name in of_files if not any(getattr(args, name) is no for no in (None, False))
    ]
    if given and args.out is None:
        args.usage_error(f"--{given[0].replace('_', '-')} is for --out DIR")
    format_of(args)


def check_out(args: argparse.Namespace) -> None:
    """Refuse a folder that holds a run already before minutes of work, not after."""
    from ..files.paths import checked_path
    from ..saved.manifest import MANIFEST
    from ..saved.run_folder import check_new_run

    check_new_run(checked_path(args.out), [MANIFEST], args.force)


def save(result: "Run", args: argparse.Namespace, **part: Any) -> "list[Path]":
    """The files of a run, with a line on stderr; the last is the manifest. `part`: points and layers
    of it, as for Run.save."""
    from ..saved.run_folder import plan_run

    how = {"format": format_of(args), "digits": args.digits, "header": not args.no_header}
    how |= {"masks": not args.no_masks, "force": args.force, "hash_weights": args.hash_weights}
    plan = plan_run(result, args.out, **how, **part)
    note_size(plan.n_bytes, len(plan.encoders), plan.exact)
    paths = plan.write()
    names = part.get("points", result.points)
    report_written(paths, f": {counted(len(result), 'token')}, {', '.join(names)}")
    return paths


def format_of(args: argparse.Namespace) -> str:
    """--format, csv by default. --digits where no decimals are written is wrong usage."""
    style: str = args.format or "csv"
    if args.digits is not None and style not in ("csv", "txt"):
        args.usage_error(f"--digits is for csv and txt, not for {style}")
    if args.no_header and style == "npy":
        args.usage_error("--no-header is for csv, txt and hex, not for npy")
    return style


def add_document_options(parser: argparse.ArgumentParser) -> None:
    """How the documents of a dataset become tokens that are run together."""
    parser.add_argument("--field", metavar="NAME", help="the column of texts (default text)")
    parser.add_argument("--ids", metavar="NAME", help="the column of token ids")
    parser.add_argument("--chat", metavar="NAME", help="the column of chat messages")
    parser.add_argument(
        "--max-tokens", type=count, metavar="N", help="tokens run together (default 512)"
    )
    parser.add_argument(
        "--long",
        choices=("split", "cut", "refuse"),
        help="longer documents: split (default), cut to the first tokens, or refuse",
    )


def add_capture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--points",
        type=names,
        action="extend",
        metavar="P,P",
        help="values to keep, such as x,q,pattern (default: x,x_norm; `llamaprobe points` lists them)",
    )
    parser.add_argument(
        "--layers",
        type=kept_layers,
        metavar="0,3,5-7",
        help="layers to keep (default: all); -1 is the last",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="only errors on stderr")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    add_revision(parser)
    parser.add_argument(
        "--threads", type=count, metavar="N", help="default: the cores that this process may use"
    )


def add_ignore(parser: argparse.ArgumentParser) -> None:
    """For commands that open a model to run it."""
    parser.add_argument(
        "--ignore",
        type=location,
        action="append",
        default=[],
        metavar="GLOB",
        help="ignore the tensors of these names, which no operation uses; may be repeated",
    )
    parser.add_argument(
        "--weights-as",
        choices=("float32", "bf16"),
        help="of quantised weights: the values of their codes (float32, default), or these rounded"
        " to bf16",
    )


def add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a repo (default main)"
    )
    add_file(parser)


def add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        type=location,
        metavar="GLOB",
        help="which model in GGUF of a folder or a repo, such as '*Q4_K_M*'",
    )


def revision_of(args: argparse.Namespace) -> str:
    """--revision, main by default. Wrong usage for anything but a repo."""
    if args.revision is None:
        return "main"
    if args.model == "demo" or os.path.exists(args.model):
        args.usage_error(f"--revision is for a repo, which {args.model} is not")
    return str(args.revision)


def opening_of(args: argparse.Namespace) -> dict[str, Any]:
    """How `load` opens the model, of a command with add_source_options and add_ignore."""
    return {
        "revision": revision_of(args),
        "threads": args.threads,
        "ignore": args.ignore,
        "file": args.file,
        "weights_as": args.weights_as or "float32",
    }


def location(text: str) -> str:
    """A file, a folder or a model. Not "", as from an unset variable: the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def file_format(text: str) -> str:
    from ..errors import ArgumentError
    from ..files.encode import check_format

    try:
        return check_format(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def digits(text: str) -> int | None:
    if text == "shortest":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 2 or int(text) > 25:
        raise argparse.ArgumentTypeError(f'{text!r} is neither "shortest" nor 0 to 25')
    return int(text)


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999")
    return int(text)


def counts(text: str) -> list[int]:
    """ "8,128" -> [8, 128]."""
    return [count(part.strip()) for part in text.split(",")]


def kept_layers(text: str) -> list[int]:
    """`layers`, and single negative numbers, which count from the last: "0,-1" -> [0, -1]."""
    numbers: list[int] = []
    for part in text.split(","):
        last = re.fullmatch("-[0-9]{1,5}", part.strip())
        numbers += [int(last[0])] if last else layers(part)
    return numbers


def layers(text: str) -> list[int]:
    """ "0,3,5-7" -> [0, 3, 5, 6, 7]."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last) if dash else (first,)
        if not all(n.isascii() and n.isdigit() and len(n) <= 5 for n in ends):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of layers such as 0,3,5-7")
        if int(ends[-1]) < int(first):
            wrong = f"{part.strip()!r} runs backwards: write {last}-{first}"
            raise argparse.ArgumentTypeError(wrong)
        numbers += range(int(first), int(ends[-1]) + 1)
    return numbers


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("no name; leave the option out for the default")
    return found


def note_size(n_bytes: int, n_files: int, exact: bool) -> None:
    """A note on stderr before a large write."""
    from ..messages import show_bytes

    if n_bytes >= _LARGE:
        about = "" if exact else "about "
        n_written = f"{show_bytes(n_bytes)} in {counted(n_files, 'file')}"
        stderr.say(f"llamaprobe: writing {about}{n_written}")


def report_written(paths: "list[Path]", about: str) -> None:
    """One line on stderr: how many files, how large, where, and which values fixed point could not
    hold. The last path is the manifest, which counts too."""
    from ..messages import show_bytes
    from ..saved.manifest import read_json

    entries = read_json(paths[-1])["files"]
    files = [entries[path.name] for path in paths[:-1]]
    n_bytes = sum(entry["bytes"] for entry in files) + os.path.getsize(paths[-1])
    line = f"{counted(len(paths), 'file')}, {show_bytes(n_bytes)}, in"
    line += f" {printable(str(paths[-1].parent))}{about}"
    for key, what in (("saturated", "saturated"), ("nan", "NaN became 0")):
        if count := sum(entry.get(key, 0) for entry in files):
            line += f"; {count} {what}"
    stderr.say(f"llamaprobe: {line}")
