"""Is a saved run true? Its files against its manifest, against the weights, and against the run
made again.

Three checks, from the outside in. The sha256 of every file is the manifest's. Every saved value is,
within what float32 rounding explains, what the values saved before it and the weights determine
(recompute.py: float64 in NumPy, none of the code that made the files): x_norm from x, q from
x_norm, ..., x of the next layer, logits. And the same tokens run again give the same bits, which is
a promise of llamaprobe on every machine; files with fewer digits must hold what those bits are
rounded to.

A file that is missing or cannot be read is a fault, and the rest is checked all the same. Without
the model what the files determine among themselves is checked: scores from q_rope and k_rope, x_mid
from x and attn_out.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import recompute as again
from .config import Config
from .errors import ArgumentError, FileError, FormatError
from .files import MANIFEST, hash_file
from .hex_words import fixed_point
from .names import counted
from .recompute import U, Value, exact
from .saved import Saved
from .tables import text_values
from .tensors import Tensor, float_rows, model_tensors

if TYPE_CHECKING:
    from .model import Model

BAR = 8.0  # standard deviations; honest runs stay below 5, whatever their digits
_AGAIN = "the same tokens run again"
_OTHER_SHA256 = f"its sha256 is not the one in {MANIFEST}"
_FLOOR = 4e-37  # absolute: where exp(-gate) and denormals leave float32 behind


@dataclass(frozen=True)
class Check:
    """What was found about a file, or about one capture point in all layers that were saved."""

    what: str
    fault: str = ""  # altered, missing or unreadable, in words; "" when all is well
    roundings: float | None = (
        None  # of a point: largest error, 1 being what float32 rounding is expected to leave
    )
    note: str = ""  # what could not be checked, and why, though nothing is wrong with it


def verify_run(
    folder: str | os.PathLike[str], model: "Model | None" = None
) -> Iterator[Check]:
    """Checks a folder that `save_run` wrote against the model it was made with, one Check after the
    other: the files that are not what the manifest says, each point, and the run made again. All is
    true when no Check has a `fault`, and all was checked when none has a `note`. Without `model`
    only what needs no weights is.

    Raises FileError and FormatError when there is no manifest or it makes no sense, and
    ArgumentError when `model` is another one than the files say.
    """
    saved = Saved(folder)
    yield from _check_files(saved)
    try:
        config = saved.config() if model is None else model.config
        saved.token_ids
    except (FileError, FormatError) as error:
        yield Check("values", f"none can be checked: {error}")
        return
    if model is not None:
        _check_model(saved, model)
    unreadable: set[_Where] = set()
    yield from _check_values(saved, Recomputed(saved, config, model), unreadable)
    if model is None:
        yield Check(_AGAIN, note="not checked: needs the model")
    else:
        yield from _check_bits(saved, model, unreadable)


def _check_files(saved: Saved) -> Iterator[Check]:
    n_wrong = 0
    for name, entry in saved.files.items():
        path = saved.path(name)
        try:
            fault = "" if hash_file(path) == entry.get("sha256") else _OTHER_SHA256
        except FileError as error:
            fault = str(error).removeprefix(f"{path}: ")
        if fault:
            n_wrong += 1
            yield Check(name, fault)
    if not n_wrong:
        yield Check(f"{counted(len(saved.files), 'file')} as in {MANIFEST}")


def _check_model(saved: Saved, model: "Model") -> None:
    """The numbers that the files and the model both have must be the same."""
    config = model.config
    if saved.token_ids.max() >= config.vocab_size:
        raise ArgumentError(
            f"{saved.folder}: token id {saved.token_ids.max()} is none of the model's "
            f"{config.vocab_size}: give the one that the run was made with (--model)"
        )
    n_layers = saved.numbers.get("n_layers", config.n_layers)
    if n_layers != config.n_layers:
        raise ArgumentError(
            f"{saved.folder}: the model of the run had {str(n_layers)[:60]} layers, and this one has"
            f" {config.n_layers}: give the one that the run was made with; layers= of load opens the"
            f" first ones"
        )
    same = {
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
    for layer in saved.layers or [0]:
        try:
            meta = saved.layer_meta(layer)
        except (FileError, FormatError):  # its sha256 told
            continue
        for key, value in same.items():
            if meta.get(key) != value:
                raise ArgumentError(
                    f"{saved.folder}/meta_layer{layer}.json: {key} is {str(meta.get(key))[:60]}, "
                    f"and the model has {str(value)[:60]}: "
                    "give the one that the run was made with (--model)"
                )


# ---- values ----


class Undetermined(Exception):
    """The files alone do not determine a value: it takes weights, and there is no model."""


class Recomputed:
    """The values of one model and one prompt, layer by layer: saved ones where they were saved and
    can be read, else computed from those before them. Holds one layer at a time. Without a model,
    what takes weights is Undetermined."""

    def __init__(self, saved: Saved, config: Config, model: "Model | None") -> None:
        self.saved, self.config = saved, config
        self._tensors = {tensor.name: tensor for tensor in model_tensors(model)} if model else None
        self._saved = set(saved.values())
        self._layer = 0
        self._known: dict[str, Value] = {}
        self._x: Value | None = None  # x_out of the layer before, where it is determined

    def go_to(self, layer: int) -> None:
        """Moves on; what the next layer's x is determined by is computed first."""
        while self._layer < layer:
            try:
                self._x = self.value("x_out")
            except Undetermined:
                self._x = None
            self._layer, self._known = self._layer + 1, {}

    def value(self, point: str) -> Value:
        """What later steps start from: the saved value, which is exact but for its digits, or the
        computed one."""
        if point not in self._known:
            once = point in ("final_rms", "final_unit", "final_norm", "logits")
            where = (point, None if once else self._layer)
            try:
                value = self.stored(*where) if where in self._saved else self.expected(point)
            except (FileError, FormatError):  # which is told where the point itself is checked
                self._saved.remove(where)
                value = self.expected(point)
            self._known[point] = value
        return self._known[point]

    def stored(self, point: str, layer: int | None) -> Value:
        value = exact(self.saved.value(point, layer))
        digits = self.saved.digits
        if digits is None:
            return value
        finite = np.where(np.isfinite(value.v), value.v, 0)
        return Value(value.v, np.abs(finite) * (0.5 * 10.0**-digits + U) / np.sqrt(3))

    def expected(self, point: str) -> Value:
        """The value by its formula, from the values before it."""
        get, c = self.value, self.config
        match point:
            case "x":
                if self._x is None and self._layer:
                    raise Undetermined
                return self._x if self._x is not None else exact(self._embedding())
            case "x_rms" | "x_mid_rms" | "final_rms":
                return again.rms(get(_INPUT[point]), c.rms_norm_eps)
            case "x_unit" | "x_mid_unit" | "final_unit":
                return again.unit(get(_INPUT[point]), c.rms_norm_eps)
            case "x_norm" | "x_mid_norm" | "final_norm":
                return again.product(get(_INPUT[point]), exact(self._vector(_WEIGHT[point])))
            case "q" | "k" | "v":
                return self._heads(self._linear(get("x_norm"), f"self_attn.{point}_proj"))
            case "q_rope" | "k_rope":
                return again.rotate(get(point[0]), c.inv_freq)
            case "scores":
                return again.scores(get("q_rope"), get("k_rope"), c.attention_scale)
            case "pattern":
                return again.pattern(get("scores"))
            case "z":
                return again.mix(get("pattern"), get("v"))
            case "attn_out":
                z = get("z")
                flat = Value(z.v.reshape(len(z.v), -1), z.s.reshape(len(z.v), -1))
                return self._linear(flat, "self_attn.o_proj")
            case "x_mid":
                return again.total(get("x"), get("attn_out"))
            case "gate" | "up":
                return self._linear(get("x_mid_norm"), f"mlp.{point}_proj")
            case "act":
                return again.silu(get("gate"))
            case "hidden":
                return again.product(get("act"), get("up"))
            case "mlp_out":
                return self._linear(get("hidden"), "mlp.down_proj")
            case "x_out":
                return again.total(get("x_mid"), get("mlp_out"))
            case "logits":
                head = "model.embed_tokens.weight" if c.tied_head else "lm_head.weight"
                return again.linear(get("final_norm"), self._rows(head), c.vocab_size, None)
        raise ArgumentError(f"{point} cannot be recomputed")

    def _embedding(self) -> np.ndarray:
        row = self._rows("model.embed_tokens.weight")
        return np.concatenate([row(i, i + 1) for i in self.saved.token_ids.tolist()])

    def _linear(self, x: Value, name: str) -> Value:
        weight = self._tensor(f"model.layers.{self._layer}.{name}.weight")
        bias = self._vector(f"{name}.bias") if self._has_bias(name) else None
        return again.linear(x, float_rows(weight), weight.shape[0], bias)

    def _has_bias(self, name: str) -> bool:
        return f"model.layers.{self._layer}.{name}.bias" in (self._tensors or {})

    def _heads(self, y: Value) -> Value:
        shape = (len(y.v), -1, self.config.head_dim)
        return Value(y.v.reshape(shape), y.s.reshape(shape))

    def _rows(self, name: str) -> Callable[[int, int], np.ndarray]:
        return float_rows(self._tensor(name))

    def _vector(self, name: str) -> np.ndarray:
        """A 1-D weight; of this layer unless it is the final norm's."""
        full = name if name == "model.norm.weight" else f"model.layers.{self._layer}.{name}"
        return self._rows(full)(0, 1)[0].astype(np.float64)

    def _tensor(self, name: str) -> Tensor:
        if self._tensors is None:
            raise Undetermined
        return self._tensors[name]


