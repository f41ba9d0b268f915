"""The command line: llamaprobe run | points | inspect | weights | verify | download | bench.

Results go to stdout and all else to stderr, so that output can be piped. A user's mistake is one
line on stderr and exit code 1 (2 for wrong usage, 130 for Ctrl-C), never a traceback. What a
command needs is imported when it runs.
"""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

from . import __version__, cli_bench, cli_inspect, cli_points, cli_run, cli_verify, cli_weights
from .errors import Error
from .names import printable

_MAX_LINE = 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    warnings.showwarning = _show_warning
    try:
        args = _parser().parse_args(argv)
        code = args.run(args)
        sys.stdout.flush()  # a full disk shows here
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has seen enough
        _drop_stdout()
        return 141
    except (Error, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, Error):
            _drop_stdout()
        return _fail(str(error) or type(error).__name__, 1)
    except MemoryError:
        return _fail("out of memory; ask for fewer points, layers or tokens", 1)
    except RecursionError:
        return _fail("a file is nested too deep", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llamaprobe",
        description="See inside a Llama: every value of the forward pass, as arrays or files.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"llamaprobe {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    cli_run.add_parser(commands)
    cli_points.add_parser(commands)
    cli_inspect.add_parser(commands)
    cli_weights.add_parser(commands)
    cli_verify.add_parser(commands)
    cli_bench.add_parser(commands)
    if find_spec(f"{__package__}.cli_download"):
        from .cli_download import add_download_parser, run_download

        download = add_download_parser(commands)
        download.set_defaults(run=run_download, usage_error=download.error)
    return parser


def _fail(message: str, code: int) -> int:
    """One line on stderr, whatever is in the message."""
    line = printable(" ".join(message.split("\n")), _MAX_LINE)
    with contextlib.suppress(OSError, ValueError):
        print(f"llamaprobe: {line}", file=sys.stderr, flush=True)
    return code


def _drop_stdout() -> None:
    """Nothing more can be written; without this the interpreter would complain of it again at
    exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object) -> None:
    _fail(f"warning: {message}", 0)
