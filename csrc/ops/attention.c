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
    size_t first, n_positions, half;
} table_args;

static void table_job(void *arg, size_t i, size_t worker) {
    const table_args *a = arg;
    size_t end, t = job_rows(i, a->n_positions, a->half, &end);
    (void)worker;
    for (; t < end; t++)
        for (size_t j = 0; j < a->half; j++) {
            float *sin = a->sin + t * a->half + j, *cos = a->cos + t * a->half + j;
            lp_sincos(a->inv_freq[j] * (float)(a->first + t), sin, cos);
            if (a->factor != 1) *sin *= a->factor, *cos *= a->factor;
        }
}

int lp_rope_table(const lp_ops *ops, float *cos, float *sin, const float *inv_freq, float factor, size_t first,
                  size_t n_positions, size_t half) {
    table_args a = {cos, sin, inv_freq, factor, first, n_positions, half};
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
        size_t at = (s->angles_at + t - s->start) * half, is_long = s->n_past + s->n_tokens > angles->short_until;
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
    size_t n_tokens;  /* of all sequences */
    lp_panels packed; /* of the sequences without a cache; k is NULL: v is not packed */
} attend_args;

/* Keys before those of sequence i, which begins at token `start`: a sequence has its own panels, and the last one may
 * lack up to LP_PANEL - 1 keys. */
static size_t first_key(size_t start, size_t i) { return (start + (LP_PANEL - 1) * i) / LP_PANEL * LP_PANEL; }

size_t lp_ops_packed_heads(size_t n_tokens, size_t n_sequences, size_t n_kv_heads, size_t head_dim) {
    return n_kv_heads * (first_key(n_tokens, n_sequences) * head_dim + n_tokens * lp_v_columns(head_dim));
}

/* The panels of one sequence: its cache, or its part of the packed ones. */
static lp_panels panels_of(const attend_args *args, const lp_sequence *s) {
    const lp_attention *a = args->a;
    lp_panels p = args->packed;
    if (s->cache.k) return s->cache;
    p.k += first_key(s->start, (size_t)(s - a->sequences)) * a->head_dim, p.v += s->start * LP_PANEL;
    return p;
}

static int has_cache(const lp_attention *a, size_t i) { return a->sequences[i].cache.k != NULL; }

/* Rows to the panels of their sequences: to caches, or to the others if args->packed has a place. */
static void pack_heads_job(void *arg, size_t i, size_t worker) {
    const attend_args *args = arg;
    const lp_attention *a = args->a;
    size_t h = a->head_dim, d = a->n_kv_heads * h, end, t = job_rows(i, args->n_tokens, d, &end), stop;
    const lp_sequence *s = sequence_of_row(a->sequences, a->n_sequences, t);
    (void)worker;
    for (; t < end; t = stop, s++) {
        stop = lp_size_min(s->start + s->n_tokens, end);
        if (!s->cache.k != (args->packed.k != NULL)) continue;
        lp_panels p = panels_of(args, s);
        for (size_t head = 0; head < a->n_kv_heads; head++, p.k += p.n_floats, p.v += p.n_floats)
            for (size_t row = t; row < stop; row++) {
                size_t key = s->n_past + row - s->start;
                const float *k = a->k + row * d + head * h, *v = a->v ? a->v + row * d + head * h : NULL;
                float *to = p.k + key / LP_PANEL * LP_PANEL * h + key % LP_PANEL;
                for (size_t c = 0; c < h; c++) to[c * LP_PANEL] = k[c];
                to = p.v + key * LP_PANEL;
                for (size_t c = 0; v && c < h; c += LP_PANEL, to += p.v_stride)
                    memcpy(to, v + c, lp_size_min(LP_PANEL, h - c) * sizeof *v);
            }
    }
}

static int pack_heads(const attend_args *args) {
    const lp_attention *a = args->a;
    return lp_pool_run(&args->ops->parallel, n_jobs(args->n_tokens, a->n_kv_heads * a->head_dim), pack_heads_job,
                       (void *)args);
}

