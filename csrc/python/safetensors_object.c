/* safetensors_object.c - the type Safetensors: one open file, and the list of its tensors.
 *
 * Nothing closes it: the map is freed with the last reference, and arrays over the map hold one. */
#include "module.h"

#include <string.h>

#include "../sys/limits.h" /* lp_limits_memory */
#include "poll.h"          /* lp_poll_python */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

/* Opens `path`; with a folder's descriptor, its last part in that folder. */
static lp_safetensors *open_file(const lp_module_state *state, const char *path, PyObject *dir_fd, int use_mmap) {
    lp_error err;
    lp_safetensors *file;
    int failed, fd = -1;
    if (dir_fd != Py_None) {
        const char *slash = strrchr(path, '/');
        fd = PyObject_AsFileDescriptor(dir_fd);
        if (fd < 0) return NULL;
        path = slash ? slash + 1 : path;
    }
    lp_poll poll;
    lp_poll_begin(&poll, NULL, NULL);
    lp_map_reading reading = {use_mmap ? 0 : lp_limits_memory(), lp_poll_python, &poll};
    failed = lp_safetensors_open(&file, fd, path, use_mmap ? NULL : &reading, &err);
    lp_poll_end(&poll);
    return failed ? (lp_safetensors *)lp_raise(state, &err) : file;
}

static PyObject *safetensors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"path", "mmap", "dir_fd", NULL};
    PyObject *path = NULL, *dir_fd = Py_None, *self = NULL;
    int use_mmap = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|$pO:Safetensors", keys, PyUnicode_FSConverter, &path, &use_mmap,
                                     &dir_fd))
        return NULL;
    PyObject *name = PyUnicode_DecodeFSDefault(PyBytes_AsString(path));
    lp_safetensors *file =
        name ? open_file(PyType_GetModuleState(type), PyBytes_AsString(path), dir_fd, use_mmap) : NULL;
    if (file) self = PyType_GenericAlloc(type, 0);
    if (self) {
        ((lp_safetensors_object *)self)->file = file;
        ((lp_safetensors_object *)self)->path = name;
    } else {
        lp_safetensors_close(file);
        Py_XDECREF(name);
    }
    Py_DECREF(path);
    return self;
}

static void safetensors_dealloc(PyObject *self) {
    lp_safetensors_close(lp_safetensors_of(self));
    Py_XDECREF(((lp_safetensors_object *)self)->path);
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

static PyObject *check_unchanged(PyObject *self, PyObject *unused) {
    lp_error err;
    (void)unused;
    if (lp_safetensors_check_unchanged(lp_safetensors_of(self), &err)) return lp_raise(state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *get_path(PyObject *self, void *unused) {
    (void)unused;
    PyObject *path = ((lp_safetensors_object *)self)->path;
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
    {"read", lp_safetensors_object_read, METH_O, "A float32 copy of a BF16, F16 or F32 tensor in its shape."},
    {"raw", lp_safetensors_object_raw, METH_O, "The bytes of a tensor, 1-D, read-only, in place."},
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
    .basicsize = sizeof(lp_safetensors_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_safetensors_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
