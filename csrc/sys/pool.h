/* pool.h - threads that run fn(arg, i, worker) for i in 0..n; the caller works too.
 *
 * There is one pool in a process, made at first use, grown on demand, and dropped in a forked child before any
 * lock of it is touched. Workers block all signals. When another run has the pool, the caller does the work
 * alone. Every thread computes under the canonical FP control word (fpenv.h). */
#ifndef LP_POOL_H
#define LP_POOL_H

#include <stddef.h>

#define LP_MAX_THREADS 1024

/* Worker numbers are 0 (the caller) to n_threads - 1: index scratch with them. */
typedef void (*lp_job)(void *arg, size_t i, size_t worker);

typedef struct {
    size_t n_threads;       /* at most so many threads work, the caller among them */
    int (*poll)(void *arg); /* called on the calling thread as a step starts, then every 20 ms or so between jobs; it
                               is called often, so what it does should limit itself; may be NULL */
    void *poll_arg;
} lp_crew;

/* Runs jobs 0..n; returns 0 when all are done. When poll returns not 0 no further job starts and -1 is returned:
 * jobs that had started are finished, the others never ran. poll may end the thread: the jobs that had started are
 * finished first. It may fork: the child, which has no workers, does all jobs of the step anew: a job must be one
 * that can be done twice. */
int lp_pool_run(const lp_crew *crew, size_t n, lp_job fn, void *arg);

#endif
