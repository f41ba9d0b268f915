/* top.h - the k largest values of a channel and where they were.
 *
 * Larger is by the order of floats with -0 below +0; of equal values the one with the lower document, then window, then
 * position comes first. So the k largest do not depend on the order in which values come. */
#ifndef LP_TOP_H
#define LP_TOP_H

#include <stddef.h>
#include <stdint.h>

#include "../base/platform.h"

typedef struct {
    int32_t key; /* lp_float_key of the value */
    int32_t position;
    int64_t document, start; /* of the window in its document */
} lp_top_entry;

/* Bits of a float as a number that rises with it, and back. */
static inline int32_t lp_float_key(uint32_t bits) { return (int32_t)(bits ^ ((uint32_t)0 - (bits >> 31)) >> 1); }
static inline uint32_t lp_float_of_key(int32_t key) {
    return (uint32_t)key ^ ((uint32_t)0 - ((uint32_t)key >> 31)) >> 1;
}

/* Puts an entry into a heap of at most k, its last in order at [0]; *n is how many there are. */
void lp_top_put(lp_top_entry *heap, size_t *n, size_t k, const lp_top_entry *entry);
/* Sorts it, the largest first; it is no heap any more. */
void lp_top_sort(lp_top_entry *heap, size_t n);

#endif
