"""Tables of RoPE: radians per position, to the last bit, of every kind that a family turns by.

Each step is rounded to float32 in the order in which transformers 5 takes it, so that only its powf
can differ (by 1 or 2 ulp in about one value of 70, and not alike on all CPUs). Sources: Su et al.
2021 (RoFormer) for theta^(-2i / d), the Llama 3.1 release for the bands, Peng et al. 2023 (YaRN),
Ding et al. 2024 (LongRoPE).
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import whole

f32 = np.float32


@dataclass(frozen=True, eq=False)
class Rope:
    """One table; layers that turn alike share it. Component i of a head turns with component
    i + rotary_dim / 2; components from rotary_dim on are left as they are."""

    inv_freq: NDArray[np.float32] = field(repr=False)
    """float32 [rotary_dim / 2], read-only."""
    attention_factor: float = 1.0
    """Multiplies cos and sin, so that scores get its square."""
    long_inv_freq: NDArray[np.float32] | None = field(default=None, repr=False)
    """Instead of inv_freq in a run of more than `original_positions` tokens; None: never."""
    original_positions: int = 0
    """The longest run, in tokens, that inv_freq is for."""

    def frequencies(self, rope_length: int) -> NDArray[np.float32]:
        """Those of a run of so many tokens."""
        is_long = self.long_inv_freq is not None and rope_length > self.original_positions
        return self.long_inv_freq if is_long else self.inv_freq  # type: ignore[return-value]

    def tables(self) -> list[NDArray[np.float32]]:
        """inv_freq, and long_inv_freq if there is one."""
        return [self.inv_freq] + ([] if self.long_inv_freq is None else [self.long_inv_freq])

    def __post_init__(self) -> None:
        for table in self.tables():
            table.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()


def inverse_frequencies(
    theta: float, rotary_dim: int, scaling: dict[str, Any] | None = None
) -> NDArray[np.float32]:
    """The rotation of RoPE in radians per position: float32 [rotary_dim / 2].

    `scaling` is None or holds rope_type and its numbers, as a rope block of config.json: "linear",
    "llama3", "yarn", "dynamic" (equal to the default up to max_position_embeddings), "rope_freqs"
    (the divisors of a GGUF), or "longrope" (its short_factor; `long_frequencies` has the others).
    """
    kind = scaling.get("rope_type", scaling.get("type")) if scaling else "default"
    power = _powers(theta, rotary_dim)
    inv = f32(1) / power
    if scaling is None or kind in ("default", "dynamic"):
        return inv
    if kind == "linear":
        return inv / f32(scaling["factor"])
    if kind == "rope_freqs":
        divisors: NDArray[np.float32] = np.array(scaling["rope_freqs"], f32)
        return inv / divisors
    if kind == "longrope":
        return f32(1) / (np.array(scaling["short_factor"], f32) * power)
    if kind == "yarn":
        return _yarn(theta, power, scaling)
    return llama3_bands(inv, scaling)


def long_frequencies(theta: float, rotary_dim: int, scaling: dict[str, Any]) -> NDArray[np.float32]:
    """What "longrope" turns by beyond original_max_position_embeddings."""
    return f32(1) / (np.array(scaling["long_factor"], f32) * _powers(theta, rotary_dim))


def attention_factor(scaling: dict[str, Any]) -> float:
    """What cos and sin are multiplied by; `scaling` has factor and original_max_position_embeddings
    filled in."""
    kind, given = scaling["rope_type"], scaling.get("attention_factor")
    if kind not in ("yarn", "longrope"):
        return 1.0
    if given is not None:
        return float(given)
    factor = scaling["factor"]
    if kind == "longrope":
        original = scaling["original_max_position_embeddings"]
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    mscale, of_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if mscale and of_all:
        return _mscale(factor, mscale) / _mscale(factor, of_all)
    return _mscale(factor, 1)


def checked_length(rope_length: int | None) -> int:
    """For the core: 0 stands for None. ArgumentError."""
    if rope_length is None:
        return 0
    return whole("rope_length", rope_length, 1, 1 << 31, "a number of tokens, or None")


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _powers(theta: float, rotary_dim: int) -> NDArray[np.float32]:
    """theta^(2i / rotary_dim)."""
    exponent = np.arange(0, rotary_dim, 2, dtype=f32) / f32(rotary_dim)
    base = float(f32(theta))
    # libm, not NumPy: its vector pow is less exact and differs between CPUs
    return np.array([math.pow(base, float(e)) for e in exponent]).astype(f32)


def llama3_bands(inv: NDArray[np.float32], scaling: dict[str, Any]) -> NDArray[np.float32]:
    """Long waves are slowed down by factor, short ones stay, those between are blended."""
    factor = f32(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    old = float(scaling["original_max_position_embeddings"])
    # torch takes number / tensor as reciprocal * number, two roundings; so does this
    wavelength = (f32(1) / inv) * f32(2 * math.pi)
    slowed = np.where(wavelength > f32(old / low), inv / factor, inv)
    smooth = ((f32(1) / wavelength) * f32(old) - f32(low)) / f32(high - low)
    blend = (f32(1) - smooth) * slowed / factor + smooth * slowed
    between = (wavelength >= f32(old / high)) & (wavelength <= f32(old / low))
    return np.where(between, blend, slowed)


def _yarn(theta: float, power: NDArray[np.float32], scaling: dict[str, Any]) -> NDArray[np.float32]:
    """Slow pairs are slowed down by factor, fast ones stay, a ramp between the two."""
    n = len(power)
    old = scaling["original_max_position_embeddings"]

    def pair_of(turns: float) -> float:
        """The pair, as a fraction, that turns so often within the old length."""
        return (2 * n * math.log(old / (turns * 2 * math.pi))) / (2 * math.log(theta))

    low, high = (
        pair_of(scaling.get("beta_fast") or 32),
        pair_of(scaling.get("beta_slow") or 1),
    )
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * n - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(n, dtype=f32) - f32(low)) / f32(high - low), f32(0), f32(1))
    keep = f32(1) - ramp
    slowed = f32(1) / (f32(scaling["factor"]) * power)
    return slowed * (f32(1) - keep) + (f32(1) / power) * keep
