/* model_object.c - the type Model: made from the numbers of a config and open files.
 *
 * Nothing closes a model: it is freed with the last reference, and a run holds one. */
#include "module.h"

#include <string.h>

#include "packed_object.h" /* lp_container_of, lp_packed_object */

static const lp_module_state *state_of(PyTypeObject *type) { return PyType_GetModuleState(type); }

/* Format, names and places of all numbers, for PyArg_ParseTupleAndKeywords. A size is parsed as a signed number: a
 * negative one is then larger than lp_config_check allows. */
#define FORMAT_SIZE(name, most) "n"
#define FORMAT_REAL(name) "d"
#define FORMAT_FLAG(name) "p"
#define CONFIG_FORMAT LP_CONFIG(FORMAT_SIZE, FORMAT_REAL, FORMAT_FLAG)
#define NAME(name, ...) #name,
#define CONFIG_NAMES LP_CONFIG(NAME, NAME, NAME)
#define PLACE_SIZE(name, most) (Py_ssize_t *)&config.name,
#define PLACE_OTHER(name) &config.name,
#define CONFIG_PLACES LP_CONFIG(PLACE_SIZE, PLACE_OTHER, PLACE_OTHER)

/* What tensors are found in: for PyMem_Free. */
typedef struct {
    lp_container *files; /* [n_files] */
    size_t n_files;
    lp_named_tensor *named; /* [n_named] */
    size_t n_named;
} places;

static void places_free(places *p) {
    PyMem_Free(p->files);
    PyMem_Free(p->named);
}

static int take_files(const lp_module_state *state, places *p, PyObject *tuple) {
    size_t n = (size_t)PyTuple_Size(tuple);
    p->files = PyMem_Calloc(n ? n : 1, sizeof *p->files);
    if (!p->files) return PyErr_NoMemory(), -1;
    for (; p->n_files < n; p->n_files++) {
        PyObject *file = PyTuple_GetItem(tuple, (Py_ssize_t)p->n_files);
        if (lp_container_of(state, file, &p->files[p->n_files])) return -1;
    }
    return 0;
}

/* A model checks that its files are unchanged: nothing may lie elsewhere. */
static int check_is_among(const lp_module_state *state, const places *p, const lp_container *file, const char *name) {
    char shown[128];
    for (size_t i = 0; i < p->n_files; i++)
        if (p->files[i].file == file->file) return 0;
    return lp_refuse(state, LP_EARG, "tensor \"%s\" lies in %s, which is not among the files of the model",
                     lp_show(shown, sizeof shown, name, strlen(name)), file->path);
}

static int take_packed(const lp_module_state *state, const places *p, lp_named_tensor *out, PyObject *object) {
    const lp_packed_object *packed = (const lp_packed_object *)object;
    out->packed = &packed->packed;
    out->file = packed->files[LP_CODES];
    for (size_t i = 0; i < LP_N_ROLES; i++)
        if (packed->files[i].find && check_is_among(state, p, &packed->files[i], out->name)) return -1;
    return 0;
}

/* Name -> Packed, or (file, name). */
static int take_tensors(const lp_module_state *state, places *p, PyObject *tensors) {
    Py_ssize_t at = 0;
    PyObject *key, *value;
    p->named = PyMem_Calloc((size_t)PyDict_Size(tensors) + 1, sizeof *p->named);
    if (!p->named) return PyErr_NoMemory(), -1;
    for (; PyDict_Next(tensors, &at, &key, &value); p->n_named++) {
        lp_named_tensor *out = &p->named[p->n_named];
        out->name = PyUnicode_AsUTF8AndSize(key, NULL);
        if (!out->name) return -1;
        if (Py_TYPE(value) == state->packed_type) {
            if (take_packed(state, p, out, value)) return -1;
        } else if (lp_part_place(state, value, &out->file, &out->stored) ||
                   check_is_among(state, p, &out->file, out->name)) {
            return -1;
        }
    }
    return 0;
}

/* The objects behind an architecture, and the numbers that were made of them. */
typedef struct {
    lp_architecture a;
    lp_rope_spec ropes[LP_MOST_ROPES];
    size_t *windows;
    int *rope_of;
    PyObject *arrays[2 * LP_MOST_ROPES]; /* float32: of the tables */
    size_t n_arrays;
} description;

