/* cache.c - the memory of a cache, and the check that a run may continue from it. */
#include "cache.h"

#include <string.h>

#include "../base/size.h"     /* lp_size_mul */
#include "../ops/attention.h" /* lp_copy_panels, lp_v_columns */
#include "plan.h"             /* lp_plan_short_until */

void lp_cache_init(lp_cache *cache, const lp_model *model) {
    memset(cache, 0, sizeof *cache);
    cache->model = model;
    atomic_init(&cache->n_tokens, 0);
    atomic_init(&cache->capacity, 0);
    atomic_flag_clear(&cache->held);
}

void lp_cache_free(lp_cache *cache) { lp_block_free(&cache->block); }

int lp_cache_hold(lp_cache *cache) {
    return atomic_flag_test_and_set_explicit(&cache->held, memory_order_acquire) ? -1 : 0;
}

void lp_cache_release(lp_cache *cache) { atomic_flag_clear_explicit(&cache->held, memory_order_release); }

/* ---- memory -------------------------------------------------------------------------------------------------- */

/* Floats per token and kv head. */
static size_t token_floats(const lp_config *c) { return c->head_dim + lp_v_columns(c->head_dim); }

int lp_cache_growth(const lp_cache *cache, size_t n_tokens, size_t *capacity, size_t *n_bytes) {
    const lp_config *c = &cache->model->config;
    size_t more = cache->capacity + cache->capacity / 2, n;
    *capacity = cache->capacity, *n_bytes = 0;
    if (n_tokens <= cache->capacity) return 0;
    if (more > c->max_positions) more = c->max_positions;
    if (n_tokens < more) n_tokens = more;
    if (lp_size_add(&n, n_tokens, LP_PANEL - 1)) return -1;
    *capacity = n / LP_PANEL * LP_PANEL;
    return lp_size_mul3(&n, *capacity, token_floats(c), sizeof(float)) || lp_size_mul(&n, n, c->n_kv_heads) ||
                   lp_size_mul(n_bytes, n, c->n_layers)
               ? -1
               : 0;
}

size_t lp_cache_bytes(const lp_cache *cache) {
    const lp_config *c = &cache->model->config;
    return cache->capacity * token_floats(c) * sizeof(float) * c->n_kv_heads * c->n_layers;
}

/* The panels of a layer in a block. */
static lp_panels panels_in(const lp_config *c, const lp_block *block, size_t capacity, size_t layer) {
    size_t n_floats = capacity * token_floats(c);
    float *k = (float *)block->data + layer * c->n_kv_heads * n_floats;
    return (lp_panels){.k = k, .v = k + capacity * c->head_dim, .n_floats = n_floats, .v_stride = capacity * LP_PANEL};
}

lp_panels lp_cache_panels(const lp_cache *cache, size_t layer) {
    return panels_in(&cache->model->config, &cache->block, cache->capacity, layer);
}

typedef struct {
    const lp_config *config;
    const lp_block *to, *from;
    size_t to_capacity, from_capacity, n_tokens;
} copy_args;

static void copy_job(void *arg, size_t i, size_t worker) {
    const copy_args *a = arg;
    const lp_config *c = a->config;
    lp_panels to = panels_in(c, a->to, a->to_capacity, i / c->n_kv_heads);
    lp_panels from = panels_in(c, a->from, a->from_capacity, i / c->n_kv_heads);
    (void)worker;
    lp_copy_panels(to, from, i % c->n_kv_heads, a->n_tokens, c->head_dim);
}

static int copy_tokens(const lp_cache *from, const lp_block *to, size_t to_capacity, const lp_parallel *parallel) {
    const lp_config *c = &from->model->config;
    copy_args a = {c, to, &from->block, to_capacity, from->capacity, from->n_tokens};
    return a.n_tokens ? lp_pool_run(parallel, c->n_layers * c->n_kv_heads, copy_job, &a) : 0;
}

int lp_cache_reserve(lp_cache *cache, size_t n_tokens, const lp_parallel *parallel, lp_error *err) {
    size_t capacity, n_bytes;
    lp_block block;
    if (lp_cache_growth(cache, n_tokens, &capacity, &n_bytes))
        return lp_fail(err, LP_ENOMEM, "a cache of %zu tokens has more bytes than there are addresses", n_tokens);
    if (!n_bytes) return 0;
    int stopped = lp_block_make(&block, n_bytes, cache->model->arena, parallel);
    if (stopped < 0)
        return lp_fail(err, LP_ENOMEM, "a cache of %zu tokens needs %zu bytes, which the system refused", capacity,
                       n_bytes);
    stopped = stopped || copy_tokens(cache, &block, capacity, parallel);
    if (stopped) {
        lp_block_free(&block);
        return lp_fail(err, LP_ECANCELED, "the run was stopped while its cache grew");
    }
    lp_block_free(&cache->block);
    cache->block = block;
    cache->capacity = capacity;
    return 0;
}

int lp_cache_copy(lp_cache *to, const lp_cache *from, const lp_parallel *parallel, lp_error *err) {
    if (copy_tokens(from, &to->block, to->capacity, parallel))
        return lp_fail(err, LP_ECANCELED, "copying a cache was stopped");
    to->n_tokens = from->n_tokens;
    to->long_ropes = from->long_ropes;
    return 0;
}

int lp_cache_rewind(lp_cache *cache, size_t n_tokens, lp_error *err) {
    if (n_tokens > cache->n_tokens)
        return lp_fail(err, LP_EARG, "the cache has %zu tokens, it cannot go back to %zu", cache->n_tokens, n_tokens);
    cache->n_tokens = n_tokens;
    return 0;
}

/* ---- runs ---------------------------------------------------------------------------------------------------- */

/* Bit i: a sequence of n_tokens uses the long table of rope i. */
static unsigned long_ropes(const lp_model *model, size_t n_tokens, size_t rope_length) {
    unsigned set = 0;
    for (size_t i = 0; i < model->n_ropes; i++)
        if (n_tokens > lp_plan_short_until(&model->ropes[i], rope_length)) set |= 1u << i;
    return set;
}

int lp_cache_is_turned(const lp_cache *cache, size_t n_tokens, size_t rope_length) {
    return long_ropes(cache->model, n_tokens, rope_length) == cache->long_ropes;
}

int lp_cache_check(const lp_cache *cache, const lp_model *model, size_t n_tokens, size_t rope_length, size_t sequence,
                   lp_error *err) {
    size_t past = cache->n_tokens, n_keys = past + n_tokens;
    if (cache->model != model)
        return lp_fail(err, LP_EARG, "the cache of sequence %zu belongs to another model", sequence);
    if (n_keys > model->config.max_positions)
        return lp_fail(err, LP_EARG,
                       "sequence %zu has %zu tokens, %zu of them in its cache; the model takes at most %zu", sequence,
                       n_keys, past, model->config.max_positions);
    if (past && !lp_cache_is_turned(cache, n_keys, rope_length))
        return lp_fail(err, LP_EARG,
                       "sequence %zu has %zu tokens, and the keys of the %zu in its cache were rotated with the %s "
                       "RoPE frequencies; begin again with an empty cache, or pass rope_length",
                       sequence, n_keys, past, cache->long_ropes ? "long" : "short");
    return 0;
}

void lp_cache_keep(lp_cache *cache, size_t n_tokens, size_t rope_length) {
    cache->n_tokens += n_tokens;
    cache->long_ropes = long_ropes(cache->model, cache->n_tokens, rope_length);
}
