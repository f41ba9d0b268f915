/* run_branch.c - a branch from Python. First rows and x are copied: they are read without the GIL after they were
 * checked, and a function of an edit or another thread may resize the caller's arrays. */
#include "run_branch.h"

#include "../run/branch.h" /* lp_run_branch */

int lp_branch_args_take(lp_branch_args *args, const lp_module_state *state, PyObject *branch) {
    PyObject *cache, *n_past, *x;
    Py_ssize_t layer;
    size_t n;
    if (branch == Py_None) return 0;
    if (!PyTuple_Check(branch) || !PyArg_ParseTuple(branch, "O!OnO", state->cache_type, &cache, &n_past, &layer, &x)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a branch is a tuple (Cache, first rows, layer, x)");
        return -1;
    }
    if (layer < 0) return lp_refuse(state, LP_EARG, "a branch from layer %zd", layer);
    args->layer = (size_t)layer;
    args->n_past = PyArray_FROMANY(n_past, NPY_UINTP, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    args->x = args->n_past ? PyArray_FROMANY(x, NPY_FLOAT32, 2, 2, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY) : NULL;
    args->cache = args->x ? PyTuple_Pack(1, cache) : NULL;
    args->base = args->cache ? lp_caches_hold(state, args->cache, &n) : NULL;
    return args->base ? 0 : -1;
}

int lp_branch_args_set(const lp_branch_args *args, const lp_module_state *state, lp_run *run) {
    lp_error err;
    if (!args->base) return 0;
    PyArrayObject *n_past = (PyArrayObject *)args->n_past, *x = (PyArrayObject *)args->x;
    size_t n_rows = (size_t)PyArray_DIM(x, 0), n_columns = (size_t)PyArray_DIM(x, 1), n = (size_t)PyArray_SIZE(n_past);
    if (n != run->n_seqs || n_rows != run->n_tokens || n_columns != run->model->config.d_model)
        return lp_refuse(state, LP_EARG, "%zu first rows and x [%zu, %zu] for %zu sequences of %zu tokens", n, n_rows,
                         n_columns, run->n_seqs, run->n_tokens);
    if (!lp_run_branch(run, args->base[0], PyArray_DATA(n_past), args->layer, PyArray_DATA(x), &err)) return 0;
    lp_raise(state, &err);
    return -1;
}

void lp_branch_args_free(lp_branch_args *args) {
    lp_caches_release(args->base, 1);
    Py_XDECREF(args->cache);
    Py_XDECREF(args->n_past);
    Py_XDECREF(args->x);
}
