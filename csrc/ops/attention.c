/* attention.c - jobs of attention: some tokens, or a tile of queries of one head. */
#include "attention.h"

#include <math.h>
#include <string.h>

#include "jobs.h"           /* job_rows, sequence_of_row */
#include "../base/sincos.h" /* lp_sincos */

/* ---- rotary embedding ---------------------------------------------------------------------------------------- */

typedef struct {
    float *cos, *sin;
    const float *inv_freq;
    float factor;
    size_t n_positions, half;
} table_args;

static void table_job(void *arg, size_t i, size_t worker) {
    const table_args *a = arg;
    size_t end, t = job_rows(i, a->n_positions, a->half, &end);
    (void)worker;
    for (; t < end; t++)
        for (size_t j = 0; j < a->half; j++) {
            float *sin = a->sin + t * a->half + j, *cos = a->cos + t * a->half + j;
            lp_sincos(a->inv_freq[j] * (float)t, sin, cos);
            if (a->factor != 1) *sin *= a->factor, *cos *= a->factor;
        }
}

int lp_rope_table(const lp_ops *ops, float *cos, float *sin, const float *inv_freq, float factor, size_t n_positions,
                  size_t half) {
    table_args a = {cos, sin, inv_freq, factor, n_positions, half};
    return lp_pool_run(&ops->parallel, n_jobs(n_positions, half), table_job, &a);
}

typedef struct {
    const lp_kernels *kernels;
    float *out;
    const float *x;
    const lp_angles *angles;
    const lp_sequence *sequences;
    size_t n_sequences, m, n_heads, head_dim;
} rope_args;

static void rope_job(void *arg, size_t i, size_t worker) {
    const rope_args *a = arg;
    const lp_angles *angles = a->angles;
    size_t d = a->n_heads * a->head_dim, half = angles->half, end, t = job_rows(i, a->m, d, &end);
    const lp_sequence *s = sequence_of_row(a->sequences, a->n_sequences, t);
    (void)worker;
    for (; t < end; t++) {
        if (t == s->start + s->n_tokens) s++;
        size_t at = (t - s->start) * half, is_long = s->n_tokens > angles->short_until;
        a->kernels->rope(a->out + t * d, a->x + t * d, angles->cos[is_long] + at, angles->sin[is_long] + at, a->n_heads,
                         a->head_dim, half, angles->interleaved);
    }
}

int lp_rope(const lp_ops *ops, float *out, const float *x, const lp_angles *angles, const lp_sequence *sequences,
            size_t n_sequences, size_t n_heads, size_t head_dim) {
    const lp_sequence *last = sequences + n_sequences - 1;
    size_t m = last->start + last->n_tokens;
    count_values(ops, 2, m * n_heads * head_dim, 0);
    rope_args a = {ops->kernels, out, x, angles, sequences, n_sequences, m, n_heads, head_dim};
    return lp_pool_run(&ops->parallel, n_jobs(m, n_heads * head_dim), rope_job, &a);
}

/* ---- attention ----------------------------------------------------------------------------------------------- */

typedef struct {
    const lp_ops *ops;
    const lp_attention *a;
    size_t n_tokens, n_jobs;    /* of all sequences */
    size_t k_head, v_head;      /* floats of a packed head */
    float *k_packed, *v_packed; /* [n_kv_heads], layout as in lp_head; NULL: v is not packed */
} attend_args;

/* Columns of v, rounded up to whole panels. */
static size_t v_columns(size_t head_dim) { return (head_dim + LP_PANEL - 1) / LP_PANEL * LP_PANEL; }

/* Keys before those of sequence i, which begins at token `start`: a sequence has its own panels, and the last one may
 * lack up to LP_PANEL - 1 keys. */
static size_t first_key(size_t start, size_t i) { return (start + (LP_PANEL - 1) * i) / LP_PANEL * LP_PANEL; }

size_t lp_ops_packed_heads(size_t n_tokens, size_t n_sequences, size_t n_kv_heads, size_t head_dim) {
    return n_kv_heads * (first_key(n_tokens, n_sequences) * head_dim + n_tokens * v_columns(head_dim));
}

/* Offset of the key of token t in its head. */
static size_t key_at(const lp_attention *a, size_t t) {
    const lp_sequence *s = sequence_of_row(a->sequences, a->n_sequences, t);
    size_t key = t - s->start, before = first_key(s->start, (size_t)(s - a->sequences));
    return (before + key / LP_PANEL * LP_PANEL) * a->head_dim + key % LP_PANEL;
}

