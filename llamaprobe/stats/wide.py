"""Wide integers in arrays: two's complement, in int64 limbs on the last axis, lowest first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def add(a: Ints, b: Ints) -> Ints:
    """Elementwise sums, modulo the width."""
    total = np.empty_like(a)
    carry = np.zeros(a.shape[:-1], np.uint64)
    for limb in range(a.shape[-1]):
        x, y = a[..., limb].view(np.uint64), b[..., limb].view(np.uint64)
        part = x + y
        whole = part + carry
        carry = ((part < x) | (whole < part)).astype(np.uint64)
        total[..., limb] = whole.view(np.int64)
    return total


def total(a: Ints) -> Ints:
    """The sums over the first axis."""
    found = a[0]
    for each in a[1:]:
        found = add(found, each)
    return found


def to_ints(a: Ints) -> NDArray[Any]:
    """Python integers, in an object array without the last axis."""
    width = 8 * a.shape[-1]
    data = np.ascontiguousarray(a, "<i8").tobytes()
    found = np.empty(a.shape[:-1], object)
    found.reshape(-1)[:] = [
        int.from_bytes(data[at : at + width], "little", signed=True)
        for at in range(0, len(data), width)
    ]
    return found


def from_ints(values: NDArray[Any], n_limbs: int) -> Ints:
    """Python integers as limbs. OverflowError for one that does not fit."""
    data = b"".join(int(v).to_bytes(8 * n_limbs, "little", signed=True) for v in values.reshape(-1))
    return np.frombuffer(data, "<i8").reshape(*values.shape, n_limbs).astype(np.int64)
