"""A run as a folder of files.

    x_layer{i}.csv  xnorm_layer{i}.csv  {point}_layer{i}.csv   one value of one layer
    logits.csv  final_norm.csv ...                             values that are not of a layer
    attention_mask.csv  position_ids.csv                       [1, T] integers
    meta_layer{i}.json                                         the numbers of a layer's maths
    edit_{i}.npy, edit_{i}_{before|after}.npy                  arrays of edits (edits.py)
    manifest.json                                              every file: shape, bytes, sha256

A value of T tokens lies in T rows with its heads side by side; scores and pattern, [n_heads, T, T],
lie in n_heads * T rows. The first line gives the shape with a leading 1: `# shape=[1, T, d_model]`.
Every file gets its name when it is whole, and the manifest comes last: a folder with a manifest is
complete. What a killed save left behind is known from its journal (journal.py).
"""

import contextlib
import errno
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..arguments import flag
from ..captures import BEFORE, resolved
from ..checkpoint.tensor_names import layer_tensors
from ..config import Config
from ..edits.edits import Edits
from ..errors import FileError, FormatError, PointError
from ..families.meta import has_more
from ..files.atomic import check_space, hold_folder, sync_folder
from ..files.encode import (
    SEPARATORS,
    SHORTEST,
    SUFFIXES,
    Encoder,
    array_encoder,
    bytes_encoder,
    check_digits,
    check_format,
    check_header,
    suffix_of,
    way_out,
)
from ..files.fingerprint import REPLACED
from ..files.writer import Writer
from ..messages import printable, shown_path
from ..points import Name, check_layers, is_pattern
from . import journal
from .edits import FILE_NAMES, edit_encoders, edit_entries
from .generated import Generated
from .manifest import (
    FORMAT_VERSION,
    MANIFEST,
    PLAIN_VERSION,
    check_new,
    file_entry,
    hash_file,
    json_bytes,
    json_lines,
    read_json,
    write_json,
)

# Those that the meta files do not hold, and what only prompts need.
NUMBERS = (
    *("n_layers", "vocab_size", "max_positions", "mlp_bias", "tied_head"),
    *("bos_token_id", "eos_token_id", "dtype"),
)
_OLD_NAMES = {"x_norm": "xnorm"}  # as the files of older scripts are called
_MASKS = ("attention_mask", "position_ids")


class Run(Protocol):
    """What saving needs of a `llamaprobe.Run`."""

    points: tuple[str, ...]
    token_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]

    @property
    def config(self) -> Config: ...
    @property
    def meta(self) -> dict[str, Any]: ...
    @property
    def weight_files(self) -> tuple[tuple[str, int, str | None], ...]: ...
    @property
    def arithmetic_version(self) -> int: ...
    @property
    def rounded(self) -> tuple[tuple[str, int | None], ...]: ...
    @property
    def edits(self) -> Edits: ...
    @property
    def generated(self) -> Generated | None: ...
    def fingerprint_of(self, path: str) -> str | None: ...
    def layers_of(self, point: Name) -> tuple[int, ...]: ...
    def __getitem__(self, point: Name) -> NDArray[np.float32]: ...
    def __contains__(self, point: object) -> bool: ...


def file_name(point: str, layer: int | None, format: str = "csv") -> str:
    """`x_layer0.csv`, `xnorm_layer0.csv`; without a layer `logits.csv`."""
    stem = _OLD_NAMES.get(point, point)
    return (stem if layer is None else f"{stem}_layer{layer}") + suffix_of(format)


