"""The capture points: their names here and elsewhere, shapes and formulas.

The list itself is csrc/model/points.h, read from the core at first use; this file adds the formula
of each and the names that other tools have for exactly the same value. The shape is always ours,
whatever the name. A name that other tools use for a value that only looks alike is not an alias: it
is refused, with the way out.
"""

import difflib
import fnmatch
import functools
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, SupportsIndex

from .config import Config
from .errors import PointError
from .messages import printable

# Formula, then names elsewhere: TransformerLens (blocks.L, ln_final, unembed and its shorthand),
# fields of the outputs of Hugging Face models, and methods of Meta's LLM Transparency Tool (its
# neuron_activations is what comes before the SiLU). Modules of Hugging Face follow below.
_TABLE: dict[str, tuple[str, str]] = {
    "x": (
        "embedding of the token in layer 0, then x_out of the layer before",
        "blocks.L.hook_resid_pre blocks.L.hook_in residual_in",
    ),
    "x_rms": ("sqrt(mean(x^2) + rms_norm_eps)", "blocks.L.ln1.hook_scale"),
    "x_unit": ("x / x_rms", "blocks.L.ln1.hook_normalized"),
    "x_norm": (
        "input_layernorm.weight * x_unit",
        "blocks.L.ln1.hook_out blocks.L.attn.hook_in",
    ),
    "q": (
        "q_proj(x_norm)",
        "blocks.L.attn.hook_q blocks.L.attn.q.hook_out query",
    ),
    "k": (
        "k_proj(x_norm)",
        "blocks.L.attn.hook_k blocks.L.attn.k.hook_out key",
    ),
    "v": (
        "v_proj(x_norm)",
        "blocks.L.attn.hook_v blocks.L.attn.v.hook_out value",
    ),
    "q_rope": ("q rotated by position * inv_freq", "blocks.L.attn.hook_rot_q"),
    "k_rope": ("k rotated by position * inv_freq", "blocks.L.attn.hook_rot_k"),
    "scores": (
        "q_rope . k_rope / sqrt(head_dim); -inf where the key comes after the query",
        "blocks.L.attn.hook_attn_scores attn_logits",
    ),
    "pattern": (
        "softmax of scores over the keys; 0 where the key comes after the query",
        "blocks.L.attn.hook_pattern attentions[L] attention_matrix attn",
    ),
    "z": (
        "sum over keys of pattern * v",
        "blocks.L.attn.hook_z blocks.L.attn.o.hook_in",
    ),
    "attn_out": (
        "o_proj(z)",
        "blocks.L.hook_attn_out blocks.L.attn.hook_out attention_output",
    ),
    "x_mid": (
        "x + attn_out",
        "blocks.L.hook_resid_mid blocks.L.ln2.hook_in residual_after_attn",
    ),
    "x_mid_rms": ("sqrt(mean(x_mid^2) + rms_norm_eps)", "blocks.L.ln2.hook_scale"),
    "x_mid_unit": ("x_mid / x_mid_rms", "blocks.L.ln2.hook_normalized"),
    "x_mid_norm": (
        "post_attention_layernorm.weight * x_mid_unit",
        "blocks.L.ln2.hook_out blocks.L.mlp.hook_in",
    ),
    "gate": (
        "gate_proj(x_mid_norm)",
        "blocks.L.mlp.hook_pre blocks.L.mlp.gate.hook_out mlp_pre neuron_activations",
    ),
    "up": (
        "up_proj(x_mid_norm)",
        "blocks.L.mlp.hook_pre_linear blocks.L.mlp.in.hook_out",
    ),
    "act": ("silu(gate) = gate / (1 + exp(-gate))", ""),
    "hidden": (
        "act * up",
        "blocks.L.mlp.hook_post blocks.L.mlp.out.hook_in mlp_post",
    ),
    "mlp_out": (
        "down_proj(hidden)",
        "blocks.L.hook_mlp_out blocks.L.mlp.hook_out ffn_out",
    ),
    "x_out": (
        "x_mid + mlp_out",
        "blocks.L.hook_resid_post blocks.L.hook_out residual_out",
    ),
    "final_rms": (
        "sqrt(mean(x_out^2) + rms_norm_eps), x_out of the last layer",
        "ln_final.hook_scale scale",
    ),
    "final_unit": ("x_out of the last layer / final_rms", "ln_final.hook_normalized normalized"),
    "final_norm": ("norm.weight * final_unit", "ln_final.hook_out last_hidden_state"),
    "logits": (
        "lm_head.weight @ final_norm; embed_tokens.weight where the head is tied",
        "unembed.hook_out unembed",
    ),
}
# Path of a module in a layer of a Hugging Face model, and the points that are its input and output.
_IN_LAYER = {
    "": ("x", "x_out"),
    "input_layernorm": ("x", "x_norm"),
    "self_attn": ("x_norm", "attn_out"),
    "self_attn.q_proj": ("x_norm", "q"),
    "self_attn.k_proj": ("x_norm", "k"),
    "self_attn.v_proj": ("x_norm", "v"),
    "self_attn.o_proj": ("z", "attn_out"),
    "post_attention_layernorm": ("x_mid", "x_mid_norm"),
    "mlp": ("x_mid_norm", "mlp_out"),
    "mlp.gate_proj": ("x_mid_norm", "gate"),
    "mlp.up_proj": ("x_mid_norm", "up"),
    "mlp.act_fn": ("gate", "act"),
    "mlp.down_proj": ("hidden", "mlp_out"),
}
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
    "q_norm": "only models with norms of q and k have it",
    "k_norm": "only models with norms of q and k have it",
    "head_out": "not offered; it is z of a head times its columns of o_proj",
    "hook_result": "not offered; it is z of a head times its columns of o_proj",
    "hook_attn_in": "not offered; it is a copy of x",
    "hook_q_input": "not offered; it is a copy of x",
    "hook_k_input": "not offered; it is a copy of x",
    "hook_v_input": "not offered; it is a copy of x",
    "hook_mlp_in": "not offered; it is a copy of x_mid",
    "tokens": "run.token_ids and run.tokens have them",
    "input_ids": "run.token_ids has them",
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
    number: int
    width: str
    per_layer: bool
    formula: str
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


