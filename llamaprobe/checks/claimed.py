"""What a saved run claims besides its values, against what follows from its tokens and its model.

Masks, meta files, the manifest's entries and the set of files are made again, as a save of this run
would write them, and compared bit for bit: each file by its sha256, and JSON files key by key where
that differs. Facts that neither tokens nor model determine (the version of llamaprobe, the name
under which the model was opened, the date of a chat) are taken from the files, must be the same in
every meta file, and are listed as unchecked.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..captures import BEFORE
from ..checkpoint.tensor_names import find_unused
from ..config import Config, inverse_frequencies
from ..errors import ArgumentError, Error, FileError, FormatError
from ..files.atomic import file_error, open_regular
from ..files.encode import Encoder, number_encoder
from ..files.fingerprint import REPLACED
from ..files.json_file import show
from ..files.paths import path_entry
from ..messages import printable, shown_path
from ..points import resolve
from ..points import shape as shape_of
from ..prompts.chat import TEMPLATE_INPUTS, ChatOptions
from ..prompts.tokenizer import Tokenizer
from ..run import Run
from ..saved.edits import edit_encoders
from ..saved.manifest import MANIFEST, file_entry, hash_file
from ..saved.read import Saved, SavedTokens
from ..saved.run_folder import (
    file_name,
    is_own_name,
    mask_encoders,
    meta_encoders,
    run_manifest,
    weight_entries,
)
from ..saved_run import run_of

if TYPE_CHECKING:
    from ..model import Model

_STATED = (
    "prompt",
    "template_date",
    "template_vars",
    "tools",
    "continue_final_message",
    "ignore",
    "model",
    "model_folder",
    "model_file",
    "revision",
    "llamaprobe_version",
)
# Fields of an Origin that come from the model to compare with.
_OF_MODEL = ("config", "weight_files", "fingerprints", "unused", "quantization")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COUNTS = ("saturated", "nan")

Facts = tuple[list[tuple[str, str]], list[str], list[str]]  # (file, fault); notes; unchecked


class Claimed:
    """A saved run and what it should hold. Without `model`, as far as the files determine it."""

    def __init__(self, saved: Saved, model: "Model | None") -> None:
        self.saved, self._model = saved, model
        self._digests: dict[str, str] = {}
        self._faulty: set[str] = set()

    def digest(self, name: str) -> str | None:
        """sha256 of a file, from `file_faults`."""
        return self._digests.get(name)

    # ---- files ----

    def file_faults(self) -> Iterator[tuple[str, str]]:
        """(name, fault) of each file that is missing, irregular, not as in the manifest, or not of
        this run."""
        wanted = self._wanted
        for name, entry in self.saved.files.items():
            fault = self._file_fault(name, entry)
            if wanted and not fault:
                fault = _entry_fault(entry, wanted[name]) if name in wanted else _NO_FILE
            if fault:
                self._faulty.add(name)
                yield name, fault
        for name in wanted:
            if name not in self.saved.files:
                self._faulty.add(name)
                here = os.path.lexists(self.saved.path(name))
                yield name, _NOT_LISTED if here else f"is missing, and {_NOT_LISTED}"
        if self.saved.is_known:
            for name in self._names():
                if is_own_name(name) and name not in self.saved.files and name not in wanted:
                    yield name, f"is a file of another run: {_NOT_LISTED}"

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.saved.folder))
        except OSError as error:
            raise file_error(error, self.saved.folder) from error

    def _file_fault(self, name: str, entry: dict[str, Any]) -> str:
        path, listed = self.saved.path(name), entry.get("bytes")
        try:
            with open_regular(path) as file:  # a file of another size is not read
                n_bytes = os.fstat(file.fileno()).st_size
            if _differ(n_bytes, listed) and (listed is not None or self.saved.format_version):
                return f"has {n_bytes} bytes, and {MANIFEST} says {show(listed)}"
            self._digests[name] = hash_file(path)
        except FileError as error:
            return str(error).removeprefix(f"{shown_path(path)}: ")
        return "" if self.digest(name) == entry.get("sha256") else _OTHER_SHA256

    def count_fault(self, name: str, counts: dict[str, int]) -> str:
        """The fault in the manifest's counts of saturated and NaN values."""
        entry = self.saved.files.get(name, {})
        for key, value in counts.items():
            if _differ(entry.get(key), value):
                return f"{MANIFEST} says {show(entry.get(key))} {key}, and it is {value}"
        return ""

    @cached_property
    def _wanted(self) -> dict[str, Encoder]:
        """Every file of this run: masks and meta files as they should be, values with shape and
        dtype alone. Empty where that is not known."""
        saved = self.saved
        try:
            run = self._run
        except (FileError, FormatError):
            return {}
        if not saved.is_known:
            return {}
        encoders = {}
        for point, layers in saved.points.items():
            numbers: list[int | None] = [*layers] or [None]
            for layer in numbers:
                value = run[point] if layer is None else run[point, layer]
                encoder = number_encoder(
                    _nothing, (1, *value.shape), value.dtype, saved.format, header=saved.has_header
                )
                encoders[file_name(point, layer, saved.format)] = encoder
        return encoders | self._masks | self._metas | edit_encoders(run.edits)

    @cached_property
    def _masks(self) -> dict[str, Encoder]:
        """Both or none: a run is saved with or without."""
        encoders = mask_encoders(self._run, self.saved.format, self.saved.has_header)
        held = any(
            name in self.saved.files or os.path.lexists(self.saved.folder / name)
            for name in encoders
        )
        return encoders if held else {}

    @cached_property
    def _metas(self) -> dict[str, Encoder]:
        return meta_encoders(self._run, self.saved.points)

    # ---- facts ----

    def fact_faults(self) -> Facts:
        """Faults, what was not compared and why, and the facts that nothing determines. Files that
        `file_faults` found wrong are skipped."""
        faults, notes = list(self._masks_wrong()), list(self._notes)
        faults += [(name, text) for name in self._metas if (text := self._meta_fault(name))]
        wrong, left_out = self._weights_wrong()
        faults += [(MANIFEST, text) for text in (*self._manifest_wrong(), *wrong)]
        texts, unchecked = self._stated_wrong()
        faults += [(f"meta_layer{self._first}.json", text) for text in texts]
        return faults, notes + left_out, unchecked

    @property
    def _first(self) -> int:
        """The layer whose meta file gives the facts."""
        return next(iter(self.saved.metas), 0)

    @cached_property
    def _run(self) -> Run:
        """The run with its facts and shapes; its values are zeros that use no memory. FileError,
        FormatError."""
        saved, model = self.saved, self._model
        origin = saved.origin(None if model is None else model.config)
        origin = dataclasses.replace(origin, rounded=saved.rounded_before)
        if model is not None:
            of_model = {name: getattr(model.origin, name) for name in _OF_MODEL}
            if not self._knows_unused:
                of_model["unused"] = origin.unused
            origin = dataclasses.replace(origin, **of_model)
        values = {}
        for point, layers in saved.points.items():
            plain = resolve(point.removesuffix(BEFORE), origin.config)[0]
            shape = shape_of(plain, origin.config, len(saved.token_ids))
            axes = (len(layers), *shape) if layers else shape
            values[point] = tuple(layers), np.broadcast_to(np.float32(0), axes)
        origin = dataclasses.replace(origin, tokenizer=SavedTokens(self._tokens))
        return run_of(saved, values, origin)

    @property
    def _knows_unused(self) -> bool:
        """Whether the version that made the run looked for unused tensors: a run of version 0 lists
        none when it is saved again."""
        return self.saved.arithmetic_version > 0

    @cached_property
    def _tokenizer(self) -> Tokenizer | str:
        """The model's, or why it is missing."""
        if self._model is None:
            return "needs the model"
        try:
            return self._model.tokenizer
        except Error as error:
            return str(error)

    @cached_property
    def _tokens(self) -> list[str] | None:
        """The text of each token, from the tokenizer, else from the files."""
        stated = self.saved.meta.get("tokens")
        if isinstance(self._tokenizer, str):
            return stated if isinstance(stated, list) else None
        if stated is None and self.saved.meta.get("prompt") is None:
            return None  # the folder had no tokenizer: see _notes
        return self._tokenizer.pieces(self.saved.token_ids)

    @property
    def _notes(self) -> Iterator[str]:
        if not isinstance(self._tokenizer, str) and self._tokens is None:
            yield "tokens: the run has none, and the model has a tokenizer now"
        source = self._model and self._model.origin
        stated = self.saved.meta.get("revision")
        if source and source.folder is None and None not in (stated, source.revision):
            if self.saved.meta.get("model") == source.model and stated != source.revision:
                yield f"revision: the run's is {show(stated)}, the model's {source.revision}"

    def _masks_wrong(self) -> Iterator[tuple[str, str]]:
        for name, encoder in self._masks.items():
            if name in self._faulty or self.digest(name) == encoded_digest(encoder):
                continue
            ids = self.saved.token_ids
            wanted = np.ones_like(ids) if name.startswith("attention") else np.arange(len(ids))
            wanted = wanted[None].astype(np.int64)
            try:
                found = self.saved.array(name, wanted.shape, "int64")
            except Error as error:
                yield name, str(error)
                continue
            if found.shape == wanted.shape and found.dtype == wanted.dtype:
                if np.array_equal(found, wanted):
                    if self.saved.format != "npy":  # NumPy's header varies
                        yield name, _SPELLED
                    continue
            shown = "all 1" if name.startswith("attention") else "0, 1, 2, ..."
            yield name, f"is not {shown} for {wanted.size} tokens"

    def _meta_fault(self, name: str) -> str:
        """The first wrong key of a meta file."""
        encoder = self._metas[name]
        if name in self._faulty or self.digest(name) == encoded_digest(encoder):
            return ""
        try:
            found = self.saved.layer_meta(int(re.findall(r"[0-9]+", name)[0]))
        except (FileError, FormatError) as error:
            return str(error)
        wanted = json.loads(encoder.header)
        return _keys_fault(found, wanted) or _SPELLED

    def _manifest_wrong(self) -> Iterator[str]:
        saved = self.saved
        wanted = run_manifest(
            self._run,
            saved.points,
            saved.format,
            saved.digits,
            saved.has_header,
            saved.files,
            hash_weights=False,
        )
        wanted["weight_files"] = saved.manifest.get("weight_files")
        fault = _keys_fault(saved.manifest, json.loads(json.dumps(wanted)))
        if fault:
            yield fault

    def _weights_wrong(self) -> tuple[list[str], list[str]]:
        """Faults in the manifest's weight_files, and what it does not record."""
        stated = self.saved.weight_files
        faults: list[str] = []
        notes: list[str] = []
        if not isinstance(stated, dict):
            return ["weight_files is missing"], notes
        here = weight_entries(self._run, False)
        paths = {os.path.basename(path): path for path, *_ in self._run.weight_files}
        for name in sorted({*here, *stated}):
            at, entry, wanted = f"weight_files: {printable(name)}", stated.get(name), here.get(name)
            if not isinstance(entry, dict) or wanted is None:
                faults.append(f"{at} is {'missing' if wanted else 'not a file of the model'}")
                continue
            if set(entry) != set(wanted):
                faults.append(f"{at} does not have exactly the keys {', '.join(wanted)}")
                continue
            if self._model is None:
                continue
            if REPLACED in (entry["fingerprint"], wanted["fingerprint"]):
                notes.append(f"{at} was replaced after it was opened")
                continue
            if entry["fingerprint"] is None:
                notes.append(f"{at} has no fingerprint")
            if entry["sha256"] is not None and wanted["sha256"] is None:
                wanted = wanted | {"sha256": hash_file(paths[name])}
            for key, value in wanted.items():
                if _differ(entry[key], value) and (entry[key] is not None or key == "bytes"):
                    faults.append(f"{at}: {key} is {show(entry[key])}, the model's {show(value)}")
        return faults, notes

    def _stated_wrong(self) -> tuple[list[str], list[str]]:
        """Faults in the facts that the meta files state, and the facts left unchecked."""
        known: set[str] = set()
        left = [] if isinstance(self._tokenizer, Tokenizer) else ["tokens"]
        faults = [*self._prompt_wrong(known), *self._inputs_wrong(), *self._ignore_wrong()]
        if self._model is None:
            if "config" not in self.saved.manifest:  # else these numbers were read from it
                faults += self._rope_wrong(self._run.config)
            left += ["weight_files", "quantization"]
        faults += self._revision_wrong(known)
        left += [key for key in _STATED if key not in known]
        left += self._acted()
        all_stated = self.saved.manifest | self.saved.meta | dict.fromkeys(self._acted(), True)
        empty: tuple[Any, ...] = (None, [], {}, False)
        return faults, [key for key in left if all_stated.get(key) not in empty]

    def _acted(self) -> list[str]:
        """What nothing determines of edits and generation."""
        edits, facts = self.saved.edits, self.saved.generated
        left = ["source of edits"] if any(edit.source for edit in edits) else []
        left += ["functions of edits"] if any(edit.function for edit in edits) else []
        left += ["session_prompt_tokens"] if edits.session_prompt is not None else []
        if facts is not None:
            left += ["stop"] + ["n_tokens"] * (facts.stopped_by != "length")
        return left

    def _prompt_wrong(self, known: set[str]) -> Iterator[str]:
        prompt, tokens = self.saved.prompt(), self.saved.meta.get("tokens")
        if isinstance(tokens, list) and not _are_texts(tokens, len(prompt.token_ids)):
            yield f"tokens is not a list of {len(prompt.token_ids)} texts"
        if prompt.date is not None and prompt.text is None:
            yield "template_date is given without a prompt"
        if prompt.date is not None and not _is_day(prompt.date):
            yield f"template_date is {show(prompt.date)}, not a day as YYYY-MM-DD"
        if prompt.text is None or not isinstance(self._tokenizer, Tokenizer):
            return
        try:
            facts = self.saved.generated
            ids = prompt.token_ids[: facts.n_prompt if facts else None]
            gives = self._tokenizer.gives(prompt.text, ids, chat=prompt.date is not None)
        except Error:
            return
        known.add("prompt")
        if not gives:
            yield "the text of prompt does not give these token_ids"

    def _inputs_wrong(self) -> Iterator[str]:
        """Inputs of a chat template belong to a chat, and are those that `Model.run` records."""
        meta = self.saved.meta
        stated = {key: meta[key] for key in TEMPLATE_INPUTS if key in meta}
        if stated and self.saved.prompt().date is None:
            yield f"{', '.join(stated)} without template_date, which every chat has"
            return
        try:
            wanted = ChatOptions(**stated).check().inputs
        except ArgumentError as error:
            yield str(error)
            return
        for key, value in stated.items():
            if key not in wanted or _differ(value, wanted[key]):
                yield f"{key} is {show(value)}, which no chat records"

    def _ignore_wrong(self) -> Iterator[str]:
        """The model must open with the globs of the run."""
        globs, model = self.saved.strings("ignore"), self._model
        if model is None or model._checkpoint is None or not self._knows_unused:
            return
        try:
            unused = find_unused(model.config, model._checkpoint.names, globs)
        except ArgumentError as error:
            yield str(error)
            return
        if unused.refused and model._opening.layers is None:
            yield f"ignore does not match {printable(unused.refused[0])}: the model would not open"

    def _revision_wrong(self, known: set[str]) -> Iterator[str]:
        """The commit, if name and folder are those of this model. Two commits of a repo may have
        the same weights, so another commit is not a fault."""
        meta = self.saved.meta
        stated = meta.get("revision")
        if stated is not None and not (isinstance(stated, str) and _COMMIT.fullmatch(stated)):
            yield f"revision is {show(stated)}, which is not a commit"
        folder = path_entry(meta, "model_folder")
        if folder is not None and not os.path.isabs(folder):
            yield f"model_folder is {show(folder)}, which is not absolute"
        if self._model is None:
            return
        source = self._model.origin
        here = {"model": source.model, "model_folder": source.folder, "revision": source.revision}
        here["model_file"] = source.file
        same = {key for key, value in here.items() if path_entry(meta, key) == value}
        if not {"model", "model_folder"} <= same:
            return
        known |= same
        if "revision" not in same and (stated is None or source.folder is not None):
            yield f"revision is {show(stated)}, and the model's {show(source.revision)}"

    def _rope_wrong(self, config: Config) -> Iterator[str]:
        """Without a model, of a Llama: numbers that follow from others in the same file."""
        if config.attention_scale != float(np.float32(1 / math.sqrt(config.head_dim))):
            yield f"attention_scale is {config.attention_scale}, which is not 1 / sqrt(head_dim)"
        try:
            with np.errstate(all="ignore"):
                inv_freq = inverse_frequencies(
                    config.rope_theta, config.head_dim, config.rope_scaling
                )
                close = np.allclose(config.inv_freq, inv_freq, rtol=1e-6, atol=0)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            close = False
        if not close:
            yield "inv_freq does not follow from rope_theta and rope_scaling"


