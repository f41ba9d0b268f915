/* forward.c - the forward pass of a Llama, each value written once to its place.
 *
 * A value's place is the caller's array when it was asked for, else a row of the scratch block, else (when only the
 * next step reads it, in cache) nowhere. What no value asked for depends on is not computed. */
#include "forward.h"

#include <string.h>

#include "memory.h"    /* lp_block, lp_memory_fits */
#include "ops.h"       /* lp_embed, lp_linear, lp_attend ... */
#include "readahead.h" /* lp_readahead_start, advance, stop */
#include "size.h"      /* lp_size_add, lp_size_mul */

#define BIT(point) (1u << (point))
#define B(NAME) BIT(LP_##NAME)

/* What a value is computed from. x of layers after the first comes from the layer before. */
static const uint32_t inputs[LP_N_POINTS] = {
    [LP_X_RMS] = B(X),
    [LP_X_UNIT] = B(X),
    [LP_X_NORM] = B(X),
    [LP_Q] = B(X_NORM),
    [LP_K] = B(X_NORM),
    [LP_V] = B(X_NORM),
    [LP_Q_ROPE] = B(Q),
    [LP_K_ROPE] = B(K),
    [LP_SCORES] = B(Q_ROPE) | B(K_ROPE),
    [LP_PATTERN] = B(Q_ROPE) | B(K_ROPE),
    [LP_Z] = B(Q_ROPE) | B(K_ROPE) | B(V),
    [LP_ATTN_OUT] = B(Z),
    [LP_X_MID] = B(X) | B(Z),
    [LP_X_MID_RMS] = B(X_MID),
    [LP_X_MID_UNIT] = B(X_MID),
    [LP_X_MID_NORM] = B(X_MID),
    [LP_GATE] = B(X_MID_NORM),
    [LP_UP] = B(X_MID_NORM),
    [LP_ACT] = B(X_MID_NORM),
    [LP_HIDDEN] = B(X_MID_NORM),
    [LP_MLP_OUT] = B(HIDDEN),
    [LP_X_OUT] = B(X_MID) | B(HIDDEN),
    [LP_FINAL_RMS] = B(X_OUT),
    [LP_FINAL_UNIT] = B(X_OUT),
    [LP_FINAL_NORM] = B(X_OUT),
    [LP_LOGITS] = B(FINAL_NORM),
};

/* Values that a later step reads from memory: they need a place even when nobody asked for them. */
#define KEPT                                                                                                       \
    (B(X) | B(X_NORM) | B(Q) | B(K) | B(V) | B(Q_ROPE) | B(K_ROPE) | B(Z) | B(X_MID) | B(X_MID_NORM) | B(HIDDEN) | \
     B(X_OUT) | B(FINAL_NORM))

typedef struct {
    lp_run *run;
    const lp_config *config;
    lp_ops ops;
    lp_block block; /* the scratch block: everything below points into it */
    float *scratch[LP_N_POINTS];
    float *cos, *sin; /* [longest sequence, head_dim / 2] */
    lp_sequence *sequences;
    lp_readahead *ahead;
    size_t longest;    /* tokens of the longest sequence */
    size_t last_layer; /* the last that is computed */
    int counts;        /* the steps of the pass are counted and not done */
    uint32_t needed;   /* of the layer at work: a bit for each value that is asked for or leads to one that is */
} lp_forward_state;

static float *asked_place(const lp_run *run, lp_point point, size_t layer) {
    return run->places[(size_t)point * run->model->config.n_layers + (lp_point_per_layer(point) ? layer : 0)];
}

/* Where a value goes: asked for, kept for a later step, or nowhere. */
static float *place(const lp_forward_state *f, lp_point point, size_t layer) {
    float *asked = asked_place(f->run, point, layer);
    if (asked) return asked;
    return f->needed & BIT(point) & KEPT ? f->scratch[point] : NULL;
}

/* x of layer i is x_out of the layer before. Two scratch rows take turns. */
static float *x_place(const lp_forward_state *f, size_t layer) {
    float *asked = asked_place(f->run, LP_X, layer);
    if (!asked && layer) asked = asked_place(f->run, LP_X_OUT, layer - 1);
    return asked ? asked : f->scratch[layer % 2 ? LP_X : LP_X_OUT];
}