static void description_free(description *d) {
    PyMem_Free(d->windows);
    PyMem_Free(d->rope_of);
    for (size_t i = 0; i < d->n_arrays; i++) Py_DECREF(d->arrays[i]);
}

/* A float32 copy of one table, kept in d; NULL with an exception set. */
static const float *table_from(const lp_module_state *state, description *d, PyObject *object) {
    PyObject *array = PyArray_FROMANY(object, NPY_FLOAT32, 1, 1, NPY_ARRAY_CARRAY_RO | NPY_ARRAY_ENSURECOPY);
    if (!array) return NULL;
    d->arrays[d->n_arrays++] = array;
    size_t n = (size_t)PyArray_SIZE((PyArrayObject *)array), rotary_dim = d->a.config.rotary_dim;
    if (n == rotary_dim / 2) return PyArray_DATA((PyArrayObject *)array);
    lp_raise_new(state, LP_EARG, "inv_freq has %zu numbers, rotary_dim %zu needs %zu", n, rotary_dim, rotary_dim / 2);
    return NULL;
}

/* (inv_freq, factor, long inv_freq or None, original positions) of each table. */
static int take_ropes(const lp_module_state *state, description *d, PyObject *ropes) {
    Py_ssize_t n = PyTuple_Size(ropes);
    if (n > LP_MOST_ROPES) return lp_refuse(state, LP_EARG, "%zd tables of RoPE, the most are %d", n, LP_MOST_ROPES);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *rope = PyTuple_GetItem(ropes, i), *inv_freq, *long_inv_freq;
        double factor;
        Py_ssize_t original;
        if (!PyTuple_Check(rope) || !PyArg_ParseTuple(rope, "OdOn", &inv_freq, &factor, &long_inv_freq, &original)) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a table of RoPE is a tuple of four");
            return -1;
        }
        lp_rope_spec *spec = &d->ropes[i];
        *spec = (lp_rope_spec){.original = (size_t)original, .factor = (float)factor};
        if (!(spec->inv_freq = table_from(state, d, inv_freq))) return -1;
        if (long_inv_freq != Py_None && !(spec->long_inv_freq = table_from(state, d, long_inv_freq))) return -1;
    }
    d->a.ropes = d->ropes, d->a.n_ropes = (size_t)n;
    return 0;
}

/* n integers, each as a window and as the number of a table. */
static int take_layers(const lp_module_state *state, description *d, PyObject *windows, PyObject *rope_of) {
    size_t n = d->a.config.n_layers;
    if ((size_t)PyTuple_Size(windows) != n || (size_t)PyTuple_Size(rope_of) != n)
        return lp_refuse(state, LP_EARG, "windows and rope_of need a number for each of %zu layers", n);
    d->windows = PyMem_Calloc(n, sizeof *d->windows);
    d->rope_of = PyMem_Calloc(n, sizeof *d->rope_of);
    if (!d->windows || !d->rope_of) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < n && !PyErr_Occurred(); i++) {
        d->windows[i] = PyLong_AsSize_t(PyTuple_GetItem(windows, (Py_ssize_t)i));
        d->rope_of[i] = (int)PyLong_AsLong(PyTuple_GetItem(rope_of, (Py_ssize_t)i));
    }
    d->a.windows = d->windows, d->a.rope_of = d->rope_of;
    return PyErr_Occurred() ? -1 : 0;
}

/* Point -> module, borrowed from the dict. */
static int take_modules(description *d, PyObject *modules) {
    for (lp_point p = 0; p < LP_N_POINTS; p++) {
        PyObject *point = PyUnicode_FromString(lp_point_name(p));
        PyObject *module = point ? PyDict_GetItemWithError(modules, point) : NULL;
        Py_XDECREF(point);
        if (module) d->a.modules[p] = PyUnicode_AsUTF8AndSize(module, NULL);
        if (PyErr_Occurred()) return -1;
    }
    return 0;
}

static PyObject *model_object_new(PyTypeObject *type, lp_model *model, PyObject *files, PyObject *tensors) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self) {
        lp_model_close(model);
        return NULL;
    }
    ((lp_model_object *)self)->model = model;
    ((lp_model_object *)self)->files = Py_NewRef(files);
    ((lp_model_object *)self)->tensors = Py_NewRef(tensors);
    return self;
}

