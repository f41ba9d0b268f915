/* parse_number.h - one decimal number to the nearest float32; a part of parse.c.
 *
 * The digits become an integer w below 2^64 and a power of ten. w * 10^e is computed with the upper 64 bits of
 * 10^e, and only the upper 64 bits of the product are used: too small by less than 4 units. A float32 needs 24 of them,
 * so the rounding is certain unless the other 40 lie within 4 units below one half; then parse_exact.h decides with
 * long integers. Of more than 19 digits the first 19 are taken, and the 4 becomes 64 (docs/text.md). */
#ifndef LP_PARSE_NUMBER_H
#define LP_PARSE_NUMBER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../base/platform.h"
#include "parse_exact.h"  /* read_decimal, read_compare_half */
#include "parse_tables.h" /* read_power */

#define READ_INFINITY 0x7f800000u
#define READ_NAN 0x7fc00000u
#define READ_FAR 10000000000 /* exponents beyond this are all the same */

/* ---- digits ---- */

/* Eight bytes from p on, the first one lowest; zeros stand for what is beyond the end. */
static inline uint64_t read_load8(const char *p, const char *end) {
    uint64_t bytes = 0;
    if (__builtin_expect(end - p >= 8, 1))
        memcpy(&bytes, p, 8);
    else if (p < end)
        memcpy(&bytes, p, (size_t)(end - p));
    return bytes;
}

/* Eight characters less '0' each: how many digits they begin with. */
static inline unsigned read_count8(uint64_t x) {
    uint64_t others = ((x + 0x7676767676767676) | x) & 0x8080808080808080; /* right up to the first other one */
    return others ? (unsigned)__builtin_ctzll(others) / 8 : 8;
}

/* The value of the first n of them: neighbours are joined to pairs, to fours, to eight. */
static inline uint64_t read_value8(uint64_t x, unsigned n) {
    unsigned shift = 64 - 8 * n; /* zeros come in front; 64 is too much for one shift */
    x = x << shift / 2 << (shift - shift / 2);
    x = (x * 10 + (x >> 8)) & 0x00ff00ff00ff00ff;
    x = (x * 100 + (x >> 16)) & 0x0000ffff0000ffff;
    return (x * 10000 + (x >> 32)) & 0xffffffff;
}

static inline int read_is_digit(const char *p, const char *end) { return p < end && (unsigned char)(*p - '0') < 10; }

