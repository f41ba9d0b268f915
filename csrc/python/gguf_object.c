/* gguf_object.c - the type Gguf: one open GGUF file, its tensors, keys and header. */
#include "file_object.h"

#include "gguf_values.h" /* lp_gguf_value */

#define MOST_ITEMS 64 /* per array in metadata(): longer ones, such as vocabularies, are read with array() */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static int open_file(void **out, int dir_fd, const char *path, const lp_map_reading *reading, lp_error *err) {
    lp_gguf *file;
    int failed = lp_gguf_open(&file, dir_fd, path, reading, err);
    *out = file;
    return failed;
}

static void close_file(void *file) { lp_gguf_close(file); }
static const char *path_of(const void *file) { return lp_gguf_path(file); }
static size_t count(const void *file) { return lp_gguf_contents_of(file)->n_tensors; }
static int check_unchanged(const void *file, lp_error *err) { return lp_gguf_check_unchanged(file, err); }

static void at(const void *file, size_t i, lp_part *part) {
    *part = lp_gguf_part(&lp_gguf_contents_of(file)->tensors[i]);
}

static int find(const void *file, const char *name, size_t name_len, lp_part *part) {
    const lp_gguf_tensor *t = lp_gguf_find(file, name, name_len);
    if (t) *part = lp_gguf_part(t);
    return t != NULL;
}

static const lp_file_kind kind = {"O&|$pO:Gguf", open_file, close_file, path_of, count, at, find, check_unchanged};

static PyObject *gguf_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    return lp_file_object_new(type, args, kwargs, &kind);
}

/* ---------------------------------------------------------------- keys */

static int is_array(const lp_gguf_key *key) { return key->type == LP_GGUF_ARRAY; }

/* Adds a key and its value to the dict. Not 0: failed, with an exception set. */
static int add_value(PyObject *self, PyObject *dict, const lp_gguf_key *key) {
    PyObject *name = PyUnicode_DecodeUTF8(key->name, (Py_ssize_t)key->name_len, NULL);
    PyObject *value = name ? lp_gguf_value(state_of(self), lp_gguf_of(self), key) : NULL;
    int failed = !value || PyDict_SetItem(dict, name, value);
    Py_XDECREF(name);
    Py_XDECREF(value);
    return failed;
}

static PyObject *get_metadata(PyObject *self, PyObject *unused) {
    lp_error err;
    (void)unused;
    const lp_gguf_contents *c = lp_gguf_contents_of(lp_gguf_of(self));
    if (lp_gguf_check_unchanged(lp_gguf_of(self), &err)) return lp_raise(state_of(self), &err);
    PyObject *dict = PyDict_New();
    for (const lp_gguf_key *key = c->keys; dict && key < c->keys + c->n_keys; key++)
        if (!(is_array(key) && key->n_items > MOST_ITEMS) && add_value(self, dict, key)) Py_CLEAR(dict);
    return dict;
}

static PyObject *key_tuple(const lp_gguf_key *key) {
    const char *type = lp_gguf_type_name(key->item_type);
    if (!is_array(key)) return Py_BuildValue("(s#sO)", key->name, (Py_ssize_t)key->name_len, type, Py_None);
    return Py_BuildValue("(s#sn)", key->name, (Py_ssize_t)key->name_len, type, (Py_ssize_t)key->n_items);
}

static PyObject *list_keys(PyObject *self, PyObject *unused) {
    (void)unused;
    const lp_gguf_contents *c = lp_gguf_contents_of(lp_gguf_of(self));
    PyObject *list = PyList_New((Py_ssize_t)c->n_keys);
    for (size_t i = 0; list && i < c->n_keys; i++) {
        PyObject *key = key_tuple(&c->keys[i]);
        if (!key || PyList_SetItem(list, (Py_ssize_t)i, key)) Py_CLEAR(list);
    }
    return list;
}

static PyObject *get_array(PyObject *self, PyObject *name) {
    char shown[128];
    Py_ssize_t n;
    lp_error err;
    const lp_gguf *file = lp_gguf_of(self);
    const char *bytes = PyUnicode_AsUTF8AndSize(name, &n); /* TypeError if it is not a str */
    if (!bytes) return NULL;
    const lp_gguf_key *key = lp_gguf_find_key(file, bytes, (size_t)n);
    lp_show(shown, sizeof shown, bytes, (size_t)n);
    if (!key) return lp_raise_new(state_of(self), LP_EARG, "%s has no key \"%s\"", lp_gguf_path(file), shown);
    if (!is_array(key))
        return lp_raise_new(state_of(self), LP_EARG, "%s: key \"%s\" is of type %s, not an array", lp_gguf_path(file),
                            shown, lp_gguf_type_name(key->type));
    if (lp_gguf_check_unchanged(file, &err)) return lp_raise(state_of(self), &err);
    return lp_gguf_value(state_of(self), file, key);
}

/* ---------------------------------------------------------------- the type */

static PyObject *get_n_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(lp_gguf_n_bytes(lp_gguf_of(self)));
}

static PyObject *get_version(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(lp_gguf_contents_of(lp_gguf_of(self))->version);
}

static PyObject *get_alignment(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(lp_gguf_contents_of(lp_gguf_of(self))->alignment);
}

static PyMethodDef methods[] = {
    {"tensors", lp_file_object_tensors, METH_NOARGS,
     "[(name, type, shape (out, in), offset in the file, bytes)], by offset."},
    {"read", lp_file_object_read, METH_O, "A float32 copy of a BF16, F16 or F32 tensor, in its shape."},
    {"raw", lp_file_object_raw, METH_O, "The bytes of a tensor, 1-D, read-only, in place."},
    {"metadata", get_metadata, METH_NOARGS, "{key: value}, without arrays of more than 64 items."},
    {"array", get_array, METH_O, "The items of an array, as a list."},
    {"keys", list_keys, METH_NOARGS,
     "[(key, type of the value or of its items, number of items or None)], in file order."},
    {"check_unchanged", lp_file_object_check_unchanged, METH_NOARGS,
     "Raises FileChangedError if the file has changed since it was opened."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"path", lp_file_object_get_path, NULL, "The path, as given.", NULL},
    {"n_bytes", get_n_bytes, NULL, "Size of the file.", NULL},
    {"version", get_version, NULL, "The format's version: 2 or 3.", NULL},
    {"alignment", get_alignment, NULL, "The alignment in bytes of the data and of each tensor in it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "One open GGUF file, its header proved."},
    {Py_tp_new, gguf_new},
    {Py_tp_dealloc, lp_file_object_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Gguf",
    .basicsize = sizeof(lp_file_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_gguf_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