static int needs(const lp_forward_state *f, uint32_t points) { return (f->needed & points) != 0; }

/* The values of this layer that are asked for, and all that they depend on. */
static uint32_t needed_in_layer(const lp_forward_state *f, size_t layer) {
    uint32_t needed = layer < f->last_layer ? B(X_OUT) : 0;
    for (int p = 0; p < LP_N_POINTS; p++) {
        int here = lp_point_per_layer((lp_point)p) || layer + 1 == f->config->n_layers;
        if (here && asked_place(f->run, (lp_point)p, layer)) needed |= BIT(p);
    }
    for (int p = LP_N_POINTS - 1; p >= 0; p--)
        if (needed & BIT(p)) needed |= inputs[p];
    return needed;
}

static int find_last_layer(lp_forward_state *f) {
    int any = 0;
    for (int p = 0; p < LP_N_POINTS; p++)
        for (size_t i = 0; i < f->config->n_layers; i++) {
            if (!asked_place(f->run, (lp_point)p, i)) continue;
            size_t layer = lp_point_per_layer((lp_point)p) ? i : f->config->n_layers - 1;
            if (layer > f->last_layer) f->last_layer = layer;
            any = 1;
        }
    return any;
}

/* ---- the scratch block --------------------------------------------------------------------------------------- */

/* Lays n items of so many bytes after what was laid before, on a line of their own; *at is where. */
static int lay(size_t *total, size_t n, size_t item_bytes, size_t *at) {
    size_t n_bytes;
    *at = *total;
    if (lp_size_mul(&n_bytes, n, item_bytes) || lp_size_add(total, *total, n_bytes) || lp_size_add(total, *total, 63))
        return -1;
    *total &= ~(size_t)63;
    return 0;
}

/* Measures the block, or (with base) sets the pointers into it. */
static int lay_out(lp_forward_state *f, char *base, size_t *total) {
    const lp_config *c = f->config;
    size_t n, at, m = f->run->n_tokens, half = c->head_dim / 2;
    size_t heads = lp_ops_packed_heads(m, f->run->n_seqs, c->n_kv_heads, c->head_dim), widest = c->d_ff, packed;
    *total = 0;
    if (widest < c->d_model) widest = c->d_model;
    if (widest < c->n_heads * c->head_dim) widest = c->n_heads * c->head_dim;
    for (int p = 0; p < LP_N_POINTS; p++) {
        if (!(KEPT & BIT(p))) continue;
        if (lp_run_size(f->run, (lp_point)p, &n) || lay(total, n, sizeof(float), &at)) return -1;
        if (base) f->scratch[p] = (float *)(base + at);
    }
    f->ops.scratch_stride = lp_ops_scratch(f->ops.kernels, m, f->longest, c->head_dim);
    if (lp_size_mul(&n, f->ops.scratch_stride, f->ops.crew.n_threads) || lay(total, n, sizeof(float), &at)) return -1;
    if (base) f->ops.scratch = (float *)(base + at);
    packed = f->ops.kernels->packed_size(m, widest);
    if (lay(total, packed > heads ? packed : heads, sizeof(float), &at)) return -1;
    if (base) f->ops.packed = (float *)(base + at);
    if (lp_size_mul3(&n, f->longest, half, 2) || lay(total, n, sizeof(float), &at)) return -1;
    if (base) f->cos = (float *)(base + at), f->sin = f->cos + n / 2;
    if (lay(total, f->run->n_seqs, sizeof *f->sequences, &at)) return -1;
    if (base) f->sequences = (lp_sequence *)(base + at);
    return 0;
}

/* How many jobs the largest step has: more threads would want scratch and do nothing. */
static size_t most_jobs(const lp_forward_state *f) {
    const lp_config *c = f->config;
    size_t n_rows = c->d_model + 2 * c->d_ff + (c->n_heads + 2 * c->n_kv_heads) * c->head_dim, n_tiles = 0;
    size_t q_tile = f->ops.kernels->q_tile;
    if (asked_place(f->run, LP_LOGITS, 0)) n_rows += c->vocab_size;
    for (size_t s = 0; s < f->run->n_seqs; s++)
        n_tiles += (f->run->seq_start[s + 1] - f->run->seq_start[s] + q_tile - 1) / q_tile;
    size_t of_products = n_rows / f->ops.kernels->row_unit + 1, of_attention = n_tiles * c->n_heads;
    return of_products > of_attention ? of_products : of_attention;
}

