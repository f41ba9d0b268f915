/* plan.h - what a run does, as data: steps, places, memory, and what is read ahead.
 *
 * A plan is made once, from a request. It computes the values that are requested, materialised, or read on the way to
 * one that is. A step is one operation; it computes several values (fused) if one operation can, unless one of them is
 * materialised and read by another. A value is written once, to its place: the caller's array if it is requested;
 * scratch, from its step to its last reader, if a later step reads it or it is materialised; else nowhere, since a
 * fused kernel keeps it in registers. Fused or not, the bits are the same. */
#ifndef LP_PLAN_H
#define LP_PLAN_H

#include <stddef.h>

#include "../kernels/kernels.h" /* lp_kernels */
#include "../model/model.h"     /* lp_model, lp_point */
#include "../ops/ops.h"         /* lp_sequence */

typedef struct {
    const lp_model *model;
    const lp_kernels *kernels;
    size_t n_threads, n_tokens, n_seqs;
    const size_t *seq_start;    /* [n_seqs + 1] */
    const size_t *n_past;       /* [n_seqs]: tokens in the caches of the sequences; NULL: without caches */
    const lp_points *requested; /* [n_layers]: values with an array; those not per layer belong to the last layer */
    const lp_points
        *materialised;          /* [n_layers]: values that must be complete in memory before another step reads them */
    size_t rope_length;         /* as if all sequences had so many tokens for the choice of a table; 0: their own */
    size_t layer_row, head_row; /* first row that is computed after attention in the last layer, and of the head */
    size_t first_layer;         /* given, or 0: those before it are not computed */
    int is_branch; /* x of first_layer is given, and the pasts are in a cache that is only read: see branch.h */
    int last_rows; /* of the head only the last row of each sequence, and of the last layer after attention, unless a
                      value there is requested or materialised; layer_row and head_row are 0 */
} lp_request;

typedef enum { LP_NOWHERE, LP_IN_ARRAY, LP_IN_SCRATCH } lp_where;

#define LP_NO_STEP ((size_t)-1)
#define LP_NO_TABLE ((size_t)-1)

/* The place of a value, and the steps from the one that computes it to the last that reads it. */
typedef struct {
    lp_where where;
    size_t at;        /* number of the array (lp_plan_array), or offset in scratch */
    size_t step;      /* LP_NO_STEP: not computed, or an alias: x is x_out of the layer before */
    size_t last;      /* reader */
    size_t first_row; /* earlier rows are neither computed nor stored */
    int last_rows;    /* it has one row per sequence */
} lp_value;

typedef struct {
    size_t layer;
    lp_stage stage;
    lp_points points;     /* that it computes; none: the tables of RoPE */
    lp_point first, last; /* of them */
} lp_step;

typedef struct {
    lp_request request; /* its sets of points are borrowed */
    size_t n_layers;    /* computed */
    size_t n_steps;
    lp_step *steps;
    lp_value *values; /* [n_layers of the model, LP_N_POINTS] */
    /* Weights in reading order in n_layers + 1 groups: the layers, then the head. Group i ends before weight_end[i]. */
    const lp_weight **weights;
    size_t *weight_end;
    size_t n_threads, longest; /* threads with work; tokens of the longest sequence, its past included */
    size_t n_angles; /* rows of the tables of RoPE: positions from 0 on, then those of sequences with a past */
    /* Scratch is one block, in bytes: values, then what the kernels need, at these offsets. */
    size_t value_bytes, scratch_bytes;
    size_t worker_at, packed_at, inverse_at, sequences_at;
    size_t branch_at;                  /* keys and values of one layer of the sequences of a branch */
    size_t gathered_at;                /* rows of z and x of the last layer that last_rows needs */
    size_t table_at[LP_MOST_ROPES][2]; /* cos, then sin [n_angles, rotary_dim / 2]: short and long; or LP_NO_TABLE */
    size_t worker_stride;              /* floats of a worker */
} lp_plan;

/* NULL: LP_ENOMEM. A request without points has a plan without steps. */
lp_plan *lp_plan_new(const lp_request *request, lp_error *err);
void lp_plan_free(lp_plan *plan); /* NULL is legal */

static inline lp_value *lp_plan_value(const lp_plan *plan, size_t layer, lp_point point) {
    return &plan->values[layer * LP_N_POINTS + point];
}
/* Number of the caller's array of a value; `layer` is ignored unless the point is per layer. */
size_t lp_plan_array(const lp_model *model, lp_point point, size_t layer);
/* Rows of a value in its place. */
static inline size_t lp_plan_rows(const lp_plan *plan, const lp_value *v) {
    return v->last_rows ? plan->request.n_seqs : plan->request.n_tokens - v->first_row;
}
/* The rows of a point's array, in every layer. */
static inline size_t lp_request_rows(const lp_request *q, lp_point p) {
    return q->last_rows && p >= LP_FINAL_RMS ? q->n_seqs : q->n_tokens;
}
/* Tokens of sequence s before the run. */
static inline size_t lp_request_past(const lp_request *q, size_t s) { return q->n_past ? q->n_past[s] : 0; }
/* Sequence s with its rows and its past. */
lp_sequence lp_request_sequence(const lp_request *q, size_t s);
/* Floats of a value with so many rows; of a map, those of all sequences. -1: overflow. */
int lp_request_floats(const lp_request *q, lp_point point, size_t n_rows, size_t *n_floats);
/* Tokens up to which a sequence takes the short table. */
static inline size_t lp_plan_short_until(const lp_rope_spec *rope, size_t rope_length) {
    if (!rope->long_inv_freq) return (size_t)-1;
    if (rope_length) return rope_length > rope->original ? 0 : (size_t)-1;
    return rope->original;
}
/* Bytes of weights that a step reads; of the embedding, those of the tokens. */
size_t lp_plan_weight_bytes(const lp_plan *plan, const lp_step *step);

#endif
