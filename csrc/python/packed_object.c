/* packed_object.c - the type Packed: finds and checks its parts on construction; their data stays in the files.
 *
 * There is no close: the object holds references to its files, and a model holds one to the object. */
#include "packed_object.h"

#include <string.h>

#include "../base/size.h"  /* lp_size_mul3 */
#include "../ops/rows.h"   /* lp_widen */
#include "../sys/limits.h" /* lp_limits_cores, lp_limits_memory */
#include "poll.h"          /* lp_poll_python */

#define MIN_PARALLEL ((size_t)1 << 20) /* values: fewer are faster on one thread */

static const lp_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

/* ---- parts --------------------------------------------------------------------------------------------------- */

int lp_container_of(const lp_module_state *state, PyObject *file, lp_container *out) {
    const lp_file_object *object = (const lp_file_object *)file;
    if (Py_TYPE(file) == state->safetensors_type)
        *out = lp_safetensors_container(object->file);
    else if (Py_TYPE(file) == state->gguf_type)
        *out = lp_gguf_container(object->file);
    else
        return lp_refuse(state, LP_EARG, "a file must be a Safetensors or Gguf");
    return 0;
}

int lp_part_place(const lp_module_state *state, PyObject *place, lp_container *file, const char **name) {
    PyObject *object, *text;
    Py_ssize_t n;
    if (!PyTuple_Check(place) || !PyArg_ParseTuple(place, "OO!", &object, &PyUnicode_Type, &text)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "the place of a tensor must be a tuple (file, name)");
        return -1;
    }
    *name = PyUnicode_AsUTF8AndSize(text, &n);
    if (!*name || lp_container_of(state, object, file)) return -1;
    if (strlen(*name) != (size_t)n) return lp_refuse(state, LP_EARG, "the name of a tensor contains a NUL");
    return 0;
}

/* Finds the parts: fills self->files, parts and paths [LP_N_ROLES]. -1 with an exception set. */
static int find_parts(const lp_module_state *state, lp_packed_object *self, lp_part *parts, const char **paths) {
    Py_ssize_t at = 0;
    PyObject *key, *place;
    while (PyDict_Next(self->parts, &at, &key, &place)) {
        const char *role = PyUnicode_Check(key) ? PyUnicode_AsUTF8AndSize(key, NULL) : "", *name;
        char shown[128];
        size_t i = 0;
        while (role && i < LP_N_ROLES && strcmp(role, lp_role_name((lp_role)i))) i++;
        if (!role) return -1;
        if (i == LP_N_ROLES)
            return lp_refuse(state, LP_EARG, "there is no part \"%s\"; the parts are codes, scales, zeros and group_of",
                             lp_show(shown, sizeof shown, role, strlen(role)));
        if (lp_part_place(state, place, &self->files[i], &name)) return -1;
        paths[i] = self->files[i].path;
        if (!self->files[i].find(self->files[i].file, name, strlen(name), &parts[i]))
            return lp_refuse(state, LP_EFORMAT, "%s has no tensor \"%s\"; the %s of a packed weight are missing",
                             paths[i], lp_show(shown, sizeof shown, name, strlen(name)), role);
    }
    return 0;
}

static int check_unchanged(const lp_module_state *state, const lp_packed_object *self) {
    lp_error err;
    for (size_t i = 0; i < LP_N_ROLES; i++)
        if (self->files[i].find && self->files[i].check_unchanged(self->files[i].file, &err)) {
            lp_raise(state, &err);
            return -1;
        }
    return 0;
}

/* ---- the object ---------------------------------------------------------------------------------------------- */

/* Parses the arguments: all of p but the parts, which are *parts, borrowed. -1 with an exception set. */
static int take_numbers(const lp_module_state *state, PyObject *args, PyObject *kwargs, lp_packed *p,
                        PyObject **parts) {
    static char *keys[] = {"kind",   "shape",   "parts", "bits", "scale_rows", "scale_cols", "zero_is_less_one",
                           "turned", "as_bf16", NULL};
    const char *kind;
    Py_ssize_t rows, columns, scale_rows = 0, scale_cols = 0, turned = 0, bits = 0;
    char shown[128];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s(nn)O!|$nnnpnp:Packed", keys, &kind, &rows, &columns, &PyDict_Type,
                                     parts, &bits, &scale_rows, &scale_cols, &p->zero_is_less_one, &turned,
                                     &p->as_bf16))
        return -1;
    if (lp_packed_kind_of(kind, &p->kind))
        return lp_refuse(state, LP_EARG, "there is no kind of packed weight \"%s\"",
                         lp_show(shown, sizeof shown, kind, strlen(kind)));
    if (rows < 1 || columns < 1 || scale_rows < 0 || scale_cols < 0 || turned < 0 || bits < 0 || bits > 32)
        return lp_refuse(
            state, LP_EARG,
            "a packed weight cannot have the shape [%zd, %zd], scales for [%zd, %zd], %zd bits and heads of %zd", rows,
            columns, scale_rows, scale_cols, bits, turned);
    p->n_rows = (size_t)rows, p->n_cols = (size_t)columns, p->bits = (unsigned)bits, p->turned = (size_t)turned;
    p->scale_rows = (size_t)scale_rows, p->scale_cols = (size_t)scale_cols;
    return 0;
}

