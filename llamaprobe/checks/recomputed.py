"""The values of a saved run recomputed: each by its formula from the weights and the values saved
before it, with the error that rounding may leave (formulas.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import maths
from ..captures import BEFORE
from ..checkpoint.tensors import Tensor, float_rows
from ..config import Config
from ..errors import ArgumentError, FileError, FormatError
from ..families.points import absent
from ..families.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix, matrix
from ..formulas import MAX, TINY, Formulas, U, Value, given, masked
from ..points import all_points, reads, resolve
from ..saved.read import Saved
from ..source import model_tensors
from .edited import Assigned

if TYPE_CHECKING:
    from ..model import Model

MAPS = frozenset(point.name for point in all_points() if point.width == "map")
Place = tuple[str, int]


class Undetermined(Exception):
    """A value needs weights, and there is no model."""


class Recomputed:
    """The values of one run, layer by layer: saved ones where they can be read, else computed from
    those before them. Holds one layer at a time. Without a model, what needs weights is
    Undetermined. `worst`: see formulas.py."""

    def __init__(
        self,
        saved: Saved,
        config: Config,
        model: "Model | None",
        edits: Mapping[Place, Sequence[Assigned]],
        worst: bool = False,
    ) -> None:
        """edits: of edited.assignments."""
        self.saved, self.config, self._edits = saved, config, edits
        self.of_functions: dict[int, tuple[str, int, np.ndarray, Value]] = {}
        """Of each function that was reached, by the number of its edit: its point and layer, what it
        was given, and what it should have been given."""
        self._again = Formulas(worst, saved.arithmetic_version)
        self._tensors = {tensor.name: tensor for tensor in model_tensors(model)} if model else None
        self._saved = set(saved.values())
        self._absent = absent(config)
        self._layer = 0
        self._known: dict[str, Value] = {}
        self._read: dict[tuple[str, int | None], np.ndarray] = {}
        # x_out of the layer before where it is determined, after its edits and before them
        self._x: Value | None = None
        self._x_before: Value | None = None

    def go_to(self, layer: int) -> None:
        """Moves on to a layer, with the x that the layer before it gives."""
        while self._layer < layer:
            self._x, self._x_before = self._if_known("x_out"), self._if_known("x_out" + BEFORE)
            self._layer, self._known, self._read = self._layer + 1, {}, {}

    def _if_known(self, point: str) -> Value | None:
        is_same = point.endswith(BEFORE) and ("x_out", self._layer) not in self._edits
        try:
            return self.value(point.removesuffix(BEFORE) if is_same else point)
        except Undetermined:
            return None

    def value(self, point: str) -> Value:
        """What later steps start from: the saved value, exact except for its digits, or else the
        computed one."""
        if point not in self._known:
            where = (point, self._layer if is_per_layer(point) else None)
            try:
                value = self._stored(*where) if where in self._saved else self.expected(point)
            except (FileError, FormatError):  # reported where the point itself is checked
                self._saved.remove(where)
                value = self.expected(point)
            self._known[point] = value
        return self._known[point]

    def _stored(self, point: str, layer: int | None) -> Value:
        values = self.read(point, layer)
        value = given(values, self.deviation(values))
        hidden = self._hidden(point, values.shape)
        return value if hidden is None else _with_hidden(value, hidden & np.isneginf(values))

    def read(self, point: str, layer: int | None) -> np.ndarray:
        """A saved value of this layer, float32."""
        if (point, layer) not in self._read:
            self._read[point, layer] = self.saved.value(point, layer)
        return self._read[point, layer]

    def deviation(self, values: np.ndarray) -> np.ndarray | float:
        """The error of values in files of so many digits."""
        digits = [digits for _, digits in self.saved.rounded if digits is not None]
        if not digits:
            return 0.0
        size = np.minimum(np.abs(np.nan_to_num(values, nan=0).astype(np.float64)), MAX)
        return sum(size * (0.5 * 10.0**-n + U) / np.sqrt(3) + TINY for n in digits)

    def expected(self, point: str) -> Value:
        """The value by its formula and its edits, from the values before it."""
        if point.endswith(BEFORE):
            return self._formula(point.removesuffix(BEFORE), before=True)
        edits = self._edits_of(point)
        if not edits:
            return self._formula(point)
        return self._edited(point, self.value(point + BEFORE), edits)

    def _edits_of(self, point: str) -> Sequence[Assigned]:
        is_x = point == "x" and self._layer > 0  # edited as x_out of the layer before
        return () if is_x else self._edits.get((point, self._layer), ())

    def _edited(self, point: str, value: Value, edits: Sequence[Assigned]) -> Value:
        again, is_map = self._again, point in MAPS
        shape = _core_shape(value.v.shape)
        v, s = value.v.reshape(shape).copy(), value.s.reshape(shape).copy()
        for edit in edits:
            old, new = Value(v[edit.index], s[edit.index]), given(edit.values)
            if edit.before is not None:
                self.of_functions[edit.number] = point, self._layer, edit.before, old
            if edit.op == "=":
                new = Value(
                    *np.broadcast_arrays(edit.values.astype(np.float64), np.zeros(old.v.shape))
                )
            else:
                is_hidden = np.isneginf(old.v)
                new = (again.product if edit.op == "*=" else again.total)(old, new)
                new = _with_hidden(new, is_hidden)
            if is_map:  # keys that a query does not see stay hidden
                seen = self._seen()[edit.index[1][0], edit.index[2][0]]
                new = Value(np.where(seen, new.v, old.v), np.where(seen, new.s, old.s))
            v[edit.index], s[edit.index] = new.v, new.s
        return Value(v.reshape(value.v.shape), s.reshape(value.v.shape))

    def _hidden(self, point: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Where an edit has written -inf; None without edits."""
        edits = self._edits_of(point)
        if not edits:
            return None
        hidden = np.zeros(_core_shape(shape), bool)
        for edit in edits:
            if edit.op == "=":
                hidden[edit.index] = np.isneginf(edit.values)
        return hidden.reshape(shape)

    def _seen(self) -> np.ndarray:
        """[T, T]: which keys a query of this layer sees."""
        return maths.seen(len(self.saved.token_ids), self.config.layer(self._layer).window)

    def _formula(self, point: str, *, before: bool = False) -> Value:
        """From the values before it, without edits of its own; of x, which is x_out of the layer
        before, without those only if `before`."""
        get, c, again = self.value, self.config, self._again
        source = reads(point)[0]
        if point in self._absent and point.endswith(("_norm", "_unit")):
            return get(source)
        match point:
            case "x":
                x = self._x_before if before else self._x
                if x is None and self._layer:
                    raise Undetermined
                return x if x is not None else self._embedding()
            case "logits_raw":
                head = EMBEDDING if c.tied_head else HEAD
                rows = self._rows(f"{c.prefix}{head}.weight")
                return again.linear(get("final_norm"), rows, c.vocab_size, None)
            case "logits":
                logits = get("logits_raw")
                if c.logits_divisor != 1:
                    logits = again.divided(logits, c.logits_divisor)
                return again.cap(logits, c.logits_cap) if c.logits_cap else logits
            case "hidden":
                return again.product(get("act"), get("up"))
            case "act":
                return (again.gelu_tanh if c.activation == "gelu_tanh" else again.silu)(get("gate"))
            case "x_mid" | "x_out":
                return again.total(
                    get(source), self._scaled(get(reads(point)[1]), c.residual_scale)
                )
            case "q" | "k" | "v":
                y = self._linear(get("x_norm"), point)
                return _shaped(y, (len(y.v), -1, c.head_dim))
            case "attn_out":
                return self._linear(_flat(get("z")), point)
            case "gate" | "up" | "mlp_out":
                return self._linear(get(source), point)
            case "z":
                return again.mix(get("pattern"), get("v"))
        if point.endswith(("_rms", "_unit", "_norm")):
            return self._of_norm(point, get(source))
        return self._of_attention(point)

    def _of_norm(self, point: str, x: Value) -> Value:
        """A norm goes over the last axis; that of q and k perhaps over all heads of a token."""
        c, shape, (stem, _, step) = self.config, x.v.shape, point.rpartition("_")
        flat = _flat(x) if c.qk_norm_whole and stem in ("q", "k") else x
        if step == "rms":
            return self._again.rms(flat, c.rms_norm_eps)
        if step == "unit":
            unit = self._again.unit(flat, c.rms_norm_eps)
            return _shaped(self._by_edited_rms(f"{stem}_rms", flat, unit), shape)
        return _shaped(self._again.product(flat, self._gain(point)), shape)

    def _by_edited_rms(self, point: str, x: Value, unit: Value) -> Value:
        """x * float32(1 / rms) where an edit changed the rms."""
        edits = self._edits_of(point)
        if not edits:
            return unit
        rms = self.value(point)
        inverse = self._again.reciprocal(Value(rms.v[..., None], rms.s[..., None]))
        edited = self._again.product(x, inverse)
        changed = np.zeros(_core_shape(rms.v.shape), bool)
        for edit in edits:
            changed[edit.index] = True
        changed = changed.reshape(rms.v.shape)[..., None]
        return Value(np.where(changed, edited.v, unit.v), np.where(changed, edited.s, unit.s))

    def _of_attention(self, point: str) -> Value:
        get, c, again = self.value, self.config, self._again
        rope, n, seen = c.layer(self._layer).rope, len(self.saved.token_ids), self._seen()
        match point:
            case "q_rope" | "k_rope":
                x = get(reads(point)[0])
                if rope is None:
                    return x
                inv_freq = rope.frequencies(self.saved.rope_length or n)
                return again.rotate(x, inv_freq, rope.attention_factor, c.interleaved)
            case "scores_raw":
                scores = again.scores(get("q_rope"), get("k_rope"), c.attention_scale)
                return masked(scores, seen)
            case "scores":
                raw = get("scores_raw")
                if not c.score_cap:
                    return raw
                raw = Value(np.where(seen, raw.v, 0), np.where(seen, raw.s, 0))
                return masked(again.cap(raw, c.score_cap), seen)
            case "pattern":
                scores = get("scores")
                hidden = self._hidden("scores", scores.v.shape)
                return again.pattern(scores, seen if hidden is None else seen & ~hidden)
        raise ArgumentError(f"{point} cannot be recomputed")

    def _embedding(self) -> Value:
        row = self._rows(f"{self.config.prefix}{EMBEDDING}.weight")
        x = given(np.concatenate([row(i, i + 1) for i in self.saved.token_ids.tolist()]))
        return self._scaled(x, self.config.embedding_scale)

    def _scaled(self, x: Value, scale: float) -> Value:
        return x if scale == 1 else self._again.times(x, scale)

    def _gain(self, point: str) -> Value:
        c = self.config
        if point == "final_norm":
            name = f"{c.prefix}{FINAL_NORM}.weight"
        else:
            name = f"{layer_prefix(c, self._layer)}{c.norms[point]}.weight"
        gain = self._vector(name)
        return self._again.total(gain, given(c.gain_offset)) if c.gain_offset else gain

    def _linear(self, x: Value, point: str) -> Value:
        part = matrix(self.config, point)
        name = layer_prefix(self.config, self._layer) + part.module
        first, rows = part.first_row, self._rows(f"{name}.weight")
        bias = None
        if part.has_bias:
            whole, end = self._vector(f"{name}.bias"), first + part.n_rows
            bias = Value(whole.v[first:end], whole.s[first:end])
        return self._again.linear(x, lambda a, b: rows(first + a, first + b), part.n_rows, bias)

    def _rows(self, name: str) -> Callable[[int, int], np.ndarray]:
        return float_rows(self._tensor(name))

    def _vector(self, name: str) -> Value:
        """A 1-D weight."""
        return given(self._rows(name)(0, 1)[0])

    def _tensor(self, name: str) -> Tensor:
        if self._tensors is None:
            raise Undetermined
        return self._tensors[name]


def is_per_layer(point: str) -> bool:
    return resolve(point.removesuffix(BEFORE))[0].per_layer


def _core_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[rows, heads or 1, columns], of a map [heads, rows, keys], as assignments have them."""
    return shape if len(shape) == 3 else (shape[0], 1, *shape[1:], 1)[:3]


def _with_hidden(x: Value, hidden: np.ndarray) -> Value:
    """-inf, without error, where an edit has written that."""
    return Value(np.where(hidden, -np.inf, x.v), np.where(hidden, 0, x.s))


def _shaped(x: Value, shape: tuple[int, ...]) -> Value:
    return Value(x.v.reshape(shape), x.s.reshape(shape))


def _flat(x: Value) -> Value:
    """[T, heads, h] -> [T, heads * h]."""
    return _shaped(x, (len(x.v), -1))
