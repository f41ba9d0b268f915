"""manifest.json: every file of a complete harvest, with its sha256, and the root over them.

It is written last and depends only on the files, so that any process that finds all shards complete
may write it, even twice. It outlives the values: a dropped shard that is made again must have the
sha256 recorded here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FileError, FormatError
from ..files.json_file import parse_object
from ..messages import counted, shown_path
from .layout import FORMAT_VERSION, MANIFEST, PLAN, root_of
from .plan import MAX_JSON, Plan, is_entry


def write_manifest(
    plan: Plan, sidecars: Sequence[dict[str, Any] | None] | None = None
) -> dict[str, Any]:
    """Write the manifest of a complete harvest and return it. sidecars: those of all shards, if
    they have been read. FileError if a shard is missing; FormatError if the shards contradict an
    existing manifest."""
    files: dict[str, dict[str, Any]] = {
        PLAN: {"bytes": plan.files.size(PLAN), "sha256": plan.sha256}
    }
    files |= {name: _brief(entry) for name, entry in plan.facts["files"].items()}
    missing = []
    for shard, sidecar in enumerate(sidecars or plan.sidecars(range(len(plan)))):
        if sidecar is None:
            missing.append(shard)
        else:
            files |= {name: _brief(entry) for name, entry in sidecar["files"].items()}
    if missing:
        raise FileError(
            f"{plan.files.shown()}: {counted(len(missing), 'shard')} of {len(plan)} are"
            f" missing, the first is {missing[0]}; make them first"
        )
    check_expected(plan, files)
    manifest = {
        "format": "llamaprobe harvest manifest",
        "format_version": FORMAT_VERSION,
        "plan": plan.sha256,
        "root": root_of({name: entry["sha256"] for name, entry in files.items()}),
        "n_rows": plan.n_rows,
        "n_bytes": sum(entry["bytes"] for entry in files.values()),
        "files": files,
    }
    plan.files.write_json(MANIFEST, manifest)
    return manifest


def read_manifest(plan: Plan) -> dict[str, Any] | None:
    """The manifest of a plan; None if it does not exist. FormatError if it is damaged or belongs to
    another plan."""
    path = plan.files.at(MANIFEST)
    try:
        found = parse_object(plan.files.read(MANIFEST, MAX_JSON), path, FormatError)
    except FileNotFoundError:
        return None
    files = found.get("files")
    if not isinstance(files, dict) or not all(map(is_entry, files.values())):
        raise FormatError(f"{shown_path(path)}: is damaged: its files have no bytes and sha256")
    if found.get("plan") != plan.sha256:
        raise FormatError(f"{shown_path(path)}: belongs to another plan than {PLAN} beside it")
    if found.get("root") != root_of({name: each["sha256"] for name, each in files.items()}):
        raise FormatError(f"{shown_path(path)}: is damaged: its root is not that of its files")
    return found


def check_expected(plan: Plan, entries: Mapping[str, Any]) -> None:
    """FormatError if files contradict the manifest; nothing without a manifest."""
    manifest = read_manifest(plan)
    if manifest is None:
        return
    for name, entry in entries.items():
        expected = manifest["files"].get(name, {}).get("sha256")
        if entry["sha256"] != expected:
            raise FormatError(
                f"{plan.files.shown(name)}: was made again with another sha256"
                f" ({entry['sha256'][:12]}... instead of {str(expected)[:12]}...): the manifest, the"
                " token files or the weights were altered"
            )


def _brief(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"bytes": entry["bytes"], "sha256": entry["sha256"]}