static PyObject *packed_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    const lp_module_state *state = PyType_GetModuleState(type);
    lp_part parts[LP_N_ROLES] = {{0}};
    const char *paths[LP_N_ROLES] = {NULL};
    lp_packed packed = {0};
    PyObject *dict;
    lp_error err;
    if (take_numbers(state, args, kwargs, &packed, &dict)) return NULL;
    lp_packed_object *self = (lp_packed_object *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    self->parts = PyDict_Copy(dict);
    int failed = !self->parts || find_parts(state, self, parts, paths) || check_unchanged(state, self);
    if (!failed && lp_packed_open(&packed, parts, paths, &err)) {
        lp_raise(state, &err);
        failed = 1;
    }
    if (failed) {
        Py_DECREF(self);
        return NULL;
    }
    self->packed = packed;
    return (PyObject *)self;
}

static void packed_dealloc(PyObject *self) {
    lp_packed_close(&((lp_packed_object *)self)->packed);
    Py_XDECREF(((lp_packed_object *)self)->parts);
    lp_object_free(self);
}

/* ---- read ---------------------------------------------------------------------------------------------------- */

static int fill(const lp_kernels *kernels, float *out, const lp_weight *w) {
    lp_poll poll;
    lp_poll_begin(&poll, NULL, NULL);
    size_t n_threads = w->n_rows * w->n_cols < MIN_PARALLEL ? 1 : lp_limits_cores();
    lp_ops ops = {.kernels = kernels, .parallel = {n_threads, lp_poll_python, &poll}};
    int stopped = lp_widen(&ops, out, w);
    lp_poll_end(&poll);
    return stopped;
}

static PyObject *packed_read(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *keys[] = {"first_row", "n_rows", NULL};
    const lp_module_state *state = state_of(self);
    const lp_packed *p = &((lp_packed_object *)self)->packed;
    Py_ssize_t first = 0, n;
    PyObject *rows = Py_None;
    lp_block block;
    lp_error err;
    size_t n_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|nO:read", keys, &first, &rows)) return NULL;
    if (first < 0 || (size_t)first > p->n_rows)
        return lp_raise_new(state, LP_EARG, "first_row %zd is out of range of a weight of %zu rows", first, p->n_rows);
    n = rows == Py_None ? (Py_ssize_t)p->n_rows - first : PyLong_AsSsize_t(rows);
    if (PyErr_Occurred()) return NULL;
    if (n < 0 || (size_t)n > p->n_rows - (size_t)first)
        return lp_raise_new(state, LP_EARG, "%zd rows from row %zd on are out of range of a weight of %zu rows", n,
                            first, p->n_rows);
    const lp_kernels *kernels = lp_kernels_get(&err);
    if (!kernels) return lp_raise(state, &err);
    if (check_unchanged(state, (lp_packed_object *)self)) return NULL;
    if (lp_size_mul3(&n_bytes, (size_t)n, p->n_cols, sizeof(float)) || !lp_memory_fits(n_bytes, NULL) ||
        lp_block_reserve(&block, n_bytes))
        return lp_raise_new(state, LP_ENOMEM,
                            "a float32 copy of %zd rows of %zu values needs 4 bytes each, and %zu are free", n,
                            p->n_cols, lp_limits_memory());
    lp_weight w = {.data = p->codes,
                   .element = LP_ELEMENT_PACKED,
                   .n_rows = (size_t)n,
                   .n_cols = p->n_cols,
                   .first_row = (size_t)first,
                   .packed = p};
    if (n && fill(kernels, block.data, &w)) {
        lp_block_free(&block);
        return NULL;
    }
    npy_intp shape[2] = {n, (npy_intp)p->n_cols};
    return lp_array_from_block(&block, 2, shape);
}

/* ---- attributes ---------------------------------------------------------------------------------------------- */

static PyObject *get_kind(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(lp_packed_kind_name(((lp_packed_object *)self)->packed.kind));
}

static PyObject *get_shape(PyObject *self, void *unused) {
    const lp_packed *p = &((lp_packed_object *)self)->packed;
    (void)unused;
    return Py_BuildValue("(nn)", (Py_ssize_t)p->n_rows, (Py_ssize_t)p->n_cols);
}

static PyObject *get_n_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(((lp_packed_object *)self)->packed.n_bytes);
}

static PyMethodDef methods[] = {
    {"read", (PyCFunction)(void (*)(void))packed_read, METH_VARARGS | METH_KEYWORDS,
     "read(first_row=0, n_rows=None): the values of these rows (None: to the last), float32 [n_rows, n_cols]."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"kind", get_kind, NULL, "The packed format: \"q4_k\", \"fp8\", ...", NULL},
    {"shape", get_shape, NULL, "(n_rows, n_cols) of the matrix.", NULL},
    {"n_bytes", get_n_bytes, NULL, "Bytes of all parts.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A packed weight in open files, its parts checked."},
    {Py_tp_new, packed_new},
    {Py_tp_dealloc, packed_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Packed",
    .basicsize = sizeof(lp_packed_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_packed_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
