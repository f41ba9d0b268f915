/* size.h - checked sums and products of sizes.
 *
 * Every number of bytes or elements is computed with these: they return -1 instead of wrapping. */
#ifndef LP_SIZE_H
#define LP_SIZE_H

#include <stddef.h>

#include "platform.h"

static inline int lp_size_add(size_t *sum, size_t a, size_t b) { return __builtin_add_overflow(a, b, sum) ? -1 : 0; }

static inline int lp_size_mul(size_t *product, size_t a, size_t b) {
    return __builtin_mul_overflow(a, b, product) ? -1 : 0;
}

/* product = a * b * c */
static inline int lp_size_mul3(size_t *product, size_t a, size_t b, size_t c) {
    return lp_size_mul(product, a, b) || lp_size_mul(product, *product, c) ? -1 : 0;
}

static inline size_t lp_size_min(size_t a, size_t b) { return a < b ? a : b; }

#endif
