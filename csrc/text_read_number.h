/* text_read_number.h - one decimal number to the nearest float32; a part of text_read.c.
 *
 * The digits become an integer w below 2^64 and a power of ten. w * 10^e is computed with the upper 64 bits of
 * 10^e: a product that is too small by a few units of its 64 upper bits at most. A float32 keeps 24 of these, so
 * the rounding is certain unless the other bits lie within those units below one half; then text_read_exact.h
 * decides with long integers. Of more than 19 digits the first 19 are taken, which adds a few units. */
#ifndef LP_TEXT_READ_NUMBER_H
#define LP_TEXT_READ_NUMBER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "text_read_exact.h"  /* read_compare_half */
#include "text_read_tables.h" /* read_power */

#define READ_INFINITY 0x7f800000u
#define READ_NAN 0x7fc00000u

/* Digits as they stand in the text: [start, end) may hold one point. */
typedef struct {
    uint64_t w;    /* the first 19 digits, zeros in front not counted */
    int exponent;  /* the number is w * 10^exponent, and more when `cut` */
    int cut;       /* digits other than w were there */
    const char *start, *end;
} read_decimal;

static inline uint64_t read_load8(const char *p, const char *end) {
    uint64_t bytes = 0;
    memcpy(&bytes, p, end - p >= 8 ? 8 : (size_t)(end - p));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    return bytes;
}

#endif
