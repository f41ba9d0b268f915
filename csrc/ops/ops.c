/* ops.c - cuts the operations into jobs. A job is some rows of x or a band of rows of w; no sum is ever split. */
#include "ops.h"

#include <string.h>

#include "jobs.h" /* job_rows, count_values */

#define SHARE 4      /* large jobs of a product, per thread: the first weights of each are waited for */
#define LAST_BANDS 2 /* jobs of one band per thread after them, */
#define LAST_UNITS 4 /* and then of one unit of rows, so that threads end together */
#define FLOATS_A_PAGE ((size_t)1 << 19) /* elements of a huge page, which one thread is the first to touch */

/* ---- passes over rows ---------------------------------------------------------------------------------------- */

/* A pass over m rows of d floats. Numbers at the same place are rows of one. */
typedef struct rows_args rows_args;
struct rows_args {
    void (*pass)(const rows_args *a, size_t first, size_t end);
    size_t m, d;
    float *out, *unit, *rms, *inverse; /* out and unit [m, d], the others [m]; what is NULL is not written */
    const float *x, *y;
    const lp_weight *w; /* table or gain */
    const int32_t *ids;
    double eps;
    const lp_kernels *kernels;
};

static void rows_job(void *arg, size_t i, size_t worker) {
    const rows_args *a = arg;
    size_t end, first = job_rows(i, a->m, a->d, &end);
    (void)worker;
    a->pass(a, first, end);
}

static int run_rows(const lp_ops *ops, rows_args a, size_t weight_bytes) {
    a.kernels = ops->kernels;
    count_values(ops, (a.out != NULL) + (a.unit != NULL) + (a.x != NULL) + (a.y != NULL), a.m * a.d, weight_bytes);
    return lp_pool_run(&ops->crew, n_jobs(a.m, a.d), rows_job, &a);
}

static void embed_rows(const rows_args *a, size_t t, size_t end) {
    for (; t < end; t++)
        a->kernels->widen(a->out + t * a->d, lp_weight_at(a->w, (size_t)a->ids[t], 0), a->w->element, a->d);
}

int lp_embed(const lp_ops *ops, float *out, const int32_t *ids, const lp_weight *table, size_t m) {
    size_t d = table->n_cols;
    return run_rows(ops, (rows_args){.pass = embed_rows, .m = m, .d = d, .out = out, .ids = ids, .w = table},
                    m * d * lp_element_bytes(table->element));
}

static float *row(float *x, size_t t, size_t d) { return x ? x + t * d : NULL; }

static void norm_rows(const rows_args *a, size_t t, size_t end) {
    for (; t < end; t++)
        a->kernels->rms_norm(row(a->rms, t, 1), row(a->inverse, t, 1), row(a->unit, t, a->d), row(a->out, t, a->d),
                             a->x + t * a->d, a->w, a->eps, a->d);
}

int lp_rms_norm(const lp_ops *ops, float *rms, float *inverse, float *unit, float *out, const float *x,
                const lp_weight *gain, double eps, size_t m, size_t d) {
    return run_rows(ops, (rows_args){norm_rows, m, d, out, unit, rms, inverse, x, NULL, gain, NULL, eps, NULL},
                    out ? lp_weight_bytes(gain) : 0);
}

/* The scale of row t is y[t]. */
static void scale_rows(const rows_args *a, size_t t, size_t end) {
    for (; t < end; t++)
        a->kernels->scale_row(row(a->unit, t, a->d), row(a->out, t, a->d), a->x + t * a->d, a->y ? a->y[t] : 1, a->w,
                              a->d);
}

int lp_scale_rows(const lp_ops *ops, float *unit, float *out, const float *x, const float *inverse,
                  const lp_weight *gain, size_t m, size_t d) {
    return run_rows(ops, (rows_args){scale_rows, m, d, out, unit, NULL, NULL, x, inverse, gain, NULL, 0, NULL},
                    out ? lp_weight_bytes(gain) : 0);
}

static void add_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] + a->y[i];
}

int lp_add(const lp_ops *ops, float *out, const float *a, const float *b, size_t n) {
    return run_rows(ops, (rows_args){.pass = add_numbers, .m = n, .d = 1, .out = out, .x = a, .y = b}, 0);
}

static void multiply_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] * a->y[i];
}

int lp_multiply(const lp_ops *ops, float *out, const float *a, const float *b, size_t n) {
    return run_rows(ops, (rows_args){.pass = multiply_numbers, .m = n, .d = 1, .out = out, .x = a, .y = b}, 0);
}

static void silu_numbers(const rows_args *a, size_t i, size_t end) { a->kernels->silu(a->out + i, a->x + i, end - i); }

