/* run.c - checks the tokens of a run, and stores what is requested and where it goes. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "../base/size.h" /* lp_size_min */
#include "branch.h"       /* lp_branch_check */

#define MOST_TOKENS ((size_t)1 << 31)

static int check_sequences(const lp_run *run, lp_error *err) {
    size_t most = run->model->config.max_positions;
    if (!run->n_seqs || run->seq_start[0])
        return lp_fail(err, LP_EARG, "a run needs at least one sequence, from row 0");
    for (size_t s = 0; s < run->n_seqs; s++) {
        size_t start = run->seq_start[s], end = run->seq_start[s + 1];
        if (end <= start) return lp_fail(err, LP_EARG, "sequence %zu is empty: a prompt needs at least one token", s);
        if (end - start > most)
            return lp_fail(err, LP_EARG, "sequence %zu has %zu tokens, the model takes at most %zu", s, end - start,
                           most);
    }
    if (run->n_tokens > MOST_TOKENS)
        return lp_fail(err, LP_EARG, "%zu tokens in one run, the most are %zu", run->n_tokens, MOST_TOKENS);
    return 0;
}

static int check_ids(const lp_run *run, lp_error *err) {
    size_t vocab_size = run->model->config.vocab_size;
    for (size_t i = 0; i < run->n_tokens; i++)
        if (run->token_ids[i] < 0 || (size_t)run->token_ids[i] >= vocab_size)
            return lp_fail(err, LP_EARG, "token id %ld at position %zu is out of range: the vocabulary has %zu",
                           (long)run->token_ids[i], i, vocab_size);
    return 0;
}

int lp_run_init(lp_run *run, const lp_model *model, const int32_t *token_ids, const size_t *seq_start, size_t n_seqs,
                size_t n_threads, lp_error *err) {
    memset(run, 0, sizeof *run);
    run->model = model;
    run->token_ids = token_ids;
    run->seq_start = seq_start;
    run->n_seqs = n_seqs;
    run->n_tokens = seq_start[n_seqs];
    run->parallel.n_threads = n_threads ? lp_size_min(n_threads, LP_MAX_THREADS) : 1;
    if (check_sequences(run, err) || check_ids(run, err) || !(run->kernels = lp_kernels_get(err))) return -1;
    size_t n = model->config.n_layers;
    run->places = calloc(LP_N_POINTS * n, sizeof *run->places);
    run->requested = calloc(2 * n, sizeof *run->requested);
    run->materialised = run->requested ? run->requested + n : NULL;
    if (run->places && run->requested) return 0;
    lp_run_free(run);
    return lp_fail(err, LP_ENOMEM, "no memory for a table of %d values", LP_N_POINTS);
}

void lp_run_free(lp_run *run) {
    lp_plan_free(run->plan);
    free(run->places);
    free(run->requested);
    free(run->edits);
    run->edits = NULL, run->n_edits = 0;
    free(run->n_past);
    run->n_past = NULL, run->caches = NULL;
    run->plan = NULL, run->places = NULL, run->requested = run->materialised = NULL;
}

static lp_request request_of(const lp_run *run) {
    return (lp_request){.model = run->model,
                        .kernels = run->kernels,
                        .n_threads = run->parallel.n_threads,
                        .n_tokens = run->n_tokens,
                        .n_seqs = run->n_seqs,
                        .seq_start = run->seq_start,
                        .requested = run->requested,
                        .materialised = run->materialised,
                        .rope_length = run->rope_length,
                        .layer_row = run->layer_row,
                        .head_row = run->head_row,
                        .n_past = run->n_past,
                        .first_layer = run->first_layer,
                        .is_branch = run->base != NULL,
                        .last_rows = run->last_rows};
}

int lp_run_size(const lp_run *run, lp_point point, size_t *n_floats) {
    lp_request request = request_of(run);
    return lp_request_floats(&request, point, lp_request_rows(&request, point), n_floats);
}

int lp_run_set_caches(lp_run *run, lp_cache *const *caches, lp_error *err) {
    free(run->n_past);
    run->caches = caches;
    run->n_past = calloc(run->n_seqs, sizeof *run->n_past);
    if (!run->n_past) return lp_fail(err, LP_ENOMEM, "no memory for the lengths of %zu caches", run->n_seqs);
    for (size_t s = 0; s < run->n_seqs; s++) {
        size_t n = run->seq_start[s + 1] - run->seq_start[s];
        if (!caches[s]) continue;
        run->n_past[s] = caches[s]->n_tokens;
        if (lp_cache_check(caches[s], run->model, n, run->rope_length, s, err)) return -1;
    }
    return 0;
}

