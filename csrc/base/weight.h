/* weight.h - one weight, from the file to the kernels: a matrix, or a vector, as it lies in memory.
 *
 * Row-major, any alignment. A weight may begin at a row inside its tensor: its address is then not that of the data
 * but what lp_weight_at says, which alone knows how elements lie. */
#ifndef LP_WEIGHT_H
#define LP_WEIGHT_H

#include <stddef.h>

#include "platform.h"

/* Element types that can be computed with. */
typedef enum { LP_ELEMENT_BF16, LP_ELEMENT_F16, LP_ELEMENT_F32 } lp_element;

static inline size_t lp_element_bytes(lp_element element) { return element == LP_ELEMENT_F32 ? 4 : 2; }

typedef struct {
    const void *data; /* of the tensor; NULL: the model has no such weight */
    lp_element element;
    size_t n_rows, n_cols; /* a vector is one row */
    size_t first_row;      /* of the tensor */
} lp_weight;

/* Where an element lies; of rows that follow each other without a gap. */
static inline const char *lp_weight_at(const lp_weight *w, size_t row, size_t column) {
    return (const char *)w->data + ((w->first_row + row) * w->n_cols + column) * lp_element_bytes(w->element);
}

static inline size_t lp_weight_bytes(const lp_weight *w) {
    return w->n_rows * w->n_cols * lp_element_bytes(w->element);
}

#endif
