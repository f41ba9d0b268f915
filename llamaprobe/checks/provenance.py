"""Which model a saved run was made with, where it may be, and whether this is it."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, Error, FileError, FormatError, UnsupportedError
from ..files.fingerprint import REPLACED
from ..files.paths import path_entry
from ..saved.read import Saved

if TYPE_CHECKING:
    from ..model import Model


def recorded_models(saved: Saved) -> list[tuple[str, str]]:
    """(name, revision) for `load`, the likeliest first: the folder where it was, then the name that
    the user gave. Empty when the files have neither."""
    try:
        meta = saved.meta
    except (FileError, FormatError):
        return []
    name, folder = path_entry(meta, "model"), path_entry(meta, "model_folder")
    revision = meta.get("revision")
    if name is None:
        return []
    if folder is not None:
        places = [folder, os.path.abspath(name)]
        if name.lower().endswith(".gguf"):  # by its folder it has another name
            places.reverse()
        return [(path, "main") for path in dict.fromkeys(places)]
    is_repo = name != "demo" and not os.path.isdir(name)
    return [(name, revision if is_repo and isinstance(revision, str) else "main")]


def recorded_file(saved: Saved) -> str | None:
    """Of a model in GGUF, `file` of `load`."""
    try:
        found = saved.meta.get("model_file")
    except (FileError, FormatError):
        return None
    return found if isinstance(found, str) and found else None


def open_for(saved: Saved, name: str, **options: Any) -> "Model":
    """`load` with no more layers than the run's model had, and with the run's `ignore` and
    `weights_as` unless `options` have them. Raises as `load`."""
    if options.get("weights_as") is None:
        options["weights_as"] = _weights_as(saved)
    recorded = () if options.get("ignore") else _ignored(saved)
    if recorded:
        with contextlib.suppress(ArgumentError):  # another model may lack what they match
            return _open(saved, name, options | {"ignore": recorded})
    return _open(saved, name, options)


def _open(saved: Saved, name: str, options: dict[str, Any]) -> "Model":
    from ..hub.errors import OfflineError
    from ..model import load

    stated = saved.numbers.get("n_layers")
    n_layers = stated if type(stated) is int and stated > 0 else None
    try:
        model = load(name, **options)
    except (OfflineError, FileError, FormatError, UnsupportedError):
        # Perhaps the files of those layers are here, or only they can be run.
        if n_layers is None:
            raise
        with contextlib.suppress(Error):
            return load(name, layers=n_layers, **options)
        raise
    n_here = model.config.n_layers
    if n_layers is None or n_layers > n_here or n_layers == n_here and not _has_more(saved, model):
        return model
    model.close()
    return load(name, layers=n_layers, **options)


def _has_more(saved: Saved, model: "Model") -> bool:
    """Whether the model was opened with files that the run does not name: `load(layers=)` does not
    open shards of layers beyond num_hidden_layers, even if it opens as many layers."""
    listed = saved.weight_files if isinstance(saved.weight_files, dict) else {}
    return any(os.path.basename(path) not in listed for path, *_ in model.origin.weight_files)


def _ignored(saved: Saved) -> tuple[str, ...]:
    """The globs of the run; () when the files have none."""
    try:
        return saved.strings("ignore")
    except (FileError, FormatError):
        return ()


def other_weights(saved: Saved, model: "Model") -> list[str]:
    """Weight files of the run that differ in `model`, by size and fingerprint: it is another model,
    or has changed."""
    listed = saved.weight_files if isinstance(saved.weight_files, dict) else {}
    here = {Path(path).name: (path, n_bytes) for path, n_bytes, _ in model.origin.weight_files}
    return [
        name
        for name, entry in listed.items()
        if name not in here or not _is_file(model, *here[name], entry)
    ]


def _is_file(model: "Model", path: str, n_bytes: int, entry: object) -> bool:
    """Whether a file of an open model is the one of an entry, as far as the entry records it."""
    if not isinstance(entry, dict) or entry.get("bytes") not in (None, n_bytes):
        return False
    mark = entry.get("fingerprint")
    return mark is None or (mark != REPLACED and mark == model.fingerprints.of(path))


def _weights_as(saved: Saved) -> str:
    """Of the run; "float32" when the files do not say."""
    try:
        found = saved.meta.get("quantization")
    except (FileError, FormatError):
        return "float32"
    return "bf16" if isinstance(found, dict) and found.get("weights_as") == "bf16" else "float32"
