"""The capture points: what they are called here and elsewhere, their shapes and formulas.

The list itself is csrc/points.h, asked of the core at first use; this file adds a formula to each
and the names that other tools have for exactly the same value. Shapes are always ours, whatever
name was used. A name that other tools use for something that only looks alike is no alias: it is
refused, with the way out.
"""

import difflib
import functools
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from .config import Config
from .errors import PointError
from .names import printable

_WIDTHS = {
    "one": "[T]",
    "d_model": "[T, d_model]",
    "heads": "[T, n_heads, head_dim]",
    "kv": "[T, n_kv_heads, head_dim]",
    "map": "[n_heads, T, T]",
    "d_ff": "[T, d_ff]",
    "vocab": "[T, vocab_size]",
}

# Formula, then names elsewhere: TransformerLens (blocks.L, ln_final, unembed and its shorthand),
# what a Hugging Face module gives or, with .input, takes, fields of its outputs, and methods of
# Meta's LLM Transparency Tool (its neuron_activations is what comes before the SiLU).
_TABLE: dict[str, tuple[str, str]] = {
    "x": (
        "embedding of the token in layer 0, then x_out of the layer before",
        "blocks.L.hook_resid_pre blocks.L.hook_in model.layers.L.input residual_in",
    ),
    "x_rms": ("sqrt(mean(x^2) + rms_norm_eps)", "blocks.L.ln1.hook_scale"),
    "x_unit": ("x / x_rms", "blocks.L.ln1.hook_normalized"),
    "x_norm": (
        "input_layernorm.weight * x_unit",
        "blocks.L.ln1.hook_out blocks.L.attn.hook_in model.layers.L.input_layernorm",
    ),
    "q": (
        "q_proj(x_norm)",
        "blocks.L.attn.hook_q blocks.L.attn.q.hook_out model.layers.L.self_attn.q_proj query",
    ),
    "k": (
        "k_proj(x_norm)",
        "blocks.L.attn.hook_k blocks.L.attn.k.hook_out model.layers.L.self_attn.k_proj key",
    ),
    "v": (
        "v_proj(x_norm)",
        "blocks.L.attn.hook_v blocks.L.attn.v.hook_out model.layers.L.self_attn.v_proj value",
    ),
    "q_rope": ("q, turned by position * inv_freq", "blocks.L.attn.hook_rot_q"),
    "k_rope": ("k, turned by position * inv_freq", "blocks.L.attn.hook_rot_k"),
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
        "blocks.L.attn.hook_z blocks.L.attn.o.hook_in model.layers.L.self_attn.o_proj.input",
    ),
    "attn_out": (
        "o_proj(z)",
        "blocks.L.hook_attn_out blocks.L.attn.hook_out model.layers.L.self_attn"
        " model.layers.L.self_attn.o_proj attention_output",
    ),
    "x_mid": (
        "x + attn_out",
        "blocks.L.hook_resid_mid blocks.L.ln2.hook_in"
        " model.layers.L.post_attention_layernorm.input residual_after_attn",
    ),
    "x_mid_rms": ("sqrt(mean(x_mid^2) + rms_norm_eps)", "blocks.L.ln2.hook_scale"),
    "x_mid_unit": ("x_mid / x_mid_rms", "blocks.L.ln2.hook_normalized"),
    "x_mid_norm": (
        "post_attention_layernorm.weight * x_mid_unit",
        "blocks.L.ln2.hook_out blocks.L.mlp.hook_in model.layers.L.post_attention_layernorm",
    ),
    "gate": (
        "gate_proj(x_mid_norm)",
        "blocks.L.mlp.hook_pre blocks.L.mlp.gate.hook_out model.layers.L.mlp.gate_proj mlp_pre"
        " neuron_activations",
    ),
    "up": (
        "up_proj(x_mid_norm)",
        "blocks.L.mlp.hook_pre_linear blocks.L.mlp.in.hook_out model.layers.L.mlp.up_proj",
    ),
    "act": ("silu(gate) = gate / (1 + exp(-gate))", "model.layers.L.mlp.act_fn"),
    "hidden": (
        "act * up",
        "blocks.L.mlp.hook_post blocks.L.mlp.out.hook_in model.layers.L.mlp.down_proj.input"
        " mlp_post",
    ),
    "mlp_out": (
        "down_proj(hidden)",
        "blocks.L.hook_mlp_out blocks.L.mlp.hook_out model.layers.L.mlp"
        " model.layers.L.mlp.down_proj ffn_out",
    ),
    "x_out": (
        "x_mid + mlp_out",
        "blocks.L.hook_resid_post blocks.L.hook_out model.layers.L residual_out",
    ),
    "final_rms": (
        "sqrt(mean(x_out^2) + rms_norm_eps), x_out of the last layer",
        "ln_final.hook_scale scale",
    ),
    "final_unit": ("x_out of the last layer / final_rms", "ln_final.hook_normalized normalized"),
    "final_norm": ("norm.weight * final_unit", "ln_final.hook_out model.norm last_hidden_state"),
    "logits": (
        "lm_head.weight @ final_norm; embed_tokens.weight where the head is tied",
        "unembed.hook_out lm_head unembed",
    ),
}
_EMBED = ("embed", "hook_embed", "embed.hook_out", "model.embed_tokens")  # x of layer 0

