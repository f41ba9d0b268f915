"""Moments from exact power sums, rounded once.

The sums S_p of the p-th powers are integers in units of 2^(-149 p), so the textbook formulas have
exact integer numerators and denominators, and Python's integer division is correctly rounded.
"""

import math
from fractions import Fraction

UNIT = 149
_LARGEST = UNIT + 128
"""2 to this power, in units of 2^-149, exceeds every float."""


def ratio(numerator: int, denominator: int) -> float:
    """The quotient, correctly rounded: infinite beyond the largest float64, NaN over 0."""
    if not denominator:
        return math.nan
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def root(numerator: int, denominator: int) -> float:
    """The square root of a nonnegative ratio, correctly rounded."""
    if not denominator:
        return math.nan
    shift = max(0, 64 - (numerator.bit_length() - denominator.bit_length()) // 2)
    whole, rest = divmod(numerator << 2 * shift, denominator)
    found = math.isqrt(whole)
    inexact = rest != 0 or found * found != whole
    return ratio(2 * found + inexact, 2 << shift)  # 64 or more bits, and a sticky bit


def fault_of(n: int, s_abs: int, s1: int, s2: int, s3: int, s4: int) -> str | None:
    """The sums that contradict each other, because no n numbers can have them; None if possible."""
    if not n:
        names = ("sum_abs", "sum_1", "sum_2", "sum_3", "sum_4")
        sums = zip(names, (s_abs, s1, s2, s3, s4), strict=True)
        return next((name for name, value in sums if value), None)
    m2, m3, m4 = n * s2 - s1 * s1, _third(n, s1, s2, s3), _fourth(n, s1, s2, s3, s4)
    if not abs(s1) <= s_abs <= n << _LARGEST:
        return "sum_abs and sum_1"
    if m2 < 0 or s_abs * s_abs > n * s2:
        return "sum_1 and sum_2"
    if s2 * s2 > n * s4 or s4 > s2 * s2:
        return "sum_2 and sum_4"
    if s3 * s3 > s2 * s4 or not 0 <= m4 <= n * m2 * m2 or m3 * m3 > m2 * m4:
        return "sum_3"
    return None


def _third(n: int, s1: int, s2: int, s3: int) -> int:
    """n^2 times the sum of the third powers of deviations from the mean."""
    return n * n * s3 - 3 * n * s1 * s2 + 2 * s1**3


def _fourth(n: int, s1: int, s2: int, s3: int, s4: int) -> int:
    """n^3 times the sum of the fourth powers of deviations from the mean."""
    return n**3 * s4 - 4 * n * n * s1 * s3 + 6 * n * s1 * s1 * s2 - 3 * s1**4


def mean(n: int, s1: int) -> float:
    return ratio(s1, n << UNIT)


def mean_square(n: int, s2: int) -> float:
    return ratio(s2, n << 2 * UNIT)


def _variance(n: int, s1: int, s2: int, ddof: int) -> tuple[int, int]:
    return (n * s2 - s1 * s1, (n * (n - ddof)) << 2 * UNIT) if n > ddof else (0, 0)


def variance(n: int, s1: int, s2: int, ddof: int) -> float:
    return ratio(*_variance(n, s1, s2, ddof))


def deviation(n: int, s1: int, s2: int, ddof: int) -> float:
    return root(*_variance(n, s1, s2, ddof))


def skew(n: int, s1: int, s2: int, s3: int) -> float:
    """m3 / m2^(3/2), biased; NaN if the variance is 0."""
    m2 = n * s2 - s1 * s1
    m3 = _third(n, s1, s2, s3)
    return math.copysign(root(m3 * m3, m2**3), 1 if m3 >= 0 else -1) if m2 else math.nan


def kurtosis(n: int, s1: int, s2: int, s3: int, s4: int) -> float:
    """m4 / m2^2, biased: 3 for a normal distribution; NaN if the variance is 0."""
    m2 = n * s2 - s1 * s1
    m4 = _fourth(n, s1, s2, s3, s4)
    return ratio(m4, m2 * m2)


def rank(q: float, n: int) -> int:
    """The rank, from 1, of the q-quantile of n values: the first at which the empirical
    distribution reaches q, taken as the decimal number that is written."""
    return max(1, math.ceil(Fraction(str(q)) * n))
