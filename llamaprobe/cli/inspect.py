"""llamaprobe inspect: what a model or a safetensors file holds, without reading its data.

The headers of a repo that is not in the cache are read from the hub; nothing is stored.
"""

import argparse
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import counted, printable
from .options import MODEL_HELP, add_revision, location, revision_of

if TYPE_CHECKING:
    from ..checkpoint.folder import Checkpoint

# Of the config: long, or shown elsewhere; what has the default is a Llama's.
_HIDDEN = (
    *("inv_freq", "raw", "notes", "path", "sha256"),
    *("layers", "linears", "norms", "o_bias"),
)


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
    facts = describe_source(args.model, revision_of(args))
    if args.json:
        from .json import print_json

        print_json(facts)
    else:
        _print(facts)
    return 0


def describe_source(source: str, revision: str) -> dict[str, Any]:
    """`describe` of a file, a folder, the demo, or a repo: of its copy in the cache, else of what
    the hub has."""
    from ..source import asking_the_hub, find_local

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
        facts = describe(headers.folder) | {"path": headers.name}
        if "cannot_run" in facts:
            facts["cannot_run"] = headers.renamed(facts["cannot_run"])
        return facts


def describe(path: Path) -> dict[str, Any]:
    """The facts about a file or a folder, as plain data. Reads headers and the config only."""
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
    facts = {"name": _name(file), "bytes": file.n_bytes, "metadata": file.metadata}
    if _name(file) in links:
        facts["link_to"] = str(links[_name(file)])
    return facts


def _config(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The numbers of config.json and the tensors that a run would not use, or why llamaprobe cannot
    run this model. A broken config is an error."""
    from dataclasses import asdict, fields

    from ..checkpoint.opening import with_head
    from ..checkpoint.tensor_names import check_complete, find_unused
    from ..config import read_config
    from ..errors import FormatError, UnsupportedError
    from ..families.meta import has_more
    from ..points import points_of

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
    defaults = {f.name: f.default for f in fields(config)}
    numbers = {
        key: value
        for key, value in asdict(config).items()
        if key not in _HIDDEN and value != defaults[key]
    }
    facts: dict[str, Any] = {"config": numbers} | ({"cannot_run": why} if why else {})
    if has_more(config):
        facts["points"] = {point.name: point.formula for point in points_of(config)}
    return facts | {"unused": [*unused.refused, *unused.others]}


def _print(facts: dict[str, Any]) -> None:
    print(printable(facts["path"]))
    for file in facts["files"]:
        link = f" -> {printable(file['link_to'])}" if "link_to" in file else ""
        print(f"  {printable(file['name'])}  {file['bytes']:,} bytes{link}")
        if file["metadata"]:
            print("    metadata")
        for key, value in file["metadata"].items():
            print(f"      {printable(key, 60)}: {printable(value)}")
    if facts.get("config"):
        print("config")
        for key, value in facts["config"].items():
            parts = value if isinstance(value, dict) else {"": value}
            for part, one in parts.items():
                name = f"{key}.{part}" if part else key
                print(f"  {printable(name):<16} {printable(str(one))}")
    if "cannot_run" in facts:
        print(f"cannot be run: {printable(facts['cannot_run'], 500)}")
    if facts.get("unused"):
        print(f"{counted(len(facts['unused']), 'tensor')} that a run does not use")
        for name in facts["unused"]:
            print(f"  {printable(name)}")
    width = min(80, max((len(printable(t["name"])) for t in facts["tensors"]), default=0))
    print(f"{len(facts['tensors'])} tensors")
    for tensor in sorted(facts["tensors"], key=_by_number):
        shape = str(tensor["shape"])
        name = f"{printable(tensor['name']):<{width}}"
        print(f"  {name}  {tensor['dtype']:<5} {shape:>18} {tensor['bytes']:>15,} bytes")
    print(f"{facts['parameters']:,} parameters")


def _by_number(tensor: dict[str, Any]) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    parts = re.findall("[0-9]{1,9}|[^0-9]+", tensor["name"])
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
