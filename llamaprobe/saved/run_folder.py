"""A run as a folder of files, and back.

    x_layer{i}.csv  xnorm_layer{i}.csv  {point}_layer{i}.csv   one value of one layer
    logits.csv  final_norm.csv ...                             values that are not of a layer
    attention_mask.csv  position_ids.csv                       [1, T] integers
    meta_layer{i}.json                                         what redoing a layer's maths takes
    manifest.json                                              every file: shape, bytes, sha256

A value of T tokens lies in T rows with its heads side by side; scores and pattern, [n_heads, T, T],
lie in n_heads * T rows. The first line says the shape with a leading 1: `# shape=[1, T, d_model]`.
Every file appears under its name when it is whole, and the manifest after all others: a folder with
a manifest is complete. What a killed save left is known from save_journal.py.
"""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from . import save_journal
from ..files.atomic import (
    atomic_open,
    check_space,
    hold_folder,
    open_regular,
    shown_path,
    sync_folder,
)
from ..errors import FileError, FormatError, PointError
from ..files.fingerprint import REPLACED
from ..files.json_file import read_object
from ..files.naming import printable
from ..points import Name, check_layers, is_pattern, resolve_all
from ..files.encode import (
    SEPARATORS,
    SHORTEST,
    SUFFIXES,
    Table,
    array_table,
    bytes_table,
    check_digits,
    check_format,
    check_header,
    suffix_of,
    way_out,
)
from ..checkpoint.tensor_names import layer_tensors
from ..files.writer import Writer

if TYPE_CHECKING:
    from ..run import Run

MANIFEST = "manifest.json"
FORMAT_VERSION = 1  # of the folder of a run: names, layout, keys of the json files; absent: 0
# Those of the core that the meta files do not hold, and what only prompts need.
_IN_META = "n_heads n_kv_heads head_dim d_model d_ff rms_norm_eps attention_bias".split()
NUMBERS = (
    *(name for name, _ in _core.config() if name not in _IN_META),
    *("bos_token_id", "eos_token_id", "dtype"),
)
_OLD_NAMES = {"x_norm": "xnorm"}  # as the files of older scripts are called
_MASKS = ("attention_mask", "position_ids")
_MAX_MANIFEST = 16 << 20  # bytes: some 100,000 files
_MAX_META = 64 << 20  # two million tokens


def file_name(point: str, layer: int | None, format: str = "csv") -> str:
    """`x_layer0.csv`, `xnorm_layer0.csv`; without a layer `logits.csv`."""
    stem = _OLD_NAMES.get(point, point)
    return (stem if layer is None else f"{stem}_layer{layer}") + suffix_of(format)


def save_run(
    run: "Run",
    folder: str | os.PathLike[str],
    *,
    points: Name | Sequence[Name] | None = None,
    layers: Iterable[int] | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    header: bool = True,
    force: bool = False,
    masks: bool = True,
    hash_weights: bool = False,
) -> list[Path]:
    """What `Run.save` does, and says."""
    held, tables = _planned(run, points, layers, format, digits, header, masks)
    with hold_folder(folder) as path:
        check_new_run(path, [*tables, MANIFEST], force)
        old = _old_files(path / MANIFEST) | _left_files(path)
        check_space(path, sum(table.n_bytes() for table in tables.values()), way_out(format))
        with save_journal.noting(path, old | tables.keys()):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path / MANIFEST)  # from here on the folder is not complete
            with Writer(path) as writer:
                for name, table in tables.items():
                    writer.add(name, table)
            for name in old - tables.keys():  # they would look like those of this run
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path / name)
            sync_folder(path)
            entries = {
                file.path.name: file_entry(file.table, file.n_bytes, file.sha256)
                for file in writer.files
            }
            manifest = run_manifest(run, held, format, digits, header, entries, hash_weights)
            write_json(path / MANIFEST, manifest)
    return [file.path for file in writer.files] + [path / MANIFEST]


def run_manifest(
    run: "Run",
    held: Mapping[str, Sequence[int]],
    format: str,
    digits: int | str | None,
    header: bool,
    entries: Mapping[str, dict[str, Any]],
    hash_weights: bool,
) -> dict[str, Any]:
    """What stands in the manifest of a run; `entries`: what it says of each file."""
    return {
        "kind": "run",
        "format_version": FORMAT_VERSION,
        "arithmetic_version": run.arithmetic_version,
        "llamaprobe_version": run.meta.get("llamaprobe_version"),
        "format": format,
        "digits": _told_digits(digits) if format in SEPARATORS else None,
        **({} if header else {"header": False}),
        **({"rounded": [list(each) for each in run.rounded]} if run.rounded else {}),
        "model_numbers": model_numbers(run),
        "ignore": run.meta["ignore"],
        "unused_tensors": run.meta["unused_tensors"],
        "points": {point: list(layers) for point, layers in held.items()},
        "files": entries,
        "weight_files": weight_entries(run, hash_weights),
    }


