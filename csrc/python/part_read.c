/* part_read.c - the methods read and raw of open files: one tensor as an array.
 *
 * Both first check that the file has not changed: touching the map of a truncated file kills the process (SIGBUS). */
#include "file_object.h"

#include <string.h>

#include "../kernels/kernels.h" /* lp_kernels_get */
#include "../sys/limits.h"      /* lp_limits_cores, lp_limits_memory */
#include "../ops/rows.h"        /* lp_widen */
#include "../base/size.h"       /* lp_size_mul */
#include "poll.h"               /* lp_poll_python */

#define MIN_PARALLEL ((size_t)1 << 23) /* elements: fewer are faster on one thread */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static const char *path_of(PyObject *self) {
    const lp_file_object *object = (const lp_file_object *)self;
    return object->kind->path(object->file);
}

/* A tensor that has float32 values. */
typedef struct {
    lp_part part;
    size_t n_elements;
    lp_element element;
} values;

/* As lp_file_object_find, by a Python str. */
static int find(PyObject *self, PyObject *name, lp_part *part) {
    Py_ssize_t n;
    const char *bytes = PyUnicode_AsUTF8AndSize(name, &n); /* TypeError if it is not a str */
    return bytes ? lp_file_object_find(self, bytes, (size_t)n, part) : -1;
}

static int find_values(PyObject *self, PyObject *name, values *t) {
    static const char *const names[] = {[LP_ELEMENT_BF16] = "BF16", [LP_ELEMENT_F16] = "F16", [LP_ELEMENT_F32] = "F32"};
    if (find(self, name, &t->part)) return -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        t->element = (lp_element)i;
        t->n_elements = t->part.n_bytes / lp_element_bytes(t->element);
        if (!strcmp(t->part.dtype, names[i])) return 0;
    }
    return lp_refuse(state_of(self), LP_EUNSUPPORTED,
                     "%s: a tensor of dtype %s has no float32 values here; .raw gives its bytes", path_of(self),
                     t->part.dtype);
}

/* Sets shape [rank]. NumPy requires that the product of all nonzero axes fits a size. -1 with an exception set. */
static int take_shape(PyObject *self, const values *t, npy_intp *shape) {
    char shown[128];
    size_t n_bytes = sizeof(float);
    int too_big = t->part.rank > NPY_MAXDIMS;
    for (size_t i = 0; i < t->part.rank; i++) {
        if (t->part.shape[i]) too_big |= lp_size_mul(&n_bytes, n_bytes, t->part.shape[i]);
        shape[i] = (npy_intp)t->part.shape[i];
    }
    if (!too_big && n_bytes <= PY_SSIZE_T_MAX) return 0;
    return lp_refuse(state_of(self), LP_EUNSUPPORTED,
                     "%s: tensor \"%s\" has %zu elements and axes that are too long for an array", path_of(self),
                     lp_show(shown, sizeof shown, t->part.name, t->part.name_len), t->n_elements);
}

static PyObject *fail_memory(PyObject *self, const values *t) {
    char shown[128];
    return lp_raise_new(
        state_of(self), LP_ENOMEM, "%s: a float32 copy of tensor \"%s\" needs 4 x %zu bytes, and %zu are free",
        path_of(self), lp_show(shown, sizeof shown, t->part.name, t->part.name_len), t->n_elements, lp_limits_memory());
}

/* Fills the block. Not 0: a signal handler raised. */
static int widen(const lp_kernels *kernels, const lp_block *block, const values *t) {
    lp_poll poll;
    lp_poll_begin(&poll, NULL, NULL);
    size_t n_threads = t->n_elements < MIN_PARALLEL ? 1 : lp_limits_cores();
    lp_ops ops = {.kernels = kernels, .parallel = {n_threads, lp_poll_python, &poll}};
    lp_weight all = {.data = t->part.data, .element = t->element, .n_rows = 1, .n_cols = t->n_elements};
    int stopped = lp_widen(&ops, block->data, &all);
    lp_poll_end(&poll);
    return stopped;
}

PyObject *lp_file_object_read(PyObject *self, PyObject *name) {
    lp_error err;
    lp_block block;
    size_t n_bytes;
    npy_intp shape[LP_MAX_RANK + 1];
    values t;
    if (find_values(self, name, &t)) return NULL;
    const lp_kernels *kernels = lp_kernels_get(&err);
    if (!kernels) return lp_raise(state_of(self), &err);
    if (take_shape(self, &t, shape)) return NULL;
    if (lp_size_mul(&n_bytes, t.n_elements, sizeof(float)) || !lp_memory_fits(n_bytes, NULL) ||
        lp_block_reserve(&block, n_bytes))
        return fail_memory(self, &t);
    if (widen(kernels, &block, &t)) {
        lp_block_free(&block);
        return NULL;
    }
    return lp_array_from_block(&block, (int)t.part.rank, shape);
}

PyObject *lp_file_object_raw(PyObject *self, PyObject *name) {
    lp_part part;
    return find(self, name, &part) ? NULL : lp_array_of_bytes(part.data, part.n_bytes, self);
}