int lp_silu(const lp_ops *ops, float *out, const float *x, size_t n) {
    return run_rows(ops, (rows_args){.pass = silu_numbers, .m = n, .d = 1, .out = out, .x = x}, 0);
}

static void copy_numbers(const rows_args *a, size_t i, size_t end) {
    memcpy(a->out + i, a->x + i, (end - i) * sizeof *a->out);
}

int lp_copy(const lp_ops *ops, float *out, const float *x, size_t n) {
    return run_rows(ops, (rows_args){.pass = copy_numbers, .m = n, .d = 1, .out = out, .x = x}, 0);
}

static void zero_numbers(const rows_args *a, size_t i, size_t end) {
    memset(a->out + i, 0, (end - i) * sizeof *a->out);
}

int lp_zero(const lp_ops *ops, float *out, size_t n) {
    return run_rows(ops, (rows_args){.pass = zero_numbers, .m = n, .d = 1, .out = out}, 0);
}

/* ---- weights to numbers -------------------------------------------------------------------------------------- */

typedef struct {
    const lp_kernels *kernels;
    float *out;
    const lp_weight *w;
    size_t n;
} widen_args;

static void widen_job(void *arg, size_t i, size_t worker) {
    const widen_args *a = arg;
    size_t at = i * FLOATS_A_PAGE;
    (void)worker;
    a->kernels->widen(a->out + at, lp_weight_at(a->w, 0, at), a->w->element, lp_size_min(a->n - at, FLOATS_A_PAGE));
}

int lp_widen(const lp_ops *ops, float *out, const lp_weight *w) {
    size_t n = w->n_rows * w->n_cols;
    widen_args a = {ops->kernels, out, w, n};
    count_values(ops, 1, n, lp_weight_bytes(w));
    return lp_pool_run(&ops->crew, n / FLOATS_A_PAGE + (n % FLOATS_A_PAGE != 0), widen_job, &a);
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
    size_t n = lp_size_min(a->rows[size], a->p->factor[f].w->n_rows - row);
    a->ops->kernels->bands(a->p, f, row, n, a->ops->scratch + worker * a->ops->scratch_stride);
}

/* Large jobs first; the last factor ends in small ones. */
static void cut_rows(linear_args *a, size_t n_threads) {
    const lp_product *p = a->p;
    const lp_kernels *k = a->ops->kernels;
    size_t n_factors = p->gated ? 1 : p->n_factors, total = 0;
    size_t fits = k->band_macs / (p->m * p->k * (p->gated ? 2 : 1)), band = k->band_rows[p->gated];
    for (size_t f = 0; f < n_factors; f++) total += p->factor[f].w->n_rows;
    a->rows[2] = k->row_unit;
    a->rows[1] = lp_size_min(band, fits < k->row_unit ? k->row_unit : fits / k->row_unit * k->row_unit);
    a->rows[0] = lp_size_min(total / (SHARE * n_threads), fits) / band * band;
    if (a->rows[0] < a->rows[1]) a->rows[0] = a->rows[1];
    for (size_t f = 0; f < n_factors; f++) {
        size_t rest = p->factor[f].w->n_rows, last = f + 1 == n_factors ? n_threads : 0;
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
        size_t at = m0 * p->factor[f].w->n_rows;
        if (q.factor[f].y) q.factor[f].y += at;
        if (q.factor[f].add) q.factor[f].add += at;
        if (q.factor[f].sum) q.factor[f].sum += at;
    }
    if (q.act) q.act += m0 * p->factor[0].w->n_rows;
    if (q.hidden) q.hidden += m0 * p->factor[0].w->n_rows;
    return q;
}

/* Every weight is read once, and meets every row of x. */
static void count_product(const lp_ops *ops, const lp_product *p) {
    double m = (double)p->m, k = (double)p->k;
    count_values(ops, 1, p->m * p->k, 0);
    for (size_t i = 0; i < p->n_factors; i++) {
        const lp_factor *f = &p->factor[i];
        size_t bias_bytes = f->bias && f->bias->data ? lp_weight_bytes(f->bias) : 0;
        lp_profile_count(ops->profile, 2 * m * k * (double)f->w->n_rows, 0, 0);
        count_values(ops, (f->y != NULL) + 2 * (f->sum != NULL), p->m * f->w->n_rows,
                     lp_weight_bytes(f->w) + bias_bytes);
    }
    count_values(ops, (p->act != NULL) + (p->hidden != NULL), p->m * p->factor[0].w->n_rows, 0);
}

int lp_linear(const lp_ops *ops, const lp_product *p) {
    size_t at_once = tokens_at_once(ops->kernels, p->k, p->gated);
    for (size_t m0 = 0; m0 < p->m; m0 += at_once) {
        lp_product rows = product_rows(p, m0, lp_size_min(p->m - m0, at_once), ops->packed);
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
