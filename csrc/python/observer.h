/* observer.h - the argument `observer` of Model.run: (Stats, group, document, start), what the statistics must know of
 * the tokens. */
#ifndef LP_PYTHON_OBSERVER_H
#define LP_PYTHON_OBSERVER_H

#include "module.h"

#include "../run/run.h"     /* lp_run, lp_observer */
#include "../stats/stats.h" /* lp_stats */

typedef struct {
    PyObject *object;           /* Stats; NULL: nothing is observed */
    PyObject *group;            /* int32 [n_tokens], copies */
    PyObject *document, *start; /* int64 [n_seqs] */
    lp_stats *stats;
    lp_points *points; /* [n_layers] */
    lp_observer observer;
} lp_observation;

/* Parses and copies; None: nothing is observed. -1 with an exception set, also from _begin. */
int lp_observation_take(lp_observation *o, const lp_module_state *state, PyObject *observer);
/* Between the requests and the plan. */
int lp_observation_begin(lp_observation *o, const lp_module_state *state, lp_run *run);
/* After the run, without the GIL. -1: the statistics are why it failed. */
int lp_observation_end(lp_observation *o, int failed, lp_error *err);
void lp_observation_free(lp_observation *o);

#endif
