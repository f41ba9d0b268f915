/* ops.h - what the operations of a run share: rows.h, linear.h and attention.h cut them into jobs for the pool.
 *
 * Each operation returns 0, or -1 when the poll said stop. Results that are NULL are not computed. Shapes: m rows
 * (tokens of all sequences, one sequence after the other), row-major. */
#ifndef LP_OPS_H
#define LP_OPS_H

#include <stddef.h>

#include "../kernels/kernels.h" /* lp_kernels */
#include "../sys/pool.h"        /* lp_parallel */
#include "../sys/profile.h"     /* lp_profile */

/* One sequence: its rows, and where its part of a map [n_heads, T, T] begins. */
typedef struct {
    size_t start, n_tokens;
    size_t first_tile; /* tiles of queries of the sequences before it */
    size_t map_at;     /* floats of the maps of the sequences before it */
} lp_sequence;

typedef struct {
    const lp_kernels *kernels;
    lp_parallel parallel;
    float *scratch;        /* [n_threads][scratch_stride], 64-byte aligned */
    size_t scratch_stride; /* floats; a multiple of 16 */
    float *packed;         /* the packed x of the largest product, or k and v of all heads */
    lp_profile *profile;   /* NULL disables it */
} lp_ops;

#endif
