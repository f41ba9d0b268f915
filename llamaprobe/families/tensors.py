"""The tensors of a model of any family by their names in the checkpoint, from its Config."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..config import Config

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"


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


def checkpoint_shapes(config: "Config") -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor of such a decoder."""
    for name, shape in _decoder_shapes(config):
        yield config.prefix + name, shape


def _decoder_shapes(config: "Config") -> Iterator[tuple[str, tuple[int, ...]]]:
    embedding = (config.vocab_size, config.d_model)
    yield f"{EMBEDDING}.weight", embedding
    for i in range(config.n_layers):
        for name, shape in _layer_shapes(config):
            yield f"model.layers.{i}.{name}", shape
    yield f"{FINAL_NORM}.weight", (config.d_model,)
    if not config.tied_head:
        yield f"{HEAD}.weight", embedding


def _layer_shapes(config: "Config") -> Iterator[tuple[str, tuple[int, ...]]]:
    for point, module in config.norms.items():
        yield f"{module}.weight", (norm_width(config, point),)
    rows: dict[str, int] = {}
    for point, module in config.linears.items():
        part = matrix(config, point)
        rows[module] = part.first_row + part.n_rows
    for point, module in config.linears.items():
        part = matrix(config, point)
        if not part.first_row:
            yield f"{module}.weight", (rows[module], part.n_cols)
            if part.has_bias:
                yield f"{module}.bias", (rows[module],)


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
