"""compressed-tensors, as llm-compressor and Neural Magic write it.

A matrix is `weight` (I8 or F8_E4M3) or `weight_packed` (I32, codes of 4 or 8 bits along the rows),
with `weight_scale` and, where it is not symmetric, `weight_zero_point`. Which of the config's groups
it belongs to is decided by their `targets`, of which the most specific counts, and by `ignore`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...families.keys import Keys
from ..packed import PackedInfo
from .patterns import Listed
from .source import FLOATS, Module, Source

_DTYPES = {
    "float-quantized": ("F8_E4M3",),
    "int-quantized": ("I8",),
    "naive-quantized": ("F8_E4M3", "I8"),
    "pack-quantized": ("I32",),
}
_REFUSED = {
    "nvfp4-pack-quantized": "NVFP4",
    "mxfp4-pack-quantized": "MXFP4",
    "mxfp8-quantized": "MXFP8",
    "mxfp6-pack-quantized": "MXFP6",
    "marlin-24": "2:4 sparsity in the order of a GPU kernel",
    "sparse-24-bitmask": "2:4 sparsity",
    "sparse-bitmask": "sparsity",
}
_WAY_OUT = (
    "cannot be run; load it with transformers and save its dequantised weights, or take an FP8,"
    " INT8, W8A16 or W4A16 one"
)
_MAX_GROUP = 1 << 20
_IN_ORDER = ("true", "group", "dynamic")  # values of actorder that store one; "static" does not


class _Scheme(NamedTuple):
    """One group of config_groups that quantises weights."""

    keys: Keys
    """Of its `weights`."""
    group: Keys
    """Of the group itself."""
    targets: Listed
    format: str
    bits: int
    is_float: bool
    symmetric: bool
    scale_rows: int
    scale_cols: int
    """Rows and columns that share a scale; 0: all."""
    key: str
    """The key that says so."""


def find(source: Source) -> Iterator[PackedInfo]:
    """The packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    keys = source.declared.keys
    _refuse_more_than_codes(keys)
    groups = keys.inside("config_groups")
    schemes = [scheme for name in groups.values if (scheme := _scheme(keys, groups.inside(name)))]
    ignored = Listed(keys, "ignore")
    _note_activations(source, groups)
    for module in source.modules:
        scheme = None if _rank(module, ignored) else _scheme_of(module, schemes)
        suffix = "weight_packed" if "weight_packed" in module.parts else "weight"
        if suffix not in module.parts:
            continue
        if module.is_plain and suffix == "weight":
            if scheme is not None:
                source.differ(module, suffix, "targets", "not quantised", scheme.group)
            continue
        if scheme is None:
            source.differ(module, suffix, "ignore", "not a weight of any of its config_groups")
        yield _packed(source, module, suffix, scheme)


def _refuse_more_than_codes(keys: Keys) -> None:
    if keys.values.get("transform_config"):
        keys.refuse("transform_config", f"transforms while a model runs {_WAY_OUT}")
    sparsity = keys.inside("sparsity_config")
    if sparsity.values.get("format") not in (None, "dense"):
        sparsity.refuse("format", f"sparse weights {_WAY_OUT}")


def _note_activations(source: Source, groups: Keys) -> None:
    declared: dict[str, None] = {}
    for name in groups.values:
        for kind in ("input_activations", "output_activations"):
            bits = groups.inside(name).inside(kind).integer("num_bits", 1, 64, None)
            declared |= {f"{kind} ({bits} bits)": None} if bits is not None else {}
    if source.declared.keys.values.get("kv_cache_scheme"):
        declared["kv_cache_scheme"] = None
    if declared:
        source.note_activations(", ".join(declared))


def _scheme(whole: Keys, group: Keys) -> _Scheme | None:
    """None for a group that quantises no weights."""
    keys = group.inside("weights")
    if not keys.values:
        return None
    format = group.text("format") or whole.text("format")
    at = group if group.values.get("format") else whole
    if format in _REFUSED:
        at.refuse("format", f"{_REFUSED[format]} {_WAY_OUT}")
    if format not in _DTYPES:
        at.refuse("format", f"only {', '.join(_DTYPES)} can be run")
    kind = keys.text("type") or "int"
    if kind not in ("int", "float"):
        keys.refuse("type", "only int and float can be run")
    rows, cols, key = _shared(keys)
    if group.strings("targets") == []:
        group.fail("targets", "a list of classes and modules")
    return _Scheme(
        keys=keys,
        group=group,
        targets=Listed(group, "targets"),
        format=format,
        bits=keys.integer("num_bits", 1, 16),
        is_float=kind == "float",
        symmetric=keys.value("symmetric", (bool,), "true or false", True),
        scale_rows=rows,
        scale_cols=cols,
        key=key,
    )


