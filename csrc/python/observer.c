/* observer.c - statistics as the observer of a run. */
#include "observer.h"

#include "stats_object.h"

int lp_observation_take(lp_observation *o, const lp_module_state *state, PyObject *observer) {
    PyObject *object, *group, *document, *start;
    if (observer == Py_None) return 0;
    if (!PyTuple_Check(observer) || !PyArg_ParseTuple(observer, "OOOO", &object, &group, &document, &start) ||
        Py_TYPE(object) != state->stats_type) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "an observer is a tuple (Stats, group, document, start)");
        return -1;
    }
    int flags = NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY;
    o->object = Py_NewRef(object);
    o->group = PyArray_FROMANY(group, NPY_INT32, 1, 1, flags);
    o->document = o->group ? PyArray_FROMANY(document, NPY_INT64, 1, 1, flags) : NULL;
    o->start = o->document ? PyArray_FROMANY(start, NPY_INT64, 1, 1, flags) : NULL;
    return o->start ? 0 : -1;
}

static size_t size_of(PyObject *array) { return (size_t)PyArray_SIZE((PyArrayObject *)array); }

int lp_observation_begin(lp_observation *o, const lp_module_state *state, lp_run *run) {
    lp_error err;
    if (!o->object) return 0;
    if (size_of(o->group) != run->n_tokens || size_of(o->document) != run->n_seqs || size_of(o->start) != run->n_seqs)
        return lp_refuse(state, LP_EARG,
                         "the observer has %zu groups, %zu documents and %zu starts; the run has %zu tokens in"
                         " %zu sequences",
                         size_of(o->group), size_of(o->document), size_of(o->start), run->n_tokens, run->n_seqs);
    for (size_t i = 0; i < run->n_seqs; i++)
        if (run->last_rows || (run->n_past && run->n_past[i]))
            return lp_refuse(state, LP_EARG, "a run with cached tokens, or of last rows only, cannot be observed");
    size_t n_layers = run->model->config.n_layers;
    if (!(o->points = PyMem_Calloc(n_layers, sizeof *o->points))) {
        PyErr_NoMemory();
        return -1;
    }
    if (!(o->stats = lp_stats_object_take(o->object))) return -1;
    lp_stats_batch batch = {.n_seqs = run->n_seqs,
                            .n_tokens = run->n_tokens,
                            .seq_start = run->seq_start,
                            .group = PyArray_DATA((PyArrayObject *)o->group),
                            .document = PyArray_DATA((PyArrayObject *)o->document),
                            .start = PyArray_DATA((PyArrayObject *)o->start)};
    if (lp_stats_begin(o->stats, run->model, &batch, &err)) {
        lp_raise(state, &err);
        return -1;
    }
    for (size_t i = 0; i < lp_stats_n_targets(o->stats); i++) {
        const lp_stats_target *t = lp_stats_at(o->stats, i);
        lp_points_add(&o->points[lp_point_per_layer(t->point) ? t->layer : n_layers - 1], t->point);
    }
    o->observer = (lp_observer){o->points, lp_stats_see, o->stats};
    lp_run_observe(run, &o->observer);
    return 0;
}

int lp_observation_end(lp_observation *o, int failed, lp_error *err) {
    if (!o->stats) return 0;
    if (!failed) lp_stats_end(o->stats);
    if (lp_stats_fault_of(o->stats) != LP_STATS_NO_MEMORY) return 0;
    return lp_fail(err, LP_ENOMEM, "no memory for the statistics; collect fewer points, layers or statistics");
}

void lp_observation_free(lp_observation *o) {
    if (o->stats) lp_stats_object_release(o->object);
    PyMem_Free(o->points);
    Py_XDECREF(o->object);
    Py_XDECREF(o->group);
    Py_XDECREF(o->document);
    Py_XDECREF(o->start);
}
