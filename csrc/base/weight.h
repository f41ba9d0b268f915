/* weight.h - one weight, from the file to the kernels: a matrix or a vector in memory.
 *
 * Row-major, any alignment. A weight may begin at any row of its tensor; only lp_weight_at knows the address of an
 * element. */
#ifndef LP_WEIGHT_H
#define LP_WEIGHT_H

#include <stddef.h>

#include "platform.h"

/* Element types that can be computed with. */
typedef enum { LP_ELEMENT_BF16, LP_ELEMENT_F16, LP_ELEMENT_F32 } lp_element;

static inline size_t lp_element_bytes(lp_element element) { return element == LP_ELEMENT_F32 ? 4 : 2; }

typedef struct {
    const void *data; /* of the tensor; NULL: the model lacks this weight */
    lp_element element;
    size_t n_rows, n_cols; /* a vector is one row */
    size_t first_row;      /* of the tensor */
} lp_weight;

/* The address of an element; rows follow each other without a gap. */
static inline const char *lp_weight_at(const lp_weight *w, size_t row, size_t column) {
    return (const char *)w->data + ((w->first_row + row) * w->n_cols + column) * lp_element_bytes(w->element);
}

static inline size_t lp_weight_bytes(const lp_weight *w) {
    return w->n_rows * w->n_cols * lp_element_bytes(w->element);
}

#endif
