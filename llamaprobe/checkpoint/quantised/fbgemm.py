"""FBGEMM's FP8, as Meta published Llama 3.1 405B: `weight` F8_E4M3 with one `weight_scale` for each
row."""

from collections.abc import Iterator

from ..packed import PackedInfo
from .patterns import Listed
from .source import FLOATS, Source


def find(source: Source) -> Iterator[PackedInfo]:
    """The packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    source.note_activations("fbgemm_fp8 for each token")
    listed = "modules_to_not_convert"
    names = Listed(source.declared.keys, listed)
    for module in source.with_codes("weight", listed, lambda one: names.has_part_of(one.name)):
        source.part(module, "weight", "F8_E4M3")
        source.part(module, "weight_scale", *FLOATS)
        shapes = [(module.n_rows, 1), (module.n_rows,)]
        source.check_shape(module, "weight_scale", shapes, "quant_method")
        roles = {"codes": "weight", "scales": "weight_scale"}
        yield source.packed(module, "fp8", "fbgemm_fp8", roles, scale_rows=1)
