"""llamaprobe run --prompts: the prompts of a file, each into a folder of its own."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import stderr
from ..messages import counted, printable, shown_path
from .options import format_of, location

if TYPE_CHECKING:
    from ..data.prompt_runs import PromptDone
    from ..model import Model

_ALONE = (
    *("prompt", "ids", "chat", "messages", "system", "tools", "template_var", "date"),
    *("continue_final_message", "no_generation_prompt", "force", "edit"),
)


def add_prompts_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts",
        type=location,
        metavar="FILE",
        help="many prompts instead of one, each into a folder of --out: a line of text each, or with"
        " .jsonl an object with text, input_ids or messages; - for standard input. The same command"
        " goes on after a kill",
    )
    parser.add_argument(
        "--on-bad",
        choices=("stop", "skip"),
        help="of --prompts: what to do with a prompt that cannot be run (default stop)",
    )


def check_prompts_usage(args: argparse.Namespace) -> None:
    """No option is dropped silently."""
    if args.prompts is None:
        if args.on_bad is not None:
            args.usage_error("--on-bad is for --prompts FILE")
        return
    for name in _ALONE:
        if getattr(args, name) not in (None, False):
            shown = "PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"
            args.usage_error(f"{shown} is for one prompt, not for --prompts FILE")
    if args.out is None:
        args.usage_error("--prompts needs --out DIR")


def run_prompts_file(model: "Model", args: argparse.Namespace) -> int:
    """Prints the folder of each prompt, in order."""
    from ..data.prompt_runs import read_prompts_of, run_prompts
    from ..files.paths import checked_path
    from ..points import DEFAULT_POINTS

    prompts = read_prompts_of(Path(args.prompts), None)
    capture = {"points": args.points or [*DEFAULT_POINTS], "layers": args.layers}
    capture |= {} if args.rope_length is None else {"rope_length": args.rope_length}
    save = {"format": format_of(args), "digits": args.digits, "header": not args.no_header}
    save |= {"masks": not args.no_masks, "hash_weights": args.hash_weights}
    out = checked_path(args.out)
    folders, skipped = [], 0
    runs = run_prompts(
        model, prompts, out, capture=capture, save=save, on_bad=args.on_bad or "stop"
    )
    for done in _shown(runs, len(prompts), args.progress):
        if done.fault is None:
            folders.append(str(done.folder))
            if not args.json:
                print(shown_path(done.folder), flush=True)
        else:
            skipped += 1
            place = printable(done.where, 300)
            stderr.say(f"llamaprobe: prompt {done.number} ({place}) was skipped: {done.fault}")
    if args.json:
        from .json import print_json

        print_json({"folders": folders, "skipped": skipped})
    about = f", {skipped} skipped" if skipped else ""
    stderr.say(f"llamaprobe: {counted(len(prompts), 'prompt')}{about}, in {shown_path(out)}")
    return 0


def _shown(runs: Iterable["PromptDone"], total: int, progress: bool) -> Iterable["PromptDone"]:
    if not progress:
        return runs
    from tqdm import tqdm

    return tqdm(runs, total=total, unit="prompt", file=stderr.STREAM, dynamic_ncols=True)
