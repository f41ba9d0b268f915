"""The model of a harvest: its identity, and where it was.

plan.json identifies it by size, fingerprint and sha256 of its files; model.json has its place, for
opening the plan on the same machine.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..checkpoint.opening import WEIGHTS_AS
from ..checkpoint.quantised.declared import FILES as QUANTISER_FILES
from ..checkpoint.quantization import quantization_entry
from ..errors import ArgumentError, Error, FileChangedError, FormatError
from ..files.fingerprint import REPLACED, file_state
from ..files.json_file import read_object
from ..files.paths import path_entries, path_entry
from ..gguf.choice import SUFFIX
from ..messages import printable, shown_path
from ..model import Model, load
from ..origin import ARITHMETIC_VERSION
from ..prompts.tokenizer_files import NAMES
from .file_hash import hash_unchanged
from .layout import MODEL, PLAN
from .plan import Plan, open_plan

_MAX_PLACE = 1 << 20  # bytes


def identity_of(model: Model) -> dict[str, Any]:
    """What identifies this model, without reading all of its weights. FileError,
    FileChangedError."""
    names = [name for name in NAMES if os.path.isfile(model.path / name)]
    tokenizer = {name: hash_unchanged(model.path / name) for name in names}
    return {**numbers_of(model), "tokenizer": tokenizer}


def numbers_of(model: Model) -> dict[str, Any]:
    """What the values depend on besides the token ids."""
    weights = []
    for path, n_bytes, _ in model.origin.weight_files:
        mark = model.fingerprints.of(path)
        if mark == REPLACED:
            raise FileChangedError(
                f"{shown_path(path)}: is no longer the file that was opened; load the model again"
            )
        weights.append({"name": os.path.basename(path), "bytes": n_bytes, "fingerprint": mark})
    if model.config.path in model.fingerprints.paths:  # the metadata is in the GGUF
        config = hashlib.sha256(json.dumps(model.config.raw).encode()).hexdigest()
    else:
        config = hash_unchanged(Path(model.config.path))
    numbers = {"n_layers": model.config.n_layers, "config": config, "weights": weights}
    return numbers | _quantiser_files(model) | _rounding_of(model)


def _quantiser_files(model: Model) -> dict[str, Any]:
    """For a quantised model, the sha256 of files beside config.json that describe how."""
    if model.quantization is None or model.quantization.format == "gguf":
        return {}
    paths = {name: model.path / name for name in QUANTISER_FILES}
    found = {name: hash_unchanged(path) for name, path in paths.items() if os.path.isfile(path)}
    return {"quantization": found} if found else {}


def _rounding_of(model: Model) -> dict[str, str]:
    """weights_as of `load`, unless it is the default."""
    found = model._opening.weights_as
    return {} if found == WEIGHTS_AS[0] else {"weights_as": found}


def weight_hashes(model: Model) -> list[str]:
    """The sha256 of each weight file, which is read if its hash is not known. FileError."""
    files = model.origin.weight_files
    return [known or _hash_once(path, file_state(path)) for path, _, known in files]


@functools.lru_cache(maxsize=1024)
def _hash_once(path: str, state: tuple[int, ...] | None) -> str:
    return hash_unchanged(Path(path), state)


def check_arithmetic(plan: Plan) -> None:
    """ArgumentError unless this llamaprobe computes the same bits as the plan's."""
    version = plan.facts["arithmetic_version"]
    if version != ARITHMETIC_VERSION:
        raise ArgumentError(
            f"{plan.files.shown(PLAN)}: was made with arithmetic version {version}, this llamaprobe"
            f" has {ARITHMETIC_VERSION}; make a new plan, or use a llamaprobe of that version"
        )


