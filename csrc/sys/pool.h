/* pool.h - runs job(arg, i, worker) for i in 0..n on all threads; the caller works too.
 *
 * A process has one pool, made at first use and grown on demand; a forked child starts a new one without touching the
 * old one's locks. Workers receive no signals. While another run uses the pool, the caller works alone. Every thread
 * computes with the canonical FP control word (fpenv.h). */
#ifndef LP_POOL_H
#define LP_POOL_H

#include <stddef.h>

#define LP_MAX_THREADS 1024

/* Worker numbers are 0 (the caller) to n_threads - 1: index scratch with them. */
typedef void (*lp_job)(void *arg, size_t i, size_t worker);

typedef struct {
    size_t n_threads;       /* at most so many threads work, the caller among them */
    int (*poll)(void *arg); /* called by the calling thread at the start of a step, then about every 20 ms between jobs;
                               steps may be short, so it should limit itself; NULL disables it */
    void *poll_arg;
} lp_parallel;

/* Runs jobs 0..n; returns 0 when all are done. When poll returns not 0, no further job starts and -1 is returned: jobs
 * that had started are finished, the others never ran. poll may end the thread: jobs that had started are finished
 * first. It may fork: the child, which has no workers, does all jobs of the step again, so a job must be one that can
 * run twice. */
int lp_pool_run(const lp_parallel *parallel, size_t n, lp_job job, void *arg);

#endif