static void begin(lp_forward_state *f, lp_run *run) {
    memset(f, 0, sizeof *f);
    f->run = run;
    f->config = &run->model->config;
    f->ops.crew = run->crew;
    f->ops.profile = run->profile;
    f->ops.kernels = run->kernels;
    f->ops.crew.n_threads = lp_size_min(run->crew.n_threads, most_jobs(f));
    for (size_t s = 0; s < run->n_seqs; s++) {
        size_t n = run->seq_start[s + 1] - run->seq_start[s];
        if (n > f->longest) f->longest = n;
    }
}

static int measure(lp_forward_state *f, size_t *n_bytes, lp_error *err) {
    if (!lay_out(f, NULL, n_bytes)) return 0;
    return lp_fail(err, LP_ENOMEM, "the scratch of %zu tokens has more bytes than there are addresses",
                   f->run->n_tokens);
}

int lp_forward_scratch(const lp_run *run, size_t *n_bytes, lp_error *err) {
    lp_forward_state f;
    lp_run copy = *run;
    begin(&f, &copy);
    return measure(&f, n_bytes, err);
}

static int make_room(lp_forward_state *f, lp_error *err) {
    size_t n_bytes;
    if (measure(f, &n_bytes, err)) return -1;
    int failed = lp_memory_fits(n_bytes) ? 0 : -1;
    if (!failed) failed = lp_block_make(&f->block, n_bytes, &f->run->crew);
    if (failed > 0) return lp_fail(err, LP_ECANCELED, "the run was stopped before its first step");
    if (failed)
        return lp_fail(err, LP_ENOMEM,
                       "%zu tokens need %zu MB of scratch memory; use a shorter prompt or smaller batch",
                       f->run->n_tokens, n_bytes >> 20);
    return lay_out(f, f->block.data, &n_bytes);
}

static void number_sequences(lp_forward_state *f) {
    size_t first_tile = 0, map_at = 0, q_tile = f->ops.kernels->q_tile;
    for (size_t s = 0; s < f->run->n_seqs; s++) {
        size_t start = f->run->seq_start[s], n = f->run->seq_start[s + 1] - start;
        f->sequences[s] = (lp_sequence){.start = start, .n_tokens = n, .first_tile = first_tile, .map_at = map_at};
        first_tile += (n + q_tile - 1) / q_tile;
        map_at += f->config->n_heads * n * n; /* used only when a map was asked for, and then its size was checked */
    }
}

static void read_ahead(lp_forward_state *f) {
    const lp_model *model = f->run->model;
    int has_products = (needed_in_layer(f, f->last_layer) & ~(B(X) | B(X_RMS) | B(X_UNIT) | B(X_NORM))) != 0;
    int with_head = asked_place(f->run, LP_LOGITS, 0) != NULL;
    if (!lp_model_is_mapped(model)) return;
    lp_readahead_rows(&model->embed, f->run->token_ids, f->run->n_tokens);
    f->ahead = lp_readahead_start(model, f->last_layer + (size_t)has_products, with_head);
}

/* ---- the pass ------------------------------------------------------------------------------------------------ */

/* Does an operation as a step of the pass; what it returned. A pass that counts only counts it. */
#define STEP(f, stage, operation) end_step(f, stage, (f)->counts ? 0 : (operation))

static int end_step(lp_forward_state *f, lp_stage stage, int failed) {
    if (f->counts) {
        f->run->n_steps++;
        return 0;
    }
    f->run->steps_done++;
    lp_profile_lap(f->run->profile, stage);
    return failed;
}

static lp_words words(const lp_weight *w) { return (lp_words){w->data, w->word}; }

/* y = x w^T + bias, of any x */
static lp_factor factor(const lp_weight *w, const lp_weight *bias, float *y) {
    return (lp_factor){.w = w->data, .word = w->word, .n_rows = w->n_rows, .bias = bias->data, .y = y};
}

/* The same, added to the product when someone wants y. */
static void add_factor(lp_product *p, const lp_weight *w, const lp_weight *bias, float *y) {
    if (y) p->factor[p->n_factors++] = factor(w, bias, y);
}