def _shared(keys: Keys) -> tuple[int, int, str]:
    """Rows and columns that share a scale, and the key that says so."""
    group = keys.integer("group_size", -1, _MAX_GROUP, None)
    strategy = keys.text("strategy")
    if strategy is None:
        strategy = "tensor" if group is None else "channel" if group == -1 else "group"
    if strategy == "group":
        return 1, keys.integer("group_size", 1, _MAX_GROUP), "group_size"
    if strategy == "block":
        block = keys.value("block_structure", (list,), "two numbers of rows and columns", [])
        if len(block) != 2 or any(type(n) is not int or not 0 < n <= _MAX_GROUP for n in block):
            keys.fail("block_structure", "two numbers of rows and columns")
        return block[0], block[1], "block_structure"
    if strategy not in ("tensor", "channel"):
        keys.refuse("strategy", "only tensor, channel, group and block can be run")
    return int(strategy == "channel"), 0, "strategy"


def _scheme_of(module: Module, schemes: list[_Scheme]) -> _Scheme | None:
    """The one with the most specific target; of two with the same target the last."""
    ranks = [(rank, each) for each in reversed(schemes) if (rank := _rank(module, each.targets))]
    return min(ranks, key=lambda found: found[0])[1] if ranks else None


def _rank(module: Module, targets: Listed) -> tuple[int, str] | None:
    """The lower, the more specific: a target is a name, "re:" and a pattern for the beginning of
    names, or a class. None where no target is of the module."""
    if module.name in targets.names:
        return 0, module.name
    if (pattern := targets.pattern_of(module.name)) is not None:
        return 1, pattern
    kind = "Embedding" if module.is_embedding else "Linear"
    return (2, kind) if kind in targets.names else None


def _packed(source: Source, module: Module, suffix: str, scheme: _Scheme) -> PackedInfo:
    dtype = module.parts[suffix].dtype
    _refuse_microscales(source, module, suffix)
    if dtype not in _DTYPES[scheme.format]:
        fact = f"not {' or '.join(_DTYPES[scheme.format])}"
        at = scheme.group if "format" in scheme.group.values else source.declared.keys
        source.differ(module, suffix, "format", fact, at)
    if scheme.is_float != (dtype == "F8_E4M3"):
        source.differ(module, suffix, "type", "", scheme.keys)
    if dtype == "F8_E4M3" and scheme.bits != 8 or dtype == "I8" and scheme.bits > 8:
        source.differ(module, suffix, "num_bits", "of 8 bits", scheme.keys)
    _check_scales(source, module, scheme)
    roles = {"codes": suffix, "scales": "weight_scale"}
    options = {"scale_rows": scheme.scale_rows, "scale_cols": scheme.scale_cols}
    options = {name: n for name, n in options.items() if n}
    if dtype == "I32":
        _check_words(source, module, scheme)
        options["bits"] = scheme.bits
    if _has_zeros(source, module, scheme, dtype):
        roles["zeros"] = "weight_zero_point"
    if _has_order(source, module, scheme):
        roles["group_of"] = "weight_g_idx"
    kind = {"F8_E4M3": "fp8", "I8": "int8", "I32": "int"}[dtype]
    return source.packed(module, kind, "compressed-tensors", roles, scheme.scale_cols, **options)


def _refuse_microscales(source: Source, module: Module, suffix: str) -> None:
    """Formats of blocks whose scales have 8 bits."""
    codes, scale = module.parts[suffix], source.part(module, "weight_scale")
    if codes.dtype == "U8":
        name = "NVFP4" if "weight_global_scale" in module.parts else "MXFP4"
        source.refuse(module, suffix, f"is U8: {name} {_WAY_OUT}")
    if codes.dtype == "F8_E4M3" and scale.dtype in ("U8", "F8_E8M0"):
        source.refuse(module, "weight_scale", f"is {scale.dtype}: MXFP8 {_WAY_OUT}")
    source.part(module, "weight_scale", *FLOATS)


