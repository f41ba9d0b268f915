/* branch.h - runs that branch off a finished sequence at some row and layer: the cells of a sweep.
 *
 * The base is a cache of all tokens of a run. A branch computes rows n_past, n_past + 1, ... of one or more sequences
 * with the base's tokens, from layer first_layer on, with an x that the caller passes. Keys and values of rows before
 * n_past are read from the base, which is never written. The results are bit-identical to one run of all tokens in
 * which the rows before n_past and the layers before first_layer have the base's values. */
#ifndef LP_BRANCH_H
#define LP_BRANCH_H

#include <stddef.h>

#include "../base/error.h" /* lp_error */
#include "cache.h"         /* lp_cache */
#include "run.h"           /* lp_run */
#include "steps.h"         /* lp_pass */

/* Makes the run a branch of base, which is borrowed and held by the caller. n_past: [n_seqs], copied; x: [n_tokens,
 * d_model], borrowed. Call it after rope_length is set and before edits and plan, on a run without caches. LP_EARG:
 * another model; no such layer; rows that the base lacks, or whose keys were rotated with another table. LP_ENOMEM. */
int lp_run_branch(lp_run *run, const lp_cache *base, const size_t *n_past, size_t first_layer, const float *x,
                  lp_error *err);

/* For the plan. LP_EARG: a value of a layer before first_layer is requested or edited. */
int lp_branch_check(const lp_run *run, lp_error *err);
/* For the plan: adds the keys and values of one layer to the scratch block. -1: overflow. */
int lp_branch_lay_out(lp_plan *plan);
/* For the pass: copies the base's keys and values of the current layer, which its sequences then read as their caches.
 * -1: stopped by the poll. */
int lp_branch_layer(lp_pass *p);

#endif
