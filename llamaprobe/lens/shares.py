"""Direct logit attribution: the residual stream before the last norm is a sum, and a logit is
linear in it once the norm's scale is frozen at its value in the run.

    logit = d . x_out,  d = gain * (W[token] - W[against]) / final_rms / logits_divisor
    x_out = x of layer 0 + the sum over layers of residual_scale * (attn + mlp)

attn is attn_norm in models that norm what they add, else attn_out; mlp alike. With that norm's
scale frozen too, attn_out is a sum over heads, a head a sum over sources, mlp_out a sum over
neurons. Everything is computed in float64 from captured float32, for P positions at once: d [P, D].
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ..arguments import choice, is_whole, whole
from ..errors import ArgumentError
from ..families.points import has_raw_logits
from ..points import layer_number, resolve
from .attribution import Attribution
from .noise import Noise
from .selection import Positions, Token, check_held, check_model, positions_of, token_text
from .stream import Stream, check_behind, token_ids
from .weights import Array, LensWeights, from_left

if TYPE_CHECKING:
    from ..model import Model
    from ..run import Run

BY = ("layer", "head", "neuron", "source")
_STREAM = ("x", "x_mid", "x_out")


def attribute(
    model: "Model",
    run: "Run",
    token: Token,
    *,
    against: Token | None = None,
    position: Positions = -1,
    by: str = "layer",
) -> Attribution | list[Attribution]:
    """`Model.attribute`."""
    check_model(model, run)
    by, one = choice("by", by, BY), is_whole(position)
    work = _Work(model, run, token_ids(model, token, against), positions_of(position, len(run)), by)
    found = work.attributions()
    return found[0] if one else found


def head_out(model: "Model", run: "Run", layer: SupportsIndex) -> np.ndarray[Any, Any]:
    """`Model.head_out`."""
    check_model(model, run)
    number = layer_number(whole("layer", layer), model.config.n_layers)
    check_held(run, [("z", number)], "head_out")
    z = run["z", number].astype(np.float64)
    weight = LensWeights(model).matrix("attn_out", number)
    by_head = weight.reshape(len(weight), *z.shape[1:])
    out = np.empty((*z.shape[:2], len(weight)), np.float32)
    for j in range(z.shape[1]):
        out[:, j] = z[:, j] @ by_head[:, j].T.astype(np.float64)
    return out


class _Work(Stream):
    """One attribution at several positions."""

    def __init__(
        self,
        model: "Model",
        run: "Run",
        ids: list[int],
        positions: tuple[int, ...],
        by: str,
    ) -> None:
        super().__init__(model, run, ids, positions)
        self.by = by
        check_held(run, self._needs(), f"attribution by {by}")
        self._check_edits()
        rms = self.at("final_rms")[:, None]
        w = self.head.astype(np.float64)
        row = w[0] - w[1] if len(ids) == 2 else w[0]
        self.d = self.gain.astype(np.float64) * row / rms / self.divisor

    # ---- what the run must hold ----

    def _needs(self) -> Iterator[tuple[str, int | None]]:
        layers = range(self.config.n_layers)
        finer = {"head": ("z",), "neuron": ("hidden",), "source": ("pattern", "v")}
        points = [self.added("attn"), self.added("mlp"), *finer.get(self.by, ())]
        split = {"head": "attn", "source": "attn", "neuron": "mlp"}.get(self.by)
        if split and f"{split}_norm" in self.config.norms:
            points.append(f"{split}_rms")
        yield "x", 0
        yield from ((point, layer) for point in points for layer in layers)
        yield "x_out", layers[-1]
        yield "final_rms", None
        if has_raw_logits(self.config) and self.config.logits_cap:
            yield "logits_raw", None
        yield "logits", None

    @functools.cached_property
    def _edits(self) -> dict[tuple[str, int | None], tuple[str, int | None]]:
        """Edited value -> the name that it was edited under: x of a later layer is the x_out of the
        layer before."""
        found = {}
        for edit in getattr(self.run, "edits", None) or ():
            point, inner = resolve(edit.name, self.config)
            layer = inner if edit.layer is None else edit.layer
            layer = None if layer is None else layer_number(layer, self.config.n_layers)
            value = ("x_out", layer - 1) if point.name == "x" and layer else (point.name, layer)
            found[value] = point.name, layer
        return found

    def _check_edits(self) -> None:
        check_behind(self.run)
        for (point, _), name in self._edits.items():
            if point in _STREAM:
                held = [name, (f"{name[0]}.before", name[1])]
                check_held(self.run, held, "attribution of an edited run")

    def _moved(self, value: tuple[str, int | None]) -> Array:
        """[P, D]: what an edit added to the residual stream."""
        point, layer = self._edits[value]
        return self.at(point, layer) - self.at(f"{point}.before", layer)

    # ---- shares ----

    def attributions(self) -> list[Attribution]:
        raw = "logits_raw" if self.config.logits_cap else "logits"
        total = self._logits(raw)
        if self.config.logits_cap:
            total = total / self.divisor
        logit = self._logits("logits")
        noise = self._noise(worst=False)
        parts = self._parts(noise)
        noise.add(noise.digits(total))
        names = [(id, token_text(self.model, id)) for id in self.ids]
        found = [
            Attribution(
                {kind: part[i] for kind, part in parts.items()},
                by=self.by,
                token=names[0],
                against=names[1] if len(names) == 2 else None,
                position=position,
                total=float(total[i]),
                logit=float(logit[i]),
                bound=float(noise.bound[i]),
                run=self.run,
            )
            for i, position in enumerate(self.positions)
        ]
        self._check(found)
        return found

    def _logits(self, point: str) -> Array:
        """[P]: the logit of the token, or the difference of two."""
        values = self.at(point)[:, self.ids]
        if not np.isfinite(values).all():
            raise ArgumentError(
                f"{point} of this run has values that are not finite at the requested positions"
            )
        total: Array = values[:, 0] - values[:, 1] if len(self.ids) == 2 else values[:, 0]
        return total

    def _check(self, found: list[Attribution]) -> None:
        """ArgumentError if float32 rounding does not explain the remainder."""
        if all(abs(each.rounding) <= each.bound for each in found):
            return
        noise = self._noise(worst=True)
        self._parts(noise)
        for each, bound in zip(found, noise.bound, strict=True):
            if not abs(each.rounding) <= bound:
                raise ArgumentError(
                    f"the shares at position {each.position} differ from the logit by"
                    f" {each.rounding:.3g}, and rounding explains at most {bound:.3g}: the weights"
                    " are not those of the run, or its values were altered"
                )

    def _noise(self, worst: bool) -> Noise:
        return Noise(worst, self.run.arithmetic_version, self.run.rounded)

    def _parts(self, noise: Noise) -> dict[str, Array]:
        """Kind -> [P, ...], in the order of the residual stream; adds its errors to `noise`."""
        c, found = self.config, _Table(len(self.positions), self.config.n_layers)
        x = self.at("x", 0)
        noise.add_captured(self.d, x)
        found.parts["embed"] = _dot(self.d, x)
        if ("x", 0) in self._edits:
            moved = _dot(self.d, self._moved(("x", 0)))
            found.parts |= {"embed": found.parts["embed"] - moved, "edit_embed": moved}
        for layer in range(c.n_layers):
            for stem, stream in (("attn", "x_mid"), ("mlp", "x_out")):
                added = self.at(self.added(stem), layer)
                x = x + self.scale * added
                noise.add_sum(self.d, x, added, self.scale)
                for kind, share in self._shares(stem, layer, added, noise).items():
                    found.add(kind, layer, share)
                if (stream, layer) in self._edits:
                    moved = self._moved((stream, layer))
                    found.add("edit", layer, _dot(self.d, moved))
                    x = x + moved
        last = self.at("x_out", c.n_layers - 1)
        noise.add_relative(_dot(self.d, last), 2, of=self.at("final_rms"))
        noise.add_head(last, self.gain, c.rms_norm_eps, self.head / self.divisor)
        return found.parts

    def _shares(self, stem: str, layer: int, added: Array, noise: Noise) -> dict[str, Array]:
        """Kind -> [P, ...]: what a layer's attention or MLP adds, whole or split."""
        whole = self.scale * _dot(self.d, added)
        if self.by == "layer" or (self.by == "neuron") != (stem == "mlp"):
            noise.add_captured(self.d * self.scale, added)
            return {stem: whole}
        split = {"head": self._heads, "neuron": self._neurons, "source": self._sources}[self.by]
        shares = split(layer, added, noise)
        if any((point, layer) in self._edits for point in _split_points(self.by, stem)):
            sums = [share.reshape(len(share), -1).sum(axis=1) for share in shares.values()]
            shares["edit"] = whole - sum(sums)
        return shares

    def _direction(self, stem: str, layer: int, added: Array, noise: Noise) -> Array:
        """[P, D]: the vector whose dot product with attn_out or mlp_out is its share."""
        d = self.d * self.scale
        point = f"{stem}_norm"
        if point not in self.config.norms:
            return d
        rms = self.at(f"{stem}_rms", layer)
        noise.add_norm(d, added)
        noise.add_relative(_dot(d, added), 2, of=rms)
        return d * self.weights.gain(point, layer).astype(np.float64) / rms[:, None]

    def _through(
        self, point: str, layer: int, d: Array, x: Array, noise: Noise
    ) -> tuple[Array, dict[str, Array]]:
        """d W [P, n_cols], and the share of the bias; adds the error of W x to `noise`."""
        weight, bias = self.weights.matrix(point, layer), self.weights.bias(point, layer)
        noise.add_product(d, x, weight, bias)
        stem = point.removesuffix("_out")
        return from_left(d, weight), {} if bias is None else {f"{stem}_bias": d @ bias}

    def _heads(self, layer: int, added: Array, noise: Noise) -> dict[str, Array]:
        d = self._direction("attn", layer, added, noise)
        z = self.at("z", layer)
        e, bias = self._through("attn_out", layer, d, z.reshape(len(z), -1), noise)
        return {"head": _dot(e.reshape(z.shape), z), **bias}

    def _neurons(self, layer: int, added: Array, noise: Noise) -> dict[str, Array]:
        d = self._direction("mlp", layer, added, noise)
        hidden = self.at("hidden", layer)
        e, bias = self._through("mlp_out", layer, d, hidden, noise)
        return {"neuron": e * hidden, **bias}

    def _sources(self, layer: int, added: Array, noise: Noise) -> dict[str, Array]:
        c = self.config
        d = self._direction("attn", layer, added, noise)
        pattern = self.run["pattern", layer][:, self.positions].astype(np.float64)
        p = pattern.swapaxes(0, 1)  # [P, H, T]
        v = np.repeat(self.run["v", layer].astype(np.float64), c.n_heads // c.n_kv_heads, axis=1)
        z = np.einsum("pjk,kjh->pjh", p, v, optimize=True).reshape(len(p), -1)
        e, bias = self._through("attn_out", layer, d, z, noise)
        e = e.reshape(len(p), c.n_heads, c.head_dim)
        noise.add_mix(e, p, v)
        return {"source": p * np.einsum("pjh,kjh->pjk", e, v, optimize=True), **bias}


def _split_points(by: str, stem: str) -> tuple[str, ...]:
    """Points between the pieces of a split and their sum: edits of these get separate rows."""
    points = f"{stem}_out", f"{stem}_unit", f"{stem}_norm"
    return (*points, "z") if by == "source" else points


class _Table:
    """Kind -> [P, L, ...], with zeros for layers that have no such row."""

    def __init__(self, n_positions: int, n_layers: int) -> None:
        self.parts: dict[str, Array] = {}
        self._shape = n_positions, n_layers

    def add(self, kind: str, layer: int, share: Array) -> None:
        if kind not in self.parts:
            self.parts[kind] = np.zeros((*self._shape, *share.shape[1:]))
        self.parts[kind][:, layer] += share


def _dot(a: Array, b: Array) -> Array:
    """The dot product over the last axis."""
    return np.einsum("...i,...i->...", a, b)