def run_tables(
    run: "Run",
    *,
    points: Name | Sequence[Name] | None = None,
    layers: Iterable[int] | None = None,
    format: str = "csv",
    digits: int | str | None = None,
    header: bool = True,
    masks: bool = True,
) -> dict[str, Table]:
    """File name -> table of everything that `save_run` would write, but the manifest. Reads no more
    than samples."""
    return _planned(run, points, layers, format, digits, header, masks)[1]


def _planned(
    run: "Run",
    points: Name | Sequence[Name] | None,
    layers: Iterable[int] | None,
    format: str,
    digits: int | str | None,
    header: bool,
    masks: bool,
) -> tuple[dict[str, tuple[int, ...]], dict[str, Table]]:
    """Point -> layers to save of it, and file name -> table. ArgumentError, PointError."""
    style, n_digits = check_format(format), check_digits(digits)
    check_header(header, style)
    held = _selected(run, points, layers)
    return held, _tables(run, held, style, n_digits, header, masks)


def _tables(
    run: "Run",
    held: Mapping[str, tuple[int, ...]],
    style: str,
    digits: int,
    header: bool,
    masks: bool,
) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for point, layers in held.items():
        for layer in layers or [None]:
            value = run[point] if layer is None else run[point, layer]
            table = value_table(point, value, style, digits, header)
            tables[file_name(point, layer, style)] = table
    return tables | (mask_tables(run, style, header) if masks else {}) | meta_tables(run, held)


def mask_tables(run: "Run", style: str, header: bool) -> dict[str, Table]:
    """File name -> table of attention_mask and position_ids."""
    tables = {}
    for name, values in zip(_MASKS, (np.ones_like(run.token_ids), run.position_ids), strict=True):
        row = np.asarray(values, np.int64)[None]
        plain = style if style in SUFFIXES else "hex"  # integers are not for fixed point
        tables[name + suffix_of(style)] = array_table(row, plain, tell_dtype=False, header=header)
    return tables


def meta_tables(run: "Run", held: Mapping[str, Sequence[int]]) -> dict[str, Table]:
    """File name -> table of meta_layer{i}.json for each layer of which something is saved, or for
    all where only values are that are not of a layer."""
    tables = {}
    numbers = {i for layers in held.values() for i in layers}
    for layer in sorted(numbers) or range(run.config.n_layers):
        here = [point for point, layers in held.items() if layer in layers]
        shapes = {point: [1, *run[point, layer].shape] for point in here}
        tables[f"meta_layer{layer}.json"] = bytes_table(_json_bytes(layer_meta(run, layer, shapes)))
    return tables


def value_table(point: str, value: np.ndarray, style: str, digits: int, header: bool) -> Table:
    """The table of one value, with a leading 1 in its shape."""
    return array_table(
        value,
        style,
        digits=digits,
        shape=(1, *value.shape),
        n_cols=_row_length(point, value),
        header=header,
        n_threads=_core.cores(),
    )


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
    return layer_tensors(run.config, layer)


def _selected(
    run: "Run", points: Name | Sequence[Name] | None, layers: Iterable[int] | None
) -> dict[str, tuple[int, ...]]:
    """Point -> layers to save of it, () for one that is not per layer. A name with a layer stands
    for that layer, as in `Model.run`. PointError for a point or a layer that the run does not
    hold."""
    wanted = None if layers is None else check_layers(layers, run.config.n_layers)
    held: dict[str, tuple[int, ...]] = {}
    for name, point, layer in resolve_all(
        run.points if points is None else points, run.config.n_layers
    ):
        if is_pattern(name) and (point.name if layer is None else (point.name, layer)) not in run:
            continue  # of a pattern what the run holds
        numbers = run.layers_of(point.name)
        if layer is not None:
            run[point.name, layer]  # PointError: this layer was not captured
            if wanted is not None and layer not in wanted:
                raise PointError(f"{printable(repr(name))} names a layer that layers leaves out")
            numbers = (layer,)
        held[point.name] = tuple(dict.fromkeys(held.get(point.name, ()) + numbers))
    if not held:
        raise PointError(f"the run holds no point of {printable(repr(points))}")
    if wanted is None:
        return held
    for layer in wanted:
        if not any(layer in numbers for numbers in held.values()):
            raise PointError(f"layer {layer} was not captured of {', '.join(held)}")
    chosen = {name: tuple(i for i in numbers if i in wanted) for name, numbers in held.items()}
    return {name: numbers for name, numbers in chosen.items() if numbers or not held[name]}


