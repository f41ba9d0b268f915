"""The tensors of a model of any family by their names in the checkpoint, from its Config."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .points import absent

if TYPE_CHECKING:
    from ..config import Config

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"
_ORDER = (
    *("x_norm", "q", "k", "v", "q_norm", "k_norm", "attn_out", "attn_norm"),
    *("x_mid_norm", "gate", "up", "mlp_out", "mlp_norm"),
)


class Matrix(NamedTuple):
    """Where a matrix of a layer lies: n_rows rows of its module from first_row on."""

    module: str
    first_row: int
    n_rows: int
    n_cols: int
    has_bias: bool


def matrix(config: "Config", point: str) -> Matrix:
    """The one that computes a point: "q", "k", "v", "attn_out", "gate", "up" or "mlp_out"."""
    shapes, module = _shapes(config), config.linears[point]
    first = 0
    for other, (n_rows, n_cols, has_bias) in shapes.items():
        if other == point:
            return Matrix(module, first, n_rows, n_cols, has_bias)
        first += n_rows if config.linears[other] == module else 0
    raise KeyError(point)


def norm_width(config: "Config", point: str) -> int:
    """How many numbers the gain of a norm has."""
    heads = {"q_norm": config.n_heads, "k_norm": config.n_kv_heads}.get(point)
    if heads is None:
        return config.d_model
    return config.head_dim * (heads if config.qk_norm_whole else 1)


def layer_prefix(config: "Config", layer: int) -> str:
    """What stands before the names of tensors of a layer."""
    return f"{config.prefix}model.layers.{layer}."


def checkpoint_shapes(config: "Config") -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of such a decoder."""
    for name, shape, _, per_layer in tensors(config):
        if not per_layer:
            yield name, shape
            continue
        for i in range(config.n_layers):
            yield layer_prefix(config, i) + name, shape


def tensors(config: "Config") -> list[tuple[str, tuple[int, ...], str, bool]]:
    """(name, shape, point that is computed with it, whether each layer has one) of every tensor of
    such a model; names in a layer follow `layer_prefix`. One that is computed with for several
    points is listed for the first of them."""
    embedding = (config.vocab_size, config.d_model)
    logits = "logits" if "logits_raw" in absent(config) else "logits_raw"
    head = (f"{config.prefix}{HEAD}.weight", embedding, logits, False)
    return [
        (f"{config.prefix}{EMBEDDING}.weight", embedding, "x", False),
        (f"{config.prefix}{FINAL_NORM}.weight", (config.d_model,), "final_norm", False),
        *([] if config.tied_head else [head]),
        *((name, shape, point, True) for name, shape, point in _layer_tensors(config)),
    ]


def _layer_tensors(config: "Config") -> Iterator[tuple[str, tuple[int, ...], str]]:
    """In the order of computation, a bias after its weight."""
    rows: dict[str, int] = {}
    for point, module in config.linears.items():
        part = matrix(config, point)
        rows[module] = part.first_row + part.n_rows
    for point in _ORDER:
        if point in config.norms:
            yield f"{config.norms[point]}.weight", (norm_width(config, point),), point
        elif point in config.linears:
            part, module = matrix(config, point), config.linears[point]
            if part.first_row:
                continue
            yield f"{module}.weight", (rows[module], part.n_cols), point
            if part.has_bias:
                yield f"{module}.bias", (rows[module],), point


def _shapes(config: "Config") -> dict[str, tuple[int, int, bool]]:
    """Rows, columns and bias by point; points that share a module follow in this order."""
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return {
        "q": (q, config.d_model, config.attention_bias),
        "k": (kv, config.d_model, config.attention_bias),
        "v": (kv, config.d_model, config.attention_bias),
        "attn_out": (config.d_model, q, config.o_bias),
        "gate": (config.d_ff, config.d_model, config.mlp_bias),
        "up": (config.d_ff, config.d_model, config.mlp_bias),
        "mlp_out": (config.d_model, config.d_ff, config.mlp_bias),
    }
