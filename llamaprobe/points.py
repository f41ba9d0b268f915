"""The capture points: their names here and elsewhere, shapes and formulas.

The list is csrc/model/points.h, read from the core at first use; formulas, the names that other tools
have for exactly the same value, and what a family lacks or calls otherwise are in families/points.py.
A name that other tools use for a value that only looks alike is refused, with the way out.
"""

import difflib
import fnmatch
import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, SupportsIndex
from weakref import WeakKeyDictionary

from .arguments import is_iterable, is_whole, shown
from .config import Config
from .errors import PointError
from .families.meta import has_more
from .families.points import (
    FORMULAS,
    LLAMA_FORMULAS,
    absent,
    embedding_is_x,
    formulas,
    has_raw_logits,
    lens_names,
    modules,
)
from .views.model import PointList

# Path of a module in a layer of a Hugging Face model, and the points that are its input and output.
_IN_LAYER: dict[str, tuple[str, str | None]] = {
    "": ("x", "x_out"),
    "input_layernorm": ("x", "x_norm"),
    "self_attn": ("x_norm", "attn_out"),
    "self_attn.q_proj": ("x_norm", "q"),
    "self_attn.k_proj": ("x_norm", "k"),
    "self_attn.v_proj": ("x_norm", "v"),
    "self_attn.q_norm": ("q", "q_norm"),
    "self_attn.k_norm": ("k", "k_norm"),
    "self_attn.o_proj": ("z", "attn_out"),
    "post_attention_layernorm": ("x_mid", "x_mid_norm"),
    "mlp": ("x_mid_norm", "mlp_out"),
    "mlp.gate_proj": ("x_mid_norm", "gate"),
    "mlp.up_proj": ("x_mid_norm", "up"),
    "mlp.act_fn": ("gate", "act"),
    "mlp.down_proj": ("hidden", "mlp_out"),
}
_LENS = {
    name: lens for name, (_, lens) in (FORMULAS | LLAMA_FORMULAS).items() if name != "logits_raw"
}
_VALUES = {name: formula for name, (formula, _) in (FORMULAS | LLAMA_FORMULAS).items()}
# Those outside of the layers: point and layer, None for a point that is not per layer.
_OUTSIDE: dict[str, tuple[tuple[str, int | None] | None, tuple[str, int | None]]] = {
    "embed_tokens": (None, ("x", 0)),
    "norm": (("x_out", -1), ("final_norm", None)),
    "lm_head": (("final_norm", None), ("logits", None)),
}
_EMBED = ("embed", "hook_embed", "embed.hook_out")  # x of layer 0

# Names of something other than a point.
_REFUSED = {
    "hidden_states": "entry i < n_layers is x of layer i, the last entry is final_norm",
    "past_key_values": "request k_rope and v",
    "head_out": "model.head_out(run, layer) computes it from z",
    "hook_result": "model.head_out(run, layer) computes it from z",
    "hook_attn_in": "not offered; it is a copy of x",
    "hook_q_input": "not offered; it is a copy of x",
    "hook_k_input": "not offered; it is a copy of x",
    "hook_v_input": "not offered; it is a copy of x",
    "hook_mlp_in": "not offered; it is a copy of x_mid",
    "tokens": "run.token_ids and run.tokens have them",
    "input_ids": "run.token_ids has them",
}
# Axes other than tokens, as data frames name them.
_DIMS = {
    "n_heads": "head",
    "n_kv_heads": "kv_head",
    "head_dim": "dim",
    "d_model": "channel",
    "d_ff": "neuron",
    "vocab_size": "id",
}
# nnsight writes `model.` once more, layers[3], .output[0] and .inputs[0][0]
_MODULE = re.compile(
    r"(?:model\.)*(?:layers(?:\.(L|[0-9]{1,9})|\[([0-9]{1,9})\])(?:\.(?=.)|$))?([a-z_.]*)"
)
_SIDE = re.compile(r"\.(inputs?|output)(?:\[0\])*$")
_NUMBERED = re.compile(r"(blocks\.|(?:model\.)?layers\.|attentions\[)([0-9]{1,9})")
_SHORT = re.compile(r"([a-z_]+)([0-9]{1,9})(ln[12]|[a-z]*)")  # k6, scale4ln1
_MODULES = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}


