"""float32 values as stored in a file: float32, bf16 or f16, rounded to nearest even.

The sign and payload of a NaN differ between CPUs, so every NaN is written with the same bits.
"""

import numpy as np
from numpy.typing import NDArray

_NAN = {"F32": 0x7FC00000, "BF16": 0x7FC0, "F16": 0x7E00}


def encode(values: NDArray[np.float32], dtype: str, has_nan: bool) -> NDArray[np.generic]:
    """The values in a safetensors dtype, BF16 as uint16. has_nan: whether one may be NaN."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            found: NDArray[np.generic] = values.astype(np.float16)
    elif dtype == "BF16":
        bits = values.view(np.uint32)
        found = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    else:
        found = values
    if has_nan:
        bits = found.copy().view({2: np.uint16, 4: np.uint32}[found.itemsize])
        bits[np.isnan(values)] = _NAN[dtype]
        found = bits.view(found.dtype)
    return found


def decode(stored: NDArray[np.generic], dtype: str) -> NDArray[np.float32]:
    """Stored numbers, BF16 as uint16, as float32."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(stored, np.float32)
