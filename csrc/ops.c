/* ops.c - cuts the operations into jobs. A job is some rows of x or a band of rows of w; no sum is ever split. */
#include "ops.h"

#include <math.h>
#include <string.h>

#include "sincos.h" /* lp_sincos */
#include "size.h"   /* lp_size_min, lp_size_mul */

#define SHARE 4            /* large jobs of a product, per thread: the first weights of each are waited for */
#define LAST_BANDS 2       /* jobs of one band per thread after them, */
#define LAST_UNITS 4       /* and then of one unit of rows, so that threads end together */
#define FLOATS_A_JOB 32768 /* elements of a job that only passes over rows */
#define FLOATS_A_PAGE ((size_t)1 << 19) /* elements of a huge page, which one thread is the first to touch */

/* The sequence of row t: the last of n that does not start after it. */
static const lp_sequence *sequence_of_row(const lp_sequence *s, size_t n, size_t t) {
    while (n > 1) {
        size_t half = n / 2;
        if (s[half].start <= t)
            s += half, n -= half;
        else
            n = half;
    }
    return s;
}

/* The same of a tile of queries. */
static const lp_sequence *sequence_of_tile(const lp_sequence *s, size_t n, size_t tile) {
    while (n > 1) {
        size_t half = n / 2;
        if (s[half].first_tile <= tile)
            s += half, n -= half;
        else
            n = half;
    }
    return s;
}

/* For the profile: a pass over n_arrays arrays of n floats, and weights. */
static void count_values(const lp_ops *ops, int n_arrays, size_t n, size_t weight_bytes) {
    lp_profile_count(ops->profile, 0, (double)weight_bytes, (double)n_arrays * (double)n * sizeof(float));
}

/* ---- passes over rows ---------------------------------------------------------------------------------------- */

/* Rows of d floats in a job, and how many jobs m rows make. */
static size_t rows_a_job(size_t d) { return d < FLOATS_A_JOB ? FLOATS_A_JOB / d : 1; }
static size_t n_jobs(size_t m, size_t d) { return (m + rows_a_job(d) - 1) / rows_a_job(d); }

/* The rows of job i: first, and one past the last. */
static size_t job_rows(size_t i, size_t m, size_t d, size_t *end) {
    *end = lp_size_min((i + 1) * rows_a_job(d), m);
    return i * rows_a_job(d);
}

typedef struct {
    const lp_kernels *kernels;
    float *out;
    const int32_t *ids;
    lp_words table;
    size_t m, d;
} embed_args;

static void embed_job(void *arg, size_t i, size_t worker) {
    const embed_args *a = arg;
    size_t end, t = job_rows(i, a->m, a->d, &end), row_bytes = a->d * lp_word_bytes(a->table.word);
    (void)worker;
    for (; t < end; t++)
        a->kernels->widen(a->out + t * a->d, (const char *)a->table.data + (size_t)a->ids[t] * row_bytes, a->table.word,
                          a->d);
}

int lp_embed(const lp_ops *ops, float *out, const int32_t *ids, lp_words table, size_t m, size_t d) {
    embed_args a = {ops->kernels, out, ids, table, m, d};
    count_values(ops, 1, m * d, lp_word_bytes(table.word) * m * d);
    return lp_pool_run(&ops->crew, n_jobs(m, d), embed_job, &a);
}

typedef struct {
    const lp_kernels *kernels;
    float *rms, *unit, *out;
    const float *x;
    lp_words gain;
    double eps;
    size_t m, d;
} norm_args;

static void norm_job(void *arg, size_t i, size_t worker) {
    const norm_args *a = arg;
    size_t end, t = job_rows(i, a->m, a->d, &end);
    (void)worker;
    for (; t < end; t++) {
        size_t at = t * a->d;
        a->kernels->rms_norm(a->rms ? a->rms + t : NULL, a->unit ? a->unit + at : NULL, a->out ? a->out + at : NULL,
                             a->x + at, a->gain.data, a->gain.word, a->eps, a->d);
    }
}

int lp_rms_norm(const lp_ops *ops, float *rms, float *unit, float *out, const float *x, lp_words gain, double eps,
                size_t m, size_t d) {
    norm_args a = {ops->kernels, rms, unit, out, x, gain, eps, m, d};
    count_values(ops, 1 + (unit != NULL) + (out != NULL), m * d, lp_word_bytes(gain.word) * d);
    return lp_pool_run(&ops->crew, n_jobs(m, d), norm_job, &a);
}

typedef struct {
    float *out;
    const float *x;
    size_t n;
} copy_args;

static void copy_job(void *arg, size_t i, size_t worker) {
    const copy_args *a = arg;
    size_t end, at = job_rows(i, a->n, 1, &end);
    (void)worker;
    memcpy(a->out + at, a->x + at, (end - at) * sizeof *a->x);
}