static int norm(lp_forward_state *f, size_t layer, lp_point first, const float *x, const lp_weight *gain) {
    float *rms = place(f, first, layer), *unit = place(f, first + 1, layer), *out = place(f, first + 2, layer);
    if (!rms && !unit && !out) return 0;
    return STEP(f, LP_STAGE_NORM,
                lp_rms_norm(&f->ops, rms, unit, out, x, words(gain), f->config->rms_norm_eps, f->run->n_tokens,
                            f->config->d_model));
}

/* q, k, v = x_norm w^T */
static int project(lp_forward_state *f, const lp_layer *l, size_t i) {
    lp_product qkv = {.m = f->run->n_tokens, .k = f->config->d_model, .x = place(f, LP_X_NORM, i)};
    add_factor(&qkv, &l->q, &l->q_bias, place(f, LP_Q, i));
    add_factor(&qkv, &l->k, &l->k_bias, place(f, LP_K, i));
    add_factor(&qkv, &l->v, &l->v_bias, place(f, LP_V, i));
    return qkv.n_factors ? STEP(f, LP_STAGE_QKV, lp_linear(&f->ops, &qkv)) : 0;
}

/* out = rope(x) */
static int rope(lp_forward_state *f, float *out, const float *x, size_t n_heads) {
    if (!out) return 0;
    return STEP(f, LP_STAGE_ROPE,
                lp_rope(&f->ops, out, x, f->cos, f->sin, f->sequences, f->run->n_seqs, n_heads, f->config->head_dim));
}

/* z = softmax(q_rope k_rope^T * scale) v */
static int attend(lp_forward_state *f, size_t i) {
    const lp_config *c = f->config;
    lp_attention a = {.n_tokens = f->run->n_tokens,
                      .n_heads = c->n_heads,
                      .n_kv_heads = c->n_kv_heads,
                      .head_dim = c->head_dim,
                      .sequences = f->sequences,
                      .n_sequences = f->run->n_seqs,
                      .q = place(f, LP_Q_ROPE, i),
                      .k = place(f, LP_K_ROPE, i),
                      .v = place(f, LP_V, i),
                      .scores = place(f, LP_SCORES, i),
                      .pattern = place(f, LP_PATTERN, i),
                      .z = place(f, LP_Z, i)};
    return STEP(f, LP_STAGE_ATTENTION, lp_attend(&f->ops, &a));
}

static int attention(lp_forward_state *f, const lp_layer *l, size_t i) {
    if (project(f, l, i)) return -1;
    if (rope(f, place(f, LP_Q_ROPE, i), place(f, LP_Q, i), f->config->n_heads)) return -1;
    if (rope(f, place(f, LP_K_ROPE, i), place(f, LP_K, i), f->config->n_kv_heads)) return -1;
    return needs(f, B(SCORES) | B(PATTERN) | B(Z)) ? attend(f, i) : 0;
}

/* y = in w^T + bias;  sum = x + y */
static int add_linear(lp_forward_state *f, lp_stage stage, float *y, float *sum, const float *x, const float *in,
                      const lp_weight *w, const lp_weight *bias) {
    lp_product p = {.m = f->run->n_tokens, .k = w->n_cols, .x = in, .n_factors = 1};
    p.factor[0] = factor(w, bias, y);
    p.factor[0].add = x;
    p.factor[0].sum = sum;
    return STEP(f, stage, lp_linear(&f->ops, &p));
}

/* gate, up = x_mid_norm w^T;  act = silu(gate);  hidden = act * up */
static int gated_mlp(lp_forward_state *f, const lp_layer *l, size_t i) {
    lp_product p = {.m = f->run->n_tokens,
                    .k = f->config->d_model,
                    .x = place(f, LP_X_MID_NORM, i),
                    .n_factors = 2,
                    .gated = 1,
                    .act = place(f, LP_ACT, i),
                    .hidden = place(f, LP_HIDDEN, i)};
    p.factor[0] = factor(&l->gate, &l->gate_bias, place(f, LP_GATE, i));
    p.factor[1] = factor(&l->up, &l->up_bias, place(f, LP_UP, i));
    return STEP(f, LP_STAGE_GATE_UP, lp_linear(&f->ops, &p));
}

