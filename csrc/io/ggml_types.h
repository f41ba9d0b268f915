/* ggml_types.h - the element types of GGUF tensors: names and sizes by ggml's ids.
 *
 * A row is a whole number of blocks. All types that files hold are here, so that a file opens whatever is in it; which
 * of them can be computed with is up to others. */
#ifndef LP_GGML_TYPES_H
#define LP_GGML_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "../base/platform.h"

typedef struct {
    const char *name;    /* "Q4_K" */
    size_t n_elements;   /* of a block; 0 if no file may hold this type */
    size_t n_bytes;      /* of a block */
    const char *problem; /* why no file may hold it, with the way out; else NULL */
} lp_ggml_type;

/* NULL for an id that is not known. */
const lp_ggml_type *lp_ggml_type_of(uint32_t id);

#endif