int lp_copy(const lp_ops *ops, float *out, const float *x, size_t n) {
    copy_args a = {out, x, n};
    count_values(ops, 2, n, 0);
    return lp_pool_run(&ops->crew, n_jobs(n, 1), copy_job, &a);
}

typedef struct {
    const lp_kernels *kernels;
    float *out;
    lp_words w;
    size_t n;
} widen_args;

static void widen_job(void *arg, size_t i, size_t worker) {
    const widen_args *a = arg;
    size_t at = i * FLOATS_A_PAGE;
    (void)worker;
    a->kernels->widen(a->out + at, (const char *)a->w.data + at * lp_word_bytes(a->w.word), a->w.word,
                      lp_size_min(a->n - at, FLOATS_A_PAGE));
}

int lp_widen(const lp_ops *ops, float *out, lp_words w, size_t n) {
    widen_args a = {ops->kernels, out, w, n};
    count_values(ops, 1, n, lp_word_bytes(w.word) * n);
    return lp_pool_run(&ops->crew, n / FLOATS_A_PAGE + (n % FLOATS_A_PAGE != 0), widen_job, &a);
}

/* ---- rotary embedding ---------------------------------------------------------------------------------------- */

typedef struct {
    float *cos, *sin;
    const float *inv_freq;
    size_t n_positions, half;
} table_args;

static void table_job(void *arg, size_t i, size_t worker) {
    const table_args *a = arg;
    size_t end, t = job_rows(i, a->n_positions, a->half, &end);
    (void)worker;
    for (; t < end; t++)
        for (size_t j = 0; j < a->half; j++)
            lp_sincos(a->inv_freq[j] * (float)t, a->sin + t * a->half + j, a->cos + t * a->half + j);
}

int lp_rope_table(const lp_ops *ops, float *cos, float *sin, const float *inv_freq, size_t n_positions, size_t half) {
    table_args a = {cos, sin, inv_freq, n_positions, half};
    return lp_pool_run(&ops->crew, n_jobs(n_positions, half), table_job, &a);
}

typedef struct {
    const lp_kernels *kernels;
    float *out;
    const float *x, *cos, *sin;
    const lp_sequence *sequences;
    size_t n_sequences, m, n_heads, head_dim;
} rope_args;

static void rope_job(void *arg, size_t i, size_t worker) {
    const rope_args *a = arg;
    size_t d = a->n_heads * a->head_dim, half = a->head_dim / 2, end, t = job_rows(i, a->m, d, &end);
    const lp_sequence *s = sequence_of_row(a->sequences, a->n_sequences, t);
    (void)worker;
    for (; t < end; t++) {
        if (t == s->start + s->n_tokens) s++;
        size_t angle = (t - s->start) * half;
        a->kernels->rope(a->out + t * d, a->x + t * d, a->cos + angle, a->sin + angle, a->n_heads, a->head_dim);
    }
}

int lp_rope(const lp_ops *ops, float *out, const float *x, const float *cos, const float *sin,
            const lp_sequence *sequences, size_t n_sequences, size_t n_heads, size_t head_dim) {
    const lp_sequence *last = sequences + n_sequences - 1;
    size_t m = last->start + last->n_tokens;
    count_values(ops, 2, m * n_heads * head_dim, 0);
    rope_args a = {ops->kernels, out, x, cos, sin, sequences, n_sequences, m, n_heads, head_dim};
    return lp_pool_run(&ops->crew, n_jobs(m, n_heads * head_dim), rope_job, &a);
}

/* ---- products ------------------------------------------------------------------------------------------------ */

#define N_SIZES 3 /* of jobs: large, a band, a unit */

typedef struct {
    const lp_ops *ops;
    const lp_product *p;
    size_t rows[N_SIZES]; /* of a job */
    size_t n[3][N_SIZES]; /* jobs of each factor and size, one after the other */
    size_t n_jobs;
} linear_args;

static void pack_job(void *arg, size_t i, size_t worker) {
    const linear_args *a = arg;
    (void)worker;
    a->ops->kernels->pack(a->p, i);
}

static void bands_job(void *arg, size_t i, size_t worker) {
    const linear_args *a = arg;
    size_t f = 0, size = 0, row = 0;
    while (i >= a->n[f][size]) {
        i -= a->n[f][size];
        row += a->n[f][size] * a->rows[size];
        if (++size == N_SIZES) f++, size = 0, row = 0;
    }
    row += i * a->rows[size];
    size_t n = lp_size_min(a->rows[size], a->p->factor[f].n_rows - row);
    a->ops->kernels->bands(a->p, f, row, n, a->ops->scratch + worker * a->ops->scratch_stride);
}

