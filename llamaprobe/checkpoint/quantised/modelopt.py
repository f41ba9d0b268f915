"""NVIDIA ModelOpt's FP8: `weight` F8_E4M3 with one `weight_scale`. Its other formats are refused."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from ..packed import PackedInfo
from . import fp8
from .source import Module, Source


def find(source: Source) -> Iterator[PackedInfo]:
    """The packed weights. Raises UnsupportedError, ConfigError, FormatError."""
    keys = source.declared.keys
    if keys.values.get("quant_algo") != "FP8":
        keys.refuse("quant_algo", "of ModelOpt only FP8 can be run; export the model as that")
    cache = keys.values.get("kv_cache_quant_algo") or keys.values.get("kv_cache_scheme")
    source.note_activations("FP8 inputs" + (" and an FP8 cache" if cache else ""))
    listed = "exclude_modules" if "exclude_modules" in keys.values else "ignore"
    globs = [str(glob) for glob in keys.strings(listed)]

    def is_listed(module: Module) -> bool:
        return any(fnmatchcase(module.name, glob) for glob in globs)

    for module in source.with_codes("weight", listed, is_listed):
        yield fp8.packed(source, module, None)
