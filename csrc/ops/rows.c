/* rows.c - operations that pass once over rows of tokens, or over numbers at the same place. A job is some rows. */
#include "rows.h"

#include <string.h>

#include "jobs.h" /* job_rows, count_values */

#define PAGE_FLOATS ((size_t)1 << 19)  /* of a huge page, which one thread touches first */
#define LINE_ROWS ((size_t)128)        /* of a transposed weight, whose words share a cache line */
#define PIECE_FLOATS ((size_t)1 << 21) /* of a value that is changed in place, between two polls: some ms */

/* A pass over m rows of d floats; d is 1 where the operation is element by element. */
typedef struct rows_args rows_args;
struct rows_args {
    void (*pass)(const rows_args *a, size_t first, size_t end);
    size_t m, d;
    float *out, *unit, *rms, *inverse; /* out and unit [m, d], the others [m]; NULL: not written */
    const float *x, *y;
    const lp_weight *w; /* table or gain */
    const int32_t *ids;
    double eps;
    float number; /* scale, divisor, offset of the gain, or cap */
    lp_activation activation;
    const lp_kernels *kernels;
};

static void rows_job(void *arg, size_t i, size_t worker) {
    const rows_args *a = arg;
    size_t end, first = job_rows(i, a->m, a->d, &end);
    (void)worker;
    a->pass(a, first, end);
}

/* In place a job cannot run twice, as it would in the child of a poll that forks (pool.h): polls are between pieces,
 * when no job is at work. */
static int run_in_place(const lp_ops *ops, rows_args a) {
    lp_parallel parallel = {.n_threads = ops->parallel.n_threads};
    int (*poll)(void *) = ops->parallel.poll;
    for (size_t n = a.m; n; n -= a.m, a.out += a.m, a.x += a.m) {
        a.m = lp_size_min(n, PIECE_FLOATS);
        if ((poll && poll(ops->parallel.poll_arg)) || lp_pool_run(&parallel, n_jobs(a.m, a.d), rows_job, &a)) return -1;
    }
    return 0;
}

static int run_rows(const lp_ops *ops, rows_args a, size_t weight_bytes) {
    a.kernels = ops->kernels;
    count_values(ops, (a.out != NULL) + (a.unit != NULL) + (a.x != NULL) + (a.y != NULL), a.m * a.d, weight_bytes);
    if (a.out && a.out == a.x && a.d == 1) return run_in_place(ops, a);
    return lp_pool_run(&ops->parallel, n_jobs(a.m, a.d), rows_job, &a);
}

static void embed_rows(const rows_args *a, size_t t, size_t end) {
    for (; t < end; t++) {
        float *out = a->out + t * a->d;
        size_t row = (size_t)a->ids[t];
        if (a->w->packed)
            a->kernels->dequantise(out, a->d, a->w, row, 1, 0, a->d);
        else
            a->kernels->widen(out, lp_weight_at(a->w, row, 0), a->w->element, a->d);
    }
}

int lp_embed(const lp_ops *ops, float *out, const int32_t *ids, const lp_weight *table, size_t m) {
    size_t d = table->n_cols;
    return run_rows(ops, (rows_args){.pass = embed_rows, .m = m, .d = d, .out = out, .ids = ids, .w = table},
                    lp_weight_row_bytes(table, m));
}

static float *row(float *x, size_t t, size_t d) { return x ? x + t * d : NULL; }

static void norm_rows(const rows_args *a, size_t t, size_t end) {
    for (; t < end; t++)
        a->kernels->rms_norm(row(a->rms, t, 1), row(a->inverse, t, 1), row(a->unit, t, a->d), row(a->out, t, a->d),
                             a->x + t * a->d, a->w, a->number, a->eps, a->d);
}

int lp_rms_norm(const lp_ops *ops, float *rms, float *inverse, float *unit, float *out, const float *x,
                const lp_weight *gain, float offset, double eps, size_t m, size_t d) {
    return run_rows(ops,
                    (rows_args){.pass = norm_rows,
                                .m = m,
                                .d = d,
                                .out = out,
                                .unit = unit,
                                .rms = rms,
                                .inverse = inverse,
                                .x = x,
                                .w = gain,
                                .eps = eps,
                                .number = offset},
                    out ? lp_weight_bytes(gain) : 0);
}

/* The scale of row t is y[t]. */
static void scale_rows(const rows_args *a, size_t t, size_t end) {
    for (; t < end; t++)
        a->kernels->scale_row(row(a->unit, t, a->d), row(a->out, t, a->d), a->x + t * a->d, a->y ? a->y[t] : 1, a->w,
                              a->number, a->d);
}