def check_model(model: Model, plan: Plan) -> None:
    """ArgumentError unless a model has the weights and the config of a plan; the tokenizer no
    longer matters. Weights are hashed once per process, unless inode and time show that they are
    the files that were planned with."""
    here, there = numbers_of(model), plan.facts["model"]
    keys = ("name", "bytes", "fingerprint")
    weights = [[file.get(key) for key in keys] for file in there["weights"]]
    found = [[file[key] for key in keys] for file in here["weights"]]
    is_same = found == weights
    if is_same and _states_of(model) != _planned_states(plan):
        is_same = weight_hashes(model) == [file.get("sha256") for file in there["weights"]]
    for what, is_right in (
        ("the weights are not those", is_same),
        ("config.json is not that", here["config"] == there.get("config")),
        ("the number of layers is not that", here["n_layers"] == there.get("n_layers")),
        (
            "the quantiser's configuration is not that",
            here.get("quantization") == there.get("quantization"),
        ),
        ("weights_as is not that", here.get("weights_as") == there.get("weights_as")),
    ):
        if not is_right:
            raise ArgumentError(
                f"{plan.files.shown(PLAN)}: {what} of {printable(model.origin.shown)};"
                " give the model that the plan was made with"
            )


def _states_of(model: Model) -> list[list[int]]:
    return [list(file_state(path) or ()) for path, *_ in model.origin.weight_files]


def _planned_states(plan: Plan) -> object:
    """The file states in model.json; None if it is missing or damaged."""
    try:
        return read_object(plan.files.local(MODEL), _MAX_PLACE, FormatError).get("weight_states")
    except Error:
        return None


def place_of(model: Model) -> dict[str, Any]:
    """For model.json: where a model is, and how its weights are stored."""
    source = dict(model._opening.source)
    entries = path_entries("source", source.pop("source"))
    options = {name: model._opening.options[name] for name in ("layers", "ignore")}
    options |= _rounding_of(model)
    stored = quantization_entry(model.origin.quantization)
    return {**entries, **source, **options, **stored, "weight_states": _states_of(model)}


@functools.lru_cache(maxsize=1)
def _open_model(path: str, sha256: str, source: str | None) -> Model:
    """The model of a plan, from its recorded place or from `source`. Cached, for an engine that
    makes one shard after the other."""
    plan = open_plan(path)
    if source is None:
        model = load(**_planned_place(plan.files.local(MODEL)), local_files_only=True)
    else:
        facts = plan.facts["model"]
        weights_as = facts.get("weights_as", WEIGHTS_AS[0])
        file = _gguf_of(facts, source)
        model = load(source, layers=facts.get("n_layers"), file=file, weights_as=weights_as)
    check_model(model, plan)
    return model


def _gguf_of(facts: dict[str, Any], source: str) -> str | None:
    """`file` for `load`, since `source` may be a folder or a repo with several GGUF models."""
    first = str(facts["weights"][0]["name"]) if facts.get("weights") else ""
    is_named = first.lower().endswith(SUFFIX) and not source.lower().endswith(SUFFIX)
    return first if is_named else None


def _planned_place(path: Path) -> dict[str, Any]:
    """The arguments of `load` from model.json. FileError, FormatError."""
    place = read_object(path, _MAX_PLACE, FormatError)
    found: dict[str, Any] = {"source": path_entry(place, "source")}
    kinds: dict[str, type] = {"layers": int, "ignore": list}
    kinds |= dict.fromkeys(("revision", "cache_dir", "file", "weights_as"), str)
    for key, kind in kinds.items():
        if place.get(key) is not None:
            found[key] = place[key]
            if type(place[key]) is not kind:
                raise FormatError(f"{shown_path(path)}: {key} is invalid")
    if found["source"] is None or not all(isinstance(g, str) for g in found.get("ignore", ())):
        raise FormatError(f"{shown_path(path)}: does not say where the model is")
    return found


def model_of(plan: Plan, source: str | None = None) -> Model:
    """The model of a plan, from its place when the plan was made or from `source`. ArgumentError if
    that is another model; the errors of `load`."""
    return _open_model(plan.files.place, plan.sha256, source)
