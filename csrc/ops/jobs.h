/* jobs.h - how rows of tokens are cut into jobs, and which sequence a row belongs to: for the files of this folder. */
#ifndef LP_JOBS_H
#define LP_JOBS_H

#include "ops.h"
#include "../base/size.h" /* lp_size_min */

#define LP_JOB_FLOATS 32768 /* of a job that only passes over rows */

/* The sequence of row t: the last of n that starts at or before it. */
static inline const lp_sequence *sequence_of_row(const lp_sequence *s, size_t n, size_t t) {
    while (n > 1) {
        size_t half = n / 2;
        if (s[half].start <= t)
            s += half, n -= half;
        else
            n = half;
    }
    return s;
}

/* The same for a job of attention. */
static inline const lp_sequence *sequence_of_job(const lp_sequence *s, size_t n, size_t job) {
    while (n > 1) {
        size_t half = n / 2;
        if (s[half].first_job <= job)
            s += half, n -= half;
        else
            n = half;
    }
    return s;
}

/* For the profile: a pass over n_arrays arrays of n floats, and weights. */
static inline void count_values(const lp_ops *ops, int n_arrays, size_t n, size_t weight_bytes) {
    lp_profile_count(ops->profile, 0, (double)weight_bytes, (double)n_arrays * (double)n * sizeof(float));
}

/* Rows of d floats in a job, and how many jobs m rows make. */
static inline size_t rows_a_job(size_t d) { return d < LP_JOB_FLOATS ? LP_JOB_FLOATS / d : 1; }
static inline size_t n_jobs(size_t m, size_t d) { return (m + rows_a_job(d) - 1) / rows_a_job(d); }

/* The rows of job i: first, and one past the last. */
static inline size_t job_rows(size_t i, size_t m, size_t d, size_t *end) {
    *end = lp_size_min((i + 1) * rows_a_job(d), m);
    return i * rows_a_job(d);
}

#endif
