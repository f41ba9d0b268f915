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

/* Keys and values of one layer in the panels that attention reads (lp_head), one kv head after the other. */
typedef struct {
    float *k, *v;    /* of kv head 0 */
    size_t n_floats; /* from a head to the next */
    size_t v_stride; /* from a panel of columns of v to the next */
} lp_panels;

/* One sequence: its rows stand at positions n_past, n_past + 1, ... */
typedef struct {
    size_t start, n_tokens, n_past;
    size_t first_job; /* jobs of attention of the sequences before it */
    size_t map_at;    /* floats of the maps [n_heads, n_tokens, n_past + n_tokens] of the sequences before it */
    size_t angles_at; /* the row of lp_angles of its first position */
    lp_panels cache;  /* of the current layer: the past, and room for its rows; k is NULL: none, and no past */
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
