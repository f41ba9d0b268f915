"""From the rope keys of config.json to tables: both spellings, and families with a table per type of
layer.

`rope_theta` and `rope_scaling` stand on the top level (transformers 4), or both inside
`rope_parameters` (transformers 5). Where they contradict each other the file is refused.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files.json_file import show
from .family import Family
from .keys import REQUIRED, Keys, any_of
from .rope import Rope, attention_factor, inverse_frequencies, long_frequencies

POSITIONS = 1 << 24  # beyond this a position is not exact in float32
_ORIGINAL = "original_max_position_embeddings"
_TURNING = ("rope_type", "type", "rope_theta", "partial_rotary_factor")

# The keys of a block, by its type.
ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": (
        *("factor", _ORIGINAL, "attention_factor", "mscale", "mscale_all_dim"),
        *("beta_fast", "beta_slow", "truncate"),
    ),
    "rope_freqs": ("rope_freqs",),
    "longrope": (
        "factor",
        _ORIGINAL,
        "attention_factor",
        "short_factor",
        "long_factor",
    ),
}


class Ropes(NamedTuple):
    tables: dict[str, Rope]
    """By type of layer; with one table "" has it."""
    theta: float
    scaling: dict[str, Any] | None
    """The block as the file has it; None when nothing is scaled."""
    notes: list[str]

    def of(self, layer_type: str) -> Rope:
        return self.tables.get(layer_type) or self.tables[""]


def read_ropes(keys: Keys, family: Family, head_dim: int) -> Ropes:
    """Every table of a model."""
    if family.rope_tables:
        return _by_type(keys, family, head_dim)
    rotary = _rotary_dim(keys, family, head_dim)
    new = _read_block(keys, keys.inside("rope_parameters"), family, rotary)
    old = _read_block(keys, keys.inside("rope_scaling"), family, rotary)
    if new and old and new != old:
        keys.fail("rope_scaling", f"what rope_parameters says, {show(new)}, or absent")
    theta, notes = _theta(keys, family.default_theta)
    found = new or old or {"rope_type": "default"}
    raw = None
    if found["rope_type"] != "default":
        raw = keys.block("rope_parameters" if new else "rope_scaling")
    return Ropes({"": _table(keys, theta, rotary, found, raw)}, theta, raw, notes)


def rotation_notes(keys: Keys, family: Family) -> list[str]:
    """Keys of rope blocks that nothing reads."""
    found = []
    for name in ("rope_parameters", "rope_scaling"):
        nested = [f"{name}.{layer_type}" for layer_type in family.rope_tables]
        blocks = [keys.inside(name)]
        if name == "rope_parameters" and nested:
            blocks = [blocks[0].inside(layer_type) for layer_type in family.rope_tables]
        for block in blocks:
            kind = block.values.get("rope_type") or block.values.get("type") or "default"
            known = {*_TURNING, *ROPE_KEYS[family.rope_renames.get(kind, kind)]}
            found += [block.name + key for key, v in block.values.items() if key not in known and v]
    return found


def _by_type(keys: Keys, family: Family, head_dim: int) -> Ropes:
    """A block per type of layer in rope_parameters; in old files one theta each, and rope_scaling is
    of the first type."""
    new, old = keys.inside("rope_parameters"), keys.inside("rope_scaling")
    if not new.values.keys() <= family.rope_tables.keys():
        keys.fail(
            "rope_parameters",
            f"an object with a block for each of {show([*family.rope_tables])}",
        )
    if new.values and old.values:
        keys.fail("rope_scaling", "absent beside rope_parameters")
    tables: dict[str, Rope] = {}
    thetas: list[float] = []
    raws: list[dict[str, Any] | None] = []
    for layer_type, (theta_key, default) in family.rope_tables.items():
        block = old if not tables and old.values else new.inside(layer_type)
        found = _read_block(keys, block, family, head_dim) or {"rope_type": "default"}
        found.pop("truncate", None)  # transformers looks for it above these blocks
        theta = keys.number(theta_key, None) if theta_key else None
        inside = block.number("rope_theta", theta)
        if theta not in (None, inside):
            keys.fail(theta_key, f"what {block.name}rope_theta says: {show(inside)}")
        raw = None if found["rope_type"] == "default" else block.values
        thetas.append(inside or default)
        raws.append(raw)
        tables[layer_type] = _table(keys, thetas[-1], head_dim, found, raw)
    return Ropes(tables, thetas[0], raws[0], [])


def _rotary_dim(keys: Keys, family: Family, head_dim: int) -> int:
    """How many floats of a head are turned."""
    factors = [
        block.number("partial_rotary_factor", None)
        for block in (keys.inside("rope_parameters"), keys.inside("rope_scaling"), keys)
    ]
    given = [factor for factor in factors if factor is not None]
    if not given or all(factor == 1.0 for factor in given):
        return head_dim
    if not family.partial_rotary:
        for block in (
            keys,
            keys.inside("rope_parameters"),
            keys.inside("rope_scaling"),
        ):
            if block.number("partial_rotary_factor", 1.0) != 1.0:
                block.refuse("partial_rotary_factor", "only whole heads can be rotated")
    rotary = int(head_dim * given[0])
    if len(set(given)) > 1 or rotary % 2 or not 2 <= rotary <= head_dim:
        keys.fail("partial_rotary_factor", f"one number that gives an even part of {head_dim}")
    return rotary


def _read_block(keys: Keys, block: Keys, family: Family, rotary: int) -> dict[str, Any] | None:
    """What the block says of scaling, in one spelling; None without a block."""
    said = block.text("rope_type") or block.text("type")
    if block.text("type") not in (None, said):
        block.fail("type", f"what rope_type says, {show(said)}, or absent")
    if not block.values:
        return None
    kind = family.rope_renames.get(said or "", said)
    types = (*family.rope_types, *family.rope_renames)
    if kind is None and not block.values.keys() <= {
        "rope_theta",
        "partial_rotary_factor",
    }:
        block.fail("rope_type", any_of(types))
    if kind not in (None, *family.rope_types):
        spelt = "rope_type" if "rope_type" in block.values else "type"
        block.refuse(spelt, f"only {any_of(types)} can be run")
    found: dict[str, Any] = {"rope_type": kind or "default"}
    read = {"linear": _factor, "dynamic": _factor, "llama3": _llama3, "yarn": _yarn}
    if kind == "longrope":
        n = rotary // 2
        found |= {name: block.numbers(name, n) for name in ("short_factor", "long_factor")}
        found |= _stretched(keys, block, family)
    elif kind == "rope_freqs":
        found[kind] = block.numbers(kind, rotary // 2)
    elif kind in read:
        found |= read[kind](keys, block, family)
    return found


def _factor(keys: Keys, block: Keys, family: Family) -> dict[str, Any]:
    return {"factor": block.number("factor")}


def _llama3(keys: Keys, block: Keys, family: Family) -> dict[str, Any]:
    low, high = block.number("low_freq_factor"), block.number("high_freq_factor")
    if low >= high:
        block.fail("low_freq_factor", f"below high_freq_factor, which is {show(high)}")
    old = _original(keys, block, family)
    bands = {"low_freq_factor": low, "high_freq_factor": high, _ORIGINAL: old}
    return bands | _factor(keys, block, family)


def _yarn(keys: Keys, block: Keys, family: Family) -> dict[str, Any]:
    names = ("mscale", "mscale_all_dim", "beta_fast", "beta_slow")
    found = _stretched(keys, block, family) | {name: block.number(name, None) for name in names}
    return found | {"truncate": block.value("truncate", (bool,), "true or false", True)}


def _stretched(keys: Keys, block: Keys, family: Family) -> dict[str, Any]:
    """What yarn and longrope share; without a factor the two lengths give it."""
    old = _original(keys, block, family)
    longest = keys.integer("max_position_embeddings", 1, POSITIONS)
    factor = block.number("factor", longest / old)
    given = block.number("attention_factor", None)
    return {_ORIGINAL: old, "factor": factor, "attention_factor": given}


def _original(keys: Keys, block: Keys, family: Family) -> int:
    outside = keys.integer(_ORIGINAL, 1, POSITIONS, None)
    default = outside if _ORIGINAL in family.defaults else REQUIRED
    old: int = block.integer(_ORIGINAL, 1, POSITIONS, default)
    if outside not in (None, old):
        keys.fail(_ORIGINAL, f"what {block.name}{_ORIGINAL} says: {old}")
    return old


def _theta(keys: Keys, default: float | None) -> tuple[float, list[str]]:
    """theta from wherever it stands; only files older than the key itself may leave it out."""
    found: float | None = keys.number("rope_theta", None)
    for name in ("rope_parameters", "rope_scaling"):
        inside = keys.inside(name).number("rope_theta", found)
        if found not in (None, inside):
            keys.fail("rope_theta", f"what {name} says: {show(inside)}")
        found = inside
    found = default if found is None else found
    if found is not None:
        return found, []
    version = re.match(r"(\d{1,4})\.(\d{1,4})\.", keys.text("transformers_version") or "")
    if not version or (int(version[1]), int(version[2])) >= (4, 33):
        keys.fail(
            "rope_theta",
            "the number that the model was trained with (Llama 2: 10000.0)",
        )
    note = (
        f"{keys.path}: there is no rope_theta; 10000 is used, as it was fixed in the code of the"
        f" transformers {version[0]}x that wrote this file"
    )
    return 10000.0, [note]


def _table(
    keys: Keys,
    theta: float,
    rotary: int,
    found: dict[str, Any],
    raw: dict[str, Any] | None,
) -> Rope:
    """The frequencies, all of them numbers that an angle can be made of."""
    stretched = found["rope_type"] in ("yarn", "longrope")
    if stretched and (theta <= 1 or found[_ORIGINAL] < 2):
        raise ConfigError(
            f"{keys.path}: rope_theta {theta:g} with {show(raw)} gives no frequencies; theta and"
            f" {_ORIGINAL} must be above 1"
        )
    with np.errstate(all="ignore"):
        rope = Rope(inverse_frequencies(theta, rotary, found), attention_factor(found))
        if found["rope_type"] == "longrope":
            long = long_frequencies(theta, rotary, found)
            rope = Rope(rope.inv_freq, rope.attention_factor, long, found[_ORIGINAL])
        factor = np.array([rope.attention_factor]).astype(np.float32)
    if not all(map(_usable, rope.tables())):
        raise ConfigError(
            f"{keys.path}: rope_theta {theta:g} with {show(raw)} gives a frequency that is 0"
            " or infinite in float32"
        )
    if not _usable(factor):
        raise ConfigError(
            f"{keys.path}: {show(raw)} multiplies cos and sin by {rope.attention_factor:g}, which"
            " a float32 cannot hold"
        )
    return rope


def _usable(table: NDArray[np.float32]) -> bool:
    return bool(np.all((table > 0) & np.isfinite(table)))
