/* plan.h - what a run does, decided before it begins and held as data: steps, places, memory, what is read ahead.
 *
 * A plan is made once, from a request. Of the values of points.h those are computed that are requested, materialised,
 * or read on the way to one that is. One step is one operation; values that one operation can compute together are one
 * step (fused), unless one of them is materialised and read by another. A value is written once, to its place: the
 * caller's array where it was requested, scratch from its step to its last reader where a later step reads it or it is
 * materialised, else nowhere: a fused kernel hands it on in registers. Fused or not, the bits are the same. */
#ifndef LP_PLAN_H
#define LP_PLAN_H

#include <stddef.h>

#include "../kernels/kernels.h" /* lp_kernels */
#include "../model/model.h"     /* lp_model, lp_point */

typedef struct {
    const lp_model *model;
    const lp_kernels *kernels;
    size_t n_threads, n_tokens, n_seqs;
    const size_t *seq_start;    /* [n_seqs + 1] */
    const lp_points *requested; /* [n_layers]: values that have an array; those not per layer are of the last layer */
    const lp_points *materialised; /* [n_layers]: values that are complete in memory before another step reads them */
    size_t layer_row, head_row;    /* first row wanted of what follows attention in the last layer computed, and of the
                                      head; 0: all rows */
} lp_request;

typedef enum { LP_NOWHERE, LP_IN_ARRAY, LP_IN_SCRATCH } lp_where;

#define LP_NO_STEP ((size_t)-1)

/* The place of a value, and the steps from the one that computes it to the last that reads it. */
typedef struct {
    lp_where where;
    size_t at;        /* number of the array (lp_plan_array), or offset in scratch */
    size_t step;      /* LP_NO_STEP: not computed, or x, which is x_out of the layer before */
    size_t last;      /* reader */
    size_t first_row; /* rows before it are not computed, and have no room */
} lp_value;

typedef struct {
    size_t layer;
    lp_stage stage;
    lp_points points;     /* that it computes; none: the table of angles */
    lp_point first, last; /* of them */
} lp_step;

typedef struct {
    lp_request request; /* its sets of points stay the caller's */
    size_t n_layers;    /* that are computed */
    size_t n_steps;
    lp_step *steps;
    lp_value *values; /* [n_layers of the model, LP_N_POINTS] */
    /* Weights in the order in which they are read, layer by layer and at last the head: those of group i end before
     * weight_end[i]; there are n_layers + 1 groups. */
    const lp_weight **weights;
    size_t *weight_end;
    size_t n_threads, longest; /* threads that have work; tokens of the longest sequence */
    /* One block of scratch, in bytes: values first, then what the kernels need at these offsets. */
    size_t value_bytes, scratch_bytes;
    size_t worker_at, packed_at, angles_at, inverse_at, sequences_at;
    size_t worker_stride; /* floats of a worker */
} lp_plan;

/* NULL: LP_ENOMEM. A request without points has a plan without steps. */
lp_plan *lp_plan_new(const lp_request *request, lp_error *err);
void lp_plan_free(lp_plan *plan); /* NULL is legal */

static inline lp_value *lp_plan_value(const lp_plan *plan, size_t layer, lp_point point) {
    return &plan->values[layer * LP_N_POINTS + point];
}
/* Which of the caller's arrays is that of a value; `layer` counts for points that are per layer. */
size_t lp_plan_array(const lp_model *model, lp_point point, size_t layer);
/* Floats of a value with so many rows; a map has those of all sequences. -1 when that overflows. */
int lp_request_floats(const lp_request *q, lp_point point, size_t n_rows, size_t *n_floats);
/* Bytes of weights that a step reads; of the embedding those of its tokens. */
size_t lp_plan_weight_bytes(const lp_plan *plan, const lp_step *step);

#endif