static void pack_heads_job(void *arg, size_t i, size_t worker) {
    const attend_args *args = arg;
    const lp_attention *a = args->a;
    size_t d = a->n_kv_heads * a->head_dim, end, first = job_rows(i, args->n_tokens, d, &end);
    (void)worker;
    for (size_t head = 0; head < a->n_kv_heads; head++) {
        for (size_t t = first; t < end; t++) {
            const float *k = a->k + t * d + head * a->head_dim, *v = a->v ? a->v + t * d + head * a->head_dim : NULL;
            float *to = args->k_packed + head * args->k_head + key_at(a, t);
            for (size_t c = 0; c < a->head_dim; c++) to[c * LP_PANEL] = k[c];
            to = args->v_packed + head * args->v_head + t * LP_PANEL;
            for (size_t c = 0; v && c < a->head_dim; c += LP_PANEL)
                memcpy(to + c * args->n_tokens, v + c, lp_size_min(LP_PANEL, a->head_dim - c) * sizeof *v);
        }
    }
}

static size_t n_tiles(const lp_kernels *k, size_t n_tokens) { return (n_tokens + k->q_tile - 1) / k->q_tile; }

/* A job is one tile of queries of one head. Long rows come first in a sequence, so that the last jobs are short; heads
 * that share k and v follow each other. Returns the number of the tile in its sequence. */
static size_t head_of_job(lp_head *h, const attend_args *args, size_t i) {
    const lp_attention *a = args->a;
    size_t tile = i / a->n_heads, head = i % a->n_heads, kv_head = head / (a->n_heads / a->n_kv_heads);
    const lp_sequence *s = sequence_of_tile(a->sequences, a->n_sequences, tile);
    size_t q_stride = a->n_heads * a->head_dim, q_at = s->start * q_stride + head * a->head_dim;
    size_t map_at = s->map_at + head * s->n_tokens * s->n_tokens;
    *h = (lp_head){.n_tokens = s->n_tokens,
                   .head_dim = a->head_dim,
                   .q = a->q ? a->q + q_at : NULL,
                   .q_stride = q_stride,
                   .v_stride = args->n_tokens * LP_PANEL,
                   .z = a->z ? a->z + q_at : NULL,
                   .scale = a->scale,
                   .cap = a->cap,
                   .window = a->window,
                   .scores_raw = a->scores_raw ? a->scores_raw + map_at : NULL,
                   .scores = a->scores ? a->scores + map_at : NULL,
                   .pattern = a->pattern ? a->pattern + map_at : NULL};
    if (args->k_packed) {
        h->k = args->k_packed + kv_head * args->k_head + key_at(a, s->start);
        h->v = args->v_packed + kv_head * args->v_head + s->start * LP_PANEL;
    } else if (a->v) { /* not packed */
        h->v_stride = a->n_kv_heads * a->head_dim;
        h->v = a->v + s->start * h->v_stride + kv_head * a->head_dim;
    }
    return n_tiles(args->ops->kernels, s->n_tokens) - 1 - (tile - s->first_tile);
}

static void attend_job(void *arg, size_t i, size_t worker) {
    const attend_args *args = arg;
    lp_head h;
    size_t tile = head_of_job(&h, args, i);
    args->ops->kernels->attend(&h, tile, args->ops->scratch + worker * args->ops->scratch_stride);
}

/* Pairs of a query and a key that it sees: T (T + 1) / 2 without a window. */
static double n_pairs(const lp_attention *a, size_t n_tokens) {
    double t = (double)n_tokens, w = a->window && a->window < n_tokens ? (double)a->window : t;
    return w * (w + 1) / 2 + (t - w) * w;
}

static void count_attention(const lp_ops *ops, const lp_attention *a) {
    size_t q_width = a->n_heads * a->head_dim, kv_width = a->n_kv_heads * a->head_dim;
    for (size_t i = 0; i < a->n_sequences; i++) {
        size_t t = a->sequences[i].n_tokens;
        double pairs = n_pairs(a, t), products = a->z ? 2 : 1;
        lp_profile_count(ops->profile, products * 2 * pairs * (double)q_width, 0, 0);
        count_values(ops, a->z ? 2 : 1, t * (q_width + kv_width), 0);
        count_values(ops, (a->scores_raw != NULL) + (a->scores != NULL), a->n_heads * t * t, 0);
        if (a->pattern) count_values(ops, 1, a->n_heads * (size_t)pairs, 0); /* its zeros are not written */
    }
}