void lp_copy_panels(lp_panels to, lp_panels from, size_t head, size_t n_keys, size_t head_dim) {
    size_t whole = (n_keys + LP_PANEL - 1) / LP_PANEL * LP_PANEL;
    memcpy(to.k + head * to.n_floats, from.k + head * from.n_floats, whole * head_dim * sizeof *to.k);
    to.v += head * to.n_floats, from.v += head * from.n_floats;
    for (size_t d = 0; d < head_dim; d += LP_PANEL, to.v += to.v_stride, from.v += from.v_stride)
        memcpy(to.v, from.v, n_keys * LP_PANEL * sizeof *to.v);
}

/* What jobs are counted by: query heads or, with one token, kv heads. */
static size_t n_groups(const lp_sequence *s, size_t n_heads, size_t n_kv_heads) {
    return s->n_tokens == 1 ? n_kv_heads : n_heads;
}

/* What a head of the sequence is, without its arrays. */
static lp_head shape_of(const lp_sequence *s, size_t n_heads, size_t n_kv_heads) {
    int one_token = s->n_tokens == 1;
    return (lp_head){
        .n_rows = one_token ? n_heads / n_kv_heads : s->n_tokens, .n_past = s->n_past, .one_token = one_token};
}

size_t lp_attention_jobs(const lp_sequence *s, size_t q_tile, size_t n_heads, size_t n_kv_heads) {
    lp_head h = shape_of(s, n_heads, n_kv_heads);
    return (lp_head_end_tile(&h, q_tile) - lp_head_first_tile(&h, q_tile)) * n_groups(s, n_heads, n_kv_heads);
}

size_t lp_number_sequences(lp_sequence *sequences, size_t n_sequences, size_t q_tile, size_t n_heads,
                           size_t n_kv_heads) {
    size_t jobs = 0, map_at = 0;
    for (lp_sequence *s = sequences; s < sequences + n_sequences; s++) {
        s->first_job = jobs, s->map_at = map_at;
        jobs += lp_attention_jobs(s, q_tile, n_heads, n_kv_heads);
        map_at += n_heads * s->n_tokens * (s->n_past + s->n_tokens);
    }
    return map_at;
}

/* A job is one tile of queries. Long rows come first in a sequence, so that the last jobs are short; heads that share k
 * and v follow each other. Returns the number of the tile. */
static size_t head_of_job(lp_head *out, const attend_args *args, size_t i) {
    const lp_attention *a = args->a;
    const lp_sequence *s = sequence_of_job(a->sequences, a->n_sequences, i);
    size_t groups = n_groups(s, a->n_heads, a->n_kv_heads), job = i - s->first_job, group = job % groups;
    size_t head = group * (a->n_heads / groups), kv_head = group / (groups / a->n_kv_heads);
    size_t row_stride = a->n_heads * a->head_dim, q_at = s->start * row_stride + head * a->head_dim;
    size_t map_at = s->map_at + head * s->n_tokens * (s->n_past + s->n_tokens);
    lp_head h = shape_of(s, a->n_heads, a->n_kv_heads);
    h.head_dim = a->head_dim, h.scale = a->scale, h.cap = a->cap, h.window = a->window;
    h.q = a->q ? a->q + q_at : NULL, h.z = a->z ? a->z + q_at : NULL;
    h.q_stride = h.one_token ? a->head_dim : row_stride;
    h.scores_raw = a->scores_raw ? a->scores_raw + map_at : NULL;
    h.scores = a->scores ? a->scores + map_at : NULL;
    h.pattern = a->pattern ? a->pattern + map_at : NULL;
    if (s->cache.k || args->packed.k) {
        lp_panels p = panels_of(args, s);
        h.k = p.k + kv_head * p.n_floats, h.v = p.v + kv_head * p.n_floats, h.v_stride = p.v_stride;
    } else if (a->v) { /* not packed */
        h.v_stride = a->n_kv_heads * a->head_dim;
        h.v = a->v + s->start * h.v_stride + kv_head * a->head_dim;
    }
    *out = h;
    return lp_head_end_tile(&h, args->ops->kernels->q_tile) - 1 - job / groups;
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
        size_t t = a->sequences[i].n_tokens, past = a->sequences[i].n_past, n_keys = past + t;
        double pairs = n_pairs(a, n_keys) - n_pairs(a, past), products = a->z ? 2 : 1;
        lp_profile_count(ops->profile, products * 2 * pairs * (double)q_width, 0, 0);
        count_values(ops, a->z ? 2 : 1, t * q_width + n_keys * kv_width, 0);
        count_values(ops, (a->scores_raw != NULL) + (a->scores != NULL), a->n_heads * t * n_keys, 0);
        if (a->pattern) count_values(ops, 1, a->n_heads * (size_t)pairs, 0); /* its zeros are not written */
    }
}