@dataclass(frozen=True)
class Point:
    """One capture point; `number` is its place in the order of computation."""

    name: str
    """As `Model.run` takes it."""
    number: int
    width: str
    """Which numbers of the model its axes have; `shape` has them in words."""
    per_layer: bool
    """Each layer has one; else the run has one."""
    formula: str
    """In the notation of docs/points.md."""
    aliases: tuple[str, ...]
    """Names of the same value elsewhere, L standing for the layer number."""

    @property
    def shape(self) -> str:
        """The shape in words; T is the number of tokens."""
        return f"[{', '.join(axes(self.width))}]"

    def __repr__(self) -> str:
        each = " of each layer" if self.per_layer else ""
        return f"<Point {self.name}: {self.shape}{each}, {self.formula}>"


Name = str | tuple[str, int] | tuple[str, int, str]
Layers = SupportsIndex | Iterable[SupportsIndex] | slice | None


Modules = dict[str, tuple[str, str | None]]
Outside = dict[str, tuple[tuple[str, int | None] | None, tuple[str, int | None]]]


@dataclass(frozen=True, eq=False)
class _Names:
    """The points of one sort of model, and what names mean in it."""

    in_layer: Modules
    outside: Outside
    lens: dict[str, str]
    absent: dict[str, str]
    """Point -> why the model lacks it."""
    formulas: dict[str, str]

    @functools.cached_property
    def points(self) -> tuple[Point, ...]:
        from . import _core

        return tuple(
            Point(name, number, width, per_layer, self.formulas[name], self._elsewhere(name))
            for number, (name, width, per_layer) in enumerate(_core.points())
            if name not in self.absent
        )

    @functools.cached_property
    def by_name(self) -> dict[str, Point]:
        return {point.name: point for point in self.points}

    def _elsewhere(self, name: str) -> tuple[str, ...]:
        paths = {f"model.layers.L.{path}".rstrip("."): ends for path, ends in self.in_layer.items()}
        given = [path for path, (_, gives) in paths.items() if gives == name]
        taken = [f"{path}.input" for path, (takes, _) in paths.items() if takes == name]
        for path, (takes, gives) in self.outside.items():
            path = path if path == "lm_head" else f"model.{path}"
            given += [path] * (gives == (name, None))
            taken += [f"{path}.input"] * (takes == (name, None))
        return (*self.lens.get(name, "").split(), *given, *taken)

    @functools.cached_property
    def aliases(self) -> dict[str, tuple[Point, int | None]]:
        """Every accepted name; those of a block also without it, where unambiguous."""
        table: dict[str, tuple[Point, int | None]] = {}
        short: dict[str, list[Point]] = {}
        for point in self.points:
            for alias in point.aliases:
                table[alias] = point, None
                inner = re.sub(r"^(blocks|model\.layers)\.L\.", "", alias)
                if inner != alias:
                    table.setdefault(alias.removeprefix("model."), (point, None))
                    for part in {inner, inner.rpartition(".")[2], inner.rpartition("hook_")[2]}:
                        short.setdefault(part, []).append(point)
        for part, meant in short.items():
            if len(set(meant)) == 1 and part not in ("hook_in", "hook_out", "in", "out", "input"):
                table.setdefault(part, (meant[0], None))
        table |= {point.name: (point, None) for point in self.points}
        if "embed_tokens" in self.outside:
            table |= {name: (self.points[0], 0) for name in _EMBED}
        return table


@functools.cache
def _any_model() -> _Names:
    """All points; names elsewhere are those of a Llama."""
    return _Names(_IN_LAYER, _OUTSIDE, _LENS, {}, _VALUES)


_OF_CONFIG: "WeakKeyDictionary[Config, _Names]" = WeakKeyDictionary()


