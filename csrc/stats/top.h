/* top.h - the k largest values of a channel and their positions.
 *
 * Floats are ordered with -0 below +0; ties go to the lower document, then window, then position. So the result does
 * not depend on the order in which values come. */
#ifndef LP_TOP_H
#define LP_TOP_H

#include <stddef.h>
#include <stdint.h>

#include "../base/platform.h"

typedef struct {
    int32_t key; /* lp_float_key of the value */
    int32_t position;
    int64_t document, start; /* start: of the window in its document */
} lp_top_entry;

/* Maps the bits of a float to an integer of the same order, and back. */
static inline int32_t lp_float_key(uint32_t bits) { return (int32_t)(bits ^ ((uint32_t)0 - (bits >> 31)) >> 1); }
static inline uint32_t lp_float_of_key(int32_t key) {
    return (uint32_t)key ^ ((uint32_t)0 - ((uint32_t)key >> 31)) >> 1;
}

/* Offers an entry to a heap [k] of *n entries, the smallest at [0]: adds it, or replaces the smallest if larger. */
void lp_top_put(lp_top_entry *heap, size_t *n, size_t k, const lp_top_entry *entry);
/* Sorts the entries, largest first; they are no longer a heap. */
void lp_top_sort(lp_top_entry *heap, size_t n);

#endif
