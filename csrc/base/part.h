/* part.h - a stored tensor of an open file, in whatever container it lies: what a weight, packed or plain, is made of.
 */
#ifndef LP_PART_H
#define LP_PART_H

#include <stddef.h>
#include <stdint.h>

/* All pointers belong to the file. */
typedef struct {
    const char *name; /* terminated */
    size_t name_len;
    const char *dtype; /* as its container calls it: "I32", "F8_E4M3", "Q4_K" */
    size_t rank;
    const uint64_t *shape;     /* [rank], slowest first: a matrix is [out, in] */
    const unsigned char *data; /* [n_bytes], any alignment */
    size_t n_bytes, offset;    /* offset: of data in the file */
} lp_part;

#endif
