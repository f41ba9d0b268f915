/* gguf_bytes.h - a sequential reader of a GGUF header, through a window.
 *
 * Reads the file, not the map. The header's size is known only at its end, so each length in it is checked against the
 * bytes left in the file and under LP_GGUF_MAX_HEADER before it is used. Failures name the key or tensor being read. */
#ifndef LP_GGUF_BYTES_H
#define LP_GGUF_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "map.h" /* lp_map */

#define LP_GGUF_WINDOW ((size_t)1 << 17)     /* holds the longest name */
#define LP_GGUF_MAX_HEADER ((size_t)1 << 29) /* keys and tensors; vocabularies take some 10 MB */

typedef struct {
    const lp_map *map;
    lp_error *err;
    size_t pos, end;  /* in the file: the next byte, and the last place where the header may end */
    size_t from, n;   /* the window holds bytes from .. from + n of the file */
    const char *kind; /* for messages: "key" or "tensor", the `number`th of `count`, is being read; NULL: neither */
    size_t number, count;
    const char *name; /* NULL until it is read */
    size_t name_len;
    unsigned char window[LP_GGUF_WINDOW];
} lp_gguf_bytes;

/* Starts at the first byte of the file. map and err are borrowed. */
void lp_gguf_bytes_begin(lp_gguf_bytes *bytes, const lp_map *map, lp_error *err);

/* "m.gguf: key 3 of 20, "general.name": ..." */
int lp_gguf_fail(const lp_gguf_bytes *bytes, lp_status status, const char *fmt, ...) LP_PRINTF(3, 4);
/* The same: the rest of the file cannot hold n bytes, or n items of at least n_item bytes. All three return -1. */
int lp_gguf_fail_short(const lp_gguf_bytes *bytes, uint64_t n);
int lp_gguf_fail_count(const lp_gguf_bytes *bytes, uint64_t n, const char *items, size_t n_item);

/* The next n <= LP_GGUF_WINDOW bytes, valid until the next call; NULL on failure. */
const unsigned char *lp_gguf_take(lp_gguf_bytes *bytes, size_t n);
int lp_gguf_take_u32(lp_gguf_bytes *bytes, uint32_t *value);
int lp_gguf_take_u64(lp_gguf_bytes *bytes, uint64_t *value);
int lp_gguf_skip(lp_gguf_bytes *bytes, uint64_t n);

static inline size_t lp_gguf_left(const lp_gguf_bytes *bytes) { return bytes->end - bytes->pos; }

#endif
