/* run.h - one run: the tokens, and the place where each value is to be written.
 *
 * A run has n_tokens rows, cut into n_seqs sequences (a batch is more rows; there are no pad tokens). The caller
 * makes an array for every (point, layer) it wants and sets its place before the forward pass; the rest lives in
 * one scratch block that lp_forward makes. A value is written once, to its place. The places are zeros before:
 * the pattern is not written where the key comes after the query.
 *
 * Shapes of a place: [n_tokens, width]. The maps (scores, pattern) hold [n_heads, T, T] for each sequence, one
 * sequence after the other. */
#ifndef LP_RUN_H
#define LP_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"           /* lp_error */
#include "kernels/kernels.h" /* lp_kernels */
#include "model.h"           /* lp_model */
#include "points.h"          /* lp_point, lp_width */
#include "pool.h"            /* lp_crew */
#include "profile.h"         /* lp_profile */

typedef struct {
    const lp_model *model;
    size_t n_tokens, n_seqs;
    const int32_t *token_ids;   /* [n_tokens]; borrowed */
    const size_t *seq_start;    /* [n_seqs + 1], from 0 to n_tokens; borrowed */
    float **places;             /* [LP_N_POINTS, n_layers]; NULL: not asked for; owned */
    const lp_kernels *kernels;  /* the row of all its steps */
    lp_crew crew;               /* threads, and the poll that may stop the run */
    size_t n_steps, steps_done; /* for progress: read them from poll */
    lp_profile *profile;        /* started by the caller, whose it is; NULL: nobody wants one */
} lp_run;

/* Checks the ids (LP_EARG names the position and both numbers) and the lengths of the sequences, and chooses the row
 * of kernels: the errors of lp_kernels_get, and like it only where nobody changes the environment meanwhile. The poll
 * of the crew is NULL; set it afterwards if need be. */
int lp_run_init(lp_run *run, const lp_model *model, const int32_t *token_ids, const size_t *seq_start, size_t n_seqs,
                size_t n_threads, lp_error *err);
void lp_run_free(lp_run *run); /* the arrays of the places are the caller's */

/* How many floats the place of a point has, for one layer. -1 when that overflows. */
int lp_run_size(const lp_run *run, lp_point point, size_t *n_floats);
/* `layer` counts from 0 and must be 0 for points that are not per layer. */
void lp_run_set_place(lp_run *run, lp_point point, size_t layer, float *place);

const char *lp_point_name(lp_point point);
lp_width lp_point_width(lp_point point);
int lp_point_per_layer(lp_point point);

#endif