def _row_length(point: str, value: np.ndarray) -> int:
    """Numbers in a row of text: one row per token, or per head and query for the two maps of
    attention."""
    width = {name: width for name, width, _ in _core.points()}[point]
    return value.shape[-1] if width == "map" else max(1, math.prod(value.shape[1:]))


def check_new_run(folder: Path, names: Iterable[str], force: bool) -> None:
    """`check_new` for a run; FileError also for files of a save that was not finished, whatever
    their names."""
    if not force and not os.path.lexists(folder / MANIFEST):
        if any(os.path.lexists(folder / name) for name in _left_files(folder)):
            raise FileError(
                f"{shown_path(folder)}: holds an unfinished run (no {MANIFEST}); force=True"
                " (--force) replaces it"
            )
    check_new(folder, names, force)


def check_new(folder: Path, names: Iterable[str], force: bool) -> None:
    """FileError when one of the files exists and may not be replaced; a folder never may."""
    found = [name for name in names if os.path.lexists(folder / name)]
    for name in found:
        if os.path.isdir(folder / name) and not os.path.islink(folder / name):
            message = f"{shown_path(folder / name)}: is a folder where a file is to be written"
            raise FileError(message, errno.EISDIR, folder / name)
    if found and not force:
        n = len(found) - 1
        others = f", as {'do' if n > 1 else 'does'} {n} more of these files" if n else ""
        has_manifest = os.path.lexists(folder / MANIFEST)
        why = "" if has_manifest else f"; there is no {MANIFEST}: not ours, or never finished"
        raise FileError(
            f"{shown_path(folder / found[0])}: exists{others}{why}; choose another folder, or"
            " replace what is there with force=True (--force)",
            errno.EEXIST,
            folder / found[0],
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
        raise FileError(f"{shown_path(manifest)}: is of exported weights; choose another folder")
    files = told.get("files")
    return _ours(files if told.get("kind") == "run" and isinstance(files, dict) else ())


def _left_files(folder: Path) -> set[str]:
    """The files that a save may have left which was not finished."""
    return _ours(save_journal.noted(folder))


def _ours(names: Iterable[str]) -> set[str]:
    is_ours = re.compile(_own_names())
    return {name for name in names if is_ours.fullmatch(name)}


def is_own_name(name: str) -> bool:
    """Whether `save_run` gives a file of values, a mask or a meta file this name."""
    return re.fullmatch(_own_names(), name) is not None


def _own_names() -> str:
    """A regular expression for the names that `save_run` gives, but that of the manifest: what
    else a manifest lists is none of our business."""
    layer, points = "_layer(?:0|[1-9][0-9]{0,8})", _core.points()
    stems = [_OLD_NAMES.get(name, name) + (layer if deep else "") for name, _, deep in points]
    endings = "|".join(map(re.escape, SUFFIXES.values()))
    return rf"(?:{'|'.join([*stems, *_MASKS])})(?:{endings})|meta{layer}\.json"


def file_entry(table: Table, n_bytes: int, sha256: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    array = {"shape": list(table.shape), "dtype": table.dtype} if table.dtype else {}
    return {**array, **table.counts, "bytes": n_bytes, "sha256": sha256}


def _told_digits(digits: int | str | None) -> int | None:
    return None if check_digits(digits) == SHORTEST else int(digits)  # type: ignore[arg-type]


def weight_entries(run: "Run", hash_them: bool) -> dict[str, Any]:
    """The weight files with size; sha256 where it is known, or by reading them when that is asked
    for."""
    told = {}
    for path, n_bytes, sha256 in run.weight_files:
        mark = run.fingerprint_of(path)
        is_here = os.path.isabs(path) and mark != REPLACED  # of a run read back: a name alone
        if sha256 is None and hash_them and is_here:
            sha256 = hash_file(path)
        told[Path(path).name] = {"bytes": n_bytes, "sha256": sha256, "fingerprint": mark}
    return told


def hash_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a regular file, in hex. FileError."""
    import hashlib

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


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
    return _JSON.encode(value)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON has them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in JSON")


_JSON = json.JSONEncoder(allow_nan=False, default=_plain)  # to make one takes as long as to use it


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that may have been made by a stranger. FileError, FormatError."""
    limit = _MAX_MANIFEST if path.name == MANIFEST else _MAX_META
    return read_object(str(path), limit, FormatError)
