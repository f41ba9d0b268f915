/* model_head.c - Model.head: logits of given rows, without the GIL. Both arguments are copied before they are checked:
 * another thread may write to them. */
#include "module.h"

#include "../base/size.h"  /* lp_size_mul3 */
#include "../run/head.h"   /* lp_head_logits */
#include "../sys/limits.h" /* lp_limits_memory */
#include "../sys/pool.h"   /* LP_MAX_THREADS */
#include "poll.h"          /* lp_poll_python */

/* Sums all sizes, and compares them with available memory. */
static int check_memory(const lp_module_state *state, const lp_head_request *q, size_t *n_bytes) {
    lp_error err;
    size_t scratch, all;
    if (lp_head_check(q, &scratch, &err)) {
        lp_raise(state, &err);
        return -1;
    }
    if (lp_size_mul3(n_bytes, q->n_rows, q->n_tokens, sizeof(float)) || lp_size_add(&all, *n_bytes, scratch))
        all = (size_t)-1;
    if (all <= PY_SSIZE_T_MAX && lp_memory_fits(all, q->model->arena)) return 0;
    return lp_refuse(state, LP_ENOMEM,
                     "logits of %zu rows and %zu tokens need %zu bytes and %zu are free; request fewer layers,"
                     " positions or tokens",
                     q->n_rows, q->n_tokens, all, lp_limits_memory());
}

static PyObject *compute(const lp_module_state *state, lp_head_request *q) {
    lp_error err;
    lp_poll poll;
    lp_block block = {0};
    size_t n_bytes;
    if (check_memory(state, q, &n_bytes)) return NULL;
    q->parallel.poll = lp_poll_python;
    q->parallel.poll_arg = &poll;
    lp_poll_begin(&poll, NULL, NULL);
    int failed = lp_block_make(&block, n_bytes, q->model->arena, &q->parallel);
    if (failed)
        lp_fail(&err, failed > 0 ? LP_ECANCELED : LP_ENOMEM, "logits need %zu bytes, which the system refused",
                n_bytes);
    q->logits = block.data;
    failed = failed || lp_head_logits(q, &err);
    lp_poll_end(&poll);
    if (failed) lp_raise(state, &err);
    if (failed || PyErr_CheckSignals()) {
        lp_block_free(&block);
        return NULL;
    }
    npy_intp shape[2] = {(npy_intp)q->n_rows, (npy_intp)q->n_tokens};
    return lp_array_from_block(&block, 2, shape);
}

static PyObject *copy_of(PyObject *object, int type, int rank) {
    return PyArray_FROMANY(object, type, rank, rank, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
}

PyObject *lp_model_object_head(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"x", "token_ids", "n_threads", NULL};
    const lp_module_state *state = PyType_GetModuleState(Py_TYPE(self));
    const lp_model *model = ((lp_model_object *)self)->model;
    PyObject *x, *token_ids, *ids = NULL, *result = NULL;
    Py_ssize_t n_threads = 0;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$n:head", keys, &x, &token_ids, &n_threads)) return NULL;
    if (n_threads < 1) return lp_raise_new(state, LP_EARG, "n_threads is %zd, must be at least 1", n_threads);
    lp_head_request q = {.model = model, .kernels = lp_kernels_get(&err), .n_tokens = model->config.vocab_size};
    if (!q.kernels) return lp_raise(state, &err);
    if (!(x = copy_of(x, NPY_FLOAT32, 2))) return NULL;
    if (token_ids != Py_None && !(ids = copy_of(token_ids, NPY_INT32, 1))) {
        Py_DECREF(x);
        return NULL;
    }
    if (ids) {
        q.token_ids = PyArray_DATA((PyArrayObject *)ids);
        q.n_tokens = (size_t)PyArray_SIZE((PyArrayObject *)ids);
    }
    q.parallel.n_threads = (size_t)(n_threads < LP_MAX_THREADS ? n_threads : LP_MAX_THREADS);
    q.x = PyArray_DATA((PyArrayObject *)x);
    q.n_rows = (size_t)PyArray_DIM((PyArrayObject *)x, 0);
    size_t d = (size_t)PyArray_DIM((PyArrayObject *)x, 1);
    if (d == model->config.d_model)
        result = compute(state, &q);
    else
        lp_raise_new(state, LP_EARG, "rows have %zu numbers, d_model is %zu", d, model->config.d_model);
    Py_DECREF(x);
    Py_XDECREF(ids);
    return result;
}
