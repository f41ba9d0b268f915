/* cache.h - the keys and values of a sequence's tokens so far, from which a run can continue.
 *
 * A cache stores k_rope and v of every layer as the run computed them, in the panels that attention reads: [n_layers]
 * [n_kv_heads] of k [capacity / 8][head_dim][8] and v [head_dim / 8][capacity][8], float32. A run appends its rows in
 * place, and lp_run_keep commits them, so a failed run leaves the cache unchanged. Continuing gives the bits of one run
 * of all tokens.
 *
 * One run at a time holds a cache. n_tokens and capacity may be read by any thread. */
#ifndef LP_CACHE_H
#define LP_CACHE_H

#include <stdatomic.h>
#include <stddef.h>

#include "../base/error.h"  /* lp_error */
#include "../model/model.h" /* lp_model */
#include "../ops/ops.h"     /* lp_panels */
#include "../sys/memory.h"  /* lp_block */

typedef struct {
    const lp_model *model; /* borrowed: must outlive the cache */
    lp_block block;
    atomic_size_t n_tokens, capacity; /* the capacity is a multiple of LP_PANEL */
    unsigned long_ropes;              /* bit i: keys were rotated with the long table of rope i */
    atomic_flag held;
} lp_cache;

/* An empty cache with capacity 0. Freed by lp_cache_free. */
void lp_cache_init(lp_cache *cache, const lp_model *model);
void lp_cache_free(lp_cache *cache);

/* Takes the cache for one thread: required by all functions below that change it. -1: it is already held. */
int lp_cache_hold(lp_cache *cache);
void lp_cache_release(lp_cache *cache);

/* What lp_cache_reserve would do for n_tokens in all: the new capacity (at least 1.5 times the old one, up to
 * max_positions) and the bytes of the new block (0: it has room already). -1: overflow. */
int lp_cache_growth(const lp_cache *cache, size_t n_tokens, size_t *capacity, size_t *n_bytes);
size_t lp_cache_bytes(const lp_cache *cache); /* of its block */
/* Grows the cache to n_tokens in all, keeping its tokens. The caller has checked that the memory is available.
 * LP_ENOMEM, LP_ECANCELED: the cache is unchanged. */
int lp_cache_reserve(lp_cache *cache, size_t n_tokens, const lp_parallel *parallel, lp_error *err);
/* Copies the tokens to an empty cache of the same model with enough capacity. LP_ECANCELED. */
int lp_cache_copy(lp_cache *to, const lp_cache *from, const lp_parallel *parallel, lp_error *err);
/* Drops all but the first n_tokens tokens. LP_EARG: it has fewer. */
int lp_cache_rewind(lp_cache *cache, size_t n_tokens, lp_error *err);

/* Whether a sequence of n_tokens rotates its keys with the same RoPE tables as the keys in the cache. */
int lp_cache_is_turned(const lp_cache *cache, size_t n_tokens, size_t rope_length);
/* For lp_run_set_caches and lp_run_keep: n_tokens more tokens; `sequence` is for messages. LP_EARG. */
int lp_cache_check(const lp_cache *cache, const lp_model *model, size_t n_tokens, size_t rope_length, size_t sequence,
                   lp_error *err);
void lp_cache_keep(lp_cache *cache, size_t n_tokens, size_t rope_length);
lp_panels lp_cache_panels(const lp_cache *cache, size_t layer);

#endif
