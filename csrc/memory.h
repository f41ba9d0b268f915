/* memory.h - big aligned arrays.
 *
 * A block of 2 MiB or more starts on a 2 MiB boundary, is advised to be made of huge pages and is touched first
 * by the pool's threads: first touch of 4 KiB pages on one thread costs seconds for gigabytes of captures. Where blocks
 * are kept, a freed one serves the next that is about as large. */
#ifndef LP_MEMORY_H
#define LP_MEMORY_H

#include <stddef.h>

#include "pool.h" /* lp_crew */

typedef struct {
    void *data; /* 64-byte aligned at least; zeroed by lp_block_make */
    size_t n_bytes;
    size_t mapped; /* bytes of the mapping */
    int made;      /* by lp_block_make, which takes its like again */
} lp_block;

/* A block that is neither zeroed nor touched, for who writes all of it, on all threads. 0, or -1 when the memory cannot
 * be had. */
int lp_block_reserve(lp_block *block, size_t n_bytes);
/* 0; -1 when the memory cannot be had; 1 when the poll of the crew said stop: touching gigabytes takes a while.
 * block->data is NULL when it failed. n_bytes 0 gives a block without data. */
int lp_block_make(lp_block *block, size_t n_bytes, const lp_crew *crew);
void lp_block_free(lp_block *block); /* an empty block is legal */

/* Between them freed blocks are kept; for each begin, one end, which lets go of all. */
void lp_memory_keep_begin(void);
void lp_memory_keep_end(void);
/* Lets go of the freed blocks that are kept. */
void lp_memory_release(void);
/* Whether so many bytes can be had, if need be without those blocks. */
int lp_memory_fits(size_t n_bytes);

#endif
