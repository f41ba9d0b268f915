"""A saved run read back from its folder.

The folder is not trusted. Only names that a save gives are opened, whatever the manifest says; an
array must have the shape on which the manifest, its own first line and the numbers of the model
agree.
"""

import contextlib
import dataclasses
import errno
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..captures import BEFORE
from ..config import Config, UnsupportedConfigError, parse_config
from ..edits.edits import Edits
from ..errors import ArgumentError, ConfigError, FileError, FormatError, NewerFormatError
from ..files.array import read
from ..files.atomic import no_such
from ..files.encode import SEPARATORS, check_digits, check_format, is_rounded
from ..files.fingerprint import RecordedFingerprints
from ..files.hex import fixed_point
from ..files.paths import checked_path, path_entry
from ..messages import printable, shown_path
from ..origin import Origin
from ..points import axes
from .edits import read_edits
from .generated import Generated, read_generated
from .manifest import FORMAT_VERSION, MANIFEST, PLAIN_VERSION, read_json
from .run_folder import file_name

if TYPE_CHECKING:
    from ..prompts.prompt import Prompt


_SPELT = {"n_heads": "num_heads", "n_kv_heads": "num_kv_heads"}  # in the meta files


class Saved:
    """The folder of a saved run; values are read on demand.

    Raises FileError (no manifest: the run was not saved, or not completely) and FormatError.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = checked_path(folder)
        self._at = shown_path(self.folder / MANIFEST)
        if not os.path.isdir(self.folder):
            code, fact = errno.ENOENT, "no such folder"
            if os.path.lexists(self.folder):
                code, fact = errno.ENOTDIR, "is not a folder; give the folder of a saved run"
            raise FileError(f"{shown_path(self.folder)}: {fact}", code, self.folder)
        if not os.path.isfile(self.folder / MANIFEST):
            raise no_such(
                self.folder / MANIFEST,
                "missing; the folder holds no saved run, or an unfinished one",
            )
        manifest = read_json(self.folder / MANIFEST)
        if manifest.get("kind") != "run":
            is_weights = manifest.get("kind") == "weights"
            fact = "is of exported weights, not of" if is_weights else "is not that of"
            raise self._fault(MANIFEST, f"{fact} a saved run")
        self.manifest = manifest
        self.format_version, self.arithmetic_version = (
            self._version(key) for key in ("format_version", "arithmetic_version")
        )
        if self.format_version > FORMAT_VERSION:
            error = NewerFormatError(
                f"{self._at}: is of format version {self.format_version}, and this llamaprobe reads"
                f" versions up to {FORMAT_VERSION}; update llamaprobe"
            )
            error.version = self.format_version
            raise error
        self.files: dict[str, dict[str, Any]] = self._take(manifest, "files", dict)
        if not all(isinstance(entry, dict) for entry in self.files.values()):
            raise self._fault(MANIFEST, "files does not hold one object per file")
        self.format: str = self._take(manifest, "format", str)
        self.digits: int | None = manifest.get("digits")
        self.has_header = manifest.get("header") is not False or self.format == "npy"
        """Whether files have a first line; the header of npy is its format."""
        if self.digits is not None and type(self.digits) is not int:
            raise self._fault(MANIFEST, "digits is not a number of digits")
        self.weight_files = manifest.get("weight_files")
        try:
            check_digits(self.digits)
            check_format(self.format)
        except ArgumentError as error:
            raise self._fault(MANIFEST, f"{error}") from error
        self.rounded_before = self._rounded(manifest.get("rounded", []))
        own = ((self.format, self.digits),) if is_rounded(self.format, self.digits) else ()
        self.rounded = self.rounded_before + own  # what rounded the values
        self.numbers: dict[str, Any] = self._take(manifest, "model_numbers", dict)
        self.points: dict[str, list[int]] = self._take(manifest, "points", dict)
        self._known = {name: (width, per_layer) for name, width, per_layer in _core.points()}
        if not self.points and "generated" not in manifest:
            raise self._fault(MANIFEST, "points is empty")
        for point, layers in self.points.items():
            self._check_point(point, layers)
        self.layers = sorted({layer for layers in self.points.values() for layer in layers})

    @property
    def is_known(self) -> bool:
        """Whether its files are those that a save writes now."""
        return self.format_version in (PLAIN_VERSION, FORMAT_VERSION)

    def _version(self, key: str) -> int:
        """0 where it is absent, as in the oldest runs."""
        version = self.manifest.get(key, 0)
        if type(version) is not int or version < 0:
            raise self._fault(MANIFEST, f"{key} is not a version number")
        return version

    def _rounded(self, entries: Any) -> tuple[tuple[str, int | None], ...]:
        """(format, digits) of the files that the values were read back from."""
        try:
            before = tuple((check_format(format), digits) for format, digits in entries)
            if all(
                digits is None or (type(digits) is int and format in SEPARATORS)
                for format, digits in before
            ):
                for _, digits in before:
                    check_digits(digits)
                if all(is_rounded(*each) for each in before):
                    return before
        except (ArgumentError, TypeError, ValueError):
            pass
        raise self._fault(MANIFEST, "rounded is not a list of formats and digits that round")

    def _check_point(self, point: str, layers: Any) -> None:
        plain = point.removesuffix(BEFORE)
        if plain not in self._known:
            raise self._fault(MANIFEST, f"there is no point {printable(point)!r}")
        sound = isinstance(layers, list) and all(
            type(layer) is int and 0 <= layer < 10000 for layer in layers
        )
        if not sound or bool(layers) != self._known[plain][1] or len(set(layers)) != len(layers):
            raise self._fault(MANIFEST, f"points has no list of layers for {point}")

    def path(self, name: str) -> Path:
        """The path of a file of the manifest; FormatError for a name that leads elsewhere."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise self._fault(MANIFEST, f"{printable(name)!r} is not the name of a saved file")
        return self.folder / name

    @property
    def meta(self) -> dict[str, Any]:
        """The first meta_layer{i}.json that can be read: each holds the facts of the whole run. If
        none can, raises the error of the first."""
        for meta in self.metas.values():
            return meta
        return self.layer_meta((self.layers or [0])[0])

    @cached_property
    def metas(self) -> dict[int, dict[str, Any]]:
        """Layer -> meta_layer{i}.json, of those that are listed in the manifest and can be read."""
        listed = [re.fullmatch(r"meta_layer(0|[1-9][0-9]{0,8})\.json", name) for name in self.files]
        found = {}
        for layer in sorted({int(match[1]) for match in listed if match} | set(self.layers or [0])):
            with contextlib.suppress(FileError, FormatError):
                found[layer] = self.layer_meta(layer)
        return found

    def layer_meta(self, layer: int) -> dict[str, Any]:
        return read_json(self.folder / f"meta_layer{layer}.json")

    @cached_property
    def token_ids(self) -> np.ndarray:
        """int32 [T]."""
        ids = self.meta.get("token_ids")
        if (
            not isinstance(ids, list)
            or not ids
            or any(type(i) is not int or not 0 <= i < 2**31 for i in ids)
        ):
            raise self._fault("", "token_ids in the meta_layer files is not a list of token ids")
        return np.array(ids, np.int32)

    def values(self) -> list[tuple[str, int | None]]:
        """(point, layer) of every saved value, in the order of computation; layer None: not of a
        layer."""
        names = [name for point in self._known for name in (point + BEFORE, point)]
        held = [name for name in names if name in self.points]
        per_layer = [
            (point, layer) for layer in self.layers for point in held if layer in self.points[point]
        ]
        return per_layer + [(point, None) for point in held if not self.points[point]]

    def value(self, point: str, layer: int | None) -> np.ndarray:
        """float32 in the shape of the point, as `run[point, layer]` has it."""
        name = file_name(point, layer, self.format)
        wanted = (1, *self._shape(self._known[point.removesuffix(BEFORE)][0]))
        array = self.array(name, wanted, self.format if fixed_point(self.format) else "float32")
        if array.shape != wanted or array.dtype != np.float32:
            raise self._fault(
                name,
                f"holds {array.dtype} {list(array.shape)}, and "
                f"{len(self.token_ids)} tokens of this model need float32 {list(wanted)}",
            )
        return array[0]

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """The array in a file; shape and dtype are for one without its first line."""
        if self.has_header:
            return read(self.folder / name)
        return read(self.folder / name, shape=shape, dtype=dtype)

    def _shape(self, width: str) -> tuple[int, ...]:
        shape = tuple(
            len(self.token_ids) if axis == "T" else self.size(_SPELT.get(axis, axis))
            for axis in axes(width)
        )
        is_whole = width in ("q_norms", "k_norms") and self.meta.get("qk_norm_whole") is True
        return shape[:1] if is_whole else shape

    def size(self, key: str) -> int:
        """A number above 0 of the model."""
        value = self.numbers.get(key, self.meta.get(key))
        if type(value) is not int or not 0 < value < 2**31:
            raise self._fault("", f"{key} is missing or not a size")
        return value

    def real(self, key: str) -> float:
        value = self.meta.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._fault("", f"{key} is missing or not a number")
        return float(value)

    def real_list(self, key: str) -> list[float]:
        values = self.meta.get(key)
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise self._fault("", f"{key} is missing or not a list of numbers")
        return values

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings of the meta; empty where it is missing, as in older runs."""
        found = self.meta.get(key)
        return tuple(s for s in found if isinstance(s, str)) if isinstance(found, list) else ()

    def config(self) -> Config:
        """The numbers of the model, from the files."""
        meta, numbers = self.meta, self.numbers
        frequencies = np.array(self.real_list("inv_freq"), np.float64)
        if not np.all(np.abs(frequencies) <= np.finfo(np.float32).max):
            raise self._fault("", "inv_freq is beyond float32")
        inv_freq = frequencies.astype(np.float32)
        inv_freq.flags.writeable = False
        if self.real("rms_norm_eps") < 0:
            raise self._fault("", "rms_norm_eps is negative")
        heads, kv_heads, head_dim = map(self.size, ("num_heads", "num_kv_heads", "head_dim"))
        is_partial = "config" in self.manifest and 2 * inv_freq.size < head_dim
        if heads % kv_heads or (2 * inv_freq.size != head_dim and not is_partial):
            raise self._fault(
                "",
                f"{heads} heads, {kv_heads} kv heads, head_dim {head_dim} and "
                f"{inv_freq.size} inv_freq do not fit together",
            )
        if "config" in self.manifest:
            return self._family_config(inv_freq)
        return Config(
            n_layers=self.size("n_layers"),
            n_heads=heads,
            n_kv_heads=kv_heads,
            head_dim=head_dim,
            d_model=self.size("d_model"),
            d_ff=self.size("d_ff"),
            vocab_size=self.size("vocab_size"),
            max_positions=self.size("max_positions"),
            rms_norm_eps=self.real("rms_norm_eps"),
            rope_theta=self.real("rope_theta"),
            rope_scaling=_optional(meta, "rope_scaling", dict),
            inv_freq=inv_freq,
            attention_scale=self.real("attention_scale"),
            attention_bias=meta.get("attention_bias") is True,
            o_bias=meta.get("attention_bias") is True,
            mlp_bias=numbers.get("mlp_bias") is True,
            tied_head=numbers.get("tied_head") is True,
            qk_norm=False,
            bos_token_id=_optional(numbers, "bos_token_id", int),
            eos_token_id=_eos(numbers.get("eos_token_id")),
            dtype=_optional(numbers, "dtype", str),
            path=str(self.folder),
            raw={},
        )

    def _family_config(self, inv_freq: np.ndarray) -> Config:
        """Of a model that has more than a Llama: its config.json is in the manifest."""
        raw = self._take(self.manifest, "config", dict)
        try:
            config = parse_config(raw, f"{self._at}: config")
        except (ConfigError, UnsupportedConfigError) as error:
            raise self._fault(MANIFEST, f"config: {error}") from error
        sizes = {
            name: self.size(_SPELT.get(name, name))
            for name in ("n_heads", "n_kv_heads", "head_dim", "d_model", "d_ff", "vocab_size")
        }
        for name, size in sizes.items():
            if size != getattr(config, name):
                raise self._fault("", f"{name} is {size}, and {getattr(config, name)} in config")
        if self.size("n_layers") > config.n_layers or not np.array_equal(inv_freq, config.inv_freq):
            raise self._fault("", "n_layers or inv_freq are not those of config")
        return dataclasses.replace(
            config,
            n_layers=self.size("n_layers"),
            tied_head=self.numbers.get("tied_head") is True,
            path=str(self.folder),
        )

    @cached_property
    def edits(self) -> Edits:
        """Those that were made. FileError, FormatError."""
        try:
            edits = read_edits(self.folder, self.manifest.get("edits", []))
            for edit in edits:
                if edit.name not in self._known or self._known[edit.name][1] != (
                    edit.layer is not None
                ):
                    raise ValueError(f"edits: there is no {printable(edit.place)}")
        except ValueError as error:
            if isinstance(error, FormatError):
                raise
            raise self._fault(MANIFEST, f"{error}") from error
        start = self.manifest.get("session_prompt_tokens")
        if start is not None and not (type(start) is int and 0 < start < 1 << 31):
            raise self._fault(MANIFEST, "session_prompt_tokens is not a number of tokens")
        edits.session_prompt = start
        return edits

    @cached_property
    def generated(self) -> Generated | None:
        """How the new tokens were chosen; None for a run without. FormatError."""
        if "generated" not in self.manifest:
            return None
        try:
            return read_generated(self.manifest["generated"], self.token_ids.tolist())
        except ValueError as error:
            raise self._fault(MANIFEST, f"{error}") from error

    @property
    def rope_length(self) -> int | None:
        """As given to the run."""
        return self.size("rope_length") if "rope_length" in self.meta else None

    def prompt(self) -> "Prompt":
        """The prompt, from the files."""
        from ..prompts.chat import TEMPLATE_INPUTS
        from ..prompts.prompt import Prompt

        text, date = (_optional(self.meta, key, str) for key in ("prompt", "template_date"))
        inputs = {key: self.meta[key] for key in TEMPLATE_INPUTS if key in self.meta}
        return Prompt(self.token_ids, text, date, inputs)

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
        """The values as `Run` takes them: point -> (layers, array). FileError, FormatError."""
        values = {}
        for point, layers in self.points.items():
            numbers: list[int | None] = [*layers] or [None]
            found = [self.value(point, layer) for layer in numbers]
            values[point] = (tuple(layers), np.stack(found) if layers else found[0])
        return values

    def origin(self, config: Config | None = None) -> Origin:
        """The model of the run, from the files; `config` replaces its numbers."""
        meta = self.meta
        return Origin(
            config=config or self.config(),
            model=path_entry(meta, "model") or "None",
            revision=_optional(meta, "revision", str),
            weight_files=_weight_files(self),
            tokenizer=SavedTokens(_optional(meta, "tokens", list)),
            fingerprints=RecordedFingerprints(_fingerprints(self)),
            folder=path_entry(meta, "model_folder"),
            file=_optional(meta, "model_file", str),
            quantization=_optional(meta, "quantization", dict),
            ignore=self.strings("ignore"),
            unused=self.strings("unused_tensors"),
            llamaprobe_version=_optional(meta, "llamaprobe_version", str),
            arithmetic_version=self.arithmetic_version,
            rounded=self.rounded,
        )

    def _fault(self, name: str, fact: str) -> FormatError:
        """About a file of the folder; "": about the folder."""
        return FormatError(f"{shown_path(self.folder / name)}: {fact}")

    def _take(self, manifest: dict[str, Any], key: str, kind: type) -> Any:
        if not isinstance(manifest.get(key), kind):
            raise self._fault(MANIFEST, f"{key} is missing or of the wrong kind")
        return manifest[key]


class SavedTokens:
    """In place of a tokenizer: the text of the tokens as it was saved."""

    def __init__(self, tokens: list[str] | None) -> None:
        self._tokens = tokens

    def pieces(self, ids: np.ndarray) -> list[str] | None:
        return None if self._tokens is None else list(self._tokens)


def _optional(meta: dict[str, Any], key: str, kind: type) -> Any:
    """A value of `kind`, else None."""
    return meta[key] if isinstance(meta.get(key), kind) else None


def _eos(value: Any) -> Any:
    if isinstance(value, list) and all(type(i) is int for i in value):
        return tuple(value)
    return value if type(value) is int else None


def _fingerprints(saved: Saved) -> dict[str, str | None]:
    entries = saved.weight_files if isinstance(saved.weight_files, dict) else {}
    return {
        name: _optional(entry, "fingerprint", str)
        for name, entry in entries.items()
        if isinstance(entry, dict)
    }


def _weight_files(saved: Saved) -> tuple[tuple[str, int, str | None], ...]:
    found = saved.weight_files if isinstance(saved.weight_files, dict) else {}
    return tuple(
        (name, entry["bytes"], _optional(entry, "sha256", str))
        for name, entry in found.items()
        if isinstance(entry, dict) and type(entry.get("bytes")) is int
    )
