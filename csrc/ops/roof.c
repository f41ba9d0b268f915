/* roof.c - the best of several short tries: whatever else runs only makes a try slower. */
#define _GNU_SOURCE
#include "roof.h"

#include <unistd.h>

#include "../base/clock.h" /* lp_clock_ns */
#include "../sys/memory.h" /* lp_block, lp_memory_fits */
#include "../base/size.h"  /* lp_size_min */

#define N_TRIES 5
#define TRY_NS 10000000 /* of multiply-adds */
#define ROUNDS 256      /* between two looks at the clock */
#define LEAST_BYTES ((size_t)256 << 20)
#define MOST_BYTES ((size_t)1 << 30)
#define JOB_BYTES ((size_t)4 << 20)

typedef struct {
    const lp_kernels *kernels;
    int64_t stop_ns;
    const char *data;                /* n_bytes that are read */
    size_t n_rounds[LP_MAX_THREADS]; /* of each multiply_job */
    float read[LP_MAX_THREADS];      /* by worker: what is read must be used */
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
static int try_multiply(double *flops, roof_args *a, const lp_crew *crew) {
    size_t n_jobs = lp_size_min(crew->n_threads, LP_MAX_THREADS), n_rounds = 0;
    int64_t start = lp_clock_ns();
    a->stop_ns = start + TRY_NS;
    if (lp_pool_run(crew, n_jobs, multiply_job, a)) return -1;
    double ns = (double)(lp_clock_ns() - start);
    for (size_t i = 0; i < n_jobs; i++) n_rounds += a->n_rounds[i];
    *flops = 2e9 * (double)n_rounds * (double)a->kernels->peak_sums / ns;
    return 0;
}

static int try_read(double *bytes, roof_args *a, size_t n_bytes, const lp_crew *crew) {
    int64_t start = lp_clock_ns();
    if (lp_pool_run(crew, n_bytes / JOB_BYTES, read_job, a)) return -1;
    *bytes = 1e9 * (double)n_bytes / (double)(lp_clock_ns() - start);
    return 0;
}

/* Eight times the last cache, which others may share, within bounds. */
static size_t read_size(void) {
    size_t n_bytes = LEAST_BYTES;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache > 0 && 8 * (size_t)cache > n_bytes) n_bytes = 8 * (size_t)cache;
#endif
    return lp_size_min(n_bytes, MOST_BYTES) / JOB_BYTES * JOB_BYTES;
}

static int stopped(lp_error *err) { return lp_fail(err, LP_ECANCELED, "the measurement was stopped"); }

int lp_roof_measure(lp_roof *roof, const lp_kernels *kernels, const lp_crew *crew, lp_error *err) {
    roof_args a = {.kernels = kernels};
    lp_block block;
    size_t n_bytes = read_size();
    double flops = 0, bytes = 0;
    int failed = 0;
    *roof = (lp_roof){0, 0};
    failed = lp_memory_fits(n_bytes, NULL) ? lp_block_make(&block, n_bytes, NULL, crew) : -1;
    if (failed > 0) return stopped(err);
    if (failed) return lp_fail(err, LP_ENOMEM, "measuring the memory needs %zu MB that are free", n_bytes >> 20);
    a.data = block.data;
    for (int i = 0; !failed && i < N_TRIES; i++) {
        failed = try_multiply(&flops, &a, crew) || try_read(&bytes, &a, n_bytes, crew);
        if (flops > roof->flops) roof->flops = flops;
        if (bytes > roof->bytes) roof->bytes = bytes;
    }
    lp_block_free(&block);
    return failed ? stopped(err) : 0;
}