def _names(config: Config | None) -> _Names:
    if config is None:
        return _any_model()
    names = _OF_CONFIG.get(config)
    if names is None:
        outside = dict(_OUTSIDE)
        if not embedding_is_x(config):
            del outside["embed_tokens"]
        if has_raw_logits(config):
            outside["lm_head"] = ("final_norm", None), ("logits_raw", None)
        lens = _LENS | lens_names(config)
        values = _VALUES | (formulas(config) if has_more(config) else {})
        names = _Names(modules(config), outside, lens, absent(config), values)
        _OF_CONFIG[config] = names
    return names


def all_points() -> tuple[Point, ...]:
    """Every point of any model, in the order of computation; no model has all of them."""
    return _any_model().points


def llama_points() -> tuple[Point, ...]:
    """Those of a Llama."""
    return tuple(point for point in all_points() if point.name in LLAMA_FORMULAS)


class ModelPoints:
    """The method `points`, of a model and of its class."""

    def __get__(self, model: Any, owner: object = None) -> Callable[[], list[Point]]:
        return lambda: PointList(llama_points() if model is None else points_of(model.config))


def points_of(config: Config) -> tuple[Point, ...]:
    """The points of a model, with the names that they have in it elsewhere."""
    return _names(config).points


def resolve(name: Name, config: Config | None = None) -> tuple[Point, int | None]:
    """The point that a name means, and the layer number if the name has one.

    In a model, if its config is given: PointError says why it lacks a point.

    Accepted: our names ("x_norm"; ("x_norm", 3)); "embed", which is x of layer 0; TransformerLens
    names in full ("blocks.3.hook_resid_pre"), without the block ("hook_resid_pre", "resid_pre"),
    or as `get_act_name` takes them ("k6", "scale4ln1", ("normalized", 27, "ln2")); the path of any
    module of a Hugging Face Llama ("model.layers.3.mlp.gate_proj", also with nnsight's "model."
    before it; "self_attn.q_proj" without a layer), which means the module's output, also written
    ".output" or ".output[0]", or with ".input" its input; the names of docs/points.md.
    A negative layer counts from the last and is returned unchanged.
    Raises PointError with near matches, or with the reason where the name means something else.
    """
    text, layer, module = _split(name)
    point, inner = _lookup(_names(config), text, module)
    if layer is not None and inner is not None and layer != inner:
        raise PointError(f"{_shown(name)} names two layers, {inner} and {layer}")
    layer = inner if layer is None else layer
    if layer is not None and not point.per_layer:
        raise PointError(f"{_shown(name)} names a layer, but {point.name} is computed once")
    return point, layer


class _IfPresent(str):
    """The name of a point that is passed over in a model that lacks it."""


DEFAULT_POINTS = ("x", _IfPresent("x_norm"))
"""What is kept without a request."""


def resolve_all(
    names: str | Iterable[Name], config: Config
) -> Iterator[tuple[Name, Point, int | None]]:
    """(name, point, layer from 0 on or None) of each requested name, in that order.

    A name may also be "all", or a pattern with * or ? ("x*", ("x_*", 3),
    "blocks.*.hook_resid_pre"), for our names or, if none matches, for those elsewhere. PointError,
    also for an empty list.
    """
    if isinstance(names, str) or is_pair(names):
        names = (names,)  # type: ignore[assignment]
    listed: list[Any] = list(names) if is_iterable(names) else []
    if not listed:
        raise PointError(
            'points is empty or not a list; give names, which Model.points() lists, or "all"'
        )
    for name in listed:
        if isinstance(name, _IfPresent) and name in _names(config).absent:
            continue
        for point, layer in _matches(name, _names(config)) or [resolve(name, config)]:
            yield name, point, None if layer is None else layer_number(layer, config.n_layers)


def is_pattern(name: Name) -> bool:
    """Whether a name may match several points: "all", or one with * or ?. PointError."""
    text, _, module = _split(name)
    return module is None and (text == "all" or "*" in text or "?" in text)


