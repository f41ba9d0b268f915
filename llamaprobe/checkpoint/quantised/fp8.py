"""The FP8 of transformers, DeepSeek and AutoFP8: `weight` F8_E4M3 and `weight_scale_inv` for blocks
of a matrix, or one `weight_scale` for all of it. The weights are multiplied by either, despite the
name."""

from collections.abc import Iterator

from ...families.keys import Keys
from ..packed import PackedInfo
from .patterns import Listed
from .source import FLOATS, Module, Source

_MAX_BLOCK = 1 << 20


def find(source: Source) -> Iterator[PackedInfo]:
    """The packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    keys = source.declared.keys
    if keys.values.get("fmt") not in (None, "e4m3"):
        keys.refuse("fmt", "only e4m3 can be run")
    if scheme := keys.text("activation_scheme"):
        source.note_activations(f"activation_scheme {scheme}")
    block = _block(keys)
    listed = "ignored_layers" if keys.values.get("ignored_layers") else "modules_to_not_convert"
    names = Listed(keys, listed)
    for module in source.with_codes("weight", listed, lambda one: names.has_part_of(one.name)):
        yield packed(source, module, block)


def _block(keys: Keys) -> tuple[int, int] | None:
    allowed = "two numbers of rows and columns"
    block = keys.value("weight_block_size", (list,), allowed, None)
    if block is None:
        return None
    if len(block) != 2 or any(type(n) is not int or not 0 < n <= _MAX_BLOCK for n in block):
        keys.fail("weight_block_size", allowed)
    return block[0], block[1]


def packed(source: Source, module: Module, block: tuple[int, int] | None) -> PackedInfo:
    """F8_E4M3 with scales of blocks, or None: of the whole matrix."""
    source.part(module, "weight", "F8_E4M3")
    scale = next((s for s in ("weight_scale_inv", "weight_scale") if s in module.parts), None)
    scale = scale or ("weight_scale_inv" if block else "weight_scale")
    if source.part(module, scale).dtype in ("F8_E8M0", "U8"):
        dtype = module.parts[scale].dtype
        fact = f"is {dtype}: scales that are powers of two in 8 bits cannot be run; convert them to"
        source.refuse(module, scale, f"{fact} F32, which holds each exactly")
    source.part(module, scale, *FLOATS)
    if block is None:
        source.check_shape(module, scale, [(), (1,), (1, 1)], "weight_block_size")
        return source.packed(
            module, "fp8", source.declared.method, {"codes": "weight", "scales": scale}
        )
    rows, cols = block
    table = (-(-module.n_rows // rows), -(-module.n_cols // cols))
    source.check_shape(module, scale, [table], "weight_block_size")
    return source.packed(
        module,
        "fp8",
        source.declared.method,
        {"codes": "weight", "scales": scale},
        cols,
        scale_rows=rows,
        scale_cols=cols,
    )
