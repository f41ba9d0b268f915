/* gguf_header.h - the counts, keys and tensors at the front of a GGUF file.
 *
 * Checks each by itself: names, types, values, shapes and the sizes that follow from them. gguf.c, which owns the file,
 * checks that names are unique and that the tensors cover the data. */
#ifndef LP_GGUF_HEADER_H
#define LP_GGUF_HEADER_H

#include "gguf.h"       /* lp_gguf_contents */
#include "gguf_bytes.h" /* lp_gguf_bytes */

typedef struct {
    lp_gguf_contents contents; /* tensors in the order of the header, offsets counted from the data, without data */
    struct lp_gguf_names *names;
    size_t end; /* of the header in the file */
} lp_gguf_header;

/* Reads the header through `bytes`, which has just begun. LP_EFORMAT, LP_EUNSUPPORTED, LP_ENOMEM, as lp_map_read; what
 * was allocated is freed by lp_gguf_header_free. */
int lp_gguf_header_read(lp_gguf_header *header, lp_gguf_bytes *bytes);
void lp_gguf_header_free(lp_gguf_header *header); /* freeing twice is legal */

#endif
