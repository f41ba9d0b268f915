/* roof.c - the best of several short tries: other load only makes a try slower. */
#include "roof.h"

#include "../sys/clock.h"  /* lp_clock_ns */
#include "../sys/limits.h" /* lp_limits_cache */
#include "../sys/memory.h" /* lp_block, lp_memory_fits */
#include "../base/size.h"  /* lp_size_min */

#define N_TRIES 5
#define TRY_NS 10000000 /* of multiply-adds */
#define ROUNDS 256      /* between two reads of the clock */
#define MIN_BYTES ((size_t)256 << 20)
#define MAX_BYTES ((size_t)1 << 30)
#define JOB_BYTES ((size_t)4 << 20)

typedef struct {
    const lp_kernels *kernels;
    int64_t stop_ns;
    const char *data;                /* n_bytes that are read */
    size_t n_rounds[LP_MAX_THREADS]; /* of each multiply_job */
    float read[LP_MAX_THREADS];      /* by worker: sums, so that the reads are not optimised away */
} roof_args;

static void multiply_job(void *arg, size_t i, size_t worker) {
    roof_args *a = arg;
    float sums[LP_MOST_PEAK_SUMS] = {0};
    size_t n = 0;
    (void)worker;
    for (; lp_clock_ns() < a->stop_ns; n += ROUNDS) a->kernels->multiply_add(sums, ROUNDS);
    a->n_rounds[i] = n;
}

static void read_job(void *arg, size_t i, size_t worker) {
    roof_args *a = arg;
    a->read[worker] += a->kernels->read_all((const float *)(a->data + i * JOB_BYTES), JOB_BYTES / sizeof(float));
}

/* One job per thread, until the time is over: multiply-adds per second in all, twice. */
static int try_multiply(double *flops, roof_args *a, const lp_parallel *parallel) {
    size_t n_jobs = lp_size_min(parallel->n_threads, LP_MAX_THREADS), n_rounds = 0;
    int64_t start = lp_clock_ns();
    a->stop_ns = start + TRY_NS;
    if (lp_pool_run(parallel, n_jobs, multiply_job, a)) return -1;
    double ns = (double)(lp_clock_ns() - start);
    for (size_t i = 0; i < n_jobs; i++) n_rounds += a->n_rounds[i];
    *flops = 2e9 * (double)n_rounds * (double)a->kernels->peak_sums / ns;
    return 0;
}

static int try_read(double *bytes, roof_args *a, size_t n_bytes, const lp_parallel *parallel) {
    int64_t start = lp_clock_ns();
    if (lp_pool_run(parallel, n_bytes / JOB_BYTES, read_job, a)) return -1;
    *bytes = 1e9 * (double)n_bytes / (double)(lp_clock_ns() - start);
    return 0;
}

/* Eight times the last-level cache, which other processes may share, within bounds. */
static size_t read_size(void) {
    size_t n_bytes = lp_size_min(8 * lp_limits_cache(), MAX_BYTES);
    return (n_bytes < MIN_BYTES ? MIN_BYTES : n_bytes) / JOB_BYTES * JOB_BYTES;
}

static int stopped(lp_error *err) { return lp_fail(err, LP_ECANCELED, "the measurement was stopped"); }

int lp_roof_measure(lp_roof *roof, const lp_kernels *kernels, const lp_parallel *parallel, lp_error *err) {
    roof_args a = {.kernels = kernels};
    lp_block block;
    size_t n_bytes = read_size();
    double flops = 0, bytes = 0;
    *roof = (lp_roof){0, 0};
    int failed = lp_memory_fits(n_bytes, NULL) ? lp_block_make(&block, n_bytes, NULL, parallel) : -1;
    if (failed > 0) return stopped(err);
    if (failed) return lp_fail(err, LP_ENOMEM, "measuring memory bandwidth needs %zu MB of free memory", n_bytes >> 20);
    a.data = block.data;
    for (int i = 0; !failed && i < N_TRIES; i++) {
        failed = try_multiply(&flops, &a, parallel) || try_read(&bytes, &a, n_bytes, parallel);
        if (flops > roof->flops) roof->flops = flops;
        if (bytes > roof->bytes) roof->bytes = bytes;
    }
    lp_block_free(&block);
    return failed ? stopped(err) : 0;
}
