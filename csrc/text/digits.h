/* digits.h - eight decimal digits at a time, in one 64-bit word; a part of format.c.
 *
 * In such a word the first digit is the lowest byte, which is the order of bytes in memory (platform.h). Halving does
 * the work: a number below 10^8 is split into two lanes of 32 bits that hold four digits each, these into four lanes of
 * two digits, these into eight. A division of all lanes is one multiplication, since no lane's product reaches into the
 * next. */
#ifndef LP_DIGITS_H
#define LP_DIGITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../base/platform.h"

#define TEXT_BLOCK 64 /* numbers that go through one step of the work before the next step begins */
#define TEXT_ZEROS UINT64_C(0x3030303030303030) /* "00000000"; a digit | '0' is its character */

static inline void text_put8(char *dst, uint64_t bytes) { memcpy(dst, &bytes, 8); }

/* The digits of n < 10^8 as bytes 0 .. 9. Each step is q | (n - d * q) << lane, with one multiplication less. */
static inline uint64_t text_digits8(uint32_t n) {
    uint64_t q = n / 10000;
    uint64_t four = ((uint64_t)n << 32) - q * (((uint64_t)10000 << 32) - 1);
    q = (four * 5243 >> 19) & 0x0000007f0000007f; /* x * 5243 >> 19 is x / 100 for x < 10^4 */
    uint64_t two = (four << 16) - q * ((100 << 16) - 1);
    q = (two * 103 >> 10) & 0x000f000f000f000f; /* x * 103 >> 10 is x / 10 for x < 100 */
    return (two << 8) - q * ((10 << 8) - 1);
}

/* text_digits8 of a whole block. The lanes are array elements here, in loops that a compiler turns into vector
 * code: its 16-bit multiplications give the upper half of the product, which is the division. */
static inline void text_digits8_block(uint64_t *digits, const uint32_t *n) {
    uint32_t four[TEXT_BLOCK], two[2 * TEXT_BLOCK];
    uint16_t x[2 * TEXT_BLOCK], y[4 * TEXT_BLOCK], one[4 * TEXT_BLOCK];
    for (size_t i = 0; i < TEXT_BLOCK; i++) {
        uint32_t q = (uint32_t)((uint64_t)n[i] * 3518437209u >> 45); /* n / 10000 */
        four[i] = (n[i] << 16) - q * ((10000u << 16) - 1);
    }
    memcpy(x, four, sizeof x);
    for (size_t i = 0; i < 2 * TEXT_BLOCK; i++) {
        uint32_t q = (uint16_t)((uint32_t)x[i] * 5243 >> 16) >> 3;
        two[i] = q | (uint32_t)(uint16_t)(x[i] - 100 * q) << 16;
    }
    memcpy(y, two, sizeof y);
    for (size_t i = 0; i < 4 * TEXT_BLOCK; i++) {
        uint16_t q = (uint16_t)((uint32_t)y[i] * 6554 >> 16); /* y / 10 for y < 100 */
        one[i] = (uint16_t)((y[i] << 8) - q * ((10 << 8) - 1));
    }
    memcpy(digits, one, sizeof one);
}

/* text_digits8 of `count` numbers of a block; all TEXT_BLOCK places may be read and written. */
static inline void text_digits8_all(uint64_t *digits, const uint32_t *n, size_t count) {
    if (count == TEXT_BLOCK) {
        text_digits8_block(digits, n);
    } else {
        for (size_t i = 0; i < count; i++) digits[i] = text_digits8(n[i]);
    }
}

/* "e-05", four bytes; |exponent| < 100. */
static inline char *text_put_exponent(char *dst, int exponent) {
    unsigned magnitude = (unsigned)(exponent < 0 ? -exponent : exponent);
    dst[0] = 'e';
    dst[1] = exponent < 0 ? '-' : '+';
    dst[2] = (char)('0' + magnitude / 10);
    dst[3] = (char)('0' + magnitude % 10);
    return dst + 4;
}

#endif