def _check_scales(source: Source, module: Module, scheme: _Scheme) -> None:
    rows, cols = scheme.scale_rows, scheme.scale_cols
    if not rows:
        shapes: list[tuple[int, ...]] = [(1,), (), (1, 1)]
    elif not cols:
        shapes = [(module.n_rows, 1), (module.n_rows,)]
    else:
        shapes = [(-(-module.n_rows // rows), -(-module.n_cols // cols))]
    source.check_shape(module, "weight_scale", shapes, scheme.key, scheme.keys)


def _check_words(source: Source, module: Module, scheme: _Scheme) -> None:
    """weight_shape, the width of the words, and how wide a code is."""
    shape = source.part(module, "weight_shape", "I64", "I32")
    if shape.shape != (2,):
        source.fail(module, "weight_shape", f"has the shape {list(shape.shape)}; it must be [2]")
    held = source.raw(module, "weight_shape", "<i8" if shape.dtype == "I64" else "<i4").tolist()
    if held != [module.n_rows, module.n_cols]:
        fact = f"is {held}; the model has {module.n_rows} x {module.n_cols} weights"
        source.fail(module, "weight_shape", fact)
    if scheme.bits not in (4, 8):
        width = module.parts["weight_packed"].shape[-1:]
        loose = 32 // scheme.bits
        order = f"{loose} in a word" if width == (-(-module.n_cols // loose),) else "across words"
        fact = f"holds codes of {scheme.bits} bits, {order}: only 4 and 8 bits can be run"
        source.refuse(module, "weight_packed", f"{fact}; take a W4A16 or W8A16 model")
    words = (module.n_rows, -(-module.n_cols * scheme.bits // 32))
    source.check_shape(module, "weight_packed", [words], "num_bits", scheme.keys)


def _has_zeros(source: Source, module: Module, scheme: _Scheme, dtype: str) -> bool:
    """Symmetric weights may have zeros that change nothing."""
    if "weight_zero_point" not in module.parts:
        if not scheme.symmetric:
            source.part(module, "weight_zero_point")
        return False
    if dtype == "F8_E4M3" or scheme.symmetric:
        if not _is_neutral(source, module, scheme):
            fact = "not all 0" if dtype != "F8_E4M3" else "which FP8 weights cannot have"
            source.differ(module, "weight_zero_point", "symmetric", fact, scheme.keys)
        source.ignore(module, "weight_zero_point")
        return False
    return True


def _is_neutral(source: Source, module: Module, scheme: _Scheme) -> bool:
    zeros = module.parts["weight_zero_point"]
    if zeros.dtype != "I32":
        is_byte = zeros.dtype in ("I8", "U8", "F8_E4M3")
        return is_byte and not source.raw(module, "weight_zero_point", "|u1").any()
    n_words = -(-module.n_rows * scheme.bits // 32)
    shape = (n_words, *module.parts["weight_scale"].shape[1:])
    source.check_shape(module, "weight_zero_point", [shape], "strategy", scheme.keys)
    words = source.raw(module, "weight_zero_point", "<u4").reshape(n_words, 1, -1)
    middle, shifts = 1 << (scheme.bits - 1), np.arange(0, 32, scheme.bits, dtype=np.uint32)
    fields = (words >> shifts[:, None]).reshape(-1, words.shape[2]) & (2 * middle - 1)
    return bool((fields[: module.n_rows] == middle).all())


def _has_order(source: Source, module: Module, scheme: _Scheme) -> bool:
    """Whether columns are in groups of their own. The library leaves the order out where none was
    set, whatever actorder says."""
    if "weight_g_idx" not in module.parts:
        return False
    source.part(module, "weight_g_idx", "I32")
    is_set = not np.array_equal(source.raw(module, "weight_g_idx", "<i4"), [-1] * module.n_cols)
    if scheme.scale_cols and is_set:
        if source.reorders(module, "weight_g_idx", scheme.scale_cols):
            if str(scheme.keys.values.get("actorder")).lower() not in _IN_ORDER:
                fact = "in another order than column / group"
                source.differ(module, "weight_g_idx", "actorder", fact, scheme.keys)
            return True
    source.ignore(module, "weight_g_idx")
    return False