/* Large jobs first; the last factor ends in small ones. */
static void cut_rows(linear_args *a, size_t n_threads) {
    const lp_product *p = a->p;
    const lp_kernels *k = a->ops->kernels;
    size_t n_factors = p->gated ? 1 : p->n_factors, total = 0;
    size_t fits = k->band_macs / (p->m * p->k * (p->gated ? 2 : 1)), band = k->band_rows[p->gated];
    for (size_t f = 0; f < n_factors; f++) total += p->factor[f].n_rows;
    a->rows[2] = k->row_unit;
    a->rows[1] = lp_size_min(band, fits < k->row_unit ? k->row_unit : fits / k->row_unit * k->row_unit);
    a->rows[0] = lp_size_min(total / (SHARE * n_threads), fits) / band * band;
    if (a->rows[0] < a->rows[1]) a->rows[0] = a->rows[1];
    for (size_t f = 0; f < n_factors; f++) {
        size_t rest = p->factor[f].n_rows, last = f + 1 == n_factors ? n_threads : 0;
        size_t keep[N_SIZES] = {last * (LAST_BANDS * a->rows[1] + LAST_UNITS * a->rows[2]),
                                last * LAST_UNITS * a->rows[2], 0};
        for (size_t i = 0; i < N_SIZES; i++) {
            size_t round_up = i + 1 == N_SIZES ? a->rows[i] - 1 : 0;
            a->n[f][i] = rest > keep[i] ? (rest - keep[i] + round_up) / a->rows[i] : 0;
            rest -= lp_size_min(rest, a->n[f][i] * a->rows[i]);
            a->n_jobs += a->n[f][i];
        }
    }
}

/* Tokens that go through a product together: all, unless a single unit of rows were too long a job. */
static size_t tokens_at_once(const lp_kernels *k, size_t k_columns, int gated) {
    size_t most = k->band_macs / (k_columns * k->row_unit * (gated ? 2 : 1)) / 64 * 64;
    return most ? most : 64;
}

/* The rows from m0 on of every x and y of p. */
static lp_product product_rows(const lp_product *p, size_t m0, size_t m, float *packed) {
    lp_product q = *p;
    q.m = m;
    q.x += m0 * p->k;
    q.x_packed = packed;
    for (size_t f = 0; f < p->n_factors; f++) {
        size_t at = m0 * p->factor[f].n_rows;
        if (q.factor[f].y) q.factor[f].y += at;
        if (q.factor[f].add) q.factor[f].add += at;
        if (q.factor[f].sum) q.factor[f].sum += at;
    }
    if (q.act) q.act += m0 * p->factor[0].n_rows;
    if (q.hidden) q.hidden += m0 * p->factor[0].n_rows;
    return q;
}

/* Every weight is read once, and meets every row of x. */
static void count_product(const lp_ops *ops, const lp_product *p) {
    double m = (double)p->m, k = (double)p->k;
    count_values(ops, 1, p->m * p->k, 0);
    for (size_t i = 0; i < p->n_factors; i++) {
        const lp_factor *f = &p->factor[i];
        double n_rows = (double)f->n_rows, n_weights = n_rows * (k + (f->bias != NULL));
        lp_profile_count(ops->profile, 2 * m * k * n_rows, n_weights * (double)lp_word_bytes(f->word), 0);
        count_values(ops, (f->y != NULL) + 2 * (f->sum != NULL), p->m * f->n_rows, 0);
    }
    count_values(ops, (p->act != NULL) + (p->hidden != NULL), p->m * p->factor[0].n_rows, 0);
}

int lp_linear(const lp_ops *ops, const lp_product *p) {
    size_t at_once = tokens_at_once(ops->kernels, p->k, p->gated);
    for (size_t m0 = 0; m0 < p->m; m0 += at_once) {
        lp_product rows = product_rows(p, m0, lp_size_min(p->m - m0, at_once), ops->packed);
        rows.in_order = lp_kernels_in_order();
        linear_args a = {.ops = ops, .p = &rows};
        cut_rows(&a, ops->crew.n_threads);
        size_t units = ops->kernels->pack_units(&rows);
        if (lp_pool_run(&ops->crew, units, pack_job, &a)) return -1;
        if (units) {
            count_values(ops, 2, rows.m * rows.k, 0);
            lp_profile_lap(ops->profile, LP_STAGE_PACK);
        }
        count_product(ops, &rows);
        if (lp_pool_run(&ops->crew, a.n_jobs, bands_job, &a)) return -1;
    }
    return 0;
}

/* ---- attention ----------------------------------------------------------------------------------------------- */

typedef struct {
    const lp_ops *ops;
    const lp_attention *a;
    size_t n_tokens;            /* of all sequences */
    size_t k_head, v_head;      /* floats of a packed head */
    float *k_packed, *v_packed; /* as lp_head has them, [n_kv_heads] */
} attend_args;

