/* sample.c - sample(): a token from a row of logits, see ops/sample.h. */
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

static PyObject *sample_row(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"logits", "position", "temperature", "top_k", "top_p", "seed", "number", NULL};
    PyObject *object;
    unsigned long long position, seed, number;
    Py_ssize_t top_k;
    lp_sample s;
    lp_draw drawn;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OKfndKK:sample", keys, &object, &position, &s.temperature, &top_k,
                                     &s.top_p, &seed, &number))
        return NULL;
    if (top_k < 0) return lp_raise_new(PyModule_GetState(module), LP_EARG, "top_k is %zd", top_k);
    s.top_k = (size_t)top_k;
    s.seed = seed;
    s.number = number;
    PyObject *logits = PyArray_FROMANY(object, NPY_FLOAT32, 1, 1, NPY_ARRAY_CARRAY_RO);
    if (!logits) return NULL;
    int failed = draw(&drawn, &s, logits, position, &err);
    Py_DECREF(logits);
    if (failed) return lp_raise(PyModule_GetState(module), &err);
    return Py_BuildValue("(nd)", (Py_ssize_t)drawn.id, drawn.logprob);
}

/* The arguments, too, are converted without flushing denormals to 0. */
PyObject *lp_sample_row(PyObject *module, PyObject *args, PyObject *kwargs) {
    lp_fpenv old = lp_fpenv_set();
    PyObject *result = sample_row(module, args, kwargs);
    lp_fpenv_restore(old);
    return result;
}