def shape(point: Point, config: Config, n_tokens: int) -> tuple[int, ...]:
    """The shape of one layer's value for one prompt, without a layer axis."""
    found = tuple(n_tokens if axis == "T" else getattr(config, axis) for axis in axes(point.width))
    return found[:1] if config.qk_norm_whole and point.name in ("q_rms", "k_rms") else found


def axes(width: str) -> list[str]:
    """The axes of a width: "T", the number of tokens, or the name of a number of Config."""
    return _widths()[width].split()


@functools.cache
def _widths() -> dict[str, str]:
    from . import _core

    return _core.widths()


def dims(point: Point, config: Config) -> tuple[str, ...]:
    """The names of the axes of run[point]: layer, token, head, channel, ...; of a map the second
    axis of tokens is key."""
    return axis_names(point, len(shape(point, config, 1)))


def axis_names(point: Point, n: int) -> tuple[str, ...]:
    """Those of a point with n axes."""
    names: list[str] = ["layer"] if point.per_layer else []
    for axis in axes(point.width)[:n]:
        name = _DIMS.get(axis, "token")
        names.append("key" if name in names else name)
    return tuple(names)


def reads(point: str) -> tuple[str, ...]:
    """The points that the formula of a point reads, in order; that of x is in the layer before."""
    from . import _core

    return tuple(_core.reads()[point].lower().split())


def check_layers(layers: Layers, n_layers: int) -> tuple[int, ...]:
    """Layer numbers as a tuple in the requested order; None means all.

    A number, numbers, a range or a slice; negative numbers count from the last layer. PointError
    for an empty list, a number that is not an integer or not in the model, and a repeated one.
    """
    if isinstance(layers, slice) or layers is None:
        try:
            layers = range(n_layers)[layers or slice(None)]
        except (TypeError, ValueError) as e:  # slice("a", None), a step of 0
            raise PointError(f"layers is {shown(layers)}: {e}") from None
    elif hasattr(layers, "__index__") and not isinstance(layers, Iterable):
        layers = (layers,)
    elif getattr(layers, "ndim", 1) == 0:  # an array of one number
        layers = (layers[()],)  # type: ignore[index]
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
        raise PointError(
            f"layers is {shown(layers)}; give a layer number, a list of them, a range or a slice"
        )
    found: dict[int, None] = {}
    for layer in layers:
        number = layer_number(_layer(layer), n_layers)
        if number in found:
            raise PointError(f"layer {number} is requested twice")
        found[number] = None
    if not found:
        raise PointError("layers is empty; leave it out for all layers")
    return tuple(found)


def layer_number(layer: int, n_layers: int) -> int:
    """The layer number from 0 on; a negative one counts from the last. PointError."""
    if -n_layers <= layer < n_layers:
        return layer % n_layers
    raise PointError(f"there is no layer {shown(layer)}; the model has 0 to {n_layers - 1}")


# ---- names ----


def name_of(name: object) -> tuple[str, int | None]:
    """A name that no model is known for, as its text and a layer. PointError."""
    text, layer, module = _split(name)
    if module is None:
        return text, layer
    part = _MODULES.get(module, module)
    return (f"{part}.hook_{text}" if part else f"hook_{text}"), layer


def _layer(layer: object) -> int:
    if not is_whole(layer):
        raise PointError(f"a layer number is an integer, not {shown(layer)}")
    if not -(1 << 63) < (number := operator.index(layer)) < 1 << 63:  # type: ignore[arg-type]
        raise PointError(f"there is no layer {shown(number)}")
    return number


def _split(name: object) -> tuple[str, int | None, str | None]:
    """A name, or a tuple (name, layer[, part of the block]), taken apart."""
    if isinstance(name, str):
        return name, None, None
    if isinstance(name, tuple) and len(name) in (2, 3) and isinstance(name[0], str):
        module = name[2] if len(name) == 3 else None
        if module is None or isinstance(module, str):
            return name[0], _layer(name[1]), module
    raise PointError(f'{_shown(name)} is not the name of a point; try "x" or ("x", 3)')


