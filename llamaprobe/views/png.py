"""Writes a matrix as an 8-bit PNG with a palette, without a library."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

# From white to dark blue, evenly spaced in lightness, so that it prints in grey.
_STOPS = np.array(
    [(255, 255, 255), (214, 228, 245), (150, 190, 226), (82, 142, 200), (28, 88, 160), (8, 34, 84)]
)


def palette() -> NDArray[np.uint8]:
    """RGB colours [256, 3], from the least to the most."""
    at = np.linspace(0, len(_STOPS) - 1, 256)
    channels = [np.interp(at, np.arange(len(_STOPS)), _STOPS[:, i]) for i in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def encode(image: NDArray[np.uint8]) -> bytes:
    """[rows, columns] of palette indices as a PNG."""
    rows, columns = image.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # each begins with its filter type, 0
    lines[:, 1:] = image
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    parts = [
        (b"IHDR", header),
        (b"PLTE", palette().tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def data_url(image: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(encode(image)).decode("ascii")


def levels(values: NDArray[Any], most: float | None = None) -> NDArray[np.uint8]:
    """Values from 0 to `most` (default: the largest finite one) as palette indices; NaN and
    infinities give 0."""
    finite = np.isfinite(values)
    top = most if most is not None else float(values[finite].max(initial=0.0))
    scaled = np.where(finite, values, 0) * (255.0 / top if top > 0 else 0.0)
    indices: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return indices


def smaller(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Reduce to at most `side` rows and columns by the maximum of each cell, which keeps peaks."""
    for axis in (0, 1):
        step = -(-values.shape[axis] // side)
        if step > 1:
            values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], step), axis)
    return values


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
