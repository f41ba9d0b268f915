/* run.h - one run: the tokens, the requested values, the plan, and the arrays that values are written to.
 *
 * A run has n_tokens rows, cut into n_seqs sequences (a batch is more rows; there are no pad tokens). Before the
 * forward pass the caller requests each (point, layer), makes the plan, allocates an array of zeros per value (the
 * pattern is not written where the key comes after the query) and sets its place; all else lives in one scratch block.
 *
 * Shapes of a place: [n_tokens, width], with last_rows [n_seqs, width] of the points that are not per layer; of the
 * maps (scores, pattern) [n_heads, T, n_past + T] for each sequence, one sequence after the other. */
#ifndef LP_RUN_H
#define LP_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "../base/error.h"      /* lp_error */
#include "../kernels/kernels.h" /* lp_kernels */
#include "../model/model.h"     /* lp_model */
#include "cache.h"              /* lp_cache */
#include "edit.h"               /* lp_edit */
#include "observer.h"           /* lp_observer */
#include "plan.h"               /* lp_plan */
#include "../model/points.h"    /* lp_point, lp_points */
#include "../sys/pool.h"        /* lp_parallel */
#include "../sys/profile.h"     /* lp_profile */

typedef struct {
    const lp_model *model;
    size_t n_tokens, n_seqs;
    const int32_t *token_ids;            /* [n_tokens]; borrowed */
    const size_t *seq_start;             /* [n_seqs + 1], from 0 to n_tokens; borrowed */
    lp_points *requested, *materialised; /* [n_layers], as in lp_request; owned */
    size_t rope_length;                  /* as in lp_request: 0 unless the caller sets it */
    size_t layer_row, head_row;          /* as in lp_request: 0 unless the caller sets them */
    int last_rows;                       /* the same */
    lp_cache *const *caches;             /* [n_seqs], NULL for a sequence without; borrowed; NULL: without caches */
    size_t *n_past;                      /* [n_seqs], owned, if there are caches or a base */
    const lp_cache *base;                /* of a branch, see branch.h; borrowed; NULL: it is none */
    size_t first_layer;                  /* of a branch */
    const float *x;                      /* of a branch: [n_tokens, d_model] of first_layer; borrowed */
    lp_plan *plan;                       /* owned; NULL before lp_run_plan */
    float **places;                      /* by lp_plan_array; NULL: not requested or not set; owned */
    const lp_kernels *kernels;           /* variant of all steps */
    lp_parallel parallel;                /* its poll may stop the run */
    lp_edit **edits;                     /* [n_edits] in order of computation; owned, the edits are the caller's */
    size_t n_edits;
    size_t n_steps, steps_done;  /* for progress: read them from poll */
    lp_profile *profile;         /* borrowed, started by the caller; NULL disables it */
    const lp_observer *observer; /* borrowed; NULL disables it; set by lp_run_observe */
} lp_run;

/* Checks the ids (LP_EARG names the position and both numbers) and the lengths of the sequences, and chooses the kernel
 * variant as lp_kernels_get does, with its errors; no thread may change the environment meanwhile. There is no poll:
 * set one afterwards if need be. */
int lp_run_init(lp_run *run, const lp_model *model, const int32_t *token_ids, const size_t *seq_start, size_t n_seqs,
                size_t n_threads, lp_error *err);
void lp_run_free(lp_run *run); /* the arrays of the places are the caller's */

/* The sequences go on from their caches, which this run holds (lp_cache_hold): their rows are appended to them. Before
 * the plan; rope_length is set. LP_EARG: a cache of another model; more positions than the model takes; a prompt that
 * would need another table of RoPE than the keys in its cache. LP_ENOMEM. */
int lp_run_set_caches(lp_run *run, lp_cache *const *caches, lp_error *err);
/* LP_EARG: a cache has no room for the rows. */
int lp_run_check_caches(const lp_run *run, lp_error *err);
/* After a forward pass that succeeded: the caches have its rows. Without this they are as before. */
void lp_run_keep(const lp_run *run);

/* How many floats the place of a point has, for one layer. -1 when that overflows. */
int lp_run_size(const lp_run *run, lp_point point, size_t *n_floats);
/* `layer` counts from 0 and must be 0 for points that are not per layer. 0, or -1 when it is requested already, or
 * the model lacks it. */
int lp_run_request(lp_run *run, lp_point point, size_t layer);
/* The value must be complete in memory before another step reads it. */
void lp_run_materialise(lp_run *run, lp_point point, size_t layer);
/* Materialises the observer's points. One at a time. */
void lp_run_observe(lp_run *run, const lp_observer *observer);
/* Edits of the run, applied in this order to each value, which is materialised; LP_EDIT_KEEP comes first. Once for a
 * run. Borrowed until the run is freed. LP_EARG: as lp_edit_check; LP_ENOMEM. */
int lp_run_edit(lp_run *run, lp_edit *edits, size_t n_edits, lp_error *err);
/* After the requests: makes run->plan. LP_ENOMEM; LP_EARG: rows that the run does not have. */
int lp_run_plan(lp_run *run, lp_error *err);
/* Requests the value if need be, and sets its place. */
void lp_run_set_place(lp_run *run, lp_point point, size_t layer, float *place);

#endif
