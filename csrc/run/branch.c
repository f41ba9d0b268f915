/* branch.c - each sequence of a branch has its own panels in scratch. In every layer the base's keys and values before
 * its first row are copied there, and its own rows are appended. */
#include "branch.h"

#include <stdlib.h>

#include "../base/size.h"     /* lp_size_add, lp_size_mul */
#include "../ops/attention.h" /* lp_copy_panels, lp_v_columns */

static int check_sequence(const lp_run *run, size_t s, lp_error *err) {
    size_t n_keys, n_base = run->base->n_tokens;
    if (lp_size_add(&n_keys, run->n_past[s], run->seq_start[s + 1] - run->seq_start[s]) || n_keys > n_base)
        return lp_fail(err, LP_EARG, "sequence %zu begins at row %zu and has %zu rows, but its base has %zu", s,
                       run->n_past[s], run->seq_start[s + 1] - run->seq_start[s], n_base);
    if (!lp_cache_is_turned(run->base, n_keys, run->rope_length))
        return lp_fail(err, LP_EARG,
                       "sequence %zu has %zu tokens, and the keys of its base were rotated with the other "
                       "RoPE frequencies; pass rope_length",
                       s, n_keys);
    return 0;
}

int lp_run_branch(lp_run *run, const lp_cache *base, const size_t *n_past, size_t first_layer, const float *x,
                  lp_error *err) {
    if (base->model != run->model) return lp_fail(err, LP_EARG, "the base belongs to another model");
    if (first_layer >= run->model->config.n_layers)
        return lp_fail(err, LP_EARG, "a branch from layer %zu: there are %zu layers", first_layer,
                       run->model->config.n_layers);
    run->n_past = calloc(run->n_seqs, sizeof *run->n_past);
    if (!run->n_past) return lp_fail(err, LP_ENOMEM, "no memory for the rows of %zu sequences", run->n_seqs);
    run->base = base, run->first_layer = first_layer, run->x = x;
    for (size_t s = 0; s < run->n_seqs; s++) {
        run->n_past[s] = n_past[s];
        if (check_sequence(run, s, err)) return -1;
    }
    return 0;
}

int lp_branch_check(const lp_run *run, lp_error *err) {
    for (size_t i = 0; i < run->first_layer; i++)
        if (lp_points_any(&run->requested[i]) || lp_points_any(&run->materialised[i]))
            return lp_fail(err, LP_EARG, "a value of layer %zu is requested or edited, but the run begins at layer %zu",
                           i, run->first_layer);
    return 0;
}

/* ---- keys and values ----------------------------------------------------------------------------------------- */

/* The number of keys of a sequence, rounded up to whole panels. */
static size_t whole_keys(const lp_sequence *s) {
    return (s->n_past + s->n_tokens + LP_PANEL - 1) / LP_PANEL * LP_PANEL;
}

/* The number of sequences grows from layer to layer: with few distinct sizes, the arena can reuse the previous layer's
 * block. Steps of at most 1/8, so that the memory check requests little more than is needed. */
static size_t rounded(size_t n_bytes) {
    size_t step = 1;
    while (step * 8 < n_bytes / 2) step *= 2;
    return (n_bytes + step - 1) / step * step;
}

int lp_branch_lay_out(lp_plan *plan) {
    const lp_request *q = &plan->request;
    const lp_config *c = &q->model->config;
    size_t n_keys = 0, n;
    for (size_t s = 0; s < q->n_seqs; s++) {
        lp_sequence sequence = lp_request_sequence(q, s);
        if (lp_size_add(&n_keys, n_keys, whole_keys(&sequence))) return -1;
    }
    plan->branch_at = plan->scratch_bytes;
    if (lp_size_mul3(&n, n_keys, c->n_kv_heads, c->head_dim + lp_v_columns(c->head_dim)) ||
        lp_size_mul(&n, n, sizeof(float)) || lp_size_add(&n, plan->scratch_bytes, n) || n > (size_t)-1 / 2)
        return -1;
    plan->scratch_bytes = rounded(n);
    return 0;
}

typedef struct {
    const lp_pass *p;
    lp_panels base;
} branch_args;

static void copy_job(void *arg, size_t i, size_t worker) {
    const branch_args *a = arg;
    const lp_config *c = a->p->config;
    const lp_sequence *s = &a->p->sequences[i / c->n_kv_heads];
    (void)worker;
    lp_copy_panels(s->cache, a->base, i % c->n_kv_heads, s->n_past, c->head_dim);
}

int lp_branch_layer(lp_pass *p) {
    const lp_config *c = p->config;
    branch_args args = {p, lp_cache_panels(p->run->base, p->layer)};
    float *at = (float *)((char *)p->scratch.data + p->plan->branch_at);
    for (lp_sequence *s = p->sequences; s < p->sequences + p->run->n_seqs; s++) {
        size_t n_keys = whole_keys(s), n_floats = n_keys * (c->head_dim + lp_v_columns(c->head_dim));
        s->cache =
            (lp_panels){.k = at, .v = at + n_keys * c->head_dim, .n_floats = n_floats, .v_stride = n_keys * LP_PANEL};
        at += c->n_kv_heads * n_floats;
    }
    return lp_pool_run(&p->ops.parallel, p->run->n_seqs * c->n_kv_heads, copy_job, &args);
}
