/* branch.h - sequences that leave a finished one at some row, from some layer on: the cells of a sweep.
 *
 * A base is a cache of all tokens of a run. A branch has rows n_past, n_past + 1, ... of one or more sequences with the
 * base's tokens, and begins with x of first_layer, which the caller gives: rows before n_past are those of the base,
 * whose keys and values are read from it and never written. All results are those of one run of all tokens whose rows
 * before n_past and layers before first_layer have the base's values, to the bit. */
#ifndef LP_BRANCH_H
#define LP_BRANCH_H

#include <stddef.h>

#include "../base/error.h" /* lp_error */
#include "cache.h"         /* lp_cache */
#include "run.h"           /* lp_run */
#include "steps.h"         /* lp_pass */

/* Makes the run a branch of base, which the caller holds. n_past: [n_seqs], copied; x: [n_tokens, d_model], borrowed.
 * Before its edits and its plan; rope_length is set; it has no caches. LP_EARG: another model; no such layer; rows that
 * the base lacks, or whose keys were turned by another table. LP_ENOMEM. */
int lp_run_branch(lp_run *run, const lp_cache *base, const size_t *n_past, size_t first_layer, const float *x,
                  lp_error *err);

/* For the plan: LP_EARG names a value of an earlier layer that is requested or edited. */
int lp_branch_check(const lp_run *run, lp_error *err);
/* Appends the keys and values of one layer to the scratch block. -1: overflow. */
int lp_branch_lay_out(lp_plan *plan);
/* For the pass: copies the base's keys and values of the current layer, which its sequences then read as their caches.
 * 0, or -1 when the poll said stop. */
int lp_branch_layer(lp_pass *p);

#endif