@functools.cache
def all_points() -> tuple[Point, ...]:
    """Every point, in the order of computation."""
    from . import _core

    return tuple(
        Point(name, number, width, per_layer, _TABLE[name][0], _names_elsewhere(name))
        for number, (name, width, per_layer) in enumerate(_core.points())
    )


def _names_elsewhere(name: str) -> tuple[str, ...]:
    paths = {f"model.layers.L.{path}".rstrip("."): ends for path, ends in _IN_LAYER.items()}
    given = [path for path, (_, gives) in paths.items() if gives == name]
    taken = [f"{path}.input" for path, (takes, _) in paths.items() if takes == name]
    for path, (takes, gives) in _OUTSIDE.items():
        path = path if path == "lm_head" else f"model.{path}"
        given += [path] * (gives == (name, None))
        taken += [f"{path}.input"] * (takes == (name, None))
    return (*_TABLE[name][1].split(), *given, *taken)


def resolve(name: Name) -> tuple[Point, int | None]:
    """The point that a name means, and the layer number if the name has one.

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
    point, inner = _lookup(text, module)
    if layer is not None and inner is not None and layer != inner:
        raise PointError(f"{_shown(name)} names two layers, {inner} and {layer}")
    layer = inner if layer is None else layer
    if layer is not None and not point.per_layer:
        raise PointError(f"{_shown(name)} names a layer, but {point.name} is computed once")
    return point, layer


def resolve_all(
    names: str | Iterable[Name], n_layers: int
) -> Iterator[tuple[Name, Point, int | None]]:
    """(name, point, layer from 0 on or None) of each requested name, in that order.

    A name may also be "all", or a pattern with * or ? ("x*", ("x_*", 3),
    "blocks.*.hook_resid_pre"), for our names or, if none matches, for those elsewhere. PointError,
    also for an empty list.
    """
    if isinstance(names, str) or _is_pair(names):
        names = (names,)  # type: ignore[assignment]
    listed: list[Any] = list(names) if isinstance(names, Iterable) else []
    if not listed:
        raise PointError(
            'points is empty or not a list; give names, which Model.points() lists, or "all"'
        )
    for name in listed:
        for point, layer in _matches(name) or [resolve(name)]:
            yield name, point, None if layer is None else layer_number(layer, n_layers)


def is_pattern(name: Name) -> bool:
    """Whether a name may match several points: "all", or one with * or ?. PointError."""
    text, _, module = _split(name)
    return module is None and (text == "all" or "*" in text or "?" in text)


def shape(point: Point, config: Config, n_tokens: int) -> tuple[int, ...]:
    """The shape of one layer's value for one prompt, without a layer axis."""
    return tuple(n_tokens if axis == "T" else getattr(config, axis) for axis in axes(point.width))


