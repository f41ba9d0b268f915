"""The values of a saved run recomputed: each by its formula from the weights and the values saved
before it, with the error that rounding may leave (formulas.py).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .. import maths
from ..checkpoint.tensors import Tensor, float_rows
from ..config import Config
from ..errors import ArgumentError, FileError, FormatError
from ..families.points import absent
from ..families.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix, matrix
from ..formulas import MAX, TINY, Formulas, U, Value, given, masked
from ..points import reads, resolve
from ..saved.read import Saved
from ..source import model_tensors

if TYPE_CHECKING:
    from ..model import Model


class Undetermined(Exception):
    """A value needs weights, and there is no model."""


class Recomputed:
    """The values of one run, layer by layer: saved ones where they can be read, else computed from
    those before them. Holds one layer at a time. Without a model, what needs weights is
    Undetermined. `worst`: see formulas.py."""

    def __init__(
        self, saved: Saved, config: Config, model: "Model | None", worst: bool = False
    ) -> None:
        self.saved, self.config = saved, config
        self._again = Formulas(worst, saved.arithmetic_version)
        self._tensors = {tensor.name: tensor for tensor in model_tensors(model)} if model else None
        self._saved = set(saved.values())
        self._absent = absent(config)
        self._layer = 0
        self._known: dict[str, Value] = {}
        self._read: dict[tuple[str, int | None], np.ndarray] = {}
        self._x: Value | None = None  # x_out of the layer before, where it is determined

    def go_to(self, layer: int) -> None:
        """Moves on to a layer, with the x that the layer before it gives."""
        while self._layer < layer:
            try:
                self._x = self.value("x_out")
            except Undetermined:
                self._x = None
            self._layer, self._known, self._read = self._layer + 1, {}, {}

    def value(self, point: str) -> Value:
        """What later steps start from: the saved value, exact except for its digits, or else the
        computed one."""
        if point not in self._known:
            where = (point, self._layer if resolve(point)[0].per_layer else None)
            try:
                value = self._stored(*where) if where in self._saved else self.expected(point)
            except (FileError, FormatError):  # reported where the point itself is checked
                self._saved.remove(where)
                value = self.expected(point)
            self._known[point] = value
        return self._known[point]

    def _stored(self, point: str, layer: int | None) -> Value:
        values = self.read(point, layer)
        return given(values, self.deviation(values))

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
        """The value by its formula, from the values before it."""
        get, c, again = self.value, self.config, self._again
        source = reads(point)[0]
        if point in self._absent and point.endswith(("_norm", "_unit")):
            return get(source)
        match point:
            case "x":
                if self._x is None and self._layer:
                    raise Undetermined
                return self._x if self._x is not None else self._embedding()
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
            return _shaped(self._again.unit(flat, c.rms_norm_eps), shape)
        return _shaped(self._again.product(flat, self._gain(point)), shape)

    def _of_attention(self, point: str) -> Value:
        get, c, again = self.value, self.config, self._again
        window, rope = c.layer(self._layer)
        n = len(self.saved.token_ids)
        seen = maths.seen(n, window)
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
                return again.pattern(get("scores"), seen)
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


def _shaped(x: Value, shape: tuple[int, ...]) -> Value:
    return Value(x.v.reshape(shape), x.s.reshape(shape))


def _flat(x: Value) -> Value:
    """[T, heads, h] -> [T, heads * h]."""
    return _shaped(x, (len(x.v), -1))
