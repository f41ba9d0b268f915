/* run.c - checks what a run is asked for and remembers where its values go. */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "size.h" /* lp_size_mul3, lp_size_add */

#define MOST_TOKENS ((size_t)1 << 31)

static const struct {
    const char *name;
    lp_width width;
    int per_layer;
} points[LP_N_POINTS] = {
#define LP_POINT_ROW(NAME, name, width, per_layer) {#name, LP_WIDTH_##width, per_layer},
    LP_POINTS(LP_POINT_ROW)
#undef LP_POINT_ROW
};

const char *lp_point_name(lp_point point) { return points[point].name; }
lp_width lp_point_width(lp_point point) { return points[point].width; }
int lp_point_per_layer(lp_point point) { return points[point].per_layer; }

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
    run->crew.n_threads = n_threads ? lp_size_min(n_threads, LP_MAX_THREADS) : 1;
    if (check_sequences(run, err) || check_ids(run, err) || !(run->kernels = lp_kernels_get(err))) return -1;
    run->places = calloc(LP_N_POINTS * model->config.n_layers, sizeof *run->places);
    if (!run->places) return lp_fail(err, LP_ENOMEM, "no memory for a table of %d values", LP_N_POINTS);
    return 0;
}

void lp_run_free(lp_run *run) {
    free(run->places);
    run->places = NULL;
}

static int map_size(const lp_run *run, size_t *n_floats) {
    *n_floats = 0;
    for (size_t s = 0; s < run->n_seqs; s++) {
        size_t t = run->seq_start[s + 1] - run->seq_start[s], map;
        if (lp_size_mul3(&map, t, t, run->model->config.n_heads) || lp_size_add(n_floats, *n_floats, map)) return -1;
    }
    return 0;
}

int lp_run_size(const lp_run *run, lp_point point, size_t *n_floats) {
    const lp_config *c = &run->model->config;
    size_t width = 1;
    switch (points[point].width) {
    case LP_WIDTH_MAP:
        return map_size(run, n_floats);
    case LP_WIDTH_ONE:
        break;
    case LP_WIDTH_D_MODEL:
        width = c->d_model;
        break;
    case LP_WIDTH_HEADS:
        width = c->n_heads * c->head_dim;
        break;
    case LP_WIDTH_KV:
        width = c->n_kv_heads * c->head_dim;
        break;
    case LP_WIDTH_D_FF:
        width = c->d_ff;
        break;
    case LP_WIDTH_VOCAB:
        width = c->vocab_size;
        break;
    }
    return lp_size_mul(n_floats, run->n_tokens, width);
}

void lp_run_set_place(lp_run *run, lp_point point, size_t layer, float *place) {
    run->places[(size_t)point * run->model->config.n_layers + layer] = place;
}