_INPUT = {
    **{"x_rms": "x", "x_unit": "x", "x_norm": "x_unit"},
    **{"x_mid_rms": "x_mid", "x_mid_unit": "x_mid", "x_mid_norm": "x_mid_unit"},
    **{"final_rms": "x_out", "final_unit": "x_out", "final_norm": "final_unit"},
}
_WEIGHT = {
    "x_norm": "input_layernorm.weight",
    "x_mid_norm": "post_attention_layernorm.weight",
    "final_norm": "model.norm.weight",
}


_Where = tuple[str, int | None]  # (point, layer); None: not of a layer


def _check_values(
    saved: Saved, recomputed: Recomputed, unreadable: set[_Where]
) -> Iterator[Check]:
    """One Check per point, of all its layers. Values that cannot be read go into `unreadable`."""
    found: dict[str, list[Check]] = {point: [] for point in saved.points}
    for point, layer in saved.values():
        recomputed.go_to(recomputed.config.n_layers - 1 if layer is None else layer)
        try:
            stored = recomputed.stored(point, layer)
        except (FileError, FormatError) as error:
            unreadable.add((point, layer))
            found[point].append(Check(point, f"{_of(layer)}cannot be checked: {error}"))
            continue
        try:
            if fixed_point(saved.format):
                found[point].append(Check(point, note="fixed point; see the run made again"))
            else:
                found[point].append(_compare(point, layer, stored, recomputed.expected(point)))
        except Undetermined:
            found[point].append(Check(point, note="needs the weights"))
    yield from (_of_all_layers(point, checks) for point, checks in found.items())


