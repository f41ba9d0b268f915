"""Shards that come from elsewhere, or go and come back: merge, drop, refill."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FileError, FormatError
from ..files.atomic import atomic_open, file_error, open_regular
from ..files.paths import checked_path
from ..messages import shown_path
from ..model import Model
from .harvest import run_plan
from .json_out import write_json
from .layout import DONE, MANIFEST, MODEL, PLAN, TOKENS, done_name
from .manifest import read_manifest, write_manifest
from .plan import Plan

_CHUNK = 1 << 20


def merge(out: str | os.PathLike[str], others: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """Copy the shards that `out` lacks from other folders with the same plan, and write its
    manifest, which is returned. A folder that is not there yet is made. Every byte that is copied
    is compared with its sha256.

    Raises FileError (a shard is missing everywhere), FormatError (a file is not what its sidecar
    says, or two folders have different files for one shard), ArgumentError (another plan).
    """
    folder, plans = checked_path(out), [Plan(other) for other in others]
    if not os.path.lexists(folder / PLAN):
        if not plans:
            raise ArgumentError(
                f"{shown_path(folder)}: has no {PLAN}, and no other folder is given"
            )
        _copy_plan(plans[0], folder)
    plan = Plan(folder)
    for other in plans:
        if other.sha256 != plan.sha256:
            raise ArgumentError(f"{shown_path(other.folder)}: has another plan than {folder}")
        for shard in range(len(plan)):
            _copy_shard(other, plan, shard)
    return write_manifest(plan)


def drop(folder: str | os.PathLike[str], shards: Iterable[int] | None = None) -> int:
    """Remove the values of shards (default all); how many bytes that freed. Plan, tokens, the index
    of rows and the manifest stay, so that `refill` makes the same bytes again.

    Raises FileError when there is no manifest, or the system refuses; FormatError when the manifest
    is damaged.
    """
    plan = _complete(folder)
    freed = 0
    for shard in range(len(plan)) if shards is None else map(plan.check_shard, shards):
        for name in plan.names(shard)[1:]:
            path = plan.folder / name
            with contextlib.suppress(FileNotFoundError):
                try:
                    size = os.path.getsize(path)
                    os.unlink(path)
                    freed += size
                except OSError as error:
                    raise file_error(error, path) from error
    return freed


def refill(
    folder: str | os.PathLike[str],
    shards: Iterable[int] | None = None,
    *,
    model: Model | str | None = None,
    **how: Any,
) -> None:
    """Make shards again and compare them with the manifest. Default: those that are not there;
    shards that are named are made again in any case. `how`: the options of `run_plan`.

    Raises FormatError when a file gets another sha256, and the errors of `harvest_shard`.
    """
    plan = _complete(folder)
    if shards is not None:
        shards = [plan.check_shard(shard) for shard in shards]
        for shard in shards:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(plan.folder / done_name(shard))
    run_plan(plan, model, shards=shards, **how)


def _complete(folder: str | os.PathLike[str]) -> Plan:
    plan = Plan(folder)
    if read_manifest(plan) is None:
        raise FileError(
            f"{shown_path(plan.folder)}: has no {MANIFEST}, so what is made again could not be"
            " compared; finish the harvest first"
        )
    return plan


def _copy_plan(plan: Plan, folder: Path) -> None:
    try:
        (folder / TOKENS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, folder) from error
    for name, entry in plan.facts["files"].items():
        _copy(plan.folder / name, folder / name, entry["sha256"])
    if os.path.lexists(plan.folder / MODEL):
        _copy(plan.folder / MODEL, folder / MODEL, None)
    _copy(plan.path, folder / PLAN, plan.sha256)


def _copy_shard(source: Plan, target: Plan, shard: int) -> None:
    there, here = source.sidecar(shard), target.sidecar(shard)
    if there is None or source.folder.resolve() == target.folder.resolve():
        return
    for name in target.names(shard):
        entry = there["files"][name]
        if here is None:
            (target.folder / name).parent.mkdir(exist_ok=True)
            _copy(source.folder / name, target.folder / name, entry["sha256"])
        elif here["files"][name]["sha256"] != entry["sha256"]:
            raise FormatError(
                f"{shown_path(source.folder / name)}: is not the same as in"
                f" {shown_path(target.folder)}; `llamaprobe verify --recompute` says which is right"
            )
    if here is None:
        (target.folder / DONE).mkdir(exist_ok=True)
        write_json(target.folder / done_name(shard), there)


def _copy(source: Path, target: Path, sha256: str | None) -> None:
    """A file, if its bytes have this sha256. FormatError, FileError."""
    digest = hashlib.sha256()
    with open_regular(source) as file, atomic_open(target) as copy:
        while data := file.read(_CHUNK):
            digest.update(data)
            copy.write(data)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise FormatError(f"{shown_path(source)}: does not have the sha256 of its sidecar")