static attend_args attention_args(const lp_ops *ops, const lp_attention *a) {
    const lp_sequence *last = a->sequences + a->n_sequences - 1;
    return (attend_args){.ops = ops, .a = a, .n_tokens = last->start + last->n_tokens};
}

static int run_jobs(const attend_args *args, lp_job job) {
    const lp_attention *a = args->a;
    const lp_sequence *last = a->sequences + a->n_sequences - 1;
    size_t n = lp_attention_jobs(last, args->ops->kernels->q_tile, a->n_heads, a->n_kv_heads);
    return lp_pool_run(&args->ops->parallel, last->first_job + n, job, (void *)args);
}

int lp_append(const lp_ops *ops, const lp_attention *a) {
    attend_args args = attention_args(ops, a);
    count_values(ops, 4, args.n_tokens * a->n_kv_heads * a->head_dim, 0);
    return pack_heads(&args);
}

int lp_attend(const lp_ops *ops, const lp_attention *a) {
    attend_args args = attention_args(ops, a);
    size_t n_keys = first_key(args.n_tokens, a->n_sequences), n_packed = 0;
    for (size_t i = 0; i < a->n_sequences; i++) n_packed += !has_cache(a, i);
    args.packed = (lp_panels){.k = ops->packed,
                              .v = ops->packed + n_keys * a->head_dim,
                              .n_floats = n_keys * a->head_dim + args.n_tokens * lp_v_columns(a->head_dim),
                              .v_stride = args.n_tokens * LP_PANEL};
    if (n_packed && pack_heads(&args)) return -1;
    count_attention(ops, a);
    return run_jobs(&args, attend_job);
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

/* z of one query, from rows of v or from panels. */
static void mix_row(const lp_kernels *kernels, const lp_head *h, size_t row, int in_panels, row_keys keys) {
    float *z = h->z + row * h->q_stride;
    const float *pattern = h->pattern + row * keys.n;
    if (!in_panels) kernels->mix(z, pattern, h->v, h->v_stride, keys.first, keys.end, h->head_dim);
    for (size_t d = 0; in_panels && d < h->head_dim; d += LP_PANEL)
        kernels->mix(z + d, pattern, h->v + d / LP_PANEL * h->v_stride, LP_PANEL, keys.first, keys.end,
                     lp_size_min(LP_PANEL, h->head_dim - d));
}

/* The queries of a tile, one after the other. */
static void query_job(void *arg, size_t i, size_t worker) {
    const attend_args *args = arg;
    const lp_kernels *kernels = args->ops->kernels;
    lp_head h;
    size_t tile = head_of_job(&h, args, i), n = lp_head_keys(&h), end, row;
    int in_panels = sequence_of_job(args->a->sequences, args->a->n_sequences, i)->cache.k != NULL;
    (void)worker;
    for (row = lp_head_tile(&h, tile, kernels->q_tile, &end); row < end; row++) {
        size_t t = lp_head_position(&h, row);
        row_keys keys = {h.window && t >= h.window ? t + 1 - h.window : 0, t + 1, n};
        if (h.z)
            mix_row(kernels, &h, row, in_panels, keys);
        else if (h.pattern)
            softmax_row(kernels, h.pattern + row * n, h.scores + row * n, keys);
        else
            cap_row(kernels, h.scores + row * n, h.scores_raw + row * n, h.cap, keys);
    }
}

static int run_queries(const lp_ops *ops, lp_attention a) {
    attend_args args = attention_args(ops, &a);
    count_values(ops, 2, args.n_tokens * a.n_heads * (a.z ? a.head_dim : 1), 0);
    return run_jobs(&args, query_job);
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