int lp_run_check_caches(const lp_run *run, lp_error *err) {
    for (size_t s = 0; run->caches && s < run->n_seqs; s++) {
        size_t n_keys = run->n_past[s] + run->seq_start[s + 1] - run->seq_start[s];
        if (run->caches[s] && n_keys > run->caches[s]->capacity)
            return lp_fail(err, LP_EARG, "sequence %zu has %zu tokens, its cache has room for %zu", s, n_keys,
                           run->caches[s]->capacity);
    }
    return 0;
}

void lp_run_keep(const lp_run *run) {
    for (size_t s = 0; run->caches && s < run->n_seqs; s++)
        if (run->caches[s]) lp_cache_keep(run->caches[s], run->seq_start[s + 1] - run->seq_start[s], run->rope_length);
}

/* The set for a point: one that is not per layer belongs to the last layer. */
static lp_points *set_of(const lp_run *run, lp_points *sets, lp_point point, size_t layer) {
    return &sets[lp_point_per_layer(point) ? layer : run->model->config.n_layers - 1];
}

int lp_run_request(lp_run *run, lp_point point, size_t layer) {
    lp_points *set = set_of(run, run->requested, point, layer);
    if (lp_points_has(set, point) || !lp_model_has(run->model, point)) return -1;
    lp_points_add(set, point);
    return 0;
}

void lp_run_materialise(lp_run *run, lp_point point, size_t layer) {
    lp_points_add(set_of(run, run->materialised, point, layer), point);
}

void lp_run_observe(lp_run *run, const lp_observer *observer) {
    run->observer = observer;
    for (size_t i = 0; i < run->model->config.n_layers; i++)
        for (lp_point p = 0; p < LP_N_POINTS; p++)
            if (lp_points_has(&observer->points[i], p)) lp_points_add(&run->materialised[i], p);
}

/* In order of computation; of one value what is kept before its edits, then these as they were listed. */
static int compare_edits(const void *a, const void *b) {
    const lp_edit *x = *(lp_edit *const *)a, *y = *(lp_edit *const *)b;
    return x->order < y->order ? -1 : x->order > y->order;
}

int lp_run_edit(lp_run *run, lp_edit *edits, size_t n_edits, lp_error *err) {
    run->edits = malloc((n_edits ? n_edits : 1) * sizeof *run->edits);
    if (!run->edits) return lp_fail(err, LP_ENOMEM, "no memory for a table of %zu edits", n_edits);
    for (size_t i = 0; i < n_edits; i++) {
        lp_edit *e = &edits[i];
        if (lp_edit_check(e, run->model, run->seq_start, run->n_past, run->n_seqs, err)) return -1;
        size_t key = lp_edit_key(run->model, e->point, e->layer);
        e->order = key * (2 * n_edits) + (e->op == LP_EDIT_KEEP ? 0 : n_edits) + i;
        run->edits[i] = e;
        if (run->first_layer && key == lp_edit_key(run->model, LP_X, run->first_layer))
            lp_run_materialise(run, LP_X, run->first_layer);
        else
            lp_run_materialise(run, (lp_point)(key % LP_N_POINTS), key / LP_N_POINTS);
    }
    run->n_edits = n_edits;
    qsort(run->edits, n_edits, sizeof *run->edits, compare_edits);
    return 0;
}

int lp_run_plan(lp_run *run, lp_error *err) {
    lp_request request = request_of(run);
    if (run->layer_row > run->head_row || run->head_row >= run->n_tokens || (run->last_rows && run->head_row))
        return lp_fail(err, LP_EARG, "rows from %zu and from %zu of %zu tokens", run->layer_row, run->head_row,
                       run->n_tokens);
    if (lp_branch_check(run, err)) return -1;
    lp_plan_free(run->plan);
    run->plan = lp_plan_new(&request, err);
    return run->plan ? 0 : -1;
}

void lp_run_set_place(lp_run *run, lp_point point, size_t layer, float *place) {
    lp_points_add(set_of(run, run->requested, point, layer), point);
    run->places[lp_plan_array(run->model, point, layer)] = place;
}
