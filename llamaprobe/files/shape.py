"""What an array can be: its shape, and that nothing in it is masked."""

import math
import sys
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError
from .naming import counted

MAX_RANK = 32  # axes of an array in a file


def is_possible(shape: Sequence[int], element_bytes: int) -> bool:
    """Whether NumPy can make an array of this shape, given the memory. An axis of length 0 counts as
    1 to it, so that an empty array can be too large."""
    return math.prod(n for n in shape if n) * element_bytes <= sys.maxsize


def check_unmasked(array: object) -> None:
    """ArgumentError for an array with masked values: NumPy would take what lies below the mask."""
    if not np.ma.isMA(array):
        return
    n_masked = int(np.count_nonzero(np.ma.getmaskarray(array)))
    if n_masked:
        raise ArgumentError(
            f"the array is masked ({n_masked} of {counted(array.size, 'value')}), and neither files"
            " nor token ids have a mask; give array.filled(value) or array.compressed()"
        )
