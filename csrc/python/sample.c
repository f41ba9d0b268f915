/* sample.c - sample(): a token from a row of logits, see ops/sample.h. The row is copied: it is read without the GIL,
 * and another thread may resize the caller's. */
#include "module.h"

#include "../base/fpenv.h"      /* lp_fpenv_set, lp_fpenv_restore */
#include "../kernels/kernels.h" /* lp_kernels_get */
#include "../ops/sample.h"      /* lp_sample_draw */

static int draw(lp_draw *drawn, const lp_sample *s, PyObject *logits, uint64_t position, lp_error *err) {
    size_t n = (size_t)PyArray_SIZE((PyArrayObject *)logits), n_bytes;
    const float *data = PyArray_DATA((PyArrayObject *)logits);
    const lp_kernels *kernels = lp_kernels_get(err);
    if (!kernels) return -1;
    if (lp_sample_scratch(&n_bytes, s, n))
        return lp_fail(err, LP_ENOMEM, "%zu logits need more scratch than there are addresses", n);
    void *scratch = PyMem_Malloc(n_bytes);
    if (!scratch) return lp_fail(err, LP_ENOMEM, "sampling needs %zu bytes, which the system refused", n_bytes);
    int failed;
    Py_BEGIN_ALLOW_THREADS;
    failed = lp_sample_draw(drawn, s, kernels, data, n, position, scratch, err);
    Py_END_ALLOW_THREADS;
    PyMem_Free(scratch);
    return failed;
}

/* An integer from 0 to 2^64 - 1. */
static int take_u64(const lp_module_state *state, const char *name, PyObject *object, uint64_t *out) {
    unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (!PyErr_Occurred()) {
        *out = value;
        return 0;
    }
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return -1;
    PyErr_Clear();
    return lp_refuse(state, LP_EARG, "%s is not from 0 to 2^64 - 1", name);
}

static PyObject *sample_row(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"logits", "position", "temperature", "top_k", "top_p", "seed", "number", NULL};
    const lp_module_state *state = PyModule_GetState(module);
    PyObject *object, *position, *seed, *number;
    uint64_t at;
    Py_ssize_t top_k;
    lp_sample s;
    lp_draw drawn;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOfndOO:sample", keys, &object, &position, &s.temperature, &top_k,
                                     &s.top_p, &seed, &number) ||
        take_u64(state, "position", position, &at) || take_u64(state, "seed", seed, &s.seed) ||
        take_u64(state, "number", number, &s.number))
        return NULL;
    if (top_k < 0) return lp_raise_new(state, LP_EARG, "top_k is %zd", top_k);
    s.top_k = (size_t)top_k;
    PyObject *logits = PyArray_FROMANY(object, NPY_FLOAT32, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!logits) return NULL;
    int failed = draw(&drawn, &s, logits, at, &err);
    Py_DECREF(logits);
    if (failed) return lp_raise(state, &err);
    return Py_BuildValue("(nd)", (Py_ssize_t)drawn.id, drawn.logprob);
}

/* The arguments, too, are converted without flushing denormals to 0. */
PyObject *lp_sample_row(PyObject *module, PyObject *args, PyObject *kwargs) {
    lp_fpenv old = lp_fpenv_set();
    PyObject *result = sample_row(module, args, kwargs);
    lp_fpenv_restore(old);
    return result;
}