/* Digits behind the point, up to 16, go to the end of *w; returns their number. */
static inline unsigned read_fraction(uint64_t *w, const char *p, const char *end) {
    static const uint64_t ten_to[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
    uint64_t x = read_load8(p, end) ^ 0x3030303030303030;
    uint64_t y = read_load8(p + 8 < end ? p + 8 : end, end) ^ 0x3030303030303030;
    unsigned n = read_count8(x), m = read_count8(y) & (0 - (n >> 3)); /* no branch: lengths are random */
    *w = (*w * ten_to[n] + read_value8(x, n)) * ten_to[m] + read_value8(y, m);
    return n + m;
}

/* ---- to float32 ---- */

/* Rounds m * 2^(e - 63), 2^63 <= m, to a multiple of 2^(e - 63 + cut); m may be too small by less than `error`.
 * Returns the factor, which is a mantissa. 40 <= cut <= 65. */
static uint32_t read_round_slowly(const read_decimal *d, uint64_t m, int e, int cut, uint64_t error) {
    unsigned __int128 rest = m, half = (unsigned __int128)1 << (cut - 1);
    uint32_t mantissa = (uint32_t)(rest >> cut);
    rest -= (unsigned __int128)mantissa << cut;
    if (rest > half) return mantissa + 1;
    if (rest + error <= half) return mantissa;
    int sign = read_compare_half(d, mantissa, e - 63 + cut);
    return mantissa + (sign > 0 || (sign == 0 && (mantissa & 1)));
}

static inline uint32_t read_round(const read_decimal *d, uint64_t m, int e, uint64_t error) {
    if (e > 127) return READ_INFINITY;
    if (__builtin_expect(e < -126, 0)) return e < -151 ? 0 : read_round_slowly(d, m, e, 40 - 126 - e, error);
    const uint64_t half = (uint64_t)1 << 39;
    uint64_t rest = m & (2 * half - 1), mantissa = m >> 40;
    if (__builtin_expect(rest + error - half - 1 < error, 0))
        mantissa = read_round_slowly(d, m, e, 40, error);
    else
        mantissa += rest > half;
    /* the implicit bit of mantissa adds 1 to the exponent, and so does a carry out of the mantissa */
    return ((uint32_t)(e + 126) << 23) + (uint32_t)mantissa;
}

/* A float32 without its sign. */
static inline uint32_t read_magnitude(const read_decimal *d) {
    if (d->w == 0 || d->exponent < READ_MIN_POWER) return 0; /* w < 10^19 */
    if (d->exponent > READ_MAX_POWER) return READ_INFINITY;
    int exponent = (int)d->exponent, zeros = __builtin_clzll(d->w);
    unsigned __int128 product = (unsigned __int128)(d->w << zeros) * read_power[exponent - READ_MIN_POWER];
    uint64_t m = (uint64_t)(product >> 64);
    int carried = (int)(m >> 63);
    int b = exponent * 217706 >> 16; /* 10^exponent lies in [2^b, 2^(b+1)) */
    return read_round(d, m << !carried, b + 63 - zeros + carried, d->cut ? 64 : 4);
}

/* ---- text ---- */

/* "e+05" at p, if it is there: returns what follows it. */
static inline const char *read_exponent(const char *p, const char *end, int64_t *exponent) {
    if (p == end || (*p | 32) != 'e') return p;
    const char *q = p + 1;
    int negative = q < end && *q == '-';
    q += q < end && (*q == '-' || *q == '+');
    if (!read_is_digit(q, end)) return p;
    int64_t e = 0;
    for (; read_is_digit(q, end); q++)
        if (e < READ_FAR) e = 10 * e + (*q - '0');
    *exponent += negative ? -e : e;
    return q;
}

/* A word of letters without regard to case: returns what follows it, or NULL. */
static inline const char *read_word(const char *p, const char *end, const char *word) {
    for (; *word; p++, word++)
        if (p == end || (*p | 32) != *word) return NULL;
    return p;
}

/* nan, nan(...), inf, infinity */
static const char *read_special(const char *p, const char *end, uint32_t *magnitude) {
    const char *q = read_word(p, end, "inf");
    if (q) {
        const char *whole = read_word(q, end, "inity");
        *magnitude = READ_INFINITY;
        return whole ? whole : q;
    }
    q = read_word(p, end, "nan");
    if (!q) return NULL;
    *magnitude = READ_NAN;
    if (q == end || *q != '(') return q;
    const char *r = q + 1;
    while (r < end && (read_is_digit(r, end) || *r == '_' || (unsigned char)((*r | 32) - 'a') < 26)) r++;
    return r < end && *r == ')' ? r + 1 : q;
}

/* Digits and a point, however many. Returns what follows them. */
static const char *read_long(const char *p, const char *end, read_decimal *d) {
    int n = 0, behind = 0;
    d->w = 0, d->exponent = 0, d->start = p;
    for (; read_is_digit(p, end) || (p < end && *p == '.' && !behind); p++) {
        if (*p == '.') {
            behind = 1;
        } else if (n < 19) {
            d->w = 10 * d->w + (uint64_t)(*p - '0');
            n += d->w != 0;
            d->exponent -= behind;
        } else {
            d->cut = 1;
            d->exponent += !behind;
        }
    }
    d->end = p;
    return p;
}

/* One number at p. Returns what follows it, or NULL when there is none. */
static inline const char *read_number(const char *p, const char *end, uint32_t *bits) {
    if (p == end) return NULL;
    uint32_t sign = *p == '-', magnitude;
    p += sign | (*p == '+');
    read_decimal d = {0, 0, 0, p, p};
    for (; read_is_digit(p, end); p++) d.w = 10 * d.w + (uint64_t)(*p - '0');
    size_t n = (size_t)(p - d.start);
    if (p < end && *p == '.') {
        unsigned n_fraction = read_fraction(&d.w, ++p, end);
        p += n_fraction, n += n_fraction;
        d.exponent = -(int64_t)n_fraction;
    }
    if (__builtin_expect(n == 0, 0)) {
        p = read_special(d.start, end, &magnitude);
        if (p) *bits = magnitude | sign << 31;
        return p;
    }
    if (__builtin_expect(n > 19 || read_is_digit(p, end), 0)) p = read_long(d.start, end, &d);
    p = read_exponent(p, end, &d.exponent);
    *bits = read_magnitude(&d) | sign << 31;
    return p;
}

#endif