int lp_scale_rows(const lp_ops *ops, float *unit, float *out, const float *x, const float *inverse,
                  const lp_weight *gain, float offset, size_t m, size_t d) {
    return run_rows(ops,
                    (rows_args){.pass = scale_rows,
                                .m = m,
                                .d = d,
                                .out = out,
                                .unit = unit,
                                .x = x,
                                .y = inverse,
                                .w = gain,
                                .number = offset},
                    out ? lp_weight_bytes(gain) : 0);
}

static void add_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] + a->y[i];
}

int lp_add(const lp_ops *ops, float *out, const float *a, const float *b, size_t n) {
    return run_rows(ops, (rows_args){.pass = add_numbers, .m = n, .d = 1, .out = out, .x = a, .y = b}, 0);
}

static void add_scaled_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] + a->y[i] * a->number;
}

int lp_add_scaled(const lp_ops *ops, float *out, const float *a, const float *b, float scale, size_t n) {
    rows_args args = {.pass = add_scaled_numbers, .m = n, .d = 1, .out = out, .x = a, .y = b, .number = scale};
    return run_rows(ops, args, 0);
}

static void scale_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] * a->number;
}

int lp_scale(const lp_ops *ops, float *out, const float *x, float scale, size_t n) {
    return run_rows(ops, (rows_args){.pass = scale_numbers, .m = n, .d = 1, .out = out, .x = x, .number = scale}, 0);
}

static void divide_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] / a->number;
}

int lp_divide(const lp_ops *ops, float *out, const float *x, float divisor, size_t n) {
    return run_rows(ops, (rows_args){.pass = divide_numbers, .m = n, .d = 1, .out = out, .x = x, .number = divisor}, 0);
}

static void multiply_numbers(const rows_args *a, size_t i, size_t end) {
    for (; i < end; i++) a->out[i] = a->x[i] * a->y[i];
}

int lp_multiply(const lp_ops *ops, float *out, const float *a, const float *b, size_t n) {
    return run_rows(ops, (rows_args){.pass = multiply_numbers, .m = n, .d = 1, .out = out, .x = a, .y = b}, 0);
}

static void activate_numbers(const rows_args *a, size_t i, size_t end) {
    a->kernels->activate(a->activation, a->out + i, a->x + i, end - i);
}

int lp_activate(const lp_ops *ops, lp_activation activation, float *out, const float *x, size_t n) {
    return run_rows(
        ops, (rows_args){.pass = activate_numbers, .m = n, .d = 1, .out = out, .x = x, .activation = activation}, 0);
}

static void cap_numbers(const rows_args *a, size_t i, size_t end) {
    a->kernels->cap(a->out + i, a->x + i, a->number, end - i);
}

int lp_cap(const lp_ops *ops, float *out, const float *x, float cap, size_t n) {
    return run_rows(ops, (rows_args){.pass = cap_numbers, .m = n, .d = 1, .out = out, .x = x, .number = cap}, 0);
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

typedef struct {
    const lp_kernels *kernels;
    float *out;
    const lp_weight *w;
    size_t n, n_rows; /* numbers in all; rows of a job of a packed weight */
} widen_args;

static void widen_job(void *arg, size_t i, size_t worker) {
    const widen_args *a = arg;
    size_t at = i * PAGE_FLOATS;
    (void)worker;
    a->kernels->widen(a->out + at, lp_weight_at(a->w, 0, at), a->w->element, lp_size_min(a->n - at, PAGE_FLOATS));
}

static void dequantise_job(void *arg, size_t i, size_t worker) {
    const widen_args *a = arg;
    size_t row = i * a->n_rows, d = a->w->n_cols, n = lp_size_min(a->w->n_rows - row, a->n_rows);
    (void)worker;
    a->kernels->dequantise(a->out + row * d, d, a->w, row, n, 0, d);
}

int lp_widen(const lp_ops *ops, float *out, const lp_weight *w) {
    size_t n = w->n_rows * w->n_cols;
    widen_args a = {ops->kernels, out, w, n, 0};
    count_values(ops, 1, n, lp_weight_bytes(w));
    if (!w->packed) return lp_pool_run(&ops->parallel, n / PAGE_FLOATS + (n % PAGE_FLOATS != 0), widen_job, &a);
    a.n_rows = LINE_ROWS * (PAGE_FLOATS / LINE_ROWS / w->n_cols + 1);
    return lp_pool_run(&ops->parallel, (w->n_rows + a.n_rows - 1) / a.n_rows, dequantise_job, &a);
}