# Names that ask for something else than a point.
_REFUSED = {
    "hidden_states": "entry i < n_layers is x of layer i, the last entry is final_norm",
    "past_key_values": "ask for k_rope and v",
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
        return _WIDTHS[self.width]


Name = str | tuple[str, int] | tuple[str, int, str]


@functools.cache
def all_points() -> tuple[Point, ...]:
    """Every point of this build, in the order of computation."""
    from . import _core

    return tuple(
        Point(name, number, width, per_layer, _TABLE[name][0], tuple(_TABLE[name][1].split()))
        for number, (name, width, per_layer) in enumerate(_core.points())
    )


def resolve(name: Name) -> tuple[Point, int | None]:
    """The point that a name means, and the layer number if the name has one.

    Accepted: our names ("x_norm"; ("x_norm", 3)); "embed", which is x of layer 0; TransformerLens
    names in full ("blocks.3.hook_resid_pre"), without the block ("hook_resid_pre", "resid_pre"),
    or as `get_act_name` takes them ("k6", "scale4ln1", ("normalized", 27, "ln2")); Hugging Face
    module paths ("model.layers.3.mlp.gate_proj", whose value is the module's output, or with
    ".input"; "self_attn.q_proj" without a layer); the names of docs/points.md.
    Raises PointError with near matches, or with the reason where the name asks for something else.
    """
    text, layer, module = _split(name)
    point, inner = _lookup(text, module)
    if layer is not None and layer < 0:
        raise PointError(f"{_shown(name)}: layers count from 0 to the last; none is negative")
    if layer is not None and inner is not None and layer != inner:
        raise PointError(f"{_shown(name)} names two layers, {inner} and {layer}")
    layer = inner if layer is None else layer
    if layer is not None and not point.per_layer:
        raise PointError(f"{_shown(name)} names a layer, but {point.name} is computed once")
    return point, layer


def names_in(points: Name | Iterable[Name]) -> tuple[Name, ...]:
    """What the argument `points` lists: a name or a tuple with a layer, ("z", 3), is one. PointError
    for an empty list, or what is no list."""
    one = isinstance(points, str) or (
        isinstance(points, tuple) and len(points) in (2, 3) and isinstance(points[1], int)
    )
    found = (points,) if one else tuple(points) if isinstance(points, Iterable) else ()
    if not found:
        raise PointError(
            "points is empty or not a list; give names, which Model.points() lists, or leave it out"
        )
    return found  # type: ignore[return-value]


def shape(point: Point, config: Config, n_tokens: int) -> tuple[int, ...]:
    """The shape of one layer's value for one prompt, without a layer axis."""
    return {
        "one": (n_tokens,),
        "d_model": (n_tokens, config.d_model),
        "heads": (n_tokens, config.n_heads, config.head_dim),
        "kv": (n_tokens, config.n_kv_heads, config.head_dim),
        "map": (config.n_heads, n_tokens, n_tokens),
        "d_ff": (n_tokens, config.d_ff),
        "vocab": (n_tokens, config.vocab_size),
    }[point.width]


def check_layers(layers: Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    """Layer numbers as a tuple in the order asked; None means all.

    PointError when there is none, one is not an integer of 0 to n_layers - 1, or one comes twice.
    """
    if layers is None:
        return tuple(range(n_layers))
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
        example = f", such as [{layers}]" if isinstance(layers, int) else ""
        raise PointError(
            f"layers is {printable(repr(layers))}; give a list of layer numbers{example}"
        )
    found = tuple(_layer(layer) for layer in layers)
    for i, layer in enumerate(found):
        if not 0 <= layer < n_layers:
            raise PointError(f"there is no layer {layer}; the model has 0 to {n_layers - 1}")
        if layer in found[:i]:
            raise PointError(f"layer {layer} is asked for twice")
    if not found:
        raise PointError("layers is empty; leave it out for all layers")
    return found


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
    raise PointError(f'{_shown(name)} is no name of a point; try "x" or ("x", 3)')


def _lookup(text: str, module: str | None) -> tuple[Point, int | None]:
    found = _find(text, module)
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
    """`module` is the part of a block that TransformerLens puts before a short name."""
    if module is None:
        return _aliases().get(text)
    part = _MODULES.get(module, module)
    return _aliases().get(f"{part}.hook_{text}" if part else f"hook_{text}")


@functools.cache
def _aliases() -> dict[str, tuple[Point, int | None]]:
    """Every accepted name; those of a block also without it, where that is clear."""
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