def is_pair(names: object) -> bool:
    """Whether it is one name, ("x", 3), not a list of names."""
    return isinstance(names, tuple) and len(names) > 1 and hasattr(names[1], "__index__")


def _matches(name: Name, names: _Names) -> list[tuple[Point, int | None]]:
    """The matches of "all" or a pattern; [] for a plain name. PointError for no match."""
    if not is_pattern(name):
        return []
    text, layer, _ = _split(name)
    numbered = _NUMBERED.match(text)
    if numbered:
        text = f"{numbered[1]}L{text[numbered.end() :]}"
        layer = int(numbered[2]) if layer is None else layer
    pattern = re.compile(fnmatch.translate("*" if text == "all" else text))
    points = names.points
    found = [point for point in points if pattern.match(point.name)] or [
        point for point in points if any(map(pattern.match, point.aliases))
    ]
    if layer is not None:
        found = [point for point in found if point.per_layer]
    if not found:
        every = ", ".join(point.name for point in points)
        raise PointError(f"no point matches {_shown(name)}; all: {every}")
    return [(point, layer if point.per_layer else None) for point in found]


def _module(names: _Names, text: str) -> tuple[Point, int | None] | None:
    """The point that is the output, or with ".input" the input, of a Hugging Face module."""
    side = _SIDE.search(text)
    takes = side is not None and side[1] != "output"
    match = _MODULE.fullmatch(text[: side.start()] if side else text)
    if not match:
        return None
    number, path = match[1] or match[2], match[3]
    if number is None and path in names.outside:
        end = names.outside[path][0 if takes else 1]
        if end is None:
            raise PointError(f"{_shown(text)} is the token ids: run.token_ids has them")
        return names.by_name[end[0]], end[1]
    if number is None and not path:
        return None
    paths = [p for p in names.in_layer if path == p or (path and p.endswith(f".{path}"))]
    if len(paths) != 1:
        return None
    layer = None if number in (None, "L") else int(number)
    meant = names.in_layer[paths[0]][0 if takes else 1]
    if meant is None:
        raise PointError(f"{_shown(text)} gives several points side by side; name one of them")
    return names.by_name[meant], layer


def _lookup(names: _Names, text: str, module: str | None) -> tuple[Point, int | None]:
    found = _find(names, text, module) or (_module(names, text) if module is None else None)
    if found:
        return found
    numbered = _NUMBERED.match(text)
    if numbered:
        rest = text[numbered.end() :].removesuffix(".output")
        found = _find(names, f"{numbered[1]}L{rest}", module)
        if found:
            return found[0], int(numbered[2])
    short = _SHORT.fullmatch(text)
    found = _find(names, short[1], short[3] or module) if short else None
    if short and found and found[1] is None:
        return found[0], int(short[2])
    _refuse(names, text, module)


def _find(names: _Names, text: str, module: str | None) -> tuple[Point, int | None] | None:
    """`module`: the part of a block, as in TransformerLens's `get_act_name`."""
    if module is None:
        return names.aliases.get(text)
    return names.aliases.get(name_of((text, 0, module))[0])


def _refuse(names: _Names, text: str, module: str | None) -> NoReturn:
    name = _shown(text if module is None else f"{text} in {module}")
    stem = re.sub(r"^blocks\.[0-9]+\.(attn\.)?|\[[0-9]+\]$", "", text)
    if stem in _REFUSED:
        raise PointError(f"there is no point {name}: {_REFUSED[stem]}")
    elsewhere = _any_model().aliases.get(text) if module is None else None
    if elsewhere and elsewhere[0].name in names.absent:
        raise PointError(f"this model has no {name}: {names.absent[elsewhere[0].name]}")
    ours = [point.name for point in names.points]
    near = [
        n for all_of in (ours, names.aliases) for n in difflib.get_close_matches(text[:99], all_of)
    ]
    offer = f"near: {', '.join(dict.fromkeys(near[:4]))}" if near else f"all: {', '.join(ours)}"
    raise PointError(f"there is no point {name}; {offer}")


def _shown(name: object) -> str:
    return shown(name, 200)
