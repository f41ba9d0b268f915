/* part.h - a tensor stored in an open file of any container format: the raw material of a weight, packed or plain. */
#ifndef LP_PART_H
#define LP_PART_H

#include <stddef.h>
#include <stdint.h>

/* All pointers are borrowed from the file. */
typedef struct {
    const char *name; /* NUL-terminated */
    size_t name_len;
    const char *dtype; /* the container's name for it: "I32", "F8_E4M3", "Q4_K" */
    size_t rank;
    const uint64_t *shape;     /* [rank], slowest first: a matrix is [out, in] */
    const unsigned char *data; /* [n_bytes], any alignment */
    size_t n_bytes, offset;    /* offset: of the data in the file */
} lp_part;

#endif
