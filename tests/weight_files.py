"""Safetensors files with any dtype, shape and start, written without the library."""

import json

import numpy as np


def write_safetensors(path, tensors, pad=0):
    """{name: (dtype, shape, bytes)} -> a file whose data starts at an odd address if pad is odd."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + pad)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def same(a, b):
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    )
