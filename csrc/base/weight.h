/* weight.h - one weight, from the file to the kernels: a matrix or a vector in memory.
 *
 * Row-major, any alignment, unless it is packed. A weight may begin at any row of its tensor; only lp_weight_at knows
 * the address of an element. */
#ifndef LP_WEIGHT_H
#define LP_WEIGHT_H

#include <stddef.h>

#include "element.h" /* lp_element */
#include "packed.h"  /* lp_packed */
#include "platform.h"

typedef struct {
    const void *data; /* of the tensor; of a packed weight its codes; NULL: the model lacks this weight */
    lp_element element;
    size_t n_rows, n_cols;   /* a vector is one row */
    size_t first_row;        /* of the tensor */
    const lp_packed *packed; /* of LP_ELEMENT_PACKED; else NULL */
} lp_weight;

/* The address of an element; rows follow each other without a gap. Not of a packed weight. */
static inline const char *lp_weight_at(const lp_weight *w, size_t row, size_t column) {
    return (const char *)w->data + ((w->first_row + row) * w->n_cols + column) * lp_element_bytes(w->element);
}

/* Bytes of the file that stand for n_rows rows, or for all. */
static inline size_t lp_weight_row_bytes(const lp_weight *w, size_t n_rows) {
    return w->packed ? lp_packed_bytes(w->packed, n_rows) : n_rows * w->n_cols * lp_element_bytes(w->element);
}
static inline size_t lp_weight_bytes(const lp_weight *w) { return lp_weight_row_bytes(w, w->n_rows); }

/* Where a weight lies. */
typedef struct {
    const char *data;
    size_t n_bytes;
} lp_range;

/* The ranges of rows row .. row + n_rows, the largest first; returns how many. Of the transposed kinds, those of all
 * rows. */
size_t lp_weight_ranges(const lp_weight *w, size_t row, size_t n_rows, lp_range ranges[LP_N_ROLES]);

#endif
