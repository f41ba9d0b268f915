"""llamaprobe inspect: what a model or a safetensors file holds, without reading its data.

Of a repo that is not in the cache the headers are read where they are; nothing is stored.
"""

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import MODEL_HELP, add_revision, location, revision_of
from ..files.naming import counted, printable

if TYPE_CHECKING:
    from ..checkpoint.folder import Checkpoint

_HIDDEN = ("inv_freq", "raw", "notes", "path", "sha256")  # of the config: long, or told elsewhere


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "inspect",
        help="list tensors, config and parameter count",
        description="Lists the tensors (name, dtype, shape, bytes), the config and the number of "
        "parameters, without reading the data; those of a repo without downloading it.",
    )
    parser.add_argument(
        "model", metavar="MODEL", type=location, help=f"{MODEL_HELP}, or one .safetensors file"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_revision(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    told = describe_source(args.model, revision_of(args))
    if args.json:
        from .json import print_json

        print_json(told)
    else:
        _print(told)
    return 0


def describe_source(source: str, revision: str) -> dict[str, Any]:
    """`describe` of a file, a folder, the demo, or a repo: of its copy in the cache, else of what
    the hub has."""
    from ..checkpoint.source import asking_the_hub, find_local

    local = Path(source) if os.path.isfile(source) else find_local(source, revision)
    if local is not None:
        return describe(local)
    with asking_the_hub(source):
        return _describe_repo(source, revision)


def _describe_repo(repo_id: str, revision: str) -> dict[str, Any]:
    from ..hub.fetch import find_cached

    cached = find_cached(repo_id, revision=revision)
    if cached is not None:
        return describe(cached)
    from ..hub.fetch import remote_headers

    with remote_headers(repo_id, revision=revision) as headers:
        told = describe(headers.folder) | {"path": headers.name}
        if "cannot_run" in told:
            told["cannot_run"] = headers.renamed(told["cannot_run"])
        return told


def describe(path: Path) -> dict[str, Any]:
    """What there is to tell of a file or a folder, as plain data. Opens headers and the config, no
    more."""
    from .. import _core
    from ..checkpoint.folder import open_checkpoint

    links: Mapping[str, Path] = {}
    told_config: dict[str, Any] = {}
    if os.path.isfile(path):
        files = [_core.Safetensors(path)]
    else:
        checkpoint = open_checkpoint(path)
        files, links, told_config = list(checkpoint.files), checkpoint.links, _config(checkpoint)
    tensors: list[dict[str, Any]] = [
        {
            "name": name,
            "dtype": dtype,
            "shape": list(shape),
            "bytes": n_bytes,
            "offset": offset,
            "file": _name(file),
        }
        for file in files
        for name, dtype, shape, offset, n_bytes in file.tensors()
    ]
    return {
        "path": str(path),
        "files": [_file(file, links) for file in files],
        **told_config,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
        "tensors": tensors,
    }


def _name(file: Any) -> str:
    return Path(file.path).name


def _file(file: Any, links: Mapping[str, Path]) -> dict[str, Any]:
    told = {"name": _name(file), "bytes": file.n_bytes, "metadata": file.metadata}
    if _name(file) in links:
        told["link_to"] = str(links[_name(file)])
    return told


def _config(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The numbers of config.json and the tensors that a run of it would not use, or why llamaprobe
    cannot run this model. A broken config is an error."""
    from dataclasses import asdict

    from ..config import read_config
    from ..errors import FormatError, UnsupportedError
    from ..checkpoint.opening import with_head
    from ..checkpoint.tensor_names import check_complete, find_unused

    if not os.path.exists(checkpoint.folder / "config.json"):
        return {"config": None, "cannot_run": "there is no config.json"}
    try:
        config = read_config(checkpoint.folder)
    except UnsupportedError as error:
        return {"config": None, "cannot_run": str(error)}
    config = with_head(config, checkpoint)
    unused = find_unused(config, checkpoint.tensors)
    why = unused.refusal(config)
    try:
        check_complete(config, checkpoint.tensors, checkpoint.first_file)
    except FormatError as error:
        why = str(error)
    numbers = {key: value for key, value in asdict(config).items() if key not in _HIDDEN}
    told: dict[str, Any] = {"config": numbers} | ({"cannot_run": why} if why else {})
    return told | {"unused": [*unused.refused, *unused.others]}


def _print(told: dict[str, Any]) -> None:
    print(printable(told["path"]))
    for file in told["files"]:
        link = f" -> {printable(file['link_to'])}" if "link_to" in file else ""
        print(f"  {printable(file['name'])}  {file['bytes']:,} bytes{link}")
        if file["metadata"]:
            print("    metadata")
        for key, value in file["metadata"].items():
            print(f"      {printable(key, 60)}: {printable(value)}")
    if told.get("config"):
        print("config")
        for key, value in told["config"].items():
            print(f"  {key:<16} {printable(str(value))}")
    if "cannot_run" in told:
        print(f"cannot be run: {printable(told['cannot_run'], 500)}")
    if told.get("unused"):
        print(f"{counted(len(told['unused']), 'tensor')} that a run does not use")
        for name in told["unused"]:
            print(f"  {printable(name)}")
    width = min(80, max((len(printable(t["name"])) for t in told["tensors"]), default=0))
    print(f"{len(told['tensors'])} tensors")
    for tensor in told["tensors"]:
        shape = str(tensor["shape"])
        name = f"{printable(tensor['name']):<{width}}"
        print(f"  {name}  {tensor['dtype']:<5} {shape:>18} {tensor['bytes']:>15,} bytes")
    print(f"{told['parameters']:,} parameters")
