"""Merging shards from other folders, dropping values, and making them again."""

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from ..errors import ArgumentError, FileError, FormatError
from ..files.atomic import atomic_open, file_error, open_regular
from ..model import Model
from .folder import Folder
from .harvest import run_plan
from .layout import MANIFEST, MODEL, PLAN, done_name
from .manifest import read_manifest, write_manifest
from .place import open_folder
from .plan import Plan

_CHUNK = 1 << 20


def merge(out: str | os.PathLike[str], others: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """Copy the shards that `out` lacks from other folders with the same plan; write the manifest
    and return it. `out` is created if needed. Every copied file is checked against its sha256.

    Raises FileError (no folder has a shard), FormatError (a file does not match its sidecar, or two
    folders have different files for one shard), ArgumentError (another plan).
    """
    files, plans = open_folder(out), [Plan(other) for other in others]
    if not files.has(PLAN):
        if not plans:
            raise ArgumentError(f"{files.shown()}: has no {PLAN}, and no other folder is given")
        _copy_plan(plans[0], files)
    plan = Plan(files)
    for other in plans:
        if other.sha256 != plan.sha256:
            raise ArgumentError(f"{other.files.shown()}: has another plan than {files.shown()}")
        for shard in range(len(plan)):
            _copy_shard(other, plan, shard)
    return write_manifest(plan)


def drop(folder: str | os.PathLike[str], shards: Iterable[int] | None = None) -> int:
    """Remove the values of shards (default: all) and return the number of bytes freed. Plan,
    tokens, row index and manifest stay, so that `refill` can make the same bytes again.

    Raises FileError (no manifest, or a file cannot be removed), FormatError (a damaged manifest).
    """
    plan = _complete(folder)
    freed = 0
    for shard in range(len(plan)) if shards is None else map(plan.check_shard, shards):
        for name in plan.names(shard)[1:]:
            freed += plan.files.remove(name)
    return freed


def refill(
    folder: str | os.PathLike[str],
    shards: Iterable[int] | None = None,
    *,
    model: Model | str | None = None,
    **how: Any,
) -> None:
    """Make shards again and compare them with the manifest. Default: the missing ones; shards given
    in `shards` are made again even if present. how: the options of `run_plan`.

    Raises FormatError if a file gets another sha256, and the errors of `harvest_shard`.
    """
    plan = _complete(folder)
    if shards is not None:
        shards = [plan.check_shard(shard) for shard in shards]
        for shard in shards:
            plan.files.remove(done_name(shard))
    run_plan(plan, model, shards=shards, **how)


def _complete(folder: str | os.PathLike[str]) -> Plan:
    plan = Plan(folder)
    if read_manifest(plan) is None:
        raise FileError(
            f"{plan.files.shown()}: has no {MANIFEST} to compare shards with; finish the"
            " harvest first"
        )
    return plan


def _copy_plan(plan: Plan, target: Folder) -> None:
    for name, entry in plan.facts["files"].items():
        _copy(plan.files, target, name, entry["sha256"])
    if plan.files.has(MODEL):
        _copy(plan.files, target, MODEL, None)
    _copy(plan.files, target, PLAN, plan.sha256)


def _copy_shard(source: Plan, target: Plan, shard: int) -> None:
    there, here = source.sidecar(shard), target.sidecar(shard)
    if there is None or source.folder.resolve() == target.folder.resolve():
        return
    for name in target.names(shard):
        entry = there["files"][name]
        if here is None:
            _copy(source.files, target.files, name, entry["sha256"])
            target.files.release([name])
        elif here["files"][name]["sha256"] != entry["sha256"]:
            raise FormatError(
                f"{source.files.shown(name)}: is not the same as in"
                f" {target.files.shown()}; `llamaprobe verify --recompute` says which is right"
            )
    if here is None:
        target.files.write_json(done_name(shard), there)


def _copy(source: Folder, target: Folder, name: str, sha256: str | None) -> None:
    """Copy a file whose bytes must have this sha256. FormatError, FileError."""
    digest, path = hashlib.sha256(), target.path / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, path.parent) from error
    with source.fresh(name) as place, open_regular(place) as file, atomic_open(path) as copy:
        while data := file.read(_CHUNK):
            digest.update(data)
            copy.write(data)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise FormatError(f"{source.shown(name)}: does not have the sha256 of its sidecar")
    target.commit([name])