static PyObject *open_model(PyTypeObject *type, const lp_architecture *a, PyObject *files, PyObject *tensors) {
    const lp_module_state *state = state_of(type);
    lp_error err;
    lp_model *model;
    places p = {0};
    PyObject *self = NULL;
    if (!take_files(state, &p, files) && !take_tensors(state, &p, tensors)) {
        if (lp_model_open(&model, a, lp_tensors_open(p.files, p.n_files, p.named, p.n_named, &err), &err))
            lp_raise(state, &err);
        else
            self = model_object_new(type, model, files, tensors);
    }
    places_free(&p);
    return self;
}

/* Takes `tensors` out of the keyword arguments: what may be absent cannot stand after what must be there. A new
 * reference, to a copy; NULL with an exception set. */
static PyObject *take_keyword_tensors(PyObject **kwargs) {
    PyObject *key = PyUnicode_FromString("tensors"), *others = *kwargs ? PyDict_Copy(*kwargs) : PyDict_New();
    PyObject *tensors = key && others ? PyDict_GetItemWithError(others, key) : NULL, *copy = NULL;
    if (tensors && !PyDict_Check(tensors))
        PyErr_SetString(PyExc_TypeError, "tensors is not a dict");
    else if (!PyErr_Occurred())
        copy = tensors ? PyDict_Copy(tensors) : PyDict_New();
    if (tensors && copy && PyDict_DelItem(others, key)) Py_CLEAR(copy);
    Py_XDECREF(key);
    if (!copy) Py_CLEAR(others);
    *kwargs = others;
    return copy;
}

static PyObject *new_model(PyTypeObject *type, PyObject *args, PyObject *kwargs, PyObject *tensors) {
    static char *keys[] = {"files", CONFIG_NAMES "prefix", "modules", "windows", "ropes", "rope_of", NULL};
    const lp_module_state *state = state_of(type);
    PyObject *files, *modules, *windows, *ropes, *rope_of;
    description d = {.n_arrays = 0};
    lp_config config;
    lp_error err;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$" CONFIG_FORMAT "sO!O!O!O!:Model", keys, &files,
                                     CONFIG_PLACES & d.a.prefix, &PyDict_Type, &modules, &PyTuple_Type, &windows,
                                     &PyTuple_Type, &ropes, &PyTuple_Type, &rope_of))
        return NULL;
    if (lp_config_check(&config, &err)) return lp_raise(state, &err);
    d.a.config = config;
    PyObject *tuple = PySequence_Tuple(files), *self = NULL;
    if (tuple && !take_modules(&d, modules) && !take_layers(state, &d, windows, rope_of) &&
        !take_ropes(state, &d, ropes))
        self = open_model(type, &d.a, tuple, tensors);
    Py_XDECREF(tuple);
    description_free(&d);
    return self;
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *tensors = take_keyword_tensors(&kwargs), *self = NULL;
    if (tensors) self = new_model(type, args, kwargs, tensors);
    Py_XDECREF(tensors);
    Py_XDECREF(kwargs);
    return self;
}

static void model_dealloc(PyObject *self) {
    lp_model_object *object = (lp_model_object *)self;
    lp_model_close(object->model); /* before the files that it points into */
    Py_XDECREF(object->files);
    Py_XDECREF(object->tensors);
    lp_object_free(self);
}

/* Function pointers are cast by way of void (*)(void), which gives no warning. */
static PyMethodDef methods[] = {
    {"run", (PyCFunction)(void (*)(void))lp_model_object_run, METH_VARARGS | METH_KEYWORDS,
     "run(token_ids, seq_start, points, *, n_threads, progress=None): one array per (point, layers)."},
    {"profile", (PyCFunction)(void (*)(void))lp_model_object_profile, METH_VARARGS | METH_KEYWORDS,
     "profile(...): as run, but a pair: the arrays, and (stage, seconds, laps, FLOP, bytes of weights, bytes of\n"
     "values) for each stage."},
    {"plan", (PyCFunction)(void (*)(void))lp_model_object_plan, METH_VARARGS | METH_KEYWORDS,
     "plan(token_ids, seq_start, points, *, n_threads): what run would do."},
    {"head", (PyCFunction)(void (*)(void))lp_model_object_head, METH_VARARGS | METH_KEYWORDS,
     "head(x, token_ids, *, n_threads): logits of rows of the residual stream, of all tokens if None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "An open model: what lp_model_open proved. Keeps its files alive."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "llamaprobe._core.Model",
    .basicsize = sizeof(lp_model_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

PyTypeObject *lp_model_type_new(PyObject *module) {
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, NULL);
}