static int layer_forward(lp_forward_state *f, size_t i) {
    const lp_layer *l = &f->run->model->layers[i];
    float *x = x_place(f, i), *x_mid, *x_out, *copy;
    size_t n = f->run->n_tokens * f->config->d_model;
    f->needed = needed_in_layer(f, i);
    lp_readahead_advance(f->ahead);
    if (norm(f, i, LP_X_RMS, x, &l->input_norm)) return -1;
    if (attention(f, l, i)) return -1;
    if (!needs(f, B(ATTN_OUT) | B(X_MID))) return 0;
    x_mid = place(f, LP_X_MID, i);
    if (add_linear(f, LP_STAGE_O_PROJ, place(f, LP_ATTN_OUT, i), x_mid, x, place(f, LP_Z, i), &l->o, &l->o_bias))
        return -1;
    if (norm(f, i, LP_X_MID_RMS, x_mid, &l->post_norm)) return -1;
    if (needs(f, B(GATE) | B(UP) | B(ACT) | B(HIDDEN)) && gated_mlp(f, l, i)) return -1;
    if (!needs(f, B(MLP_OUT) | B(X_OUT))) return 0;
    x_out = i < f->last_layer ? x_place(f, i + 1) : place(f, LP_X_OUT, i);
    if (add_linear(f, LP_STAGE_DOWN, place(f, LP_MLP_OUT, i), x_out, x_mid, place(f, LP_HIDDEN, i), &l->down,
                   &l->down_bias))
        return -1;
    copy = asked_place(f->run, LP_X_OUT, i); /* x of the next layer is the same value, and may have its own place */
    return copy && copy != x_out ? STEP(f, LP_STAGE_COPY, lp_copy(&f->ops, copy, x_out, n)) : 0;
}

/* final_norm = norm(x_out);  logits = final_norm head^T */
static int finish(lp_forward_state *f) {
    const lp_model *model = f->run->model;
    size_t last = f->config->n_layers - 1;
    if (norm(f, last, LP_FINAL_RMS, place(f, LP_X_OUT, last), &model->final_norm)) return -1;
    lp_product head = {.m = f->run->n_tokens, .k = f->config->d_model, .x = place(f, LP_FINAL_NORM, last)};
    lp_weight no_bias = {0};
    add_factor(&head, &model->head, &no_bias, place(f, LP_LOGITS, last));
    return head.n_factors ? STEP(f, LP_STAGE_HEAD, lp_linear(&f->ops, &head)) : 0;
}

static int pass(lp_forward_state *f) {
    const lp_model *model = f->run->model;
    const lp_config *c = f->config;
    if (STEP(f, LP_STAGE_ROPE, lp_rope_table(&f->ops, f->cos, f->sin, model->inv_freq, f->longest, c->head_dim / 2)))
        return -1;
    if (STEP(f, LP_STAGE_EMBED,
             lp_embed(&f->ops, x_place(f, 0), f->run->token_ids, words(&model->embed), f->run->n_tokens, c->d_model)))
        return -1;
    for (size_t i = 0; i <= f->last_layer; i++)
        if (layer_forward(f, i)) return -1;
    return f->last_layer + 1 == c->n_layers ? finish(f) : 0;
}

/* By going through all of them, so that the number is right whatever the steps are. */
static void count_steps(lp_forward_state *f) {
    f->run->n_steps = f->run->steps_done = 0;
    f->counts = 1;
    pass(f);
    f->counts = 0;
}

int lp_forward(lp_run *run, lp_error *err) {
    lp_forward_state f;
    int failed = -1;
    if (lp_model_check_unchanged(run->model, err)) return -1;
    begin(&f, run);
    if (!find_last_layer(&f)) return 0;
    if (make_room(&f, err)) goto done;
    lp_profile_lap(run->profile, LP_STAGE_MEMORY);
    number_sequences(&f);
    count_steps(&f);
    read_ahead(&f);
    failed = pass(&f);
    if (failed) lp_fail(err, LP_ECANCELED, "the run was stopped at step %zu of %zu", run->steps_done, run->n_steps);
done:
    lp_readahead_stop(f.ahead);
    lp_block_free(&f.block);
    return failed;
}
