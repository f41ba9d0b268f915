/* format_exact.h - "%.Ne" of a float32, as C prints it; a part of format.c.
 *
 * Every step is exact, so the rounding (to nearest, ties to the even digit) is right by construction. Below 2^27 a
 * float32 is c * 2^q with 24 bits in c and q <= 3, and 2^q / 10^k with k = floor(log10(2^q)) needs no more than 124
 * bits behind the point: a product with c gives the first 7 to 9 digits, and multiplying the fraction by 10^m
 * brings up the next m digits. From 2^27 on a float32 is an integer below 2^128 and long division does it.
 *
 * The number of digits after the point is called n. Work goes block by block, as in format_shortest.h. */
#ifndef LP_FORMAT_EXACT_H
#define LP_FORMAT_EXACT_H

#include <stdint.h>

#include "digits.h"
#include "format_shortest.h" /* text_put_special, TEXT_SPECIAL */
#include "format_tables.h"

typedef unsigned __int128 text_u128;

/* 60 bits behind the point in high, the next 64 in low. */
typedef struct {
    uint64_t high, low;
} text_fraction;

/* n + 1 digits: nine in head (n + 1 when n < 8), the other n - 8 in tail; the first one counts 10^exponent. */
typedef struct {
    uint64_t head, tail;
    int exponent;
} text_decimal;

/* A block of numbers on its way: a first digit, groups of eight, and a 26th digit. */
typedef struct {
    uint8_t first[TEXT_BLOCK], last[TEXT_BLOCK];
    int8_t exponent[TEXT_BLOCK];
    uint32_t group[3][TEXT_BLOCK];
    uint64_t digits[3][TEXT_BLOCK];
} text_exact_block;

static inline text_u128 text_ten_to_wide(int m) {
    return m < 20 ? text_ten_to[m] : (text_u128)text_ten_to[19] * text_ten_to[m - 19];
}

/* factor * (whole + fraction): returns the whole part and leaves the fraction. */
static inline uint64_t text_scale(text_fraction *fraction, uint64_t whole, uint64_t factor) {
    text_u128 low = (text_u128)fraction->low * factor;
    text_u128 high = (text_u128)fraction->high * factor + (uint64_t)(low >> 64);
    fraction->high = (uint64_t)high & (((uint64_t)1 << 60) - 1);
    fraction->low = (uint64_t)low;
    return whole * factor + (uint64_t)(high >> 60);
}

/* Adds 0 or 1 to the last digit. */
static inline void text_add(text_decimal *d, uint64_t up, int n) {
    if (n > 8) {
        d->tail += up;
        if (d->tail < text_ten_to[n - 8]) return;
        d->tail = 0, up = 1;
    }
    d->head += up;
    if (d->head < text_ten_to[n < 8 ? n + 1 : 9]) return;
    d->head /= 10;
    d->exponent++;
}

/* Rounds away the fraction that follows the last digit. | and &, for branches would be coin tosses. */
static inline void text_round(text_decimal *d, text_fraction cut, int n) {
    const uint64_t half = (uint64_t)1 << 59, last = n > 8 ? d->tail : d->head;
    text_add(d, (cut.high > half) | ((cut.high == half) & ((cut.low != 0) | (last & 1))), n);
}

/* n < 8: rounds away the last 8 - n of nine digits and the fraction that follows them. */
static inline void text_round_head(text_decimal *d, text_fraction rest, int n) {
    uint32_t ten = (uint32_t)text_ten_to[8 - n], half = ten / 2, head = (uint32_t)d->head / ten;
    uint32_t cut = (uint32_t)d->head - head * ten, beyond = (rest.high | rest.low) != 0;
    d->head = head;
    text_add(d, (cut > half) | ((cut == half) & (beyond | (head & 1))), n);
}

/* c * 2^q with 2^23 <= c < 2^24 and -172 <= q <= 3 */
static inline text_decimal text_exact_small(uint32_t c, int q, int n) {
    static const uint32_t scale[3] = {100, 10, 1};
    const uint64_t *unit = text_unit_exact[q + 172];
    text_fraction rest = {unit[0], unit[1]};
    uint64_t whole = text_scale(&rest, 0, c); /* 7 to 9 digits: the unit is in [1, 10) */
    int more = (whole >= 10000000) + (whole >= 100000000);
    text_decimal d = {0, 0, text_unit_exponent(q) + 6 + more};
    d.head = text_scale(&rest, whole, scale[more]);
    if (n < 8) {
        text_round_head(&d, rest, n);
        return d;
    }
    if (n > 8) d.tail = text_scale(&rest, 0, text_ten_to[n - 8]);
    text_round(&d, rest, n);
    return d;
}

