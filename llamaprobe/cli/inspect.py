"""llamaprobe inspect: what a model or a weight file holds, without reading its data.

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
    from ..config import Config

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
    facts = describe_source(args.model, revision_of(args), args.file)
    if args.json:
        from .json import print_json

        print_json(facts)
    else:
        _print(facts)
    return 0


def describe_source(source: str, revision: str, file: str | None = None) -> dict[str, Any]:
    """`describe` of a file, a folder, the demo, or a repo: of its copy in the cache, else of what
    the hub has. `file` as of `load`."""
    from ..source import asking_the_hub, find_local

    local = Path(source) if os.path.isfile(source) else find_local(source, revision)
    if local is not None:
        return describe(local, file)
    with asking_the_hub(source):
        return _describe_repo(source, revision, file)


def _describe_repo(repo_id: str, revision: str, file: str | None) -> dict[str, Any]:
    from ..hub.fetch import find_cached

    cached = find_cached(repo_id, revision=revision)
    if cached is not None:
        return describe(cached, file)
    from ..hub.fetch import remote_headers

    with remote_headers(repo_id, revision=revision) as headers:
        facts = describe(headers.folder, has_data=False) | {"path": headers.name}
        if "cannot_run" in facts:
            facts["cannot_run"] = headers.renamed(facts["cannot_run"])
        return facts


def describe(path: Path, file: str | None = None, has_data: bool = True) -> dict[str, Any]:
    """The facts about a file or a folder, as plain data. Reads headers and the config only, of
    quantised safetensors also zeros and groups, unless there is no data behind the headers."""
    from .. import _core
    from ..checkpoint.folder import open_checkpoint
    from ..source import choose_gguf, split_file

    links: Mapping[str, Path] = {}
    of_model: dict[str, Any] = {}
    folder, file = split_file(path, file)
    chosen = choose_gguf(folder, file) if os.path.isdir(folder) else None
    files: list[Any]
    if chosen is not None:
        files, links, of_model = _gguf(folder, chosen)
    elif os.path.isfile(path):
        files = [_core.Safetensors(path)]
    else:
        checkpoint = open_checkpoint(path)
        files, links = list(checkpoint.files), checkpoint.links
        of_model = _config(checkpoint, has_data)
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
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
        **of_model,
        "tensors": tensors,
    }


def _name(file: Any) -> str:
    return Path(file.path).name


def _plain(value: Any) -> Any:
    """A value of metadata as JSON has it: a number that is not finite is text."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _file(file: Any, links: Mapping[str, Path]) -> dict[str, Any]:
    metadata = file.metadata
    if callable(metadata):  # of a GGUF
        metadata = {key: _plain(value) for key, value in metadata().items()}
    facts = {"name": _name(file), "bytes": file.n_bytes, "metadata": metadata}
    if _name(file) in links:
        facts["link_to"] = str(links[_name(file)])
    return facts


def _gguf(folder: Path, name: str) -> tuple[list[Any], Mapping[str, Path], dict[str, Any]]:
    """The files of a model in GGUF, those that are links, and its numbers or why it cannot run."""
    from .. import _core
    from ..errors import UnsupportedError
    from ..gguf.choice import parts_of
    from ..gguf.opening import open_gguf

    try:
        checkpoint, config = open_gguf(folder, name)
    except UnsupportedError as error:
        files = [_core.Gguf(folder / part) for part in parts_of(name)]
        return files, {}, {"config": None, "cannot_run": str(error)}
    return list(checkpoint.files), checkpoint.links, _facts(config, checkpoint)


def _config(checkpoint: "Checkpoint", has_data: bool) -> dict[str, Any]:
    """The numbers of config.json and the tensors that a run would not use, or why llamaprobe cannot
    run this model. A broken config is an error."""
    from ..checkpoint.quantised.find import declared_of, with_packed
    from ..config import read_config
    from ..errors import UnsupportedError

    if not os.path.exists(checkpoint.folder / "config.json"):
        return {"config": None, "cannot_run": "there is no config.json"}
    try:
        config = read_config(checkpoint.folder)
    except UnsupportedError as error:
        return {"config": None, "cannot_run": str(error)}
    try:
        declared = declared_of(config)
        if declared is not None and not has_data:
            return {"config": _numbers(config), "quantization": {"format": declared.method}}
        checkpoint = with_packed(config, checkpoint, declared)
    except UnsupportedError as error:
        return {"config": _numbers(config), "cannot_run": str(error)}
    return _facts(config, checkpoint)


def _facts(config: "Config", checkpoint: "Checkpoint") -> dict[str, Any]:
    """Of a model whose weights were found: the config, and why it cannot be run."""
    from ..checkpoint.opening import with_head
    from ..checkpoint.tensor_names import check_complete, find_unused
    from ..errors import FormatError
    from ..families.meta import has_more
    from ..points import points_of

    config = with_head(config, checkpoint)
    unused = find_unused(config, checkpoint.names)
    why = unused.refusal(config)
    try:
        check_complete(config, checkpoint.names, checkpoint.first_file)
    except FormatError as error:
        why = str(error)
    facts: dict[str, Any] = {"config": _numbers(config)} | ({"cannot_run": why} if why else {})
    if checkpoint.quantization is not None:
        q = checkpoint.quantization
        facts["quantization"] = q.entry() | {"notes": list(q.notes), "tensors": dict(q.tensors)}
    if checkpoint.packed:
        shapes = {name: info.shape for name, info in checkpoint.packed.items()}
        plain = {name: at.shape for name, at in checkpoint.names.items()}
        facts["parameters"] = sum(math.prod(shape) for shape in (plain | shapes).values())
    if has_more(config):
        facts["points"] = {point.name: point.formula for point in points_of(config)}
    return facts | {"unused": [*unused.refused, *unused.others]}


def _numbers(config: "Config") -> dict[str, Any]:
    """Those that are not a Llama's default."""
    from dataclasses import asdict, fields

    defaults = {f.name: f.default for f in fields(config)}
    return {
        key: value
        for key, value in asdict(config).items()
        if key not in _HIDDEN and value != defaults[key]
    }


def _print(facts: dict[str, Any]) -> None:
    print(printable(facts["path"]))
    for file in facts["files"]:
        link = f" -> {printable(file['link_to'])}" if "link_to" in file else ""
        print(f"  {printable(file['name'])}  {file['bytes']:,} bytes{link}")
        if file["metadata"]:
            print("    metadata")
        for key, value in file["metadata"].items():
            print(f"      {printable(key, 60)}: {printable(str(value))}")
    if facts.get("config"):
        print("config")
        for key, value in facts["config"].items():
            parts = value if isinstance(value, dict) else {"": value}
            for part, one in parts.items():
                name = f"{key}.{part}" if part else key
                print(f"  {printable(name):<16} {printable(str(one))}")
    if "quantization" in facts:
        _print_quantization(facts["quantization"])
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


def _print_quantization(found: dict[str, Any]) -> None:
    print(f"quantization\n  {'format':<16} {printable(found['format'])}")
    if "kinds" in found:
        kinds = ", ".join(f"{n} {kind}" for kind, n in found["kinds"].items())
        print(f"  {'tensors':<16} {printable(kinds, 300)}")
        print(f"  {'bits per weight':<16} {found['bits_per_weight']:.3f}")
    for note in found.get("notes", ()):
        print(f"  note: {printable(note, 500)}")


def _by_number(tensor: dict[str, Any]) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    parts = re.findall("[0-9]{1,9}|[^0-9]+", tensor["name"])
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
