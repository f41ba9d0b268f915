"""Tensor names in a GGUF -> Hugging Face names, by what each tensor computes.

A matrix or a gain belongs to a capture point, and the family names the point's module. Points that
share a module share a tensor: attn_qkv has the rows of q, k and v; Phi 3's ffn_up has those of gate
and up.
"""

import re
from collections.abc import Iterable

from ..config import Config
from ..errors import FormatError
from ..families.family import LINEARS, POST_NORMS, PRE_NORMS, QK_NORMS
from ..families.tensors import EMBEDDING, FINAL_NORM, HEAD
from ..messages import printable, shown_path

TOKENS, OUTPUT = "token_embd.weight", "output.weight"
ROPE_FREQS = "rope_freqs.weight"
ROPE_LONG, ROPE_SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TABLES = (ROPE_FREQS, ROPE_LONG, ROPE_SHORT)
TURNED = ("attn_q", "attn_k")
"""The tensors of a layer whose rows an architecture may reorder."""

_WHOLE = {"token_embd": EMBEDDING, "output_norm": FINAL_NORM, "output": HEAD}
_POINTS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "attn_out": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "mlp_out": "ffn_down",
    "x_norm": "attn_norm",
    "x_mid_norm": "ffn_norm",
    "attn_norm": "post_attention_norm",
    "mlp_norm": "post_ffw_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
_FUSED = {("q", "k", "v"): "attn_qkv", ("gate", "up"): "ffn_up"}
_OF_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.(.+)")


def hugging_face_names(config: Config, stored: Iterable[str]) -> dict[str, str]:
    """Hugging Face name -> stored name of every tensor except the RoPE tables. An unknown tensor
    keeps its own name, below model.layers.N if it belongs to a layer. FormatError if two tensors
    would get the same name."""
    modules = _modules(config)
    found: dict[str, str] = {}
    for name in stored:
        if name in ROPE_TABLES:
            continue
        other = found.setdefault(_name(name, modules), name)
        if other != name:
            raise FormatError(
                f"{shown_path(config.path)}: tensors {printable(repr(other), 100)} and"
                f" {printable(repr(name), 100)} are the same tensor of the model"
            )
    return found


def _modules(config: Config) -> dict[str, str]:
    """Stored name of a layer's tensor -> module."""
    points = LINEARS | POST_NORMS | PRE_NORMS | QK_NORMS | dict(config.norms)
    modules = {_POINTS[point]: module for point, module in points.items()}
    for shared, stored in _FUSED.items():
        module = config.linears[shared[0]]
        if all(config.linears[point] == module for point in shared):
            modules[stored] = module
    return modules


def _name(stored: str, modules: dict[str, str]) -> str:
    base, _, kind = stored.rpartition(".")
    if base in _WHOLE:
        return f"{_WHOLE[base]}.{kind}"
    found = _OF_LAYER.fullmatch(stored)
    if not found:
        return stored
    layer, part = found.groups()
    base, dot, kind = part.rpartition(".")  # a part without a kind, as ssm_a, has an empty base
    return f"model.layers.{layer}.{modules.get(base, base)}{dot}{kind}"


def is_turned(stored: str) -> bool:
    """Whether a tensor is one of TURNED, in any layer."""
    found = _OF_LAYER.fullmatch(stored)
    return found is not None and found[2].removesuffix(".weight").removesuffix(".bias") in TURNED
