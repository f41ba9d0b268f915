/* safetensors_read.c - Safetensors.read and Safetensors.raw: one tensor as an array.
 *
 * Both first check that the file has not changed: touching the map of a truncated file ends the process. */
#include "module.h"

#include "../kernels/kernels.h" /* lp_kernels_get */
#include "../sys/limits.h"      /* lp_limits_cores, lp_limits_memory */
#include "../ops/rows.h"        /* lp_widen */
#include "../base/size.h"       /* lp_size_mul */
#include "poll.h"               /* lp_poll_python */

#define MIN_PARALLEL ((size_t)1 << 23) /* elements: fewer are faster on one thread */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static const char *path_of(PyObject *self) { return lp_safetensors_path(((lp_safetensors_object *)self)->file); }

/* The tensor, in an unchanged file; NULL with an exception set. */
static const lp_tensor *find(PyObject *self, PyObject *name) {
    char shown[128];
    Py_ssize_t n;
    lp_error err;
    lp_safetensors *file = ((lp_safetensors_object *)self)->file;
    const char *bytes = PyUnicode_AsUTF8AndSize(name, &n); /* TypeError unless it is a string */
    if (!bytes) return NULL;
    const lp_tensor *t = lp_safetensors_find(file, bytes, (size_t)n);
    if (!t) {
        lp_raise_new(state_of(self), LP_EARG, "%s has no tensor \"%s\"", path_of(self),
                     lp_show(shown, sizeof shown, bytes, (size_t)n));
        return NULL;
    }
    if (!lp_safetensors_check_unchanged(file, &err)) return t;
    lp_raise(state_of(self), &err);
    return NULL;
}

/* NumPy needs the product of all axes but those of length 0 to be a size. -1 with an exception set. */
static int take_shape(PyObject *self, const lp_tensor *t, npy_intp *shape) {
    char shown[128];
    size_t n_bytes = sizeof(float);
    int too_big = t->rank > NPY_MAXDIMS;
    for (size_t i = 0; i < t->rank; i++) {
        if (t->shape[i]) too_big |= lp_size_mul(&n_bytes, n_bytes, t->shape[i]);
        shape[i] = (npy_intp)t->shape[i];
    }
    if (!too_big && n_bytes <= PY_SSIZE_T_MAX) return 0;
    return lp_refuse(state_of(self), LP_EUNSUPPORTED,
                     "%s: tensor \"%s\" has %zu elements and axes that are too long for an array", path_of(self),
                     lp_show(shown, sizeof shown, t->name, t->name_len), t->n_elements);
}

static PyObject *fail_memory(PyObject *self, const lp_tensor *t) {
    char shown[128];
    return lp_raise_new(state_of(self), LP_ENOMEM,
                        "%s: a float32 copy of tensor \"%s\" needs 4 x %zu bytes and %zu are free", path_of(self),
                        lp_show(shown, sizeof shown, t->name, t->name_len), t->n_elements, lp_limits_memory());
}

/* Fills the block; not 0 when a signal handler raised. */
static int widen(const lp_kernels *row, const lp_block *block, const lp_tensor *t, lp_element element) {
    lp_poll poll;
    lp_poll_begin(&poll, NULL, NULL);
    size_t n_threads = t->n_elements < MIN_PARALLEL ? 1 : lp_limits_cores();
    lp_ops ops = {.kernels = row, .parallel = {n_threads, lp_poll_python, &poll}};
    lp_weight all = {.data = t->data, .element = element, .n_rows = 1, .n_cols = t->n_elements};
    int stopped = lp_widen(&ops, block->data, &all);
    lp_poll_end(&poll);
    return stopped;
}

PyObject *lp_safetensors_object_read(PyObject *self, PyObject *name) {
    lp_error err;
    lp_element element;
    lp_block block;
    size_t n_bytes;
    npy_intp shape[LP_MAX_RANK + 1];
    const lp_tensor *t = find(self, name);
    if (!t) return NULL;
    if (lp_dtype_element(t->dtype, &element))
        return lp_raise_new(state_of(self), LP_EUNSUPPORTED,
                            "%s: a tensor of dtype %s has no float32 values here; .raw gives its bytes", path_of(self),
                            lp_dtype_name(t->dtype));
    const lp_kernels *row = lp_kernels_get(&err);
    if (!row) return lp_raise(state_of(self), &err);
    if (take_shape(self, t, shape)) return NULL;
    if (lp_size_mul(&n_bytes, t->n_elements, sizeof(float)) || !lp_memory_fits(n_bytes, NULL) ||
        lp_block_reserve(&block, n_bytes))
        return fail_memory(self, t);
    if (widen(row, &block, t, element)) {
        lp_block_free(&block);
        return NULL;
    }
    return lp_array_from_block(&block, (int)t->rank, shape);
}

PyObject *lp_safetensors_object_raw(PyObject *self, PyObject *name) {
    const lp_tensor *t = find(self, name);
    return t ? lp_array_of_bytes(t->data, t->n_bytes, self) : NULL;
}
