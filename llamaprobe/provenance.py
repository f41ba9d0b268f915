"""Which model a saved run was made with, where that may be found, and whether this is it."""

import os
from typing import TYPE_CHECKING, Any

from .errors import FileError, FormatError
from .fingerprint import fingerprint
from .saved import Saved

if TYPE_CHECKING:
    from .model import Model


def recorded_models(saved: Saved) -> list[tuple[str, str]]:
    """(name, revision) for `load`, the likeliest first: a folder where it was, then as the user
    named it. Empty when the files do not say."""
    try:
        name, folder, revision = map(saved.meta.get, ("model", "model_folder", "revision"))
    except (FileError, FormatError):
        return []
    if not isinstance(name, str):
        return []
    if isinstance(folder, str):
        return [(path, "main") for path in dict.fromkeys((folder, os.path.abspath(name)))]
    has_none = name == "demo" or os.path.isdir(name) or not isinstance(revision, str)
    return [(name, "main" if has_none else revision)]


def open_for(saved: Saved, name: str, **options: Any) -> "Model":
    """`load`, and no more layers of it than the run's model had. Raises as `load`."""
    from .hub.errors import OfflineError
    from .model import load

    told = saved.numbers.get("n_layers")
    n_layers = told if type(told) is int and told > 0 else None
    try:
        model = load(name, **options)
    except OfflineError:  # the shards of those layers may be here
        return load(name, layers=n_layers, **options)
    if n_layers is None or n_layers >= model.config.n_layers:
        return model
    model.close()
    return load(name, layers=n_layers, **options)


def other_weights(saved: Saved, model: "Model") -> list[str]:
    """Weight files of the run that `model` does not have as they were then, by size and
    fingerprint: it is another model, or was changed. FileError."""
    told = saved.weight_files if isinstance(saved.weight_files, dict) else {}
    here = {weight.path.name: weight.path for weight in model.weights.values()}
    return [name for name, entry in told.items() if not _is_file(here.get(name), entry)]


def _is_file(path: os.PathLike[str] | None, entry: object) -> bool:
    """Whether a file is the one of an entry, as far as the entry says."""
    if path is None or not isinstance(entry, dict):
        return False
    same_size = entry.get("bytes") in (None, os.stat(path).st_size)
    return same_size and entry.get("fingerprint") in (None, fingerprint(path))
