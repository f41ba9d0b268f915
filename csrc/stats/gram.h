/* gram.h - the Gram matrix X^T X of a point, an exact sum over blocks of tokens.
 *
 * A block is at most LP_GRAM_TOKENS consecutive tokens of one window; blocks begin at its first token. The product of a
 * block is float32 by rule 2 of docs/arithmetic.md, with k over the tokens; a token that is left out counts as zeros.
 * Only the lower triangle is stored: entry (i, j <= i) at i (i + 1) / 2 + j, a 128-bit integer in units of 2^-76.
 * Values that do not fit are summed in a hash table in units of 2^-149, so the sum is always exact. Threads divide the
 * rows: each entry has one owner. */
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
    int64_t n_rows, n_left_out, n_overflows; /* tokens added; tokens left out as not finite; products not finite */
} lp_gram;

/* A product that does not fit the sums, or a sum that would overflow. */
typedef struct {
    uint64_t entry;
    lp_u128 value; /* magnitude: value * 2^shift in units of 2^-149 */
    uint32_t shift;
    int negative;
} lp_spilled;

typedef struct {
    lp_spilled *list;
    size_t n, capacity;
    int64_t n_overflows;
    int failed;
} lp_spill;

/* Buffers shared by all Gram matrices. */
typedef struct {
    lp_block columns;         /* [d, k]: the block, transposed */
    lp_block product;         /* [m, n]: of one strip */
    lp_block packed, scratch; /* of lp_linear */
    lp_spill *spill;          /* [n_spills], one per worker */
    size_t n_spills;
} lp_gram_work;

int lp_gram_init(lp_gram *g, size_t d); /* -1: out of memory */
void lp_gram_free(lp_gram *g);
void lp_gram_work_free(lp_gram_work *w);
/* Adds a block: the rows of x [n_tokens, d] whose kept [n_tokens] is not 0; n_tokens <= LP_GRAM_TOKENS. 0; -1: stopped
 * by the poll; 1: out of memory. After a failure the sums are invalid. */
int lp_gram_add(lp_gram *g, lp_gram_work *w, const lp_ops *ops, const float *x, const uint8_t *kept, size_t n_tokens);

#endif
