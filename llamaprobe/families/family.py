"""What one model_type means: a schema of data. The families themselves are in table.py.

A field that names a key of config.json is a string, "" where the family has no such number. A module
is what the checkpoint names it, below "model.layers.N."; points that share a module are consecutive
ranges of its rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .keys import Keys


class Kind(NamedTuple):
    """How one layer attends."""

    window: int | None
    """Key k is seen by query q if q - window < k <= q; None: every key up to q."""
    rope: str | None
    """Name of its table of RoPE; None: it is not turned."""


LINEARS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "mlp_out": "mlp.down_proj",
}
PRE_NORMS = {"x_norm": "input_layernorm", "x_mid_norm": "post_attention_layernorm"}
POST_NORMS = {
    "attn_norm": "post_attention_layernorm",
    "mlp_norm": "post_feedforward_layernorm",
}
ALL_NORMS = {
    "x_norm": "input_layernorm",
    "x_mid_norm": "pre_feedforward_layernorm",
} | POST_NORMS
QK_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}

SILU = {"silu": "silu", "swish": "silu"}  # two names of one function
GELU_TANH = {"gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class Family:
    """One model_type of transformers."""

    model_type: str
    architecture: str
    title: str
    """Its name in messages."""
    layers: Callable[[Keys, int], list[Kind]]
    """How each layer attends."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of keys that config.json may leave out: those of the class."""
    linears: Mapping[str, str] = field(default_factory=lambda: LINEARS)
    """Point -> the module whose matrix computes it."""
    norms: Mapping[str, str] = field(default_factory=lambda: PRE_NORMS)
    """Point -> the module whose gain computes it: which norms there are."""
    gain_offset: float = 0.0
    """Added to a stored gain."""
    qk_norm: str = "head"
    """What a norm of q and k, if there is one, goes over: "head", or "whole": all heads at once."""
    qkv_bias: str | bool = "attention_bias"
    """The flag that gives q, k and v a bias, or whether they always have one."""
    o_bias: str | bool = "attention_bias"
    mlp_bias: str | bool = False
    activation: str = "hidden_act"
    activations: Mapping[str, str] = field(default_factory=lambda: SILU | GELU_TANH)
    """Value of that key -> activation of `Config`."""
    d_ff: str = "intermediate_size"
    scale: tuple[str, float] = ("head_dim", -0.5)
    """q . k is multiplied by this number to this power."""
    embedding_scale: str = ""
    """"sqrt(hidden_size)", rounded to float32, or a key."""
    embeds_scaled: bool = False
    """The module embed_tokens gives the scaled embedding."""
    residual_scale: str = ""
    logits_divisor: str = ""
    score_cap: str = ""
    logits_cap: str = ""
    rope_types: tuple[str, ...] = ("default", "linear", "dynamic", "llama3", "yarn")
    rope_renames: Mapping[str, str] = field(default_factory=dict)
    rope_tables: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """With a table per type of layer: layer type -> (key of its theta in old files, default). Only
    the first can be scaled in old files."""
    default_theta: float | None = 10000.0
    """None: the file must say it."""
    partial_rotary: bool = False
    interleaved: bool = False
    """Components 2i and 2i + 1 turn together, not i and i + rotary_dim / 2."""
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key -> the values that it may have; another would need other maths."""
    own: tuple[str, ...] = ()
    """Further keys that the class reads, and its table here by `layers`."""

    def reads(self, key: str) -> bool:
        """Whether the class reads a key that other families have."""
        named = (
            self.qkv_bias,
            self.o_bias,
            self.mlp_bias,
            self.activation,
            self.scale[0],
        )
        scales = (self.embedding_scale, self.residual_scale, self.logits_divisor)
        caps = (self.score_cap, self.logits_cap)
        return key in (*named, *scales, *caps, *self.own) or key in self.fixed
