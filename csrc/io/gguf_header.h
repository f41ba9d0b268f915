/* gguf_header.h - the counts, keys and tensors at the front of a GGUF file.
 *
 * Each is checked on its own: name, type, value, shape and the size that follows. gguf.c, which owns the file, checks
 * that names are unique and that the tensors cover the data. */
#ifndef LP_GGUF_HEADER_H
#define LP_GGUF_HEADER_H

#include "gguf.h"       /* lp_gguf_contents */
#include "gguf_bytes.h" /* lp_gguf_bytes */

typedef struct {
    lp_gguf_contents contents; /* tensors in header order, offsets relative to the data, data NULL */
    struct lp_gguf_names *names;
    size_t end; /* where the header ends in the file */
} lp_gguf_header;

/* Reads the header through `bytes`, just begun. LP_EFORMAT, LP_EUNSUPPORTED, LP_ENOMEM, or as lp_map_read. Free the
 * header even after a failure. */
int lp_gguf_header_read(lp_gguf_header *header, lp_gguf_bytes *bytes);
void lp_gguf_header_free(lp_gguf_header *header); /* freeing twice is legal */

#endif