/* Columns of v and those that fill up the last panel. */
static size_t v_columns(size_t head_dim) { return (head_dim + LP_PANEL - 1) / LP_PANEL * LP_PANEL; }

/* Keys before those of sequence i that begins at token `start`: each sequence has panels of its own, and its last one
 * may lack up to LP_PANEL - 1 keys. */
static size_t first_key(size_t start, size_t i) { return (start + (LP_PANEL - 1) * i) / LP_PANEL * LP_PANEL; }

size_t lp_ops_packed_heads(size_t n_tokens, size_t n_sequences, size_t n_kv_heads, size_t head_dim) {
    return n_kv_heads * (first_key(n_tokens, n_sequences) * head_dim + n_tokens * v_columns(head_dim));
}

/* Where the key of token t begins in its head. */
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

/* A job is one tile of queries of one head. Within a sequence the long rows come first, so that what is left at
 * the end is short; the heads that share k and v follow each other. */
static void attend_job(void *arg, size_t i, size_t worker) {
    const attend_args *args = arg;
    const lp_attention *a = args->a;
    const lp_kernels *kernels = args->ops->kernels;
    size_t tile = i / a->n_heads, head = i % a->n_heads, kv_head = head / (a->n_heads / a->n_kv_heads);
    const lp_sequence *s = sequence_of_tile(a->sequences, a->n_sequences, tile);
    size_t q_stride = a->n_heads * a->head_dim, q_at = s->start * q_stride + head * a->head_dim;
    size_t map_at = s->map_at + head * s->n_tokens * s->n_tokens;
    lp_head h = {.n_tokens = s->n_tokens,
                 .head_dim = a->head_dim,
                 .q = a->q + q_at,
                 .k = args->k_packed + kv_head * args->k_head + key_at(a, s->start),
                 .v = args->v_packed + kv_head * args->v_head + s->start * LP_PANEL,
                 .q_stride = q_stride,
                 .v_stride = args->n_tokens * LP_PANEL,
                 .z = a->z ? a->z + q_at : NULL,
                 .scale = (float)(1 / sqrt((double)a->head_dim)), /* here: a job rounds as the pool says */
                 .scores = a->scores ? a->scores + map_at : NULL,
                 .pattern = a->pattern ? a->pattern + map_at : NULL};
    size_t from_end = tile - s->first_tile;
    kernels->attend(&h, n_tiles(kernels, s->n_tokens) - 1 - from_end,
                    args->ops->scratch + worker * args->ops->scratch_stride);
}

/* A query meets the keys up to its own: T (T + 1) / 2 pairs, not T^2. */
static void count_attention(const lp_ops *ops, const lp_attention *a) {
    size_t q_width = a->n_heads * a->head_dim, kv_width = a->n_kv_heads * a->head_dim;
    for (size_t i = 0; i < a->n_sequences; i++) {
        size_t t = a->sequences[i].n_tokens;
        double pairs = (double)t * ((double)t + 1) / 2, products = a->z ? 2 : 1;
        lp_profile_count(ops->profile, products * 2 * pairs * (double)q_width, 0, 0);
        count_values(ops, a->z ? 2 : 1, t * (q_width + kv_width), 0);
        if (a->scores) count_values(ops, 1, a->n_heads * t * t, 0);
        if (a->pattern) count_values(ops, 1, a->n_heads * (t * (t + 1) / 2), 0); /* its zeros are there already */
    }
}

int lp_attend(const lp_ops *ops, const lp_attention *a) {
    const lp_sequence *last = a->sequences + a->n_sequences - 1;
    size_t n_tokens = last->start + last->n_tokens, k_head = first_key(n_tokens, a->n_sequences) * a->head_dim;
    attend_args args = {.ops = ops,
                        .a = a,
                        .n_tokens = n_tokens,
                        .k_head = k_head,
                        .v_head = n_tokens * v_columns(a->head_dim),
                        .k_packed = ops->packed,
                        .v_packed = ops->packed + a->n_kv_heads * k_head};
    if (lp_pool_run(&ops->crew, n_jobs(n_tokens, a->n_kv_heads * a->head_dim), pack_heads_job, &args)) return -1;
    size_t tiles = last->first_tile + n_tiles(ops->kernels, last->n_tokens);
    count_attention(ops, a);
    return lp_pool_run(&ops->crew, tiles * a->n_heads, attend_job, &args);
}

/* ---- room ---------------------------------------------------------------------------------------------------- */

size_t lp_ops_scratch(const lp_kernels *kernels, size_t m, size_t max_tokens, size_t head_dim) {
    size_t most = kernels->band_scratch(m), attention = kernels->attend_scratch(max_tokens, head_dim);
    if (most < attention) most = attention;
    return (most + 15) / 16 * 16;
}
