/* linear.c - products. A job is a band of rows of w; no sum is ever split. */
#include "linear.h"

#include "jobs.h" /* count_values */

#define SHARE 4      /* large jobs of a product, per thread: a job waits for its first weights */
#define LAST_BANDS 2 /* after them, jobs of one band per thread, */
#define LAST_UNITS 4 /* then of one unit of rows, so that threads end together */

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

/* The rows of the smallest jobs. Transposed weights pack eight rows into a word, which no job should cut. */
static size_t unit_of(const lp_kernels *k, const lp_product *p, size_t fits) {
    int packed = 0;
    for (size_t f = 0; f < p->n_factors; f++) packed |= p->factor[f].w->packed != NULL;
    return packed && fits >= 2 * k->row_unit ? 2 * k->row_unit : k->row_unit;
}

/* Large jobs first; the last factor ends with small ones. */
static void cut_rows(linear_args *a, size_t n_threads) {
    const lp_product *p = a->p;
    const lp_kernels *k = a->ops->kernels;
    size_t n_factors = p->gated ? 1 : p->n_factors, total = 0;
    size_t fits = k->band_macs / (p->m * p->k * (p->gated ? 2 : 1)), band = k->band_rows[p->gated];
    size_t unit = unit_of(k, p, fits);
    for (size_t f = 0; f < n_factors; f++) total += p->factor[f].w->n_rows;
    a->rows[2] = unit;
    a->rows[1] = lp_size_min(band, fits < unit ? unit : fits / unit * unit);
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

/* Tokens in one product: all, unless one unit of rows would be too long a job. */
static size_t tokens_at_once(const lp_kernels *k, size_t k_columns, int gated) {
    size_t most = k->band_macs / (k_columns * k->row_unit * (gated ? 2 : 1)) / 64 * 64;
    return most ? most : 64;
}

/* p for m rows from m0 on. */
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

/* Every weight is read once and multiplied with every row of x. */
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
        cut_rows(&a, ops->parallel.n_threads);
        size_t units = ops->kernels->pack_units(&rows);
        if (lp_pool_run(&ops->parallel, units, pack_job, &a)) return -1;
        if (units) {
            count_values(ops, 2, rows.m * rows.k, 0);
            lp_profile_lap(ops->profile, LP_STAGE_PACK);
        }
        count_product(ops, &rows);
        if (lp_pool_run(&ops->parallel, a.n_jobs, bands_job, &a)) return -1;
    }
    return 0;
}