_OTHER_SHA256 = f"its sha256 is not the one in {MANIFEST}"
_NO_FILE = f"is listed in {MANIFEST}, but is not a file of this run"
_NOT_LISTED = f"{MANIFEST} does not list it"
_SPELLED = "has the same content, but is not written as llamaprobe writes it"


def encoded_digest(encoder: Encoder) -> str:
    """sha256 of the file that an encoder makes."""
    digest = hashlib.sha256()
    for part in encoder.parts():
        digest.update(part)
    return digest.hexdigest()


def _entry_fault(entry: dict[str, Any], encoder: Encoder) -> str:
    """The fault in an entry of the manifest, without bytes and sha256."""
    wanted = {key: entry.get(key) for key in ("bytes", "sha256", *_COUNTS)}
    wanted |= file_entry(encoder, 0, "") | {key: entry.get(key) for key in ("bytes", "sha256")}
    for key in _COUNTS:
        if key not in encoder.counts:
            del wanted[key]
        elif type(entry.get(key)) is int and entry[key] >= 0:  # checked with the tokens run again
            wanted[key] = entry[key]
    fault = _keys_fault(entry, json.loads(json.dumps(wanted)))
    return fault and f"{MANIFEST} is wrong about it: {fault}"


def _keys_fault(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first key that is missing, wrong, or does not belong there."""
    for key, value in wanted.items():
        if key not in found:
            return f"{key} is missing"
        if _differ(found[key], value):
            if isinstance(found[key], dict) and isinstance(value, dict):
                return f"{key}: {_keys_fault(found[key], value)}"
            return f"{key} is {show(found[key])} and should be {show(value)}"
    for key in found:
        if key not in wanted:
            return f"{printable(key)} is not a key of this file"
    return ""


def _differ(a: Any, b: Any) -> bool:
    """Of values from JSON: 1, 1.0 and true differ, and so do 0.0 and -0.0."""
    return json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)


def _are_texts(tokens: list[Any], n: int) -> bool:
    return len(tokens) == n and all(isinstance(token, str) for token in tokens)


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _nothing(first: int, count: int) -> np.ndarray:
    return np.zeros(count, np.float32)
