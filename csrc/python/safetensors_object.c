/* safetensors_object.c - the type Safetensors: one open file, its tensors listed, read and looked at in place.
 *
 * An object is made whole or not at all, and nothing closes it: the map goes with the last reference, and arrays that
 * look into it hold one. Reading checks first that the file is still the one that was opened, since a map of a file
 * that shrank ends the process at the first touch. */
#include "module.h"

#include <fcntl.h>
#include <string.h>

#include "../fpenv.h"           /* lp_fpenv_set */
#include "../kernels/kernels.h" /* lp_kernels_get: widen */
#include "../limits.h"          /* lp_limits_memory */
#include "../model.h"           /* lp_model_word */
#include "../size.h"            /* lp_size_mul */

typedef struct {
    PyObject ob_base; /* what PyObject_HEAD stands for */
    lp_safetensors *file;
    PyObject *path; /* str: as it was given */
} safetensors_object;

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

lp_safetensors *lp_safetensors_of(PyObject *object) { return ((safetensors_object *)object)->file; }

/* On the opening thread, without the GIL. Not 0: an exception is set. */
static int poll_signals(void *thread) {
    PyThreadState **saved = thread;
    PyEval_RestoreThread(*saved);
    int stop = PyErr_CheckSignals();
    *saved = PyEval_SaveThread();
    return stop;
}

/* Opens `path`; with a folder's descriptor the last part of it, relative to that folder and to nothing else. */
static lp_safetensors *open_file(const lp_module_state *state, const char *path, PyObject *dir_fd, int use_mmap) {
    lp_error err;
    lp_safetensors *file;
    int failed, fd = AT_FDCWD;
    if (dir_fd != Py_None) {
        const char *slash = strrchr(path, '/');
        fd = PyObject_AsFileDescriptor(dir_fd);
        if (fd < 0) return NULL;
        path = slash ? slash + 1 : path;
    }
    PyThreadState *thread = PyEval_SaveThread();
    lp_map_reading how = {use_mmap ? 0 : lp_limits_memory(), poll_signals, &thread};
    failed =
        use_mmap ? lp_safetensors_open(&file, fd, path, 1, &err) : lp_safetensors_copy(&file, fd, path, &how, &err);
    PyEval_RestoreThread(thread);
    return failed ? (lp_safetensors *)lp_raise(state, &err) : file;
}

static PyObject *safetensors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"path", "mmap", "dir_fd", NULL};
    PyObject *path = NULL, *dir_fd = Py_None, *self = NULL;
    int use_mmap = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|$pO:Safetensors", keys, PyUnicode_FSConverter, &path, &use_mmap,
                                     &dir_fd))
        return NULL;
    PyObject *told = PyUnicode_DecodeFSDefault(PyBytes_AsString(path));
    lp_safetensors *file =
        told ? open_file(PyType_GetModuleState(type), PyBytes_AsString(path), dir_fd, use_mmap) : NULL;
    if (file) self = PyType_GenericAlloc(type, 0);
    if (self) {
        ((safetensors_object *)self)->file = file;
        ((safetensors_object *)self)->path = told;
    } else {
        lp_safetensors_close(file);
        Py_XDECREF(told);
    }
    Py_DECREF(path);
    return self;
}

static void safetensors_dealloc(PyObject *self) {
    lp_safetensors_close(lp_safetensors_of(self));
    Py_XDECREF(((safetensors_object *)self)->path);
    lp_object_free(self);
}

static PyObject *shape_tuple(const lp_tensor *t) {
    PyObject *shape = PyTuple_New((Py_ssize_t)t->rank);
    for (size_t i = 0; shape && i < t->rank; i++) {
        PyObject *n = PyLong_FromUnsignedLongLong(t->shape[i]);
        if (!n || PyTuple_SetItem(shape, (Py_ssize_t)i, n)) Py_CLEAR(shape);
    }
    return shape;
}

static PyObject *tensor_row(const lp_tensor *t) {
    PyObject *shape = shape_tuple(t);
    if (!shape) return NULL;
    /* N takes the reference to shape */
    return Py_BuildValue("(s#sNnn)", t->name, (Py_ssize_t)t->name_len, lp_dtype_name(t->dtype), shape,
                         (Py_ssize_t)t->offset, (Py_ssize_t)t->n_bytes);
}

static PyObject *list_tensors(PyObject *self, PyObject *unused) {
    (void)unused;
    const lp_safetensors *file = lp_safetensors_of(self);
    size_t n = lp_safetensors_count(file);
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *row = tensor_row(lp_safetensors_at(file, i));
        if (!row || PyList_SetItem(list, (Py_ssize_t)i, row)) Py_CLEAR(list);
    }
    return list;
}

/* The tensor of that name in a file that has not changed; NULL with an exception set. */
static const lp_tensor *find(PyObject *self, PyObject *name) {
    char shown[128];
    Py_ssize_t n;
    lp_error err;
    lp_safetensors *file = lp_safetensors_of(self);
    const char *bytes = PyUnicode_AsUTF8AndSize(name, &n); /* TypeError when it is no string */
    if (!bytes) return NULL;
    const lp_tensor *t = lp_safetensors_find(file, bytes, (size_t)n);
    if (!t) {
        lp_raise_new(state_of(self), LP_EARG, "%s has no tensor \"%s\"", lp_safetensors_path(file),
                     lp_show(shown, sizeof shown, bytes, (size_t)n));
        return NULL;
    }
    if (!lp_safetensors_check_unchanged(file, &err)) return t;
    lp_raise(state_of(self), &err);
    return NULL;
}

