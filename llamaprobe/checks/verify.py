"""Is a saved run true? Five checks, from the outside in.

1. Every file has the size and the sha256 of the manifest.
2. Masks, meta files and manifest are what the run would write now (claimed.py).
3. Every saved value follows from the values saved before it and the weights, within float32
   rounding: x_norm from x, q from x_norm, ..., x of the next layer, logits (formulas.py: float64
   in NumPy, independent of the code that made the files).
4. The same tokens run again, in one pass, give the same bits, as llamaprobe promises for every
   machine; files with fewer digits must hold those bits rounded.
5. Generated tokens are what the logits of that pass give (generated.py).

Recorded edits are made in 3 and 4 (edited.py): what a function of `map` left is taken as it is, and
what it was given is checked.

A file that is missing or cannot be read is a fault, and the rest is still checked. Without the
model the files are checked against each other: scores from q_rope and k_rope, x_mid from x and
attn_out. Where a run of another format or arithmetic version may rightly differ, it is noted as not
compared.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from ..config import Config
from ..edits.resolve import Bound
from ..errors import (
    ArgumentError,
    EditError,
    Error,
    FileError,
    FormatError,
    NewerFormatError,
    PointError,
)
from ..files.encode import check_digits, text_values
from ..files.hex import fixed_point
from ..formulas import BAR, MAX, TINY, U, Value
from ..messages import counted, shown_path
from ..origin import ARITHMETIC_VERSION
from ..saved.manifest import FORMAT_VERSION, MANIFEST
from ..saved.read import Saved
from ..saved.run_folder import file_name, value_encoder
from ..saved_run import sample_of
from .again import engine_of, run_again
from .claimed import Claimed, encoded_digest
from .edited import Assigned, assignments, count_faults, index_faults, replayed
from .generated import end_faults, token_faults
from .recomputed import Place, Recomputed, Undetermined

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

_AGAIN = "the same tokens run again"
_EDITS = "edits"
_NEW = "new tokens"
_FACTS = "tokens, masks, meta"


@dataclass(frozen=True)
class Check:
    """The result for a file, or for one capture point in all its saved layers."""

    what: str
    fault: str = ""  # altered, missing or unreadable, in words
    roundings: float | None = None  # of a point: largest error; 1 is what float32 rounding leaves
    note: str = ""  # what could not be checked, and why
    unchecked: tuple[str, ...] = ()  # facts that neither tokens nor model determine


def verify_run(folder: str | os.PathLike[str], model: "Model | None" = None) -> Iterator[Check]:
    """Checks the folder of a saved run against the model it was made with and yields a Check for
    each file that differs from the manifest, for the facts that follow from tokens and model, for
    each point, and for the tokens run again. All is true if no Check has a `fault`; all was checked
    if none has a `note`, except the facts in `unchecked`. Without `model` only what needs no
    weights is checked.

    Raises FileError and FormatError when the manifest is missing or damaged, and ArgumentError when
    `model` has other numbers than the files.
    """
    try:
        saved = Saved(folder)
    except NewerFormatError as error:
        known = f"format version {error.version}, and this llamaprobe knows up to {FORMAT_VERSION}"
        yield Check(MANIFEST, note=f"not compared: {known}")
        return
    try:
        config = saved.config() if model is None else model.config
        saved.token_ids, saved.edits, sample_of(saved)  # noqa: B018 - reads them, or raises
    except (FileError, FormatError) as error:
        yield from _of_files(Claimed(saved, None))
        yield Check("values", f"none can be checked: {error}")
        return
    if model is not None:
        _check_model(saved, config)  # first: of another model no encoder can be made
    claimed = Claimed(saved, model)
    yield from _of_files(claimed)
    yield from _of_facts(claimed)
    unreadable: set[_Where] = set()
    bits = _why_no_bits(saved, model)
    try:
        edits = replayed(saved, config)
        assigned = assignments(edits, config, len(saved.token_ids))
    except (EditError, PointError) as error:
        yield Check(_EDITS, f"cannot be made: {error}")
        return
    if edits is not None:
        yield from (Check(_EDITS, fault) for fault in index_faults(saved, config))
    yield from _check_values(saved, config, model, assigned, unreadable, fixed_note=bits)
    if model is None or bits:
        yield Check(_AGAIN, note=bits)
        return
    try:
        run = run_again(saved, model, edits)
    except EditError as error:  # a query without a key, a number that is not finite
        yield Check(_EDITS, f"cannot be made: {error}")
        return
    if edits is not None:
        faults = [*count_faults(saved, config, edits)]
        yield from (Check(_EDITS, fault) for fault in faults)
        if not faults:
            yield Check(f"{counted(len(saved.edits), 'edit')} made again")
    if saved.generated is not None:
        yield from _check_tokens(saved, model, edits, run)
    yield from _check_bits(claimed, run, unreadable)


def _of_files(claimed: Claimed) -> Iterator[Check]:
    n_wrong = 0
    for name, fault in claimed.file_faults():
        n_wrong += 1
        yield Check(name, fault)
    if not n_wrong:
        yield Check(f"{counted(len(claimed.saved.files), 'file')} as in {MANIFEST}")


def _of_facts(claimed: Claimed) -> Iterator[Check]:
    """Masks, meta files and manifest."""
    saved = claimed.saved
    if not saved.is_known:
        note = f"not compared: format version {saved.format_version}, and this is {FORMAT_VERSION}"
        yield Check(_FACTS, note=note)
        return
    faults, notes, unchecked = claimed.fact_faults()
    yield from (Check(what, fault) for what, fault in faults)
    if not faults or notes or unchecked:
        yield Check(_FACTS, note="; ".join(notes), unchecked=tuple(unchecked))


def _why_no_bits(saved: Saved, model: "Model | None") -> str:
    """Why the tokens cannot be run again; "" if they can."""
    if model is None:
        return "not checked: needs the model"
    if saved.arithmetic_version != ARITHMETIC_VERSION:
        return (
            f"not compared: arithmetic version {saved.arithmetic_version}, and this is"
            f" {ARITHMETIC_VERSION}"
        )
    return ""


def _check_model(saved: Saved, config: Config) -> None:
    """ArgumentError for a model whose numbers are not those of the run. One that differs only in
    some meta files is reported later, as a fault of these."""
    for fact in _other_numbers(saved, config):
        raise ArgumentError(
            f"{shown_path(saved.folder)}: {fact}: give the one that the run was made with (--model);"
            " layers= of load opens the first layers of a model"
        )


def _other_numbers(saved: Saved, config: Config) -> Iterator[str]:
    if (token_id := saved.token_ids.max()) >= config.vocab_size:
        yield f"token id {token_id} is not below the model's vocab_size, {config.vocab_size}"
    n_layers = saved.numbers.get("n_layers", config.n_layers)
    if n_layers != config.n_layers:
        had = str(n_layers)[:60]
        yield f"the model of the run had {had} layers, and this one has {config.n_layers}"
    if saved.layers and saved.layers[-1] >= config.n_layers:
        last = saved.layers[-1]
        yield f"the run has values of layer {last}, the model layers 0 to {config.n_layers - 1}"
    numbers = {
        "d_model": config.d_model,
        "d_ff": config.d_ff,
        "num_heads": config.n_heads,
        "num_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "attention_scale": config.attention_scale,
        "inv_freq": config.inv_freq.tolist(),
    }
    for key, value in numbers.items():
        found = [meta.get(key) for meta in saved.metas.values()]
        if found and all(each != value for each in found):
            stated, of_model = str(found[0])[:60], str(value)[:60]
            yield f"{key} is {stated} in the meta_layer files, and {of_model} in the model"


# ---- values ----


_Where = tuple[str, int | None]  # (point, layer); None: not of a layer


def _check_values(
    saved: Saved,
    config: Config,
    model: "Model | None",
    edits: Mapping[Place, Sequence[Assigned]],
    unreadable: set[_Where],
    fixed_note: str,
) -> Iterator[Check]:
    """One Check per point, of all its layers. Values that cannot be read go into `unreadable`.
    What fails with independent errors is compared again with their bound."""
    found: dict[str, list[Check]] = {point: [] for point in saved.points}
    recomputed, strict = Recomputed(saved, config, model, edits), None
    with np.errstate(all="ignore"):  # numbers of any file may leave float64
        for point, layer in saved.values():
            at = config.n_layers - 1 if layer is None else layer
            recomputed.go_to(at)
            try:
                values = recomputed.read(point, layer)
            except (FileError, FormatError) as error:
                unreadable.add((point, layer))
                found[point].append(Check(point, f"{_of(layer)}cannot be checked: {error}"))
                continue
            if any(fixed_point(format) for format, _ in saved.rounded):
                found[point].append(Check(point, note=fixed_note and "fixed point"))
                continue
            s = recomputed.deviation(values)
            try:
                check = _compare(point, layer, values, s, recomputed.expected(point))
                if check.fault:
                    strict = strict or Recomputed(saved, config, model, edits, worst=True)
                    strict.go_to(at)
                    bound = _compare(point, layer, values, s, strict.expected(point))
                    check = check if bound.fault else bound
                found[point].append(check)
            except Undetermined:
                found[point].append(Check(point, note="needs the weights"))
    yield from (_of_all_layers(point, checks) for point, checks in found.items())
    if any(fixed_point(format) for format, _ in saved.rounded):
        return
    with np.errstate(all="ignore"):
        yield from _given_faults(
            recomputed, lambda: Recomputed(saved, config, model, edits, worst=True)
        )


def _given_faults(recomputed: Recomputed, strict: Callable[[], Recomputed]) -> Iterator[Check]:
    """What functions of edits were given, against the formulas."""
    worst = None
    found = recomputed.of_functions.items()
    for number, (point, layer, given, wanted) in sorted(found, key=lambda each: each[1][1]):
        check = _compare(point, layer, given, 0.0, wanted)
        if check.fault:
            worst = worst or strict()
            worst.go_to(layer)
            worst.expected(point)
            check = _compare(point, layer, given, 0.0, worst.of_functions[number][3])
        if check.fault:
            yield Check(_EDITS, f"edit {number}, {point}: before {check.fault}")


def _of(layer: int | None) -> str:
    return "" if layer is None else f"of layer {layer} "


def _of_all_layers(point: str, checks: list[Check]) -> Check:
    """The worst of its layers: altered values first, by size, then unreadable ones."""
    sizes = [check.roundings for check in checks if check.roundings is not None]
    faults = sorted((c for c in checks if c.fault), key=lambda c: -(c.roundings or -1))
    notes = [check.note for check in checks if check.note]
    fault = faults[0].fault if faults else ""
    if len(faults) > 1:
        fault += f" (and {counted(len(faults) - 1, 'more layer')})"
    where = f" in {len(notes)} of {len(checks)} layers" if len(notes) < len(checks) else ""
    note = f"not checked{where}: {notes[0]}" if notes else ""
    return Check(point, fault, max(sizes) if sizes else None, note)


def _compare(
    point: str, layer: int | None, values: np.ndarray, s: np.ndarray | float, wanted: Value
) -> Check:
    """Where no rounding is expected (x of a layer whose input was saved) no difference is
    allowed."""
    found = values.astype(np.float64)
    if np.any(s):  # the largest numbers may have been rounded to infinity
        beyond = np.isinf(found) & np.isfinite(wanted.v)
        found = np.where(beyond, np.copysign(MAX, found), found)
    with np.errstate(invalid="ignore"):
        error = np.where(found == wanted.v, 0, np.abs(found - wanted.v))  # inf - inf is nan
        unit = np.hypot(s, wanted.s)
        one_rounding = np.maximum(U * np.abs(np.nan_to_num(wanted.v)), TINY)
        roundings = error / np.where(unit > 0, unit, one_rounding)
    roundings = np.where(np.isinf(unit), 0, np.nan_to_num(roundings, nan=np.inf))
    share = np.where(unit > 0, roundings / BAR, np.where(error == 0, 0, np.inf))
    i = np.unravel_index(np.argmax(share), share.shape)
    fault = ""
    if share[i] > 1:
        at, is_, should = list(map(int, i)), values[i], wanted.v[i]
        fault = f"{_of(layer)}at {at} is {is_:.9g} and should be {should:.9g}"
    return Check(point, fault, float(roundings.max()))


# ---- the run again ----


def _check_tokens(saved: Saved, model: "Model", edits: Bound | None, run: "Run") -> Iterator[Check]:
    """Each new token is what the rule draws from the logits before it, and the text ends there."""
    facts = saved.generated
    assert facts is not None
    faults: list[str] = []
    note = ""

    def again(ids: list[int]) -> np.ndarray:
        return run_again(saved, model, edits, np.array(ids, np.int32))["logits"]

    try:
        faults += token_faults(saved, run["logits"], again) if facts.ids else ()
    except ArgumentError as error:  # logits that choose no token
        faults.append(str(error))
    try:
        faults += end_faults(facts, engine_of(model))
    except Error as error:
        note = f"why the text ended was not checked: {error}"
    yield from (Check(_NEW, fault) for fault in faults)
    if note or not faults:
        yield Check(f"{counted(len(facts.ids), 'new token')} drawn again", note=note)


def _check_bits(claimed: Claimed, run: "Run", unreadable: set[_Where]) -> Iterator[Check]:
    """Every saved value that can be read must have the bits of the tokens run again, or those bits
    rounded. A file that would be written with the same bytes is not read."""
    saved = claimed.saved
    n_different, first, spelled = 0, "", []
    for point, layer in saved.values():
        if (point, layer) in unreadable:
            continue
        name = file_name(point, layer, saved.format)
        fault, n = _same(claimed, name, point, layer, run)
        if n and not first:
            first = point if layer is None else f"{point} of layer {layer}"
        n_different += n
        if fault:
            spelled.append(Check(name, fault))
    yield from spelled
    differ = "value differs" if n_different == 1 else "values differ, the first"
    fault = f"{n_different} {differ} in {first}" if n_different else ""
    note = f"{counted(len(unreadable), 'value')} could not be read" if unreadable else ""
    yield Check(_AGAIN, fault, note=note)


def _same(
    claimed: Claimed, name: str, point: str, layer: int | None, run: "Run"
) -> tuple[str, int]:
    """The fault in how a file is written, and how many of its values differ from the run's."""
    saved = claimed.saved
    value = run[point] if layer is None else run[point, layer]
    for rounded in saved.rounded_before:
        value = text_values(value, *rounded)
    digits = check_digits(saved.digits)
    encoder = value_encoder(point, value, saved.format, digits, saved.has_header, _core.cores())
    same_bytes = encoded_digest(encoder) == claimed.digest(name)
    is_ours = saved.is_known
    fault = claimed.count_fault(name, encoder.counts) if is_ours else ""
    if same_bytes:
        return fault, 0
    found, wanted = saved.value(point, layer), text_values(value, saved.format, saved.digits)
    is_nan = np.isnan(wanted)
    same = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & is_nan)
    varies = saved.format == "npy" or is_nan.any()  # NumPy's header; what a NaN carries
    if same.all() and is_ours and not varies and not fault:
        fault = "holds these numbers, but is not written as llamaprobe writes them"
    return fault, int(np.count_nonzero(~same))
