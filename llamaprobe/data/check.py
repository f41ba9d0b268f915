"""Verifies a harvest against its plan and manifest: every byte is hashed, shards can be recomputed.

A flipped byte is reported with its file. Recomputing random shards finds a harvest that is wrong in
part: if 1 % of the shards are wrong, 459 random ones include one of them with 99 % probability.
"""

import os
import random
from collections.abc import Iterable, Iterator
from typing import Any

from ..checks.verify import Check
from ..errors import Error
from ..messages import counted
from ..model import Model
from .file_hash import hash_unchanged
from .folder import Folder
from .layout import MANIFEST, PLAN, ROWS
from .manifest import read_manifest
from .place import open_folder
from .plan import Plan
from .shard import opened_model, write_values
from .tensor_file import TensorHash, header_of


def is_harvest(folder: str | os.PathLike[str]) -> bool:
    return open_folder(folder).has(PLAN)


def check_harvest(folder: str | os.PathLike[str]) -> Iterator[Check]:
    """Hash every file and compare it with the sidecars and the manifest."""
    try:
        plan = Plan(folder)
    except Error as error:
        yield Check(PLAN, str(error))
        return
    expected: dict[str, Any] = {}
    try:
        manifest = read_manifest(plan)
    except Error as error:
        yield Check(MANIFEST, str(error))
    else:
        no = f"there is no {MANIFEST}: the harvest is not complete; its shards were checked alone"
        yield Check(PLAN, note=no if manifest is None else "")
        expected = {} if manifest is None else manifest["files"]
    for name, entry in plan.facts["files"].items():
        yield _file(plan.files, name, entry, None)
        expected.pop(name, None)
    try:
        _ = plan.windows
    except Error as error:
        yield Check("windows.safetensors", str(error))
        return
    expected.pop(PLAN, None)
    for shard in range(len(plan)):
        yield from _shard(plan, shard, expected)
    yield from (Check(name, "is in the manifest but not in the plan") for name in expected)
    yield from _unknown_files(plan)


def recompute(
    folder: str | os.PathLike[str],
    shards: int | Iterable[int],
    *,
    model: Model | str | None = None,
    threads: int | None = None,
) -> Iterator[Check]:
    """Compute shards again, the given ones or this many chosen at random, and compare their sha256;
    nothing is written. Raises as `harvest_shard`."""
    plan = Plan(folder)
    opened = opened_model(plan, model)
    manifest = read_manifest(plan)
    if isinstance(shards, int):
        shards = sorted(random.sample(range(len(plan)), min(shards, len(plan))))
    for shard in shards:
        what = f"shard {plan.check_shard(shard)}, recomputed"
        known = (manifest or plan.sidecar(shard) or {"files": {}})["files"]
        files = {
            target: TensorHash(tensors, plan.metadata(shard))
            for target, tensors in plan.tensors(shard).items()
        }
        entries = write_values(plan, shard, opened, files, threads=threads)
        wrong = [
            name
            for name, entry in entries.items()
            if name in known and known[name]["sha256"] != entry["sha256"]
        ]
        is_known = set(entries) <= set(known)
        yield Check(
            what,
            f"{', '.join(wrong)}: the weights give other bytes" if wrong else "",
            note="" if is_known else "was never made, so there is nothing to compare",
        )


def _shard(plan: Plan, shard: int, expected: dict[str, Any]) -> Iterator[Check]:
    """Check the files of a shard, which are removed from `expected`."""
    names = plan.names(shard)
    sidecar = plan.sidecar(shard)
    known = {name: expected.pop(name, None) for name in names}
    if sidecar is None and all(each is None for each in known.values()):
        yield Check(f"shard {shard}", note="is missing")
        return
    entries = sidecar["files"] if sidecar else known
    targets = zip(names, plan.tensors(shard).values(), strict=True)
    for name, tensors in targets:
        entry, other = entries.get(name), known[name]
        if entry is None:
            yield Check(name, "is in neither the manifest nor a sidecar")
        elif other is not None and other["sha256"] != entry["sha256"]:
            yield Check(name, "has another sha256 in its sidecar than in the manifest")
        elif not plan.files.has(name) and not name.startswith(ROWS):
            yield Check(name, note="was dropped, or is missing")
        else:
            yield _file(plan.files, name, entry, header_of(tensors, plan.metadata(shard)))


def _file(files: Folder, name: str, entry: dict[str, Any], header: bytes | None) -> Check:
    try:
        with files.fresh(name) as path:
            found = hash_unchanged(path)
            with open(path, "rb") as file:
                beginning = file.read(len(header or b""))
    except (Error, OSError) as error:
        return Check(name, str(error))
    if found != entry["sha256"]:
        return Check(name, "was altered: its sha256 is not the recorded one")
    if header is not None and beginning != header:
        return Check(name, "its header is not that of the plan")
    return Check(name)


def _unknown_files(plan: Plan) -> Iterator[Check]:
    """Files in the folders of shards that belong to no shard."""
    for folder in (ROWS, *plan.targets):
        known = {f"shard-{shard:05d}.safetensors" for shard in range(len(plan))}
        names = plan.files.names(folder)
        found = sorted(name for name in names if name not in known and name[0] != ".")
        if found:
            more = f" and {counted(len(found) - 1, 'more')}" if len(found) > 1 else ""
            yield Check(folder, f"holds {found[0]}{more}, not part of the plan")
