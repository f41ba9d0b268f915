"""A run as a folder of files, and back.

    x_layer{i}.csv  xnorm_layer{i}.csv  {point}_layer{i}.csv   one value of one layer
    logits.csv  final_norm.csv ...                             values that are not of a layer
    attention_mask.csv  position_ids.csv                       [1, T] integers
    meta_layer{i}.json                                         what redoing a layer's maths takes
    manifest.json                                              every file: shape, bytes, sha256

A value of T tokens lies in T rows with its heads side by side; scores and pattern, [n_heads, T, T],
lie in n_heads * T rows. The first line says the shape with a leading 1: `# shape=[1, T, d_model]`.
Every file appears under its name when it is whole, and the manifest after all others: a folder with
a manifest is complete.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .atomic import atomic_open, check_space, file_error, hold_folder, sync_folder
from .errors import FileError, FormatError
from .fingerprint import fingerprint
from .json_file import read_object
from .points import resolve
from .tables import (
    SEPARATORS,
    SHORTEST,
    SUFFIXES,
    Table,
    array_table,
    bytes_table,
    check_digits,
    check_format,
    suffix_of,
)
from .writer import Writer

if TYPE_CHECKING:
    from .run import Run

MANIFEST = "manifest.json"
NUMBERS = (
    "n_layers",
    "vocab_size",
    "max_positions",
    "mlp_bias",
    "tied_head",
    "bos_token_id",
    "eos_token_id",
    "dtype",
)
_OLD_NAMES = {"x_norm": "xnorm"}  # as the files of older scripts are called
_MAX_JSON = 256 << 20


def file_name(point: str, layer: int | None, format: str = "csv") -> str:
    """`x_layer0.csv`, `xnorm_layer0.csv`; without a layer `logits.csv`."""
    stem = _OLD_NAMES.get(point, point)
    return (stem if layer is None else f"{stem}_layer{layer}") + suffix_of(format)


def save_run(
    run: "Run",
    folder: str | os.PathLike[str],
    *,
    points: Sequence[str] | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    force: bool = False,
    masks: bool = True,
    hash_weights: bool = False,
) -> list[Path]:
    """Write the files of a run into `folder` (made if it is missing) and return their paths, the
    manifest last.

    `points` are some of run.points (default all); `format` is "csv", "txt", "npy", "hex" (words for
    Verilog) or "q<m>.<n>" (fixed point, rounded); `digits` None is the shortest decimal that reads
    back to the same bits, N is `%.Ne`. `masks` adds attention_mask and position_ids. `hash_weights`
    reads the weight files to put their sha256 into the manifest when it is not known without.

    Nothing is written when a file of that name exists and `force` is not given, or when the disk
    lacks the space. With `force` the files of the run that was there go, also those that this one
    does not have. Raises ArgumentError, PointError (a point that this run does not hold) and
    FileError.
    """
    tables = run_tables(run, points=points, format=format, digits=digits, masks=masks)
    with hold_folder(folder) as path:
        check_new(path, [*tables, MANIFEST], force)
        old = _old_files(path / MANIFEST)
        check_space(path, sum(table.n_bytes() for table in tables.values()))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path / MANIFEST)  # from here on the folder is not complete
        with Writer(path) as writer:
            for name, table in tables.items():
                writer.add(name, table)
        for name in old - tables.keys():  # of the run that was there: they would look like this one's
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path / name)
        sync_folder(path)
        manifest = {
            "kind": "run",
            "llamaprobe_version": run.meta.get("llamaprobe_version"),
            "format": format,
            "digits": _told_digits(digits) if format in SEPARATORS else None,
            "model_numbers": model_numbers(run),
            "points": {point: list(run.layers_of(point)) for point in _points_of(run, points)},
            "files": {
                file.path.name: file_entry(file.table, file.n_bytes, file.sha256)
                for file in writer.files
            },
            "weight_files": _weight_files(run, hash_weights),
        }
        write_json(path / MANIFEST, manifest)
    return [file.path for file in writer.files] + [path / MANIFEST]


def run_tables(
    run: "Run",
    *,
    points: Sequence[str] | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    masks: bool = True,
) -> dict[str, Table]:
    """File name -> table of everything that `save_run` would write, but the manifest. Reads no more
    than samples."""
    style, n_digits, n_threads = check_format(format), check_digits(digits), _core.cores()
    names = _points_of(run, points)
    tables: dict[str, Table] = {}
    for point, layer in _values(run, names):
        value = run[point] if layer is None else run[point, layer]
        shape = (1, *value.shape)
        tables[file_name(point, layer, style)] = array_table(
            value,
            style,
            digits=n_digits,
            shape=shape,
            n_cols=_row_length(point, value),
            n_threads=n_threads,
        )
    if masks:
        for name, values in (
            ("attention_mask", np.ones_like(run.token_ids)),
            ("position_ids", run.position_ids),
        ):
            row = np.asarray(values, np.int64)[None]
            plain = style if style in SUFFIXES else "hex"  # integers are not for fixed point
            tables[name + suffix_of(style)] = array_table(row, plain, tell_dtype=False)
    for layer in sorted(
        {i for _, i in _values(run, names) if i is not None} or range(run.config.n_layers)
    ):
        shapes = {
            p: list(tables[file_name(p, i, style)].shape)
            for p, i in _values(run, names)
            if i == layer
        }
        tables[f"meta_layer{layer}.json"] = bytes_table(_json_bytes(layer_meta(run, layer, shapes)))
    return tables


def layer_meta(run: "Run", layer: int, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """What stands in meta_layer{i}.json: the numbers of the model and the prompt, and what is of
    this layer."""
    return {
        "layer": layer,
        **run.meta,
        "dtype": "float32",
        "shapes": shapes,
        "weight_names": weight_names(run, layer),
    }


def model_numbers(run: "Run") -> dict[str, Any]:
    """Numbers of the model that redoing a layer does not need, but reading the run back does."""
    config = run.config
    return {name: getattr(config, name) for name in NUMBERS}


def weight_names(run: "Run", layer: int) -> list[str]:
    """The tensors of one layer by their Hugging Face names."""
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    mlp = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    names = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    for group, bias in ((attention, run.config.attention_bias), (mlp, run.config.mlp_bias)):
        names += [
            f"{name}.{kind}"
            for name in group
            for kind in (("weight", "bias") if bias else ("weight",))
        ]
    return [f"model.layers.{layer}.{name}" for name in names]


def _points_of(run: "Run", points: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the points to save. PointError for one that the run does not hold."""
    if points is None:
        return run.points
    for point in points:
        run.layers_of(point)
    return tuple(dict.fromkeys(resolve(point)[0].name for point in points))


