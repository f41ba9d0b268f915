"""What the core is given of a config: lp_architecture of csrc/model/model.h."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .rope import Rope

if TYPE_CHECKING:
    from ..config import Config


def core_numbers(config: "Config") -> dict[str, Any]:
    """The numbers of csrc/model/config.h that the core takes of a config, by name."""
    numbers: dict[str, Any] = _core.call_rounded(_core_numbers, config)
    return numbers


def core_arguments(config: "Config") -> dict[str, Any]:
    """All that the core takes of a config, by name."""
    windows, ropes, rope_of = layers_of(config)
    return core_numbers(config) | {
        "prefix": config.prefix,
        "modules": {**config.linears, **config.norms},
        "windows": tuple(window or 0 for window in windows),
        "ropes": tuple(
            (rope.inv_freq, rope.attention_factor, rope.long_inv_freq, rope.original_positions)
            for rope in ropes
        ),
        "rope_of": tuple(-1 if number is None else number for number in rope_of),
    }


def _core_numbers(config: "Config") -> dict[str, Any]:
    """Real numbers are those that float32 holds; which float32 depends on the rounding mode."""
    special = {
        "qkv_bias": config.attention_bias,
        "gelu_tanh": config.activation == "gelu_tanh",
        "score_cap": config.score_cap or 0.0,
        "logits_cap": config.logits_cap or 0.0,
        "rotary_dim": 2 * config.inv_freq.size,
    }
    numbers = {
        name: special[name] if name in special else getattr(config, name)
        for name, _ in _core.config()
    }
    for name, kind in _core.config():
        if kind == "real" and name != "rms_norm_eps":
            numbers[name] = float(np.float32(numbers[name]))
    return numbers


def layers_of(
    config: "Config",
) -> tuple[list[int | None], list[Rope], list[int | None]]:
    """The window of each layer, the tables of RoPE, and which of them turns each layer."""
    plain = Rope(config.inv_freq)
    kinds: list[tuple[int | None, Rope | None]] = [*config.layers[: config.n_layers]]
    kinds = kinds or [(None, plain)] * config.n_layers
    ropes = {id(rope): rope for _, rope in kinds if rope is not None}
    number = {key: i for i, key in enumerate(ropes)}
    rope_of = [None if rope is None else number[id(rope)] for _, rope in kinds]
    return [window for window, _ in kinds], [*ropes.values()], rope_of
