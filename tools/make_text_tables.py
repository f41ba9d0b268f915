"""Writes csrc/text/format_tables.h and csrc/text/parse_tables.h: powers of two and ten for the text code.

    python tools/make_text_tables.py            # writes both headers
    python tools/make_text_tables.py --check    # exits 1 when a header is not what this writes

All of it is Python's integer arithmetic, so the tables are right if the formulas below are. What
the numbers mean and why they suffice is in docs/text.md.
"""

import sys
from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
Q_FIRST, Q_LAST = -149, 104  # float32 is c * 2^q with c < 2^24
# Rows for "%.Ne": subnormals are shifted up to 24 bits; above 3 a float is a whole number.
Q_EXACT_FIRST, Q_EXACT_LAST = -172, 3


def floor_log10(x: Fraction) -> int:
    """The k with 10^k <= x < 10^(k+1)."""
    k = len(str(x.numerator)) - len(str(x.denominator))
    while Fraction(10) ** k > x:
        k -= 1
    while Fraction(10) ** (k + 1) <= x:
        k += 1
    return k


def unit(q: int, bits: int) -> Fraction:
    """2^q in units of 10^k, k = floor(log10(2^q)), times 2^bits."""
    x = Fraction(2) ** q
    return x / Fraction(10) ** floor_log10(x) * 2**bits


def power_of_two(q: int) -> int:
    """Digits of 2^(q+23) in units of 10^(k-1): the fewest in its rounding interval, the closest.

    Below a power of two floats lie half as far apart, so its interval reaches down half as far.
    """
    value, step = Fraction(2) ** (q + 23), Fraction(2) ** q
    low, high = value - step / (2 if q == Q_FIRST else 4), value + step / 2
    k = floor_log10(step) - 1
    for zeros in range(9, -1, -1):
        ten = Fraction(10) ** (k + zeros)
        inside = [n for n in range(-(-low // ten), high // ten + 1)]
        if inside:
            best = min(inside, key=lambda n: (abs(n * ten - value), n % 2))
            return best * 10**zeros
    raise AssertionError(q)


def rows(values: Iterable[str], per_line: int) -> str:
    items = list(values)
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return ",\n".join("    " + line for line in lines)


def text_tables() -> str:
    qs = range(Q_FIRST, Q_LAST + 1)
    for q in range(Q_EXACT_FIRST, Q_LAST + 1):
        k = ((q + 172) * 1233 + 920 >> 12) - 52  # text_unit_exponent() of format_shortest.h
        assert k == floor_log10(Fraction(2) ** q)
    units = [f"0x{ceil(unit(q, 64) / 10):016x}" for q in qs]
    powers = [f"{power_of_two(q)}" for q in qs]
    tens = [f"{10**n}u" for n in range(20)]
    exact = []
    for q in range(Q_EXACT_FIRST, Q_EXACT_LAST + 1):
        row = unit(q, 124)
        assert row.denominator == 1
        exact.append(f"{{0x{int(row) >> 64:016x}, 0x{int(row) % 2**64:016x}}}")
    return f"""/* format_tables.h - written by tools/make_text_tables.py; see docs/text.md. */
/* clang-format off */
#ifndef LP_FORMAT_TABLES_H
#define LP_FORMAT_TABLES_H

#include <stdint.h>

static const uint64_t text_ten_to[{len(tens)}] = {{
{rows(tens, 4)}}};

/* [q + 150]: 2^q / 10^(k + 1) with k = floor(log10(2^q)), 64 bits of fraction, rounded up. The
 * index is the biased exponent of a float32; subnormals share the step of the smallest normal
 * numbers, and 255 has none. */
static const uint64_t text_unit[256] = {{
{rows([units[0], *units, "0"], 5)}}};

/* [q + 150]: the shortest digits of 2^(q + 23), in units of 10^(k - 1) */
static const uint32_t text_power_of_two[256] = {{
{rows(["0", *powers, "0"], 10)}}};

/* [q + 172]: 2^q / 10^k with 124 bits of fraction, exact: {{high, low}} */
static const uint64_t text_unit_exact[{len(exact)}][2] = {{
{rows(exact, 2)}}};

#endif
"""


def text_read_tables() -> str:
    mantissas = []
    for e in range(-64, 39):
        x = Fraction(10) ** e
        b = x.numerator.bit_length() - x.denominator.bit_length()
        b -= Fraction(2) ** b > x
        assert e * 217706 >> 16 == b  # the shortcut of parse_number.h
        mantissas.append(f"0x{x / Fraction(2) ** b * 2**63 // 1:016x}")
    return f"""/* parse_tables.h - written by tools/make_text_tables.py; see docs/text.md. */
/* clang-format off */
#ifndef LP_PARSE_TABLES_H
#define LP_PARSE_TABLES_H

#include <stdint.h>

#define READ_MIN_POWER (-64)
#define READ_MAX_POWER 38

/* [e + 64]: the upper 64 bits of 10^e, rounded down, the first bit set */
static const uint64_t read_power[{len(mantissas)}] = {{
{rows(mantissas, 5)}}};

#endif
"""


def main() -> int:
    stale = 0
    tables = {"text/format_tables.h": text_tables(), "text/parse_tables.h": text_read_tables()}
    for name, text in tables.items():
        path = CSRC / name
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text() != text:
                print(f"{path}: not what make_text_tables.py writes; run it", file=sys.stderr)
                stale = 1
        else:
            path.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
