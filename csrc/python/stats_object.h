/* stats_object.h - the statistics behind a Stats, for the run that adds to them. */
#ifndef LP_PYTHON_STATS_OBJECT_H
#define LP_PYTHON_STATS_OBJECT_H

#include "module.h"

#include "../stats/stats.h" /* lp_stats */

/* Those of an object of state->stats_type, until they are released; NULL with an exception set: in use. */
lp_stats *lp_stats_object_take(PyObject *self);
void lp_stats_object_release(PyObject *self);

#endif
