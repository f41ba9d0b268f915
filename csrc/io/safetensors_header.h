/* safetensors_header.h - the JSON header of a safetensors file, read into one block of memory.
 *
 * Each entry is checked on its own: JSON, name, dtype, shape and the size that follows. safetensors.c, which owns the
 * file, checks that the tensors cover the data. */
#ifndef LP_SAFETENSORS_HEADER_H
#define LP_SAFETENSORS_HEADER_H

#include <stddef.h>

#include "../base/error.h" /* lp_error */
#include "safetensors.h"   /* lp_tensor */

typedef struct {
    const char *key, *value;
    size_t key_len, value_len;
} lp_pair;

typedef struct {
    void *block;         /* owned; the other pointers point into it */
    lp_tensor *tensors;  /* [n_tensors], in header order, data NULL */
    lp_tensor **by_name; /* [n_tensors], uninitialised: the caller sorts */
    lp_pair *pairs;      /* [n_pairs], __metadata__ in header order */
    size_t n_tensors, n_pairs, n_ignored;
} lp_header;

/* Reads n_bytes of JSON, twice: they must not change meanwhile. `file` is for messages; data_start is added to the
 * offsets of tensors. LP_EFORMAT, LP_ENOMEM. Free the header even after a failure. */
int lp_header_read(lp_header *header, const char *file, const unsigned char *bytes, size_t n_bytes, size_t data_start,
                   lp_error *err);
void lp_header_free(lp_header *header); /* freeing twice is legal */

#endif
