/* model_object.h - the object behind the type Model, for the two files that know it. */
#ifndef LP_PYTHON_MODEL_OBJECT_H
#define LP_PYTHON_MODEL_OBJECT_H

#include "module.h"

#include "../model/model.h" /* lp_model */

/* Whole from the moment it exists, and never changed: runs on several threads share it. */
typedef struct {
    PyObject ob_base; /* what PyObject_HEAD stands for */
    lp_model *model;
    PyObject *files; /* tuple of Safetensors: the maps that the model points into */
} lp_model_object;

/* Model.run(token_ids, seq_start, points, *, n_threads, progress=None) */
PyObject *lp_model_object_run(PyObject *self, PyObject *args, PyObject *kwargs);
/* The same, and its time by stages: (arrays, [(stage, seconds, laps, FLOP, bytes of weights, bytes of values)]) */
PyObject *lp_model_object_profile(PyObject *self, PyObject *args, PyObject *kwargs);
/* What Model.run would do: ([(layer, stage, [(point, where, bytes)], bytes of weights)], bytes of values in scratch,
 * bytes of all scratch). */
PyObject *lp_model_object_plan(PyObject *self, PyObject *args, PyObject *kwargs);

#endif
