"""The command line: llamaprobe run | generate | sweep | lens | attribute | points | inspect |
weights | verify | diff | harvest | stats | download | bench.

Results go to stdout and all else to stderr, so that output can be piped. A user's mistake is one
line on stderr and exit code 1 (2 for wrong usage, 130 for Ctrl-C), never a traceback. Commands
import what they need when they run, and this file imports inside `main`, so that Ctrl-C during an
import is handled like any other.
"""

import errno
import sys

TYPE_CHECKING = False  # typing and collections.abc are imports too

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .parser import Parser
    from .process import Interrupts

COMMANDS = (
    *("run", "generate", "sweep", "lens", "attribute", "points"),
    *("inspect", "weights", "verify", "diff", "harvest", "stats", "bench", "download"),
)
"""As `--help` lists them; each is a module here."""
_OF_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code. SystemExit after --help, --version, wrong usage.

    Without `argv` the words are those of the process, which is assumed to end with the command: once
    the exit code is decided, Ctrl-C is ignored.
    """
    try:
        from .process import Interrupts

        return _main(argv, Interrupts())
    except KeyboardInterrupt:  # before they were installed
        return _interrupted()


def _main(argv: "Sequence[str] | None", interrupts: "Interrupts") -> int:
    from .process import flush_or_drop, open_descriptors

    try:
        interrupts.install()
        if argv is None:
            open_descriptors()
        code = _run(sys.argv[1:] if argv is None else argv, interrupts)
        interrupts.ended = True
    except BaseException as error:
        interrupts.ended = True
        if not interrupts.came and not isinstance(error, KeyboardInterrupt):
            raise
        flush_or_drop(sys.stdout)
        code = _interrupted()
    finally:
        interrupts.close(for_good=argv is None)
    return code


def _run(argv: "Sequence[str]", interrupts: "Interrupts") -> int:
    """The exit code of one command, after all its output. Raises KeyboardInterrupt, and SystemExit
    with the code."""
    from .. import stderr
    from .process import standard_streams, warnings_as_notes

    end = None
    with standard_streams() as stdout, warnings_as_notes():
        try:
            try:
                args = _parser(*argv[:1]).parse_args(argv)
                stderr.quiet = getattr(args, "quiet", False)
                code = int(args.run(args))
            except SystemExit as error:  # help, version, wrong usage
                end = error
                code = error.code if isinstance(error.code, int) else 0
            sys.stdout.flush()  # a full disk shows here
        except Exception as error:
            if interrupts.came:  # and C code turned it into another error
                raise
            code = _failed(error)
        if stdout.lost and code == 0:
            code = _fail("stdout is closed: the results could not be printed", 1)
    if end is not None:
        raise SystemExit(code)
    return code


def _parser(first: str = "") -> "Parser":
    """The parser of the command that `first` names, or of all: each costs a module to import."""
    from importlib import import_module

    from .. import __version__
    from .parser import Parser

    parser = Parser(
        prog="llamaprobe",
        description="See inside a Llama: every value of the forward pass, as arrays or files.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"llamaprobe {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in (first,) if first in COMMANDS else COMMANDS:
        import_module(f".{name}", __package__).add_parser(commands)
    return parser


def _failed(error: Exception) -> int:
    """Print a failure that the user can act on; returns the exit code. Other errors are raised."""
    from ..errors import Error
    from .process import drop

    if isinstance(error, BrokenPipeError) and not isinstance(error, Error):
        drop(sys.stdout)  # the reader has closed the pipe
        return 141
    if isinstance(error, Error | OSError):
        about = ""
        if not isinstance(error, Error):
            drop(sys.stdout)
            if error.filename is None and error.errno in _OF_WRITES:  # those of files are Errors
                about = "stdout: the results could not be printed: "
        return _fail(about + (str(error) or type(error).__name__), 1)
    if isinstance(error, MemoryError):
        return _fail("out of memory; request fewer points, layers or tokens", 1)
    if isinstance(error, RecursionError):
        return _fail("a file is nested too deeply", 1)
    raise error


def _interrupted() -> int:
    """Print that, and return 130. CPython flags a KeyboardInterrupt that leaves `exec` of a string,
    as dataclasses and namedtuples use it, and `python -m` then dies of the signal, caught or not;
    the next such `exec` clears the flag."""
    code = _fail("interrupted", 130)
    exec("")
    return code


def _fail(message: str, code: int) -> int:
    """Print the message as one line on stderr."""
    from .. import stderr

    stderr.fail(f"llamaprobe: {stderr.one_line(message)}")
    return code
