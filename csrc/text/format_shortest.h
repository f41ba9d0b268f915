/* format_shortest.h - the shortest decimal that reads back to the same float32; a part of format.c.
 *
 * A float32 is c * 2^q. All that lies between (c - 1/2) * 2^q and (c + 1/2) * 2^q reads back to it, and so do the
 * two ends when c is even. Count in units of 10^k, k = floor(log10(2^q)): a step of c is then a number in [1, 10),
 * and the interval is one step long. So it holds a whole number, but at most one multiple of ten. If there is one,
 * that is the answer, zeros at its end dropped: every shorter decimal is a multiple of ten. If there is none, the
 * whole number nearest to c * 2^q is. One multiplication and two comparisons decide (docs/text.md).
 *
 * Three steps, each done for a block of numbers before the next begins: a CPU overlaps many short chains of
 * dependent instructions better than a few long ones (1.5 times faster than number by number). */
#ifndef LP_FORMAT_SHORTEST_H
#define LP_FORMAT_SHORTEST_H

#include <stdint.h>

#include "digits.h"
#include "format_tables.h"

#define TEXT_SPECIAL 0x7f800000u   /* magnitude bits of infinity; above it are the NaNs */
#define TEXT_FIXED_MIN 0x38d1b718u /* the first float32 above 1e-4 */
#define TEXT_FIXED_END 0x49742400u /* 1e6: from here on, and below the other, NumPy writes an exponent */

/* floor(log10(2^q)) for q in [-172, 104] */
static inline int text_unit_exponent(int q) { return ((q + 172) * 1233 + 920) / 4096 - 52; }

/* A block of numbers on its way: each is (10 * tens + last) * 10^exponent. */
typedef struct {
    uint32_t tens[TEXT_BLOCK];
    uint8_t last[TEXT_BLOCK]; /* 0 .. 9 */
    int8_t exponent[TEXT_BLOCK];
    uint64_t digits[TEXT_BLOCK]; /* of tens, as text_digits8 gives them */
} text_shortest_block;

/* Step 1. What it finds for zero, infinity and NaN means nothing. */
static inline void text_shortest_find(text_shortest_block *block, size_t i, uint32_t magnitude) {
    uint32_t biased = magnitude >> 23, c = (magnitude & 0x7fffff) | (uint32_t)(biased != 0) << 23;
    block->exponent[i] = (int8_t)text_unit_exponent((int)biased - (biased ? 150 : 149));
    if (__builtin_expect((magnitude & 0x7fffff) == 0, 0)) { /* a power of two: floats lie closer below it than above */
        block->exponent[i]--;
        block->tens[i] = text_power_of_two[biased] / 10;
        block->last[i] = (uint8_t)(text_power_of_two[biased] % 10);
        return;
    }
    /* An entry of the table is rounded up by less than 2^-64, so the product is too large by less than 2^-40. No
     * end of an interval lies so close to a multiple of ten unless it is one: the exhaustive test is the proof. */
    uint64_t unit = text_unit[biased], half = unit >> 1, open = (uint64_t)(c & 1) << 24;
    unsigned __int128 v = (unsigned __int128)unit * c;
    uint64_t fraction = (uint64_t)v; /* of ten */
    uint32_t down = fraction < half + ((1 << 24) - open);
    uint32_t up = fraction + (half - open) < fraction; /* carries */

    /* the digit after tens, with 60 bits behind the point, to nearest, a tie to the even one */
    uint64_t digit = (fraction >> 4) * 10, almost_half = ((uint64_t)1 << 59) - 1;
    digit = (digit + almost_half + (digit >> 60 & 1)) >> 60;

    block->tens[i] = (uint32_t)(v >> 64) + up;
    block->last[i] = (uint8_t)(digit & ((down | up) - 1)); /* a branch here would be a coin toss */
}

/* The digits of a number without zeros in front; it has 9 - lead of them. */
typedef struct {
    uint64_t first8, ninth; /* bytes 0 .. 9; zeros after the last digit */
    size_t n;               /* how many remain when zeros at the end are dropped */
    int lead;
} text_aligned;