def _of(layer: int | None) -> str:
    return "" if layer is None else f"of layer {layer} "


def _of_all_layers(point: str, checks: list[Check]) -> Check:
    """The worst of its layers: first what is altered, by how much, then what cannot be read."""
    sizes = [check.roundings for check in checks if check.roundings is not None]
    faults = sorted((c for c in checks if c.fault), key=lambda c: -(c.roundings or -1))
    notes = [check.note for check in checks if check.note]
    fault = faults[0].fault if faults else ""
    if len(faults) > 1:
        fault += f" (and {counted(len(faults) - 1, 'more layer')})"
    where = f" in {len(notes)} of {len(checks)} layers" if len(notes) < len(checks) else ""
    note = f"not checked{where}: {notes[0]}" if notes else ""
    return Check(point, fault, max(sizes) if sizes else None, note)


def _compare(point: str, layer: int | None, found: Value, wanted: Value) -> Check:
    """Where no rounding is expected (x of a layer whose input is a saved value) there may be no
    difference."""
    with np.errstate(invalid="ignore"):
        error = np.where(found.v == wanted.v, 0, np.abs(found.v - wanted.v))  # inf - inf is nan
    error[np.isnan(found.v) & np.isnan(wanted.v)] = 0
    unit = np.hypot(found.s, wanted.s)
    one_rounding = np.maximum(U * np.abs(np.nan_to_num(wanted.v)), _FLOOR)
    roundings = np.nan_to_num(
        error / np.where(unit > 0, np.maximum(unit, _FLOOR), one_rounding), nan=np.inf
    )
    share = np.where(unit > 0, roundings / BAR, np.where(error > 0, np.inf, 0))
    i = np.unravel_index(np.argmax(share), share.shape)
    fault = ""
    if share[i] > 1:
        at, is_, should = list(map(int, i)), found.v[i], wanted.v[i]
        fault = f"{_of(layer)}at {at} is {is_:.9g} and should be {should:.9g}"
    return Check(point, fault, float(roundings.max()))


def _check_bits(saved: Saved, model: "Model", unreadable: set[_Where]) -> Iterator[Check]:
    """The run again: every saved value that can be read must have its bits, or be what they are
    rounded to."""
    run: Any = model.run(saved.token_ids, points=tuple(saved.points), layers=saved.layers or None)
    n_different, first = 0, ""
    for point, layer in saved.values():
        if (point, layer) in unreadable:
            continue
        found = saved.value(point, layer)
        wanted = text_values(
            run[point] if layer is None else run[point, layer], saved.format, saved.digits
        )
        different = (found != wanted) & ~(np.isnan(found) & np.isnan(wanted))
        if different.any() and not n_different:
            first = f"{point} of layer {layer}" if layer is not None else point
        n_different += int(different.sum())
    differ = "value differs" if n_different == 1 else "values differ, the first"
    fault = f"{n_different} {differ} in {first}" if n_different else ""
    note = f"{counted(len(unreadable), 'value')} could not be read" if unreadable else ""
    yield Check(_AGAIN, fault, note=note)
