"""GPTQ, as AutoGPTQ and GPTQModel write it: `qweight` I32, codes of 4 or 8 bits down the columns,
`qzeros`, `scales`, and `g_idx`, the group of each column.

Version 1 stores each zero less one, version 2 as it is. checkpoint_format says which, but files are
known that say 1 and hold 2: where zeros are symmetric, they tell themselves.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...families.keys import Keys
from ...files.json_file import show
from ..packed import PackedInfo
from .patterns import Listed, Pattern, pattern
from .source import FLOATS, Module, Source

_FORMATS = {"gptq": True, "gptq_v2": False}  # whether zeros are stored less one
_LEFT_OUT, _INSIDE = "modules_to_not_convert", "modules_in_block_to_quantize"
_WAY_OUT = "requantise the model to 4 or 8 bits, or take the one that it was made from"
_MAX_GROUP = 1 << 20


def find(source: Source) -> Iterator[PackedInfo]:
    """The packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    keys = source.declared.keys
    _check_format(keys)
    own_of = _Plan(keys)
    for module in source.modules:
        key, own = own_of(module)
        if "qweight" in module.parts:
            if own is None:
                source.differ(module, "qweight", key)
            yield _packed(source, module, own)
        elif module.is_plain and own is not None:
            source.differ(module, "weight", key, "not quantised")


def _check_format(keys: Keys) -> None:
    for key in ("checkpoint_format", "format"):
        if keys.values.get(key) not in (None, *_FORMATS):
            keys.refuse(key, "only gptq and gptq_v2 can be run; convert it with GPTQModel")
    if keys.values.get("is_marlin_format"):
        keys.refuse("is_marlin_format", "the order of a GPU kernel cannot be run")
    keys.flag("desc_act")
    if keys.values.get("pack_dtype") not in (None, "int32"):
        keys.refuse("pack_dtype", f"only int32 can be run; {_WAY_OUT}")


# ---- which modules, and how ----