/* digits is not 0. The last digit moves into the place of a zero in front, which is rotated to the end. */
static inline text_aligned text_align(uint64_t digits, uint64_t last) {
    uint64_t bits = (unsigned)__builtin_ctzll(digits) & 56; /* 8 * lead */
    uint64_t ninth = bits ? 0 : last;
    digits |= last - ninth;
    digits = digits >> bits | digits << (-bits & 63);
    uint64_t n = 1 + (unsigned)(63 ^ __builtin_clzll(digits)) / 8;
    n += (9 - n) & (0 - (uint64_t)(ninth != 0));
    return (text_aligned){digits, ninth, n, (int)bits / 8};
}

/* Step 3, as 0.00012, 1.0, 999999.94. */
static inline char *text_put_fixed(char *dst, text_aligned d, int exponent) {
    /* [digits before the point + 3]: what is cut off the front of what goes behind the point, in bits; where that
     * goes, where its last digit goes, where the point is */
    static const uint8_t layout[10][4] = {{0, 5, 13, 1}, {0, 4, 12, 1}, {0, 3, 11, 1}, {0, 2, 10, 1}, {8, 2, 9, 1},
                                          {16, 3, 9, 2}, {24, 4, 9, 3}, {32, 5, 9, 4}, {40, 6, 9, 5}, {48, 7, 9, 6}};
    size_t row = (size_t)(exponent + 9 - d.lead + 3);
    size_t cut = layout[row][0], behind = layout[row][1], last = layout[row][2], point = layout[row][3];
    uint64_t text = d.first8 | TEXT_ZEROS;

    /* Bytes written past the end are overwritten by the next number: cheaper than counting digits. */
    text_put8(dst, row > 3 ? text : TEXT_ZEROS);
    text_put8(dst + behind, text >> cut);
    text_put8(dst + last, d.ninth | TEXT_ZEROS);
    dst[point] = '.';
    size_t end = last - 8 + d.n;
    return dst + (end > behind ? end : behind + 1);
}

/* Step 3, as 1e-45, 1.5e+10. */
static inline char *text_put_scientific(char *dst, text_aligned d, int exponent) {
    dst[0] = (char)('0' | (d.first8 & 15));
    dst[1] = '.';
    text_put8(dst + 2, (d.first8 >> 8 | d.ninth << 56) | TEXT_ZEROS);
    return text_put_exponent(dst + d.n + (d.n > 1), exponent + 8 - d.lead);
}

/* "nan", "inf", "0.0" */
static inline char *text_put_special(char *dst, uint32_t magnitude) {
    memcpy(dst, magnitude == 0 ? "0.0" : magnitude == TEXT_SPECIAL ? "inf" : "nan", 3);
    return dst + 3;
}

/* Writes at most 15 bytes of text, and touches at most 24. */
static inline char *text_shortest_put(char *dst, const text_shortest_block *block, size_t i, uint32_t bits) {
    uint32_t magnitude = bits & 0x7fffffff;
    uint64_t digits = block->digits[i], last = block->last[i];
    int exponent = block->exponent[i];
    *dst = '-';
    dst += bits >> 31;
    if (__builtin_expect(magnitude - TEXT_FIXED_MIN < TEXT_FIXED_END - TEXT_FIXED_MIN, 1))
        return text_put_fixed(dst, text_align(digits, last), exponent);
    if (magnitude > TEXT_SPECIAL) dst -= bits >> 31; /* a NaN has no sign */
    if (magnitude == 0 || magnitude >= TEXT_SPECIAL) return text_put_special(dst, magnitude);
    if (digits == 0) digits = last << 56, last = 0, exponent--; /* a single digit, as in 1e-45 */
    return text_put_scientific(dst, text_align(digits, last), exponent);
}

/* Numbers 0 .. count-1 with `sep` after each; count <= TEXT_BLOCK. */
static inline char *text_put_shortest(char *dst, const float *values, size_t count, char sep) {
    text_shortest_block block;
    uint32_t bits[TEXT_BLOCK];
    memcpy(bits, values, count * sizeof *bits);
    for (size_t i = 0; i < count; i++) text_shortest_find(&block, i, bits[i] & 0x7fffffff);
    text_digits8_all(block.digits, block.tens, count);
    for (size_t i = 0; i < count; i++) {
        dst = text_shortest_put(dst, &block, i, bits[i]);
        *dst++ = sep;
    }
    return dst;
}

#endif
