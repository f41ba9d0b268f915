/* safetensors_object.c - the type Safetensors: one open file, and what its header says. */
#include "file_object.h"

static int open_file(void **out, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err) {
    lp_safetensors *file;
    int failed = lp_safetensors_open(&file, dir_fd, path, reading, err);
    *out = file;
    return failed;
}

static void close_file(void *file) { lp_safetensors_close(file); }
static const char *path_of(const void *file) { return lp_safetensors_path(file); }
static size_t count(const void *file) { return lp_safetensors_count(file); }
static void at(const void *file, size_t i, lp_part *part) { *part = lp_safetensors_part(lp_safetensors_at(file, i)); }
static int check_unchanged(const void *file, lp_error *err) { return lp_safetensors_check_unchanged(file, err); }

static int find(const void *file, const char *name, size_t name_len, lp_part *part) {
    const lp_tensor *t = lp_safetensors_find(file, name, name_len);
    if (t) *part = lp_safetensors_part(t);
    return t != NULL;
}

static const lp_file_kind kind = {"O&|$pO:Safetensors", open_file, close_file, path_of, count, at, find,
                                  check_unchanged};

static PyObject *safetensors_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    return lp_file_object_new(type, args, kwargs, &kind);
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
    {"tensors", lp_file_object_tensors, METH_NOARGS,
     "[(name, dtype, shape, offset in the file, bytes)] in the order of the data."},
    {"read", lp_file_object_read, METH_O, "A float32 copy of a BF16, F16 or F32 tensor in its shape."},
    {"raw", lp_file_object_raw, METH_O, "The bytes of a tensor, 1-D, read-only, in place."},
    {"check_unchanged", lp_file_object_check_unchanged, METH_NOARGS,
     "FileChangedError when the file is not the one that was opened."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"path", lp_file_object_get_path, NULL, "The path as it was given.", NULL},
    {"n_bytes", get_n_bytes, NULL, "Size of the file.", NULL},
    {"n_ignored", get_n_ignored, NULL, "Unknown keys inside tensor entries that were passed over.", NULL},
    {"metadata", get_metadata, NULL, "The file's __metadata__: a new dict of strings.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "One open safetensors file, its header proved."},
    {Py_tp_new, safetensors_new},
    {Py_tp_dealloc, lp_file_object_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Safetensors",
    .basicsize = sizeof(lp_file_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_safetensors_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