def axes(width: str) -> list[str]:
    """The axes of a width: "T", the number of tokens, or the name of a number of Config."""
    from . import _core

    return _core.widths()[width].split()


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
            raise PointError(f"layers is {printable(repr(layers), 60)}: {e}") from None
    elif hasattr(layers, "__index__") and not isinstance(layers, Iterable):
        layers = (layers,)
    elif getattr(layers, "ndim", 1) == 0:  # an array of one number
        layers = (layers[()],)  # type: ignore[index]
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
        raise PointError(
            f"layers is {printable(repr(layers), 60)}; give a layer number, a list of them, a range"
            " or a slice"
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
    raise PointError(f"there is no layer {layer}; the model has 0 to {n_layers - 1}")


# ---- names ----


def _layer(layer: object) -> int:
    if not isinstance(layer, bool):
        try:
            return operator.index(layer)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise PointError(f"a layer number is an integer, not {printable(repr(layer))}")


def _split(name: object) -> tuple[str, int | None, str | None]:
    """A name, or a tuple (name, layer[, part of the block]), taken apart."""
    if isinstance(name, str):
        return name, None, None
    if isinstance(name, tuple) and len(name) in (2, 3) and isinstance(name[0], str):
        module = name[2] if len(name) == 3 else None
        if module is None or isinstance(module, str):
            return name[0], _layer(name[1]), module
    raise PointError(f'{_shown(name)} is not the name of a point; try "x" or ("x", 3)')


def _is_pair(names: object) -> bool:
    """Whether it is one name, ("x", 3), not a list of names."""
    return isinstance(names, tuple) and len(names) > 1 and hasattr(names[1], "__index__")


def _matches(name: Name) -> list[tuple[Point, int | None]]:
    """The matches of "all" or a pattern; [] for a plain name. PointError for no match."""
    if not is_pattern(name):
        return []
    text, layer, _ = _split(name)
    numbered = _NUMBERED.match(text)
    if numbered:
        text = f"{numbered[1]}L{text[numbered.end() :]}"
        layer = int(numbered[2]) if layer is None else layer
    pattern = re.compile(fnmatch.translate("*" if text == "all" else text))
    points = all_points()
    found = [point for point in points if pattern.match(point.name)] or [
        point for point in points if any(map(pattern.match, point.aliases))
    ]
    if layer is not None:
        found = [point for point in found if point.per_layer]
    if not found:
        names = ", ".join(point.name for point in points)
        raise PointError(f"no point matches {_shown(name)}; all: {names}")
    return [(point, layer if point.per_layer else None) for point in found]


def _module(text: str) -> tuple[Point, int | None] | None:
    """The point that is the output, or with ".input" the input, of a Hugging Face module."""
    side = _SIDE.search(text)
    takes = side is not None and side[1] != "output"
    match = _MODULE.fullmatch(text[: side.start()] if side else text)
    if not match:
        return None
    number, path = match[1] or match[2], match[3]
    by_name = {point.name: point for point in all_points()}
    if number is None and path in _OUTSIDE:
        end = _OUTSIDE[path][0 if takes else 1]
        if end is None:
            raise PointError(f"{_shown(text)} is the token ids: run.token_ids has them")
        return by_name[end[0]], end[1]
    if number is None and not path:
        return None
    paths = [p for p in _IN_LAYER if path == p or (path and p.endswith(f".{path}"))]
    if len(paths) != 1:
        return None
    layer = None if number in (None, "L") else int(number)
    return by_name[_IN_LAYER[paths[0]][0 if takes else 1]], layer


def _lookup(text: str, module: str | None) -> tuple[Point, int | None]:
    found = _find(text, module) or (_module(text) if module is None else None)
    if found:
        return found
    numbered = _NUMBERED.match(text)
    if numbered:
        rest = text[numbered.end() :].removesuffix(".output")
        found = _find(f"{numbered[1]}L{rest}", module)
        if found:
            return found[0], int(numbered[2])
    short = _SHORT.fullmatch(text)
    found = _find(short[1], short[3] or module) if short else None
    if short and found and found[1] is None:
        return found[0], int(short[2])
    _refuse(text, module)


def _find(text: str, module: str | None) -> tuple[Point, int | None] | None:
    """`module`: the part of a block, as in TransformerLens's `get_act_name`."""
    if module is None:
        return _aliases().get(text)
    part = _MODULES.get(module, module)
    return _aliases().get(f"{part}.hook_{text}" if part else f"hook_{text}")


@functools.cache
def _aliases() -> dict[str, tuple[Point, int | None]]:
    """Every accepted name; those of a block also without it, where unambiguous."""
    table: dict[str, tuple[Point, int | None]] = {}
    short: dict[str, list[Point]] = {}
    points = all_points()
    for point in points:
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
    table |= {point.name: (point, None) for point in points}
    return table | {name: (points[0], 0) for name in _EMBED}


def _refuse(text: str, module: str | None) -> NoReturn:
    shown = _shown(text if module is None else f"{text} in {module}")
    stem = re.sub(r"^blocks\.[0-9]+\.(attn\.)?|\[[0-9]+\]$", "", text)
    if stem in _REFUSED:
        raise PointError(f"there is no point {shown}: {_REFUSED[stem]}")
    ours = [point.name for point in all_points()]
    near = [n for names in (ours, _aliases()) for n in difflib.get_close_matches(text[:99], names)]
    offer = f"near: {', '.join(dict.fromkeys(near[:4]))}" if near else f"all: {', '.join(ours)}"
    raise PointError(f"there is no point {shown}; {offer}")


def _shown(name: object) -> str:
    return printable(repr(name))