def _values(run: "Run", points: Iterable[str]) -> list[tuple[str, int | None]]:
    """(point, layer) of every value to save; layer None: computed once."""
    return [(point, layer) for point in points for layer in run.layers_of(point) or [None]]


def _row_length(point: str, value: np.ndarray) -> int:
    """Numbers in a row of text: one row per token, or per head and query for the two maps of
    attention."""
    width = {name: width for name, width, _ in _core.points()}[point]
    return value.shape[-1] if width == "map" else max(1, math.prod(value.shape[1:]))


def check_new(folder: Path, names: Iterable[str], force: bool) -> None:
    """FileError when one of the files exists and may not be replaced; a folder never may."""
    found = [name for name in names if os.path.lexists(folder / name)]
    for name in found:
        if os.path.isdir(folder / name) and not os.path.islink(folder / name):
            raise FileError(f"{folder / name}: is a folder where a file is to be written")
    if found and not force:
        n = len(found) - 1
        others = f", as {'do' if n > 1 else 'does'} {n} more of these files" if n else ""
        raise FileError(
            f"{folder / found[0]}: exists{others}; choose another folder, or replace what is there"
            " with force=True (--force)"
        )


def _old_files(manifest: Path) -> set[str]:
    """The files of the run that is in the folder. FileError when the folder holds exported weights:
    their manifest would be lost."""
    if not os.path.isfile(manifest):
        return set()
    try:
        told = read_json(manifest)
    except FormatError:  # a damaged one is worth nothing
        return set()
    if told.get("kind") == "weights":
        raise FileError(f"{manifest}: is of exported weights; choose another folder")
    files = told.get("files")
    names = files if told.get("kind") == "run" and isinstance(files, dict) else ()
    return {name for name in names if os.path.basename(name) == name and name not in ("", ".", "..")}


def file_entry(table: Table, n_bytes: int, sha256: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    array = {"shape": list(table.shape), "dtype": table.dtype} if table.dtype else {}
    return {**array, **table.counts, "bytes": n_bytes, "sha256": sha256}


def _told_digits(digits: int | str | None) -> int | None:
    return None if check_digits(digits) == SHORTEST else int(digits)  # type: ignore[arg-type]


def _weight_files(run: "Run", hash_them: bool) -> dict[str, Any]:
    """The weight files with size; sha256 where it is known, or by reading them when that is asked
    for."""
    told = {}
    for path, n_bytes, sha256 in run.weight_files:
        if sha256 is None and hash_them:
            sha256 = hash_file(path)
        told[Path(path).name] = {
            "bytes": n_bytes,
            "sha256": sha256,
            "fingerprint": _fingerprint(path),
        }
    return told


def _fingerprint(path: str) -> str | None:
    """None when the file is gone, or when it is only known by name: of a run that was read back."""
    with contextlib.suppress(FileError):
        return fingerprint(path) if os.path.isabs(path) else None
    return None


def hash_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file, in hex. FileError."""
    import hashlib

    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error(error, path) from error


# ---- JSON ----


def write_json(path: Path, value: Any) -> None:
    with atomic_open(path) as file:
        file.write(_json_bytes(value))


def _json_bytes(value: dict[str, Any]) -> bytes:
    """One line per key; where the values are objects too, one line for each of these."""
    lines = [f" {_json(key)}: {_json_lines(each)}" for key, each in value.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def _json_lines(value: Any) -> str:
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(each, dict) for each in value.values())
    ):
        return _json(value)
    return (
        "{\n" + ",\n".join(f"  {_json(key)}: {_json(each)}" for key, each in value.items()) + "\n }"
    )


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON has them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in JSON")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that may have been made by a stranger. FileError, FormatError."""
    return read_object(str(path), _MAX_JSON, FormatError)
