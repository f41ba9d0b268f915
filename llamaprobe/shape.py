"""Which shapes an array can have."""

import math
import sys
from collections.abc import Sequence


def is_possible(shape: Sequence[int], element_bytes: int) -> bool:
    """Whether NumPy can make an array of this shape, given the memory. An axis of length 0 counts as
    1 to it, so that an empty array can be too large."""
    return math.prod(n for n in shape if n) * element_bytes <= sys.maxsize
