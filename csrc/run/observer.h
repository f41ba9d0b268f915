/* observer.h - who sees a value as soon as the step that computes it is done, before its memory is used again. */
#ifndef LP_OBSERVER_H
#define LP_OBSERVER_H

#include <stddef.h>

#include "../model/points.h" /* lp_point, lp_points */
#include "../ops/ops.h"      /* lp_ops */

typedef struct {
    const lp_points *points; /* [n_layers], as in lp_request */
    /* Called on the run's thread with all rows of a value. Not 0: the run stops. */
    int (*see)(void *arg, const lp_ops *ops, lp_point point, size_t layer, const float *values);
    void *arg;
} lp_observer;

#endif
