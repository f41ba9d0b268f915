/* file_object.c - opens a file for Python; see file_object.h. */
#include "file_object.h"

#include <string.h>

#include "../sys/limits.h" /* lp_limits_memory */
#include "poll.h"          /* lp_poll_python */

/* Opens `path`; if dir_fd is not None, the last component of `path` in that folder. */
static void *open_file(const lp_module_state *state, const char *path, PyObject *dir_fd, int use_mmap,
                       const lp_file_kind *kind) {
    lp_error err;
    void *file;
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
    failed = kind->open(&file, fd, path, use_mmap ? NULL : &reading, &err);
    lp_poll_end(&poll);
    return failed ? lp_raise(state, &err) : file;
}

PyObject *lp_file_object_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, const lp_file_kind *kind) {
    static char *keys[] = {"path", "mmap", "dir_fd", NULL};
    PyObject *path = NULL, *dir_fd = Py_None, *self = NULL;
    int use_mmap = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, kind->arguments, keys, PyUnicode_FSConverter, &path, &use_mmap,
                                     &dir_fd))
        return NULL;
    PyObject *name = PyUnicode_DecodeFSDefault(PyBytes_AsString(path));
    void *file = name ? open_file(PyType_GetModuleState(type), PyBytes_AsString(path), dir_fd, use_mmap, kind) : NULL;
    if (file) self = PyType_GenericAlloc(type, 0);
    if (self) {
        ((lp_file_object *)self)->kind = kind;
        ((lp_file_object *)self)->file = file;
        ((lp_file_object *)self)->path = name;
    } else {
        kind->close(file);
        Py_XDECREF(name);
    }
    Py_DECREF(path);
    return self;
}

void lp_file_object_dealloc(PyObject *self) {
    lp_file_object *object = (lp_file_object *)self;
    object->kind->close(object->file);
    Py_XDECREF(object->path);
    lp_object_free(self);
}

/* ---------------------------------------------------------------- contents */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

int lp_file_object_find(PyObject *self, const char *name, size_t name_len, lp_part *part) {
    const lp_file_object *object = (const lp_file_object *)self;
    char shown[128];
    lp_error err;
    if (!object->kind->find(object->file, name, name_len, part))
        return lp_refuse(state_of(self), LP_EARG, "%s has no tensor \"%s\"", object->kind->path(object->file),
                         lp_show(shown, sizeof shown, name, name_len));
    if (object->kind->check_unchanged(object->file, &err)) return lp_raise(state_of(self), &err), -1;
    return 0;
}

static PyObject *shape_tuple(const lp_part *part) {
    PyObject *shape = PyTuple_New((Py_ssize_t)part->rank);
    for (size_t i = 0; shape && i < part->rank; i++) {
        PyObject *n = PyLong_FromUnsignedLongLong(part->shape[i]);
        if (!n || PyTuple_SetItem(shape, (Py_ssize_t)i, n)) Py_CLEAR(shape);
    }
    return shape;
}

static PyObject *tensor_tuple(const lp_part *part) {
    PyObject *shape = shape_tuple(part);
    if (!shape) return NULL;
    /* N steals the reference to shape */
    return Py_BuildValue("(s#sNnn)", part->name, (Py_ssize_t)part->name_len, part->dtype, shape,
                         (Py_ssize_t)part->offset, (Py_ssize_t)part->n_bytes);
}

PyObject *lp_file_object_tensors(PyObject *self, PyObject *unused) {
    (void)unused;
    const lp_file_object *object = (const lp_file_object *)self;
    size_t n = object->kind->count(object->file);
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        lp_part part;
        object->kind->at(object->file, i, &part);
        PyObject *tensor = tensor_tuple(&part);
        if (!tensor || PyList_SetItem(list, (Py_ssize_t)i, tensor)) Py_CLEAR(list);
    }
    return list;
}

PyObject *lp_file_object_check_unchanged(PyObject *self, PyObject *unused) {
    const lp_file_object *object = (const lp_file_object *)self;
    lp_error err;
    (void)unused;
    if (object->kind->check_unchanged(object->file, &err)) return lp_raise(state_of(self), &err);
    Py_RETURN_NONE;
}

PyObject *lp_file_object_get_path(PyObject *self, void *unused) {
    (void)unused;
    return Py_NewRef(((lp_file_object *)self)->path);
}