static attend_args attention_args(const lp_ops *ops, const lp_attention *a) {
    const lp_sequence *last = a->sequences + a->n_sequences - 1;
    size_t n_tokens = last->start + last->n_tokens;
    return (attend_args){.ops = ops,
                         .a = a,
                         .n_tokens = n_tokens,
                         .n_jobs = a->n_heads * (last->first_tile + n_tiles(ops->kernels, last->n_tokens)),
                         .k_head = first_key(n_tokens, a->n_sequences) * a->head_dim,
                         .v_head = n_tokens * v_columns(a->head_dim)};
}

int lp_attend(const lp_ops *ops, const lp_attention *a) {
    attend_args args = attention_args(ops, a);
    args.k_packed = ops->packed;
    args.v_packed = ops->packed + a->n_kv_heads * args.k_head;
    if (lp_pool_run(&ops->parallel, n_jobs(args.n_tokens, a->n_kv_heads * a->head_dim), pack_heads_job, &args))
        return -1;
    count_attention(ops, a);
    return lp_pool_run(&ops->parallel, args.n_jobs, attend_job, &args);
}

/* The keys of a map's row: query t of n sees first .. end. */
typedef struct {
    size_t first, end, n;
} row_keys;

static void cap_row(const lp_kernels *kernels, float *scores, const float *raw, float cap, row_keys keys) {
    for (size_t key = 0; key < keys.n; key++) scores[key] = -INFINITY;
    kernels->cap(scores + keys.first, raw + keys.first, cap, keys.end - keys.first);
}

/* pattern = e^(s - most) / sum of these; 0 where a key is hidden. */
static void softmax_row(const lp_kernels *kernels, float *pattern, const float *scores, row_keys keys) {
    float most = -INFINITY;
    double lane[16] = {0};
    for (size_t key = keys.first; key < keys.end; key++)
        if (scores[key] > most) most = scores[key];
    for (size_t key = keys.first; key < keys.end; key++) pattern[key] = scores[key] - most;
    kernels->exp(pattern + keys.first, pattern + keys.first, keys.end - keys.first);
    for (size_t key = keys.first; key < keys.end; key++) lane[key % 16] += (double)pattern[key];
    for (size_t apart = 8; apart; apart /= 2)
        for (size_t j = 0; j < apart; j++) lane[j] += lane[j + apart];
    for (size_t key = keys.first; key < keys.end; key++) pattern[key] /= (float)lane[0];
    memset(pattern, 0, keys.first * sizeof *pattern);
    memset(pattern + keys.end, 0, (keys.n - keys.end) * sizeof *pattern);
}

/* The queries of a tile, one after the other. */
static void query_job(void *arg, size_t i, size_t worker) {
    const attend_args *args = arg;
    const lp_kernels *kernels = args->ops->kernels;
    lp_head h;
    size_t t = head_of_job(&h, args, i) * kernels->q_tile, n = h.n_tokens;
    (void)worker;
    for (size_t end = lp_size_min(t + kernels->q_tile, n); t < end; t++) {
        row_keys keys = {h.window && t >= h.window ? t + 1 - h.window : 0, t + 1, n};
        if (h.z)
            kernels->mix(h.z + t * h.q_stride, h.pattern + t * n, h.v, h.v_stride, keys.first, keys.end, h.head_dim);
        else if (h.pattern)
            softmax_row(kernels, h.pattern + t * n, h.scores + t * n, keys);
        else
            cap_row(kernels, h.scores + t * n, h.scores_raw + t * n, h.cap, keys);
    }
}

static int run_queries(const lp_ops *ops, lp_attention a) {
    attend_args args = attention_args(ops, &a);
    count_values(ops, 2, args.n_tokens * a.n_heads * (a.z ? a.head_dim : 1), 0);
    return lp_pool_run(&ops->parallel, args.n_jobs, query_job, &args);
}

int lp_cap_scores(const lp_ops *ops, const lp_attention *a) {
    lp_attention cap = *a;
    cap.pattern = cap.z = NULL;
    return run_queries(ops, cap);
}

int lp_softmax(const lp_ops *ops, const lp_attention *a) {
    lp_attention softmax = *a;
    softmax.z = NULL;
    return run_queries(ops, softmax);
}

int lp_mix(const lp_ops *ops, const lp_attention *a) { return run_queries(ops, *a); }