/* c * 2^q with 2^23 <= c < 2^24 and 4 <= q <= 104 */
static inline text_decimal text_exact_large(uint32_t c, int q, int n) {
    text_u128 value = (text_u128)c << q;
    text_decimal d = {0, 0, text_unit_exponent(q) + 6};
    while (d.exponent < 38 && value >= text_ten_to_wide(d.exponent + 1)) d.exponent++;
    int drop = d.exponent - n, up = 0;
    if (drop > 0) {
        text_u128 ten = text_ten_to_wide(drop), cut = value % ten, half = ten / 2;
        value /= ten;
        up = cut > half || (cut == half && (value & 1));
    } else {
        value *= text_ten_to_wide(-drop);
    }
    uint64_t split = text_ten_to[n > 8 ? n - 8 : 0];
    d.head = (uint64_t)(value / split);
    d.tail = (uint64_t)(value % split);
    text_add(&d, (uint64_t)up, n);
    return d;
}

static inline text_decimal text_exact_digits(uint32_t magnitude, int n) {
    uint32_t c = magnitude & 0x7fffff;
    int q = (int)(magnitude >> 23) - 150;
    if (magnitude == 0 || magnitude >= TEXT_SPECIAL) return (text_decimal){0, 0, 0};
    if (q > -150) {
        c |= 0x800000;
    } else { /* subnormal: shifted up until it has 24 bits */
        int shift = __builtin_clz(c) - 8;
        c <<= shift, q = -149 - shift;
    }
    return q < 4 ? text_exact_small(c, q, n) : text_exact_large(c, q, n);
}

/* Step 1: digits in groups, filled up with zeros behind the last. */
static inline void text_exact_find(text_exact_block *block, size_t i, uint32_t magnitude, int n) {
    text_decimal d = text_exact_digits(magnitude, n);
    uint32_t head = (uint32_t)(n < 8 ? d.head * text_ten_to[8 - n] : d.head);
    block->exponent[i] = (int8_t)d.exponent;
    block->first[i] = (uint8_t)(head / 100000000);
    block->group[0][i] = head % 100000000;
    if (n > 16) {
        uint64_t split = text_ten_to[n - 16], rest = d.tail % split * text_ten_to[25 - n];
        block->group[1][i] = (uint32_t)(d.tail / split);
        block->group[2][i] = (uint32_t)(rest / 10);
        block->last[i] = (uint8_t)(rest % 10);
    } else if (n > 8) {
        block->group[1][i] = (uint32_t)(d.tail * text_ten_to[16 - n]);
    }
}

/* Step 3: d.ddde+dd. Writes at most 33 bytes of text, and touches no more. */
static inline char *text_exact_put(char *dst, const text_exact_block *block, size_t i, uint32_t bits, int n) {
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > TEXT_SPECIAL) return text_put_special(dst, magnitude); /* a NaN has no sign */
    *dst = '-';
    dst += bits >> 31;
    if (magnitude == TEXT_SPECIAL) return text_put_special(dst, magnitude);
    dst[0] = (char)('0' + block->first[i]);
    dst[1] = '.';
    text_put8(dst + 2, block->digits[0][i] | TEXT_ZEROS);
    if (n > 8) text_put8(dst + 10, block->digits[1][i] | TEXT_ZEROS);
    if (n > 16) {
        text_put8(dst + 18, block->digits[2][i] | TEXT_ZEROS);
        dst[26] = (char)('0' + block->last[i]);
    }
    return text_put_exponent(dst + 1 + n + (n > 0), block->exponent[i]);
}

/* Numbers 0 .. count-1 with n digits after the point and `sep` after each; count <= TEXT_BLOCK, n is 0 .. 25. */
static inline char *text_put_exact(char *dst, const float *values, size_t count, char sep, int n) {
    text_exact_block block;
    uint32_t bits[TEXT_BLOCK];
    memcpy(bits, values, count * sizeof *bits);
    for (size_t i = 0; i < count; i++) text_exact_find(&block, i, bits[i] & 0x7fffffff, n);
    for (int group = 0; group < 1 + (n > 8) + (n > 16); group++)
        text_digits8_all(block.digits[group], block.group[group], count);
    for (size_t i = 0; i < count; i++) {
        dst = text_exact_put(dst, &block, i, bits[i], n);
        *dst++ = sep;
    }
    return dst;
}

#endif