static PyObject *wrap_tensor(const lp_module_state *state, const lp_tensor *t, lp_block *block) {
    npy_intp shape[LP_MAX_RANK + 1];
    if (t->rank > NPY_MAXDIMS) {
        lp_block_free(block);
        return lp_raise_new(state, LP_EUNSUPPORTED, "a tensor of rank %zu has no NumPy array", t->rank);
    }
    for (size_t i = 0; i < t->rank; i++) shape[i] = (npy_intp)t->shape[i];
    return lp_array_from_block(block, (int)t->rank, shape);
}

/* Widens in the canonical environment: a caller's flush-to-zero would eat the small numbers of f16. */
static void widen(const lp_kernels *row, lp_block *block, const lp_tensor *t, lp_word word) {
    lp_fpenv old = lp_fpenv_set();
    row->widen(block->data, t->data, word, t->n_elements);
    lp_fpenv_restore(old);
}

static PyObject *read_tensor(PyObject *self, PyObject *name) {
    const lp_module_state *state = state_of(self);
    const char *path = lp_safetensors_path(lp_safetensors_of(self));
    lp_error err;
    lp_word word;
    lp_block block;
    size_t n_bytes;
    int failed;
    const lp_tensor *t = find(self, name);
    if (!t) return NULL;
    if (lp_model_word(t->dtype, &word))
        return lp_raise_new(state, LP_EUNSUPPORTED,
                            "%s: a tensor of dtype %s has no float32 values here: its bytes "
                            "can be had with .raw",
                            path, lp_dtype_name(t->dtype));
    const lp_kernels *row = lp_kernels_get(&err);
    if (!row) return lp_raise(state, &err);
    failed = lp_size_mul(&n_bytes, t->n_elements, sizeof(float));
    Py_BEGIN_ALLOW_THREADS;
    failed = failed || lp_block_make(&block, n_bytes, &(lp_crew){1, NULL, NULL});
    if (!failed && n_bytes) widen(row, &block, t, word);
    Py_END_ALLOW_THREADS;
    if (failed)
        return lp_raise_new(state, LP_ENOMEM, "%s: a float32 copy of a tensor needs 4 x %zu bytes", path,
                            t->n_elements);
    return wrap_tensor(state, t, &block);
}

static PyObject *raw_tensor(PyObject *self, PyObject *name) {
    const lp_tensor *t = find(self, name);
    return t ? lp_array_of_bytes(t->data, t->n_bytes, self) : NULL;
}

static PyObject *check_unchanged(PyObject *self, PyObject *unused) {
    lp_error err;
    (void)unused;
    if (lp_safetensors_check_unchanged(lp_safetensors_of(self), &err)) return lp_raise(state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *get_path(PyObject *self, void *unused) {
    (void)unused;
    PyObject *path = ((safetensors_object *)self)->path;
    Py_INCREF(path);
    return path;
}

static PyObject *get_n_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(lp_safetensors_n_bytes(lp_safetensors_of(self)));
}

static PyObject *get_n_ignored(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(lp_safetensors_n_ignored(lp_safetensors_of(self)));
}

static PyObject *get_metadata(PyObject *self, void *unused) {
    (void)unused;
    const lp_safetensors *file = lp_safetensors_of(self);
    PyObject *pairs = PyDict_New();
    for (size_t i = 0; pairs && i < lp_safetensors_n_metadata(file); i++) {
        const char *key, *value;
        size_t key_len, value_len;
        lp_safetensors_metadata(file, i, &key, &key_len, &value, &value_len);
        PyObject *k = PyUnicode_DecodeUTF8(key, (Py_ssize_t)key_len, NULL);
        PyObject *v = PyUnicode_DecodeUTF8(value, (Py_ssize_t)value_len, NULL);
        if (!k || !v || PyDict_SetItem(pairs, k, v)) Py_CLEAR(pairs);
        Py_XDECREF(k);
        Py_XDECREF(v);
    }
    return pairs;
}

static PyMethodDef methods[] = {
    {"tensors", list_tensors, METH_NOARGS,
     "[(name, dtype, shape, offset in the file, bytes)] in the order of the data."},
    {"read", read_tensor, METH_O, "A float32 copy of a BF16, F16 or F32 tensor in its shape."},
    {"raw", raw_tensor, METH_O, "The bytes of a tensor, 1-D, read-only, in place."},
    {"check_unchanged", check_unchanged, METH_NOARGS, "FileChangedError when the file is not the one that was opened."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"path", get_path, NULL, "The path as it was given.", NULL},
    {"n_bytes", get_n_bytes, NULL, "Size of the file.", NULL},
    {"n_ignored", get_n_ignored, NULL, "Unknown keys inside tensor entries that were passed over.", NULL},
    {"metadata", get_metadata, NULL, "The file's __metadata__: a new dict of strings.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "One open safetensors file, its header proved."},
    {Py_tp_new, safetensors_new},
    {Py_tp_dealloc, safetensors_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Safetensors",
    .basicsize = sizeof(safetensors_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_safetensors_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
