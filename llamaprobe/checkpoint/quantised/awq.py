"""AWQ in the layout "gemm" of AutoAWQ: `qweight` I32 [in, out / 8], `qzeros` and `scales`, 4 bits.

The other layouts have other orders, and are refused: gemv, gemv_fast, marlin, llm-awq.
"""

from collections.abc import Iterator

from ..packed import PackedInfo
from .patterns import Listed
from .source import FLOATS, Module, Source

_WAY_OUT = "quantise the model again with version gemm, or take the one that it was made from"
_MAX_GROUP = 1 << 20


def find(source: Source) -> Iterator[PackedInfo]:
    """The packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    keys, listed = source.declared.keys, "modules_to_not_convert"
    version = keys.text("version") or "gemm"
    if version.lower() != "gemm":
        keys.refuse("version", f"only gemm can be run; {_WAY_OUT}")
    bits = "w_bit" if "w_bit" in keys.values else "bits"
    if keys.integer(bits, 1, 16) != 4:
        keys.refuse(bits, f"only 4 bits can be run; {_WAY_OUT}")
    if keys.values.get("zero_point", True) is not True:
        keys.refuse("zero_point", f"only true can be run; {_WAY_OUT}")
    names = Listed(keys, listed)
    for module in source.with_codes("qweight", listed, lambda one: names.has_part_of(one.name)):
        yield _packed(source, module)


def _packed(source: Source, module: Module) -> PackedInfo:
    keys = source.declared.keys
    key = "q_group_size" if "q_group_size" in keys.values else "group_size"
    group = keys.integer(key, -1, _MAX_GROUP)
    group = module.n_cols if group == -1 else group
    if not group:
        keys.fail(key, "-1 or above 0")
    source.part(module, "qweight", "I32", "I16")
    _refuse_other_layouts(source, module)
    source.part(module, "qzeros", "I32")
    source.part(module, "scales", *FLOATS)
    n_groups, words = -(-module.n_cols // group), module.n_rows // 8
    if module.n_rows % 8:
        source.fail(module, "qweight", f"cannot hold {module.n_rows} rows in words of 8 codes")
    source.check_shape(module, "qweight", [(module.n_cols, words)], "version")
    source.check_shape(module, "scales", [(n_groups, module.n_rows)], key)
    source.check_shape(module, "qzeros", [(n_groups, words)], key)
    roles = {"codes": "qweight", "scales": "scales", "zeros": "qzeros"}
    return source.packed(module, "awq", "awq", roles, group, scale_rows=1, scale_cols=group)


def _refuse_other_layouts(source: Source, module: Module) -> None:
    shape = module.parts["qweight"].shape
    if module.parts["qweight"].dtype == "I16":
        name = "gemv_fast or llm-awq"
    elif shape == (module.n_rows, -(-module.n_cols // 8)) and shape[0] != module.n_cols:
        name = "gemv"
    elif shape == (-(-module.n_cols // 16), 2 * module.n_rows):
        name = "marlin"
    else:
        return
    source.refuse(module, "qweight", f"is in the order of {name}, which cannot be run; {_WAY_OUT}")
