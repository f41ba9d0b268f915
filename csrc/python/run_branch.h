/* run_branch.h - the argument `branch` of Model.run: (Cache, first rows, layer, x of that layer). */
#ifndef LP_PYTHON_RUN_BRANCH_H
#define LP_PYTHON_RUN_BRANCH_H

#include "module.h"

#include "../run/run.h" /* lp_run */

typedef struct {
    PyObject *cache, *n_past, *x; /* owned: a tuple, uintp [n_seqs], float32 [n_tokens, d_model] */
    lp_cache **base;              /* one, held */
    size_t layer;
} lp_branch_args;

/* Takes the tuple; None leaves the arguments zero. -1 with an exception set: free them all the same. */
int lp_branch_args_take(lp_branch_args *args, const lp_module_state *state, PyObject *branch);
/* Makes a run, of which the tokens are known, a branch, if there is one. */
int lp_branch_args_set(const lp_branch_args *args, const lp_module_state *state, lp_run *run);
void lp_branch_args_free(lp_branch_args *args);

#endif