@dataclass(frozen=True)
class RunPlan:
    """The files of one save; made by `plan_run`. Nothing is formatted but samples."""

    run: Run
    folder: str | os.PathLike[str]
    points: dict[str, tuple[int, ...]]
    """Point -> layers to save of it; () for one that is not per layer."""
    encoders: dict[str, Encoder]
    """File name -> what it will hold; without the manifest."""
    format: str
    digits: int
    header: bool
    force: bool
    hash_weights: bool

    @cached_property
    def n_bytes(self) -> int:
        """Of all files; an estimate where they are not `exact`."""
        return sum(encoder.n_bytes() for encoder in self.encoders.values())

    @property
    def exact(self) -> bool:
        return all(encoder.exact for encoder in self.encoders.values())

    def write(self) -> list[Path]:
        """Writes the files and returns their paths, the manifest last. FileError, with nothing
        written when files are in the way or the disk lacks the space."""
        new = self.encoders.keys()
        with hold_folder(self.folder) as folder:
            check_new_run(folder, [*new, MANIFEST], self.force)
            old = _old_files(folder / MANIFEST) | _left_files(folder)
            check_space(folder, self.n_bytes, way_out(self.format))
            with journal.of_save(folder, old | new):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(folder / MANIFEST)  # from here on the folder is not complete
                with Writer(folder) as writer:
                    for name, encoder in self.encoders.items():
                        writer.add(name, encoder)
                for name in old - new:  # they would look like those of this run
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(folder / name)
                sync_folder(folder)
                entries = {
                    file.path.name: file_entry(file.encoder, file.n_bytes, file.sha256)
                    for file in writer.files
                }
                write_json(folder / MANIFEST, self._manifest(entries))
        return [file.path for file in writer.files] + [folder / MANIFEST]

    def _manifest(self, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
        digits = None if self.digits == SHORTEST else self.digits
        return run_manifest(
            self.run, self.points, self.format, digits, self.header, entries, self.hash_weights
        )


def plan_run(
    run: Run,
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
) -> RunPlan:
    """What `Run.save` writes, by its arguments. ArgumentError, PointError."""
    style, n_digits = check_format(format), check_digits(digits)
    check_header(header, style)
    force, hash_weights = flag("force", force), flag("hash_weights", hash_weights)
    held = _selected(run, points, layers)
    encoders = _value_encoders(run, held, style, n_digits, header)
    if flag("masks", masks):
        encoders |= mask_encoders(run, style, header)
    encoders |= meta_encoders(run, held) | edit_encoders(run.edits)
    return RunPlan(run, folder, held, encoders, style, n_digits, header, force, hash_weights)


def run_manifest(
    run: Run,
    held: Mapping[str, Sequence[int]],
    format: str,
    digits: int | None,
    header: bool,
    entries: Mapping[str, dict[str, Any]],
    hash_weights: bool,
) -> dict[str, Any]:
    """The manifest of a run; `entries`: what it says of each file."""
    meta = run.meta
    return {
        "kind": "run",
        "format_version": _version(run, held),
        "arithmetic_version": run.arithmetic_version,
        "llamaprobe_version": meta.get("llamaprobe_version"),
        "format": format,
        "digits": digits if format in SEPARATORS else None,
        **({} if header else {"header": False}),
        **({"rounded": [list(each) for each in run.rounded]} if run.rounded else {}),
        "model_numbers": {name: getattr(run.config, name) for name in NUMBERS},
        **({"config": run.config.raw} if has_more(run.config) else {}),
        **({"rope_length": meta["rope_length"]} if "rope_length" in meta else {}),
        **({"quantization": meta["quantization"]} if "quantization" in meta else {}),
        "ignore": meta["ignore"],
        "unused_tensors": meta["unused_tensors"],
        "points": {point: list(layers) for point, layers in held.items()},
        **_acted(run, entries),
        "files": entries,
        "weight_files": weight_entries(run, hash_weights),
    }


def _version(run: Run, held: Iterable[str]) -> int:
    has_more = run.edits or run.generated or any(point.endswith(BEFORE) for point in held)
    return FORMAT_VERSION if has_more else PLAIN_VERSION


def _acted(run: Run, entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What was done to the run: its edits, and how its new tokens were chosen."""
    found: dict[str, Any] = {}
    if run.edits:
        found["edits"] = edit_entries(run.edits, run.config, entries)
    if run.edits.session_prompt is not None:
        found["session_prompt_tokens"] = run.edits.session_prompt
    if run.generated is not None:
        found["generated"] = run.generated.entry()
    return found


def _value_encoders(
    run: Run, held: Mapping[str, tuple[int, ...]], style: str, digits: int, header: bool
) -> dict[str, Encoder]:
    n_threads = _core.cores()
    return {
        file_name(point, layer, style): value_encoder(
            point,
            run[point] if layer is None else run[point, layer],
            style,
            digits,
            header,
            n_threads,
        )
        for point, layers in held.items()
        for layer in layers or [None]
    }


def value_encoder(
    point: str, value: np.ndarray, style: str, digits: int, header: bool, n_threads: int
) -> Encoder:
    """Of one value, with a leading 1 in its shape."""
    return array_encoder(
        value,
        style,
        digits=digits,
        shape=(1, *value.shape),
        n_cols=_row_length(point, value),
        header=header,
        n_threads=n_threads,
    )


def mask_encoders(run: Run, style: str, header: bool) -> dict[str, Encoder]:
    """By file name, of attention_mask and position_ids."""
    encoders = {}
    for name, values in zip(_MASKS, (np.ones_like(run.token_ids), run.position_ids), strict=True):
        row = np.asarray(values, np.int64)[None]
        plain = style if style in SUFFIXES else "hex"  # integers are not for fixed point
        encoders[name + suffix_of(style)] = array_encoder(
            row, plain, write_dtype=False, header=header
        )
    return encoders


def meta_encoders(run: Run, held: Mapping[str, Sequence[int]]) -> dict[str, Encoder]:
    """By file name, of meta_layer{i}.json for each layer of which something is saved, or for all
    layers where only values that are not per layer are."""
    encoders = {}
    numbers = {i for layers in held.values() for i in layers}
    shared = json_lines({**run.meta, "dtype": "float32"})
    for layer in sorted(numbers) or range(run.config.n_layers):
        here = [point for point, layers in held.items() if layer in layers]
        shapes = {point: [1, *run[point, layer].shape] for point in here}
        own = {"shapes": shapes, "weight_names": layer_tensors(run.config, layer)}
        lines = [*json_lines({"layer": layer}), *shared, *json_lines(own)]
        encoders[f"meta_layer{layer}.json"] = bytes_encoder(json_bytes(lines))
    return encoders


def _selected(
    run: Run, points: Name | Sequence[Name] | None, layers: Iterable[int] | None
) -> dict[str, tuple[int, ...]]:
    """Point -> layers to save of it, () for one that is not per layer. A name with a layer stands
    for that layer, as in `Model.run`. PointError for a point or a layer that the run does not
    hold."""
    wanted = None if layers is None else check_layers(layers, run.config.n_layers)
    held: dict[str, tuple[int, ...]] = {}
    if points is None and not run.points and run.generated is not None:
        return held
    requested: Any = run.points if points is None else points  # one name is a tuple, too
    for name, found, layer, before in resolved(requested, run.config):
        point = found.name + BEFORE * before
        if is_pattern(name) and (point if layer is None else (point, layer)) not in run:
            continue  # a pattern stands for what the run holds
        numbers = run.layers_of(point)
        if layer is not None:
            run[point, layer]  # PointError: this layer was not captured
            if wanted is not None and layer not in wanted:
                raise PointError(f"{printable(repr(name))} names a layer that layers leaves out")
            numbers = (layer,)
        held[point] = tuple(dict.fromkeys(held.get(point, ()) + numbers))
    if not held:
        raise PointError(f"the run holds none of the points {printable(repr(points))}")
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
    width = {name: width for name, width, _ in _core.points()}[point.removesuffix(BEFORE)]
    return value.shape[-1] if width == "map" else max(1, math.prod(value.shape[1:]))


def check_new_run(folder: Path, names: Iterable[str], force: bool) -> None:
    """`check_new` for a run; FileError also for a saved run, and for any file of a save that was
    not finished."""
    manifest = folder / MANIFEST
    if not force and os.path.isfile(manifest):
        _old_files(manifest)  # raises for exported weights
        raise FileError(
            f"{shown_path(folder)}: holds a saved run; choose another folder, or replace the run"
            " with --force (force=True)",
            errno.EEXIST,
            manifest,
        )
    if not force and not os.path.lexists(manifest):
        if any(os.path.lexists(folder / name) for name in _left_files(folder)):
            raise FileError(
                f"{shown_path(folder)}: holds an unfinished run (no {MANIFEST}); choose another"
                " folder, or replace it with --force (force=True)"
            )
    check_new(folder, names, force)


def _old_files(manifest: Path) -> set[str]:
    """The files of the run in the folder. FileError when the folder holds exported weights: their
    manifest would be lost."""
    if not os.path.isfile(manifest):
        return set()
    try:
        found = read_json(manifest)
    except FormatError:  # damaged: as good as missing
        return set()
    kind, files = found.get("kind"), found.get("files")
    if kind == "weights":
        raise FileError(f"{shown_path(manifest)}: is of exported weights; choose another folder")
    return _ours(files if kind == "run" and isinstance(files, dict) else ())


def _left_files(folder: Path) -> set[str]:
    """The files that an unfinished save may have left."""
    return _ours(journal.read_save(folder))


def _ours(names: Iterable[str]) -> set[str]:
    is_ours = re.compile(_own_names())
    return {name for name in names if is_ours.fullmatch(name)}


def is_own_name(name: str) -> bool:
    """Whether a file of values, a mask or a meta file of a saved run can have this name."""
    return re.fullmatch(_own_names(), name) is not None


def _own_names() -> str:
    """A regular expression for the names of a saved run's files, without the manifest. Files that
    a manifest lists under other names are never touched."""
    layer, points = "_layer(?:0|[1-9][0-9]{0,8})", _core.points()
    stems = [
        rf"(?:{_OLD_NAMES.get(name, name)}|{name}\{BEFORE}){layer if deep else ''}"
        for name, _, deep in points
    ]
    endings = "|".join(map(re.escape, SUFFIXES.values()))
    return rf"(?:{'|'.join([*stems, *_MASKS])})(?:{endings})|meta{layer}\.json|{FILE_NAMES}"


def weight_entries(run: Run, hash_them: bool) -> dict[str, Any]:
    """The weight files with size, and sha256 where it is known or, if `hash_them`, can be."""
    entries = {}
    for path, n_bytes, sha256 in run.weight_files:
        mark = run.fingerprint_of(path)
        is_here = os.path.isabs(path) and mark != REPLACED  # of a run read back: a name alone
        if sha256 is None and hash_them and is_here:
            sha256 = hash_file(path)
        entries[Path(path).name] = {"bytes": n_bytes, "sha256": sha256, "fingerprint": mark}
    return entries
