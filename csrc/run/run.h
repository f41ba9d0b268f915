/* run.h - one run: the tokens, what is requested of it, its plan, and the arrays that its values are written to.
 *
 * A run has n_tokens rows, cut into n_seqs sequences (a batch is more rows; there are no pad tokens). The caller
 * requests every (point, layer) that it wants, has the plan made, makes an array for each and sets its place before the
 * forward pass; the rest lives in one scratch block. A value is written once, to its place. The places are zeros
 * before: the pattern is not written where the key comes after the query.
 *
 * Shapes of a place: [n_tokens, width]. The maps (scores, pattern) hold [n_heads, T, T] for each sequence, one
 * sequence after the other. */
#ifndef LP_RUN_H
#define LP_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"      /* lp_error */
#include "../kernels/kernels.h" /* lp_kernels */
#include "../model/model.h"     /* lp_model */
#include "plan.h"               /* lp_plan */
#include "../model/points.h"    /* lp_point, lp_points */
#include "../sys/pool.h"        /* lp_crew */
#include "../sys/profile.h"     /* lp_profile */

typedef struct {
    const lp_model *model;
    size_t n_tokens, n_seqs;
    const int32_t *token_ids;            /* [n_tokens]; borrowed */
    const size_t *seq_start;             /* [n_seqs + 1], from 0 to n_tokens; borrowed */
    lp_points *requested, *materialised; /* [n_layers], as in lp_request; owned */
    size_t layer_row, head_row;          /* as in lp_request: 0 unless the caller sets them */
    lp_plan *plan;                       /* owned; NULL before lp_run_plan */
    float **places;                      /* by lp_plan_array; NULL: not requested, or not set yet; owned */
    const lp_kernels *kernels;           /* the variant of all its steps */
    lp_crew crew;                        /* threads, and the poll that may stop the run */
    size_t n_steps, steps_done;          /* for progress: read them from poll */
    lp_profile *profile;                 /* borrowed, started by the caller; NULL disables it */
} lp_run;

/* Checks the ids (LP_EARG names the position and both numbers) and the lengths of the sequences, and chooses the
 * variant of the kernels: the errors of lp_kernels_get, and like it only where nobody changes the environment
 * meanwhile. The poll of the crew is NULL; set it afterwards if need be. */
int lp_run_init(lp_run *run, const lp_model *model, const int32_t *token_ids, const size_t *seq_start, size_t n_seqs,
                size_t n_threads, lp_error *err);
void lp_run_free(lp_run *run); /* the arrays of the places are the caller's */

/* How many floats the place of a point has, for one layer. -1 when that overflows. */
int lp_run_size(const lp_run *run, lp_point point, size_t *n_floats);
/* `layer` counts from 0 and must be 0 for points that are not per layer. 0, or -1 when it is requested already. */
int lp_run_request(lp_run *run, lp_point point, size_t layer);
/* The value is to be complete in memory before another step reads it. */
void lp_run_materialise(lp_run *run, lp_point point, size_t layer);
/* After the requests: makes run->plan. LP_ENOMEM; LP_EARG for rows that the run does not have. */
int lp_run_plan(lp_run *run, lp_error *err);
/* Requests the value, if need be, and says where it goes. */
void lp_run_set_place(lp_run *run, lp_point point, size_t layer, float *place);

#endif
