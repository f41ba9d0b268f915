/* safetensors_header.h - the JSON header of a safetensors file, read into one block of memory.
 *
 * Checks each entry by itself: JSON, names, dtype, shape and the size that follows from them. safetensors.c, which owns
 * the file, checks that together they cover it. */
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
    void *block;         /* that the others point into; owned */
    lp_tensor *tensors;  /* [n_tensors], in the order of the header, without data */
    lp_tensor **by_name; /* [n_tensors], uninitialised: for sorting */
    lp_pair *pairs;      /* [n_pairs], __metadata__ in the order of the header */
    size_t n_tensors, n_pairs, n_ignored;
} lp_header;

/* Reads n_bytes of JSON, twice: they must not change meanwhile. `file` is its name in messages; data_start is added to
 * the offsets of tensors. LP_EFORMAT, LP_ENOMEM; the header is then empty. */
int lp_header_read(lp_header *header, const char *file, const unsigned char *bytes, size_t n_bytes, size_t data_start,
                   lp_error *err);
void lp_header_free(lp_header *header); /* freeing twice is legal */

#endif
