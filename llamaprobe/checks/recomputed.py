"""The values of a saved run recomputed: each by its formula from the weights and the values saved
before it, with the error that rounding may leave (recompute.py).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint.tensors import Tensor, float_rows
from ..config import Config, tensors
from ..errors import ArgumentError, FileError, FormatError
from ..families.tensors import layer_prefix
from ..points import reads, resolve
from ..saved.read import Saved
from ..source import model_tensors
from .recompute import MAX, TINY, Formulas, U, Value, given

if TYPE_CHECKING:
    from ..model import Model


class Undetermined(Exception):
    """A value needs weights, and there is no model."""


class Recomputed:
    """The values of one run, layer by layer: saved ones where they can be read, else computed from
    those before them. Holds one layer at a time. Without a model, what needs weights is
    Undetermined. `worst`: see recompute.py."""

    def __init__(
        self, saved: Saved, config: Config, model: "Model | None", worst: bool = False
    ) -> None:
        self.saved, self.config = saved, config
        self._again = Formulas(worst, saved.arithmetic_version)
        self._tensors = {tensor.name: tensor for tensor in model_tensors(model)} if model else None
        self._saved = set(saved.values())
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
        match point:
            case "x":
                if self._x is None and self._layer:
                    raise Undetermined
                return self._x if self._x is not None else given(self._embedding())
            case "x_rms" | "x_mid_rms" | "final_rms":
                return again.rms(get(source), c.rms_norm_eps)
            case "x_unit" | "x_mid_unit" | "final_unit":
                return again.unit(get(source), c.rms_norm_eps)
            case "x_norm" | "x_mid_norm" | "final_norm":
                return again.product(get(source), self._vector(self._names(point)[0]))
            case "q" | "k" | "v":
                return self._heads(self._linear(get("x_norm"), point))
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
                return self._linear(flat, point)
            case "x_mid":
                return again.total(get("x"), get("attn_out"))
            case "gate" | "up":
                return self._linear(get("x_mid_norm"), point)
            case "act":
                return again.silu(get("gate"))
            case "hidden":
                return again.product(get("act"), get("up"))
            case "mlp_out":
                return self._linear(get("hidden"), point)
            case "x_out":
                return again.total(get("x_mid"), get("mlp_out"))
            case "logits":
                head = self._names("x" if c.tied_head else point)[0]
                return again.linear(get("final_norm"), self._rows(head), c.vocab_size, None)
        raise ArgumentError(f"{point} cannot be recomputed")

    def _embedding(self) -> np.ndarray:
        row = self._rows(self._names("x")[0])
        return np.concatenate([row(i, i + 1) for i in self.saved.token_ids.tolist()])

    def _names(self, point: str) -> list[str]:
        """The tensors that a point of this layer is computed from, a bias after its weight."""
        return [
            layer_prefix(self.config, self._layer) + name if is_of_layer else name
            for name, _, reader, is_of_layer in tensors(self.config)
            if reader == point
        ]

    def _linear(self, x: Value, point: str) -> Value:
        weight, *bias = self._names(point)
        tensor = self._tensor(weight)
        vector = self._vector(bias[0]) if bias else None
        return self._again.linear(x, float_rows(tensor), tensor.shape[0], vector)

    def _heads(self, y: Value) -> Value:
        shape = (len(y.v), -1, self.config.head_dim)
        return Value(y.v.reshape(shape), y.s.reshape(shape))

    def _rows(self, name: str) -> Callable[[int, int], np.ndarray]:
        return float_rows(self._tensor(name))

    def _vector(self, name: str) -> Value:
        """A 1-D weight."""
        return given(self._rows(name)(0, 1)[0])

    def _tensor(self, name: str) -> Tensor:
        if self._tensors is None:
            raise Undetermined
        return self._tensors[name]
