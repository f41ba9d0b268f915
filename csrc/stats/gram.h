/* gram.h - X^T X of a point, an exact sum of blocks.
 *
 * A block is at most LP_GRAM_TOKENS tokens of one window, counted from its first. Its matrix is float32 by rule 2 of
 * docs/arithmetic.md, k the tokens; one that is left out keeps its place and adds nothing. Only the lower triangle is
 * kept: entry (i, j <= i) at i (i + 1) / 2 + j, an integer in units of 2^-76. What does not fit in there is kept apart,
 * in units of 2^-149, so the sum is exact whatever the values are. Threads divide its rows: each entry has one owner.
 */
#ifndef LP_GRAM_H
#define LP_GRAM_H

#include <stddef.h>
#include <stdint.h>

#include "../ops/ops.h"    /* lp_ops */
#include "../sys/memory.h" /* lp_block */
#include "tally.h"         /* lp_u128 */

#define LP_GRAM_TOKENS 256
#define LP_GRAM_UNIT 73 /* 2^-76 = 2^(73 - 149) */
#define LP_WIDE_LIMBS 6

__extension__ typedef __int128 lp_i128;

typedef struct {
    uint64_t at; /* entry + 1; 0: free */
    uint64_t limbs[LP_WIDE_LIMBS];
} lp_wide;

typedef struct {
    size_t d;
    lp_i128 *sums; /* [d (d + 1) / 2] */
    lp_wide *wide; /* [n_slots], a hash table */
    size_t n_slots, n_wide;
    int64_t n_rows, n_left_out, n_overflows; /* tokens; tokens with a value that is not finite; entries of blocks */
} lp_gram;

/* A value of a block that does not fit the sums: entry and value; also a whole sum, before it would overflow. */
typedef struct {
    uint64_t entry;
    lp_u128 value; /* times 2^shift, in units of 2^-149 */
    uint32_t shift;
    int negative;
} lp_spilled;

typedef struct {
    lp_spilled *list;
    size_t n, capacity;
    int64_t n_overflows;
    int failed;
} lp_spill;

/* Buffers that all Grams share. */
typedef struct {
    lp_block columns;         /* [d, k]: the block, transposed */
    lp_block product;         /* [m, LP_GRAM_STRIP] */
    lp_block packed, scratch; /* of lp_linear */
    lp_spill *spill;          /* [n_spills], one per worker */
    size_t n_spills;
} lp_gram_work;

int lp_gram_init(lp_gram *g, size_t d); /* -1: out of memory */
void lp_gram_free(lp_gram *g);
void lp_gram_work_free(lp_gram_work *w);
/* Adds a block: rows x [n_tokens, d] for which kept[] is not 0. 0; -1: the poll said stop; 1: out of memory. After
 * either the sums are of no use. */
int lp_gram_add(lp_gram *g, lp_gram_work *w, const lp_ops *ops, const float *x, const uint8_t *kept, size_t n_tokens);

#endif
