/* safetensors_header.h - the JSON header of a safetensors file, read into one block of memory.
 *
 * A part of safetensors.c, which owns the file. Here each entry is proved by itself: JSON, names, dtype, shape and
 * the size that follows from them. Whether the entries together make a file is not looked at. */
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
    void *block;         /* holds all that the others point to; owned */
    lp_tensor *tensors;  /* [n_tensors], in the order of the header; data is not set */
    lp_tensor **by_name; /* [n_tensors], room for who wants to sort them */
    lp_pair *pairs;      /* [n_pairs], __metadata__ in the order of the header */
    size_t n_tensors, n_pairs, n_ignored;
} lp_header;

/* Reads n_bytes of JSON; `file` is what messages call the file, data_start is added to the offsets of tensors. The
 * bytes are read twice and must not change meanwhile. LP_EFORMAT, LP_ENOMEM; the header is then empty. */
int lp_header_read(lp_header *header, const char *file, const unsigned char *bytes, size_t n_bytes, size_t data_start,
                   lp_error *err);
void lp_header_free(lp_header *header); /* freeing twice is legal */

#endif
