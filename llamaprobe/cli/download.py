"""llamaprobe download: models from the hub into the cache or a folder, and a check of what is
there.

On stdout one line per model, its folder; all else goes to stderr. A model that fails does not stop
the others, but makes the exit code 1. No option takes a token: a command line can be read by every
user of the machine and stays in the shell's history.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import stderr
from ..errors import ArgumentError, Error, FileError, HubError
from ..messages import counted, printable
from .options import add_file, add_quiet, layers, location

if TYPE_CHECKING:
    from ..hub.listing import Choice

_MAX_LIST = 1 << 20  # bytes of a list of models
_MAX_TOKEN = 4096


def add_parser(subparsers: Any) -> None:
    """Adds the command `download`; `run` runs it."""
    parser = subparsers.add_parser(
        "download",
        help="fetch models from the hub",
        description="Fetches what llamaprobe needs of models on the hub: resumable, verified, into"
        " the cache that transformers and hf use too. A gated model needs a token: set HF_TOKEN, or"
        " use `hf auth login`.",
        allow_abbrev=False,
    )
    _add_models(parser)
    _add_places(parser)
    _add_choice(parser)
    _add_way(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _add_models(parser: argparse.ArgumentParser) -> None:
    """Which models."""
    example = "such as meta-llama/Llama-3.2-1B-Instruct"
    parser.add_argument("repos", nargs="*", metavar="REPO", type=location, help=example)
    parser.add_argument(
        "--from",
        dest="lists",
        action="append",
        default=[],
        type=location,
        metavar="FILE",
        help="a list, one per line",
    )
    parser.add_argument(
        "--revision", default="main", metavar="REV", help="branch, tag or commit (default main)"
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Where they go."""
    parser.add_argument(
        "--local-dir",
        type=location,
        metavar="DIR",
        help="a plain folder; of several models each has its own in it",
    )
    parser.add_argument(
        "--cache-dir", type=location, metavar="DIR", help="another cache than HF_HUB_CACHE"
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Which of their files."""
    parser.add_argument(
        "--include", action="append", metavar="GLOB", help="these files instead of the default set"
    )
    parser.add_argument("--exclude", action="append", metavar="GLOB", help="not these files")
    parser.add_argument(
        "--layers", type=layers, metavar="0,3,5-7", help="only the shards that hold these layers"
    )
    parser.add_argument(
        "--head", action="store_true", help="with --layers: the last norm and the head too"
    )
    add_file(parser)


def _add_way(parser: argparse.ArgumentParser) -> None:
    """What is done with them, and the token."""
    for option, text in (
        ("--dry-run", "list names and sizes, fetch nothing"),
        ("--check", "verify what is on disk (REPO may be a folder), fetch nothing"),
        ("--force", "fetch files that are here again; do not check the free space"),
        ("--offline", "do not contact the hub: fail unless all files are here"),
        ("--token-stdin", "read the token from standard input"),
    ):
        parser.add_argument(option, action="store_true", help=text)
    parser.add_argument("--token", nargs="?", action=_RefuseToken, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 1 if a model failed."""
    if args.dry_run and args.offline:
        args.usage_error(
            "--dry-run gets the list of files from the hub, --offline does not contact it"
        )
    repos = list(
        dict.fromkeys([*args.repos, *(repo for path in args.lists for repo in read_list(path))])
    )
    if not repos:
        if not args.lists:
            args.usage_error("give REPO, or --from FILE")
        raise ArgumentError("no model is named; give repository ids, or --from FILE")
    token = _read_token() if args.token_stdin else None
    action = _check if args.check else _show_plan if args.dry_run else _download
    failed = []
    for repo in repos:
        try:
            with _no_folder(args, repo):
                fine = action(args, repo, len(repos) > 1, token)
        except Error as error:
            fine = False
            named = repo in str(error) or len(repos) == 1
            _fail(f"llamaprobe: {error}" if named else f"llamaprobe: {repo}: {error}")
        if not fine:
            failed.append(repo)
    if failed and len(repos) > 1:
        _fail(f"llamaprobe: {len(failed)} of {len(repos)} failed: {', '.join(failed)}")
    return 1 if failed else 0


@contextlib.contextmanager
def _no_folder(args: argparse.Namespace, repo: str) -> Iterator[None]:
    """A local folder needs no download; `owner/name` may be both a folder and a repository."""
    if args.check or not os.path.isdir(repo):
        yield
        return
    fact = f"{repo}: is a folder that is here already and needs no download"
    is_name = repo.count("/") == 1 and not repo.startswith((".", "/", "~"))
    if not is_name and args.local_dir is None:
        raise ArgumentError(fact)
    try:
        yield
    except HubError as error:
        error.reword(f"{error} ({fact})")
        raise


def read_list(path: str) -> list[str]:
    """The repository ids of a text file: one per line; blank lines and `#` comments are skipped."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_LIST + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        fact = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FileError(f"{path}: {fact}", getattr(error, "errno", None), path) from None
    if len(data) > _MAX_LIST:
        raise FileError(f"{path}: over {_MAX_LIST} bytes, more than a list of models has")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _arguments(
    args: argparse.Namespace, repo: str, several: bool, token: str | None
) -> dict[str, Any]:
    """The arguments that a download and its plan share."""
    return {
        "revision": args.revision,
        "local_dir": _place(args, repo, several),
        "cache_dir": args.cache_dir,
        "token": token,
        "include": args.include,
        "exclude": args.exclude,
        "layers": args.layers,
        "head": args.head,
        "file": args.file,
    }


def _download(args: argparse.Namespace, repo: str, several: bool, token: str | None) -> bool:
    from ..hub import download

    how = _arguments(args, repo, several, token)
    folder = download(repo, **how, force=args.force, local_files_only=args.offline)
    print(folder, flush=True)
    return True


def _show_plan(args: argparse.Namespace, repo: str, several: bool, token: str | None) -> bool:
    from ..hub import plan
    from ..messages import show_bytes

    files = plan(repo, **_arguments(args, repo, several, token))
    for file, here in files:
        print(f"{repo}\t{printable(file.path)}\t{file.size}\t{'here' if here else 'to fetch'}")
    missing = sum(file.size for file, here in files if not here)
    _say(
        f"{repo}: {counted(len(files), 'file')}, {show_bytes(sum(file.size for file, _ in files))},"
        f" {show_bytes(missing)} to fetch"
    )
    return True


def _check(args: argparse.Namespace, repo: str, several: bool, token: str | None) -> bool:
    from ..hub.check import check

    place = _place(args, repo, several)
    findings = check(
        repo if place is None else place,
        revision=args.revision,
        cache_dir=args.cache_dir,
        choice=_choice(args),
    )
    for finding in findings:
        print(f"{finding.state}\t{printable(finding.path)}")
    bad = [finding for finding in findings if finding.state in ("damaged", "missing")]
    if bad:
        _fail(
            f"{printable(repo)}: {len(bad)} of {counted(len(findings), 'file')} damaged or missing;"
            f" download it again, damaged with --force"
        )
    return not bad


def _choice(args: argparse.Namespace) -> "Choice":
    from ..hub.listing import Choice

    return Choice(
        args.include,
        args.exclude,
        None if args.layers is None else frozenset(args.layers),
        args.head,
        args.file,
    )


def _place(args: argparse.Namespace, repo: str, several: bool) -> Path | None:
    """--local-dir itself, or the model's own folder in it."""
    if args.local_dir is None:
        return None
    from ..hub.names import check_repo_id

    return (
        Path(args.local_dir, check_repo_id(repo).replace("/", "_"))
        if several
        else Path(args.local_dir)
    )


def _read_token() -> str:
    token = sys.stdin.readline(_MAX_TOKEN).strip()
    if not token:
        raise ArgumentError("--token-stdin: standard input is empty")
    return token


def _say(line: str) -> None:
    stderr.say(stderr.one_line(line))


def _fail(line: str) -> None:
    stderr.fail(stderr.one_line(line))


class _RefuseToken(argparse.Action):
    """Refuses `--token VALUE` without repeating the value."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        parser.error(
            "a token on the command line can be read by others: set HF_TOKEN or use --token-stdin,"
            " and revoke it"
        )
