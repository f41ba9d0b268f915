"""Quantised formats that cannot be run, by name: why, and what to do instead."""

from collections.abc import Iterable

from ...families.keys import UnsupportedConfigError
from ...messages import printable
from .declared import Declared

_DEQUANTISE = "load it in transformers, call model.dequantize() and save that"
_ORIGINAL = "take the model that it was made from"
_TABLE = "its codes are numbers of a table, times a scale for each 64 of them"
# quant_method -> (the fact, the way out)
_METHODS = {
    "aqlm": ("sums of vectors of codebooks", _ORIGINAL),
    "auto-round": ("its layouts are those of GPU kernels", "export it as auto_gptq or auto_awq"),
    "bitnet": ("ternary weights between norms of its own", _ORIGINAL),
    "bitsandbytes": (_TABLE, _DEQUANTISE),
    "eetq": ("8-bit weights in the order of a GPU kernel", _ORIGINAL),
    "exl2": ("groups of different widths in an order of its own", _ORIGINAL),
    "exl3": ("trellis codes of rotated weights", _ORIGINAL),
    "fouroversix": ("NVFP4 with scales of two kinds", _ORIGINAL),
    "fp_quant": ("MXFP4 or NVFP4 of rotated weights", _ORIGINAL),
    "higgs": ("vectors of a grid, of rotated weights", _DEQUANTISE),
    "hqq": ("rows in two halves of a byte, with scales in float", _DEQUANTISE),
    "marlin": ("the order of a GPU kernel", "take a GPTQ model in the format gptq"),
    "mlx": ("codes with a scale and an offset", "mlx_lm.convert --dequantize undoes them"),
    "mxfp4": ("4-bit floats with scales of 8 bits (MXFP4)", _DEQUANTISE),
    "nvfp4": ("4-bit floats with scales of 8 bits (NVFP4)", _ORIGINAL),
    "quanto": ("tensors of optimum's own classes", _ORIGINAL),
    "quark": ("formats of AMD's own", _ORIGINAL),
    "quip": ("codes of a lattice, of rotated weights", _ORIGINAL),
    "sinq": ("two scales for each weight, by row and by column", _ORIGINAL),
    "spqr": ("a sparse matrix of outliers beside the codes", _ORIGINAL),
    "torchao": ("tensors of torch's own classes", _DEQUANTISE),
    "vptq": ("vectors of codebooks", _ORIGINAL),
}
_METHODS["bitsandbytes_4bit"] = _METHODS["bitsandbytes_8bit"] = _METHODS["bitsandbytes"]
_METHODS["intel/auto-round"] = _METHODS["auto_round"] = _METHODS["auto-round"]


def refuse(declared: Declared, known: Iterable[str]) -> UnsupportedConfigError:
    """The error for a method that none of `known` is."""
    name = printable(declared.method, 40)
    fact, way_out = _METHODS.get(
        declared.method, ("a method that llamaprobe does not know", _ORIGINAL)
    )
    return UnsupportedConfigError(
        f"{declared.where}: {name} weights cannot be run: {fact}; {way_out}; of quantised weights in"
        f" safetensors {', '.join(known)} can be run"
    )