class _Plan:
    """Which modules the config quantises, and with which keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._dynamic: list[tuple[Pattern, dict[str, Any] | None]] = []
        for text, own in keys.block("dynamic").items():
            is_left_out = text.startswith("-:")
            if not is_left_out and type(own) is not dict:
                keys.fail("dynamic", "an object of objects")
            found = pattern(keys, "dynamic", text[2:] if text[:2] in ("-:", "+:") else text)
            self._dynamic.append((found, None if is_left_out else own))
        self._left_out = Listed(keys, _LEFT_OUT)
        steps = keys.strings(_INSIDE)  # modules in the order in which they are quantised
        names = [name for step in steps for name in (step if type(step) is list else [step])]
        self._inside = Listed(Keys(keys.path, {_INSIDE: names}, keys.name), _INSIDE)

    def __call__(self, module: Module) -> tuple[str, Keys | None]:
        """The key that decides about a module, and the keys of this module; None: not quantised."""
        if module.is_embedding:
            return "quant_method", None
        if module.is_head and not self._keys.flag("lm_head"):
            return "lm_head", None
        for found, own in self._dynamic:
            if found.matches(module.name):
                keys = self._keys
                own_keys = None if own is None else Keys(keys.path, keys.values | own, keys.name)
                return "dynamic", own_keys
        if self._left_out.has_part_of(module.name):
            return _LEFT_OUT, None
        if module.is_head:
            return "lm_head", self._keys
        is_inside = not self._inside.names or self._inside.has_part_of(module.name)
        return _INSIDE, self._keys if is_inside else None


# ---- one module ----


def _packed(source: Source, module: Module, keys: Keys) -> PackedInfo:
    bits, group = keys.integer("bits", 1, 8), keys.integer("group_size", -1, _MAX_GROUP)
    group = module.n_cols if group == -1 else group
    if not group:
        keys.fail("group_size", "-1 or above 0")
    source.part(module, "qweight", "I32")
    source.part(module, "qzeros", "I32")
    source.part(module, "scales", *FLOATS)
    rows, cols, n_groups = module.n_rows, module.n_cols, -(-module.n_cols // group)
    words = [(n * bits // 32, n * bits % 32) for n in (cols, rows)]
    if any(rest for _, rest in words) and bits in (4, 8):
        source.fail(
            module, "qweight", f"cannot hold {rows} x {cols} codes of {bits} bits in whole words"
        )
    source.check_shape(module, "qweight", [(words[0][0], rows)], "bits", keys)
    if bits not in (4, 8):
        fact = f"holds codes of {bits} bits, which cannot be run; {_WAY_OUT}"
        source.refuse(module, "qweight", fact)
    source.check_shape(module, "scales", [(n_groups, rows)], "group_size", keys)
    source.check_shape(module, "qzeros", [(n_groups, words[1][0])], "group_size", keys)
    roles = {"codes": "qweight", "scales": "scales", "zeros": "qzeros"}
    if _has_order(source, module, keys, group):
        roles["group_of"] = "g_idx"
    _ignore_zero_bias(source, module)
    options = {"bits": bits, "scale_rows": 1, "scale_cols": group}
    if _less_one(source, module, keys, bits):
        options["zero_is_less_one"] = True
    return source.packed(module, "gptq", "gptq", roles, group, **options)


def _has_order(source: Source, module: Module, keys: Keys, group: int) -> bool:
    if "g_idx" not in module.parts:
        if keys.flag("desc_act"):
            source.part(module, "g_idx")
        return False
    source.part(module, "g_idx", "I32")
    if not source.reorders(module, "g_idx", group):
        source.ignore(module, "g_idx")
        return False
    if not keys.flag("desc_act"):
        source.differ(module, "g_idx", "desc_act", "in another order than column / group", keys)
    return True


def _less_one(source: Source, module: Module, keys: Keys, bits: int) -> bool:
    """Whether zeros are stored less one."""
    words = source.raw(module, "qzeros", "<u4")
    declared = keys.text("checkpoint_format") or keys.text("format") or "gptq"
    symmetric = keys.value("sym", (bool,), "true or false", None)
    stored = None if symmetric is False else _symmetric_zero(words, bits)
    if stored is not None:
        less_one = stored < 1 << (bits - 1)
        if less_one != _FORMATS[declared]:
            source.notes.setdefault(
                "version",
                f"{source.declared.where} has the checkpoint_format {show(declared)}, but its"
                f" symmetric zeros are {stored} as those of {'gptq' if less_one else 'gptq_v2'}, and"
                " are read so",
            )
        return less_one
    if symmetric:
        middle = 1 << (bits - 1)
        fact = f"with other zeros than {middle} or {middle - 1} throughout"
        source.differ(module, "qzeros", "sym", fact, keys)
    if _FORMATS[declared] and _may_be_damaged(words, bits):
        source.notes.setdefault(
            "damage",
            f"{source.declared.where}: {module.name}.qzeros has words that end with several"
            f" {(1 << bits) - 1}; some quantisers that stored a zero of 0 less one have damaged its"
            " neighbours so",
        )
    return _FORMATS[declared]


def _symmetric_zero(words: NDArray[np.uint32], bits: int) -> int | None:
    """2^(bits - 1), or that less one, if all zeros are that."""
    each = 0xFFFFFFFF // ((1 << bits) - 1)  # a word whose fields are all 1
    middle = 1 << (bits - 1)
    return next((z for z in (middle, middle - 1) if bool((words == z * each).all())), None)


def _may_be_damaged(words: NDArray[np.uint32], bits: int) -> bool:
    """0 less one is all ones, which some quantisers wrote over the rest of the word too."""
    return bool((words >> np.uint32(32 - 2 * bits) == (1 << 2 * bits) - 1).any())


def _ignore_zero_bias(source: Source, module: Module) -> None:
    """AutoGPTQ once gave every module a bias of zeros."""
    if "bias" not in module.parts or f"{module.name}.bias" in source.used:
        return
    if module.parts["bias"].dtype in FLOATS:
        size = {"F32": "<u4"}.get(module.parts["bias"].dtype, "<u2")
        if not source.raw(module, "bias", size).any():
            source.ignore(module, "bias")
