/* memory.h - big aligned arrays, and arenas that keep freed ones for the next of their size.
 *
 * A block of 2 MiB or more starts on a 2 MiB boundary, is advised to be made of huge pages and is touched first
 * by the pool's threads: first touch of 4 KiB pages on one thread costs seconds for gigabytes of captures. */
#ifndef LP_MEMORY_H
#define LP_MEMORY_H

#include <stddef.h>

#include "pool.h" /* lp_crew */

/* Freed blocks are cached for reuse until the owner, an open model, closes it; then the arena goes with the last block
 * that was made in it. Any number of threads may use one. */
typedef struct lp_arena lp_arena;

lp_arena *lp_arena_new(void);           /* NULL when there is no memory */
void lp_arena_close(lp_arena *arena);   /* NULL is legal, here and below */
void lp_arena_release(lp_arena *arena); /* lets go of the cached blocks */

typedef struct {
    void *data; /* 64-byte aligned at least; zeroed by lp_block_make */
    size_t n_bytes;
    size_t mapped;   /* bytes of the mapping */
    lp_arena *arena; /* that it goes back to; NULL: none */
} lp_block;

/* A block that is neither zeroed nor touched, for who writes all of it, on all threads. 0, or -1 when the memory cannot
 * be had. */
int lp_block_reserve(lp_block *block, size_t n_bytes);
/* 0; -1 when the memory cannot be had; 1 when the poll of the crew said stop: touching gigabytes takes a while.
 * block->data is NULL when it failed. n_bytes 0 gives a block without data. With an arena a cached block is used again,
 * and what is cached there is let go of before memory counts as lacking. */
int lp_block_make(lp_block *block, size_t n_bytes, lp_arena *arena, const lp_crew *crew);
void lp_block_free(lp_block *block); /* an empty block is legal */
/* The block leaves its arena: freed, it goes back to the system. */
void lp_block_detach(lp_block *block);

/* Whether so many bytes can be had, if need be without what the arena caches. */
int lp_memory_fits(size_t n_bytes, lp_arena *arena);

#endif
