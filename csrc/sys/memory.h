/* memory.h - big aligned arrays, and arenas that cache freed ones for reuse.
 *
 * A block of 2 MiB or more starts on a 2 MiB boundary, is advised to use huge pages, and is first touched by the
 * pool's threads: first touch of 4 KiB pages on one thread takes seconds for gigabytes of captures. */
#ifndef LP_MEMORY_H
#define LP_MEMORY_H

#include <stddef.h>

#include "pool.h" /* lp_parallel */

/* Caches freed blocks until its owner, an open model, closes it; it is freed with the last block made in it.
 * Thread-safe. */
typedef struct lp_arena lp_arena;

lp_arena *lp_arena_new(void);           /* NULL: out of memory */
void lp_arena_close(lp_arena *arena);   /* NULL is legal, here and below */
void lp_arena_release(lp_arena *arena); /* frees the cached blocks */

typedef struct {
    void *data; /* 64-byte aligned at least; zeroed by lp_block_make */
    size_t n_bytes;
    size_t mapped;   /* bytes of the mapping; 0: from the heap */
    lp_arena *arena; /* that it returns to; NULL: none */
} lp_block;

/* A block neither zeroed nor touched, for a caller that writes all of it on all threads. 0, or -1: out of memory. */
int lp_block_reserve(lp_block *block, size_t n_bytes);
/* 0; -1: out of memory; 1: the poll said stop (touching gigabytes takes a while). On failure, and for n_bytes 0,
 * block->data is NULL. Takes a cached block of the arena if one fits, and empties the arena before it fails. */
int lp_block_make(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_parallel *parallel);
/* The same, but its contents are unspecified, and nothing is touched. */
int lp_block_make_dirty(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_parallel *parallel);
void lp_block_free(lp_block *block); /* an empty block is legal */
/* Returns the whole pages within [from, to) to the system. The block leaves its arena for good: one with holes is of no
 * use to the next run. */
void lp_block_discard(lp_block *block, size_t from, size_t to);

/* Whether so many bytes are available, if need be without what the arena caches. */
int lp_memory_fits(size_t n_bytes, lp_arena *arena);

#endif
